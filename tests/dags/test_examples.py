"""Every example is imported as Airflow does it, runs green against the local engine, and does what it says."""

from __future__ import annotations

import ast
import logging
import socket
import sqlite3
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_atscale.testing import AtScaleEngine

from . import runs, stored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.providers.common.compat.sdk import DAG

EXAMPLES = Path(__file__).parents[2] / "example_dags"
FILES = sorted(EXAMPLES.glob("*.py"))

#: The Airflow that a file needs, where it is another one than 3.0.
SINCE = {"example_atscale_airflow2": (2, 11), "example_atscale_retry_policy": (3, 3)}

#: How many batches each DAG has the engine build; None where that hangs on how its tasks meet in time.
BATCHES = {
    "example_atscale_airflow2": 2,
    "example_atscale_airflow2_consumer": 0,
    "example_atscale_asset_consumer": 0,
    "example_atscale_asset_producer": 1,
    "example_atscale_build_after_etl": 1,
    "example_atscale_check": 1,
    "example_atscale_custom_operator": 1,
    "example_atscale_decorator": 1,
    "example_atscale_every_model": 2,
    "example_atscale_fire_and_wait": 1,
    "example_atscale_on_running": None,
    "example_atscale_retry_policy": 1,
    "example_atscale_start_every_model": 2,
    "example_atscale_task_group": 2,
    "example_atscale_watcher": 0,
    "example_atscale_weekly_full_daily_incremental": 1,
}


def dags_of(name: str) -> dict[str, DAG]:
    """Import a DAG file as Airflow does; what needs a newer Airflow than this one is skipped, and says so."""
    since = SINCE.get(name, (3, 0))
    if since > runs.VERSION:
        pytest.skip(f"needs Airflow {since[0]}.{since[1]}")
    if runs.VERSION >= (3, 2):
        from airflow.dag_processing.dagbag import DagBag
    else:
        from airflow.models.dagbag import DagBag
    bag = DagBag(str(EXAMPLES / f"{name}.py"))
    assert not bag.import_errors
    return dict(bag.dags)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[AtScaleEngine]:
    with AtScaleEngine(build_seconds=0.3) as engine:
        monkeypatch.setenv("AIRFLOW_CONN_ATSCALE_DEFAULT", engine.connection_json())
        monkeypatch.setenv("ATSCALE_EXAMPLE_FOLDER", str(tmp_path))
        yield engine


def run(name: str, dag_id: str | None = None, **conf: Any) -> runs.Run:
    """Run the one DAG of a file, or the one that is named."""
    dag = dags_of(name)[dag_id or name]
    for task in dag.tasks:
        if isinstance(task, BaseOperator):
            task.retry_delay = timedelta(0)
    stored.know(dag)
    return runs.run(dag, **conf)


every_file = pytest.mark.parametrize("name", [file.stem for file in FILES])


