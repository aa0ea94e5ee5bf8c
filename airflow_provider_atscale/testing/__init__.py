"""A local AtScale engine: try the provider, and test DAGs, without an AtScale host."""

from __future__ import annotations

from airflow_provider_atscale.testing.client import EngineControl
from airflow_provider_atscale.testing.records import BatchRecord, RequestRecord, Stats
from airflow_provider_atscale.testing.server import AtScaleEngine
from airflow_provider_atscale.testing.world import AlreadyRunningError, Catalog, Model, UnknownModelError

__all__ = [
    "AlreadyRunningError",
    "AtScaleEngine",
    "BatchRecord",
    "Catalog",
    "EngineControl",
    "Model",
    "RequestRecord",
    "Stats",
    "UnknownModelError",
]
