"""Every example of ours is imported as Airflow does it, and run against the local engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_atscale.testing import AtScaleEngine

from . import runs

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import DAG

EXAMPLES = Path(__file__).parents[2] / "example_dags"
FILES = sorted(EXAMPLES.glob("*.py"))

#: How many batches each DAG has the engine build; None where that hangs on how its tasks meet in time.
BATCHES = {
    "example_atscale_airflow2": 2,
    "example_atscale_airflow2_consumer": 0,
    "example_atscale_asset_consumer": 0,
    "example_atscale_asset_producer": 1,
    "example_atscale_build_after_etl": 1,
    "example_atscale_every_model": 4,
    "example_atscale_fire_and_wait": 1,
    "example_atscale_on_running": None,
    "example_atscale_retry_policy": 1,
    "example_atscale_task_group": 2,
    "example_atscale_watcher": 0,
    "example_atscale_weekly_full_daily_incremental": 1,
}


def dags_of(file: Path) -> dict[str, DAG]:
    """Import a DAG file as Airflow does; what needs a newer Airflow than this one is skipped, and says so."""
    if runs.VERSION >= (3, 2):
        from airflow.dag_processing.dagbag import DagBag
    else:
        from airflow.models.dagbag import DagBag
    bag = DagBag(str(file))
    if bag.import_errors:
        [error] = bag.import_errors.values()
        if runs.VERSION >= (3, 3) or ("ImportError" not in error and "ModuleNotFoundError" not in error):
            raise AssertionError(error)
        pytest.skip(f"needs a newer Airflow: {error.strip().splitlines()[-1]}")
    return dict(bag.dags)


@pytest.fixture
def engine(monkeypatch, tmp_path):
    with AtScaleEngine(build_seconds=0.3) as engine:
        monkeypatch.setenv("AIRFLOW_CONN_ATSCALE_DEFAULT", engine.connection_json())
        monkeypatch.setenv("ATSCALE_EXAMPLE_FOLDER", str(tmp_path))
        yield engine


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_example_explains_itself_and_asks_nobody_while_it_is_parsed(file, engine):
    dags = dags_of(file)
    assert dags
    assert len(file.read_text().split('"""')[1].strip().splitlines()) >= 3
    assert engine.requests == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_example_runs(file, engine):
    for dag_id, dag in dags_of(file).items():
        before = len(engine.batches)
        run = runs.run(dag)
        assert run.state == "success", run.states
        if BATCHES[dag_id] is not None:
            assert len(engine.batches) - before == BATCHES[dag_id]
        assert {batch.status for batch in engine.batches} <= {"done"}
