"""The snippets of the documentation run in real Airflow, against the local engine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dags import runs

from airflow_provider_atscale.testing import AtScaleEngine

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def airflow_home() -> Path:
    """Make Airflow's database, unless another suite of this run has."""
    home = Path(os.environ["AIRFLOW_HOME"])
    if not (home / "airflow.db").exists():
        runs.prepare()
    return home


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[AtScaleEngine]:
    """Run a local engine as the connection ``atscale_default``."""
    with AtScaleEngine(build_seconds=0.3) as engine:
        monkeypatch.setenv("AIRFLOW_CONN_ATSCALE_DEFAULT", engine.connection_json())
        yield engine
