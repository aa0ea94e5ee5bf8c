"""
A local AtScale engine: try the provider, and test DAGs, without an AtScale host.

Experimental: settings are added, and defaults follow what becomes known of AtScale.
"""

from __future__ import annotations

from airflow_provider_atscale.testing.client import EngineControl
from airflow_provider_atscale.testing.models import AlreadyRunningError, Catalog, Model, UnknownModelError
from airflow_provider_atscale.testing.records import BatchRecord, RequestRecord, Stats
from airflow_provider_atscale.testing.server import AtScaleEngine

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