@every_file
def test_an_example_asks_nobody_while_it_is_parsed(name, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("a DAG file that is parsed must not connect to anything")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert dags_of(name)


@every_file
def test_an_example_explains_itself_and_never_sleeps(name):
    source = (EXAMPLES / f"{name}.py").read_text()
    doc = ast.get_docstring(ast.parse(source))
    first, empty, *more = doc.splitlines()
    assert first.endswith((".", ")."))
    assert empty == ""
    assert more
    assert "sleep" not in source
    for dag in dags_of(name).values():
        assert dag.doc_md


@every_file
def test_an_example_runs(name, engine):
    for dag_id, dag in dags_of(name).items():
        before = len(engine.batches)
        stored.know(dag)
        done = runs.run(dag)
        assert done.state == "success", done.states
        if BATCHES[dag_id] is not None:
            assert len(engine.batches) - before == BATCHES[dag_id]
        assert {batch.status for batch in engine.batches} <= {"done"}


def test_build_after_etl(engine, tmp_path):
    """Loading once more adds nothing, builds once more, and the report is of the new batch."""
    for number in (1, 2):
        done = run("example_atscale_build_after_etl")
        assert done["load"].value == 7
        report = done["build_aggregates"].xcoms["batch_result"]
        assert report["batch_id"] == engine.batches[-1].id
        assert (report["kind"], report["instances"]) == ("incremental", {"active": 6})
        assert len(engine.batches) == number
    with sqlite3.connect(tmp_path / "example_warehouse.db") as warehouse:
        (total,) = warehouse.execute("SELECT round(sum(sales_amount), 2) FROM factinternetsales").fetchone()
    assert total == 8319.15


def test_build_after_etl_builds_nothing_where_the_load_fails(engine, monkeypatch, tmp_path):
    monkeypatch.setenv("ATSCALE_EXAMPLE_FOLDER", str(tmp_path / "missing"))
    done = run("example_atscale_build_after_etl")
    assert done.states["build_aggregates"] == "upstream_failed"
    assert engine.batches == []


def test_check(engine):
    done = run("example_atscale_check")
    assert done["check_aggregates"].value["active"] == 6
    assert done["check_aggregates"].value["misses"] == []


def test_check_of_a_build_that_left_aggregates_behind(engine):
    """The build is green, because it only warns; the check is not."""
    engine.fail_next("Internet Sales", status="done", failed_aggregates=1)
    done = run("example_atscale_check")
    assert done.states == {"build_aggregates": "success", "check_aggregates": "failed"}


def test_fire_and_wait(engine):
    done = run("example_atscale_fire_and_wait")
    [batch] = engine.batches
    assert batch.is_full_build
    assert done["start_build"].value == done["wait_for_build"].value == batch.id


@pytest.mark.parametrize(("ends", "next_task"), [("done", "refresh_dashboards"), ("failed", "tell_somebody")])
def test_custom_operator(engine, ends, next_task):
    """A failed build is no error for it: the branch decides."""
    engine.fail_next("Internet Sales", status=ends)
    done = run("example_atscale_custom_operator")
    assert done.state == "success"
    assert done["build_status"].value == ends
    branches = {"refresh_dashboards", "tell_somebody"}
    assert {name for name in branches if done[name].state == "success"} == {next_task}


def test_custom_operator_that_cannot_tell_how_the_batch_ended(engine, monkeypatch):
    """The error has the trigger's reason."""
    monkeypatch.setenv("AIRFLOW__ATSCALE__MISSING_TOLERANCE", "0")
    engine.settings(history_delay=60)
    done = run("example_atscale_custom_operator")
    assert "has not been in the build history for" in str(done["build_status"].error)
    assert done["choose"].state == "upstream_failed"


def test_on_running(engine):
    """Whatever the tasks meet, nobody builds beside somebody else."""
    done = run("example_atscale_on_running")
    assert done["somebody_else"].value == engine.batches[0].id
    assert done["wait"].value != done["somebody_else"].value
    assert all(batch.overlapped_with == [] for batch in engine.batches)


@pytest.mark.parametrize("asked", [False, True], ids=["on schedule", "asked for"])
def test_weekly_full_daily_incremental(engine, asked):
    full = asked or datetime.now(timezone.utc).isoweekday() == 7
    run("example_atscale_weekly_full_daily_incremental", full=asked)
    [batch] = engine.batches
    assert batch.is_full_build is full
    assert batch.grace_period_overrides == ({} if full else {"factinternetsales": 30})


CHOSEN = {
    "nothing was loaded": ({"rows": 0}, "skipped", []),
    "a few days": ({"days": 2}, "success", [(False, {"factinternetsales": 2})]),
    "everything": ({"reloaded": True}, "success", [(True, {})]),
}


@pytest.mark.parametrize(("conf", "state", "builds"), CHOSEN.values(), ids=CHOSEN)
def test_decorator(engine, conf, state, builds):
    done = run("example_atscale_decorator", **conf)
    assert done.states["build_aggregates"] == state
    assert [(batch.is_full_build, batch.grace_period_overrides) for batch in engine.batches] == builds


def test_every_model(engine):
    run("example_atscale_every_model")
    assert sorted(batch.model for batch in engine.batches) == ["internet_sales", "reseller_sales"]
    assert stored.labels("example_atscale_every_model", "build") == [
        "Sales Insights / Internet Sales",
        "Sales Insights / Reseller Sales",
    ]


def test_every_model_with_the_waiting_apart(engine):
    done = run("example_atscale_every_model", "example_atscale_start_every_model")
    started = [done[f"start[{number}]"].value for number in range(2)]
    batches = {batch.model: batch.id for batch in engine.batches}
    assert started == [batches["internet_sales"], batches["reseller_sales"]]
    for name in ("wait_for_id", "wait_for_batch"):
        assert [done[f"{name}[{number}]"].value for number in range(2)] == started
    labels = {
        name: stored.labels("example_atscale_start_every_model", name)
        for name in ("wait_for_id", "wait_for_batch")
    }
    assert labels["wait_for_id"] == started
    assert labels["wait_for_batch"] == [
        f"{batch['catalog']} / {batch['model']}"
        for batch in (done[f"start[{number}]"].xcoms["batch"] for number in range(2))
    ]


ASSETS = {
    "example_atscale_assets": ("example_atscale_asset_producer", "example_atscale_asset_consumer"),
    "example_atscale_airflow2": ("example_atscale_airflow2", "example_atscale_airflow2_consumer"),
}


@pytest.mark.parametrize(("name", "pair"), ASSETS.items(), ids=ASSETS)
def test_the_consumer_reads_what_the_producers_event_carries(engine, name, pair, caplog):
    producer, consumer = pair
    dags = dags_of(name)
    report = run(name, producer)["build_aggregates"].xcoms["batch_result"]
    [(uri, events)] = stored.asset_events(producer).items()
    assert uri == "atscale://atscale.example.com/Sales%20Insights/Internet%20Sales"
    assert events[-1] == report
    timetable = dags[consumer].timetable
    assert uri in str(timetable.asset_condition if runs.VERSION >= (3, 0) else timetable.dataset_condition)
    _consume(dags[consumer], uri, events[-1], caplog)
    assert f"Batch {report['batch_id']} built {report['rows']} rows" in caplog.text


def test_the_watcher_reads_what_its_event_carries(caplog):
    payload = {"batch_id": "b", "kind": "full", "ended": "2025-02-27T10:00:00+00:00"}
    [dag] = dags_of("example_atscale_watcher").values()
    _consume(dag, "internet_sales_builds", {"from_trigger": True, "payload": payload}, caplog)
    assert "Batch b (full) ended at 2025-02-27" in caplog.text


def _consume(dag: DAG, asset: str, extra: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Call the consumer's function with an event, as Airflow does after a build."""

    class Event:
        def __init__(self) -> None:
            self.extra = extra

    with caplog.at_level(logging.INFO):
        dag.get_task("refresh_dashboards").python_callable(triggering_asset_events={asset: [Event()]})


def test_the_notice_of_a_task_group_goes_away_where_the_build_fails(engine):
    engine.fail_next("Internet Sales")
    done = run("example_atscale_task_group")
    assert done.state == "failed"
    assert done["build_with_notice.build"].state == "failed"
    assert done["build_with_notice.remove_notice"].state == "success"
    assert done["build_with_notice__1.build"].state == "success"


POLICY = {
    "the build failed": (lambda engine: engine.fail_next("Internet Sales"), "failed", 1),
    "aggregates are missing": (
        lambda engine: engine.fail_next("Internet Sales", status="done", failed_aggregates=1),
        "failed",
        1,
    ),
    "no rule": (lambda engine: engine.fault(500, route="catalogs"), "success", 2),
    "wrong credentials": (lambda engine: engine.revoke_api_token(), "failed", 1),
}


@pytest.mark.parametrize(("happens", "state", "tries"), POLICY.values(), ids=POLICY)
def test_the_retry_policy_decides(engine, happens, state, tries):
    happens(engine)
    done = run("example_atscale_retry_policy")["build_aggregates"]
    assert (done.state, done.tries) == (state, tries)
