"""The earlier of ``timeout`` and ``execution_timeout`` ends a wait, deferred or not, and says so."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_atscale.exceptions import AtScaleSensorTimeoutError, AtScaleTimeoutError
from airflow_provider_atscale.hooks import atscale as hooks
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.sensors.atscale import AtScaleBatchSensor
from airflow_provider_atscale.triggers import atscale as triggers

from .conftest import GIVEN_BACK, MODEL, QUICK, SENSORS, WAITS, run_task
from .runs import HAS_TASK_STATE


@pytest.fixture
def engine(engine):
    engine.settings(build_seconds=3600)
    return engine


# --- the operator -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("timeout", [2.0, "2.0", timedelta(seconds=2)])
def test_timeout(engine, mode, timeout):
    began = time.monotonic()
    task = run_task(AtScaleAggregateBuildOperator, timeout=timeout, **MODEL, **QUICK, **mode)
    assert time.monotonic() - began < 120
    assert task.state == "failed"
    assert type(task.error) is AtScaleTimeoutError
    said = str(task.error)
    assert f"Batch {engine.batches[0].id} of model 'Internet Sales'" in said
    assert "did not end within timeout" in said
    assert "The build goes on in AtScale." in said
    expected = "attaches to it" if HAS_TASK_STATE else "on Airflow 3.3+ attaches to it"
    assert f"A retry of the task {expected} and has a timeout of its own." in said


def test_execution_timeout_while_deferred(engine):
    task = run_task(
        AtScaleAggregateBuildOperator,
        execution_timeout=timedelta(seconds=2),
        timeout=60,
        deferrable=True,
        **MODEL,
        **QUICK,
    )
    assert type(task.error) is AtScaleTimeoutError
    assert "did not end within execution_timeout" in str(task.error)
    assert "The build goes on in AtScale." in str(task.error)


LIMITS = {
    "timeout alone": (600, None, ("timeout", 600)),
    "execution_timeout alone": (None, 300, ("execution_timeout", 200)),
    "timeout is earlier": (100, 300, ("timeout", 100)),
    "execution_timeout is earlier": (600, 300, ("execution_timeout", 200)),
    "none": (None, None, None),
}


@pytest.mark.parametrize(("timeout", "limit", "expected"), LIMITS.values(), ids=LIMITS)
def test_deadline_of_a_deferred_task(engine, context, timeout, limit, expected):
    """``execution_timeout`` counts from the task's own begin, which was a hundred seconds ago."""
    context["ti"].start_date = datetime.now(timezone.utc) - timedelta(seconds=100)
    operator = AtScaleAggregateBuildOperator(
        task_id="task",
        timeout=timeout,
        execution_timeout=None if limit is None else timedelta(seconds=limit),
        deferrable=True,
        **MODEL,
    )
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    _, arguments = deferred.value.trigger.serialize()
    if expected is None:
        assert arguments["deadline"] is None
        assert deferred.value.timeout is None
        return
    name, seconds = expected
    assert arguments["deadline"]["limit"] == name
    assert arguments["deadline"]["at"] - time.time() == pytest.approx(seconds, abs=15)
    # Where Airflow's own timeout fires nothing of ours runs any more, so it is later than the deadline.
    assert deferred.value.timeout.total_seconds() - seconds == pytest.approx(300, abs=15)


@pytest.mark.parametrize(
    ("poll_interval", "request_timeout", "slack"), [(1, 1, 120), (300, 60, 600), (60, 400, 2000)]
)
def test_backstop_leaves_time_for_a_last_look(
    engine, monkeypatch, context, poll_interval, request_timeout, slack
):
    connection = engine.connection_json(timeout=request_timeout)
    monkeypatch.setenv("AIRFLOW_CONN_ATSCALE_DEFAULT", connection)
    waits = {"timeout": 600, "deferrable": True, **MODEL}
    operator = AtScaleAggregateBuildOperator(task_id="build", poll_interval=poll_interval, **waits)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    assert deferred.value.timeout.total_seconds() == pytest.approx(600 + slack, abs=15)
    sensor = AtScaleBatchSensor(
        task_id="wait", batch_id=engine.batches[0].id, poke_interval=poll_interval, **waits
    )
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context)
    assert deferred.value.timeout.total_seconds() == pytest.approx(600 + slack, abs=15)


def test_deadline_does_not_move_from_deferral_to_deferral(engine, context):
    """Waiting for somebody else's batch first uses up the same time."""
    other = engine.start_batch("Sales Insights", "Internet Sales")
    operator = AtScaleAggregateBuildOperator(task_id="task", timeout=600, deferrable=True, **MODEL)
    with pytest.raises(TaskDeferred) as first:
        operator.execute(context)
    assert first.value.method_name == "execute_after_running"
    _, arguments = first.value.trigger.serialize()
    engine.end_batch(other.id)
    event = {
        "status": "ended",
        "batch_id": other.id,
        "batch": {"id": other.id, "status": "done"},
        **{name: arguments[name] for name in GIVEN_BACK},
    }
    with pytest.raises(TaskDeferred) as second:
        operator.execute_after_running(context, event)
    assert second.value.method_name == "execute_complete"
    assert second.value.trigger.serialize()[1]["deadline"] == arguments["deadline"]


# --- the sensor -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", SENSORS.values(), ids=SENSORS)
def test_timeout_of_a_sensor(engine, mode):
    batch = engine.start_batch("Sales Insights", "Internet Sales")
    waits = {**MODEL, "batch_id": batch.id, "timeout": 1.0, "poke_interval": 0.2, "retries": 2}
    task = run_task(AtScaleBatchSensor, **waits, **mode)
    assert (task.state, task.tries) == ("failed", 1), "a sensor's timeout is not retried"
    assert type(task.error) is AtScaleSensorTimeoutError
    said = str(task.error)
    assert f"Batch {batch.id} of model 'Internet Sales'" in said
    assert "did not end within timeout" in said
    assert "Its last status was " in said
    assert "The build goes on in AtScale. Raise the sensor's timeout" in said


def test_execution_timeout_of_a_deferred_sensor_may_be_retried(engine):
    """As Airflow's own is in the other modes."""
    batch = engine.start_batch("Sales Insights", "Internet Sales")
    waits = {**MODEL, "batch_id": batch.id, "poke_interval": 0.2, "execution_timeout": timedelta(seconds=2)}
    task = run_task(AtScaleBatchSensor, deferrable=True, **waits)
    assert type(task.error) is AtScaleTimeoutError
    assert "did not end within execution_timeout" in str(task.error)


def test_poke_interval_does_not_draw_out_the_timeout(engine):
    """The last look is at the timeout, not a poke interval later."""
    batch = engine.start_batch("Sales Insights", "Internet Sales")
    began = time.monotonic()
    task = run_task(AtScaleBatchSensor, **MODEL, batch_id=batch.id, timeout=0.5, poke_interval=600)
    assert type(task.error) is AtScaleSensorTimeoutError
    assert time.monotonic() - began < 120


@pytest.mark.parametrize("route", ["catalogs", "history"])
def test_a_timeout_bounds_the_reads_before_the_start(engine, route):
    """They are retried, and would else go on for many seconds after the timeout."""
    engine.fault(503, route=route, times=None)
    began = time.monotonic()
    task = run_task(AtScaleAggregateBuildOperator, **MODEL, timeout=1.0)
    assert task.state == "failed"
    assert "503" in str(task.error)
    assert time.monotonic() - began < 8, "five tries alone pause for more than seven seconds"
    assert engine.batches == []


# --- a server that does not answer ------------------------------------------------------------------------

BUILD = AtScaleAggregateBuildOperator
#: The call that is not answered, and the task that makes it; each would take the connection's 60 s.
UNANSWERED = {
    "the model": ("catalogs", BUILD, {}),
    "skip_if_built_within": ("history", BUILD, {"skip_if_built_within": 60}),
    "the read before the start": ("history", BUILD, {}),
    "a sensor's model": ("catalogs", AtScaleBatchSensor, {"poke_interval": 0.2}),
    "a sensor's first poll": ("history", AtScaleBatchSensor, {"poke_interval": 0.2}),
    "a sensor's first poll, deferrable": ("history", AtScaleBatchSensor, {"deferrable": True}),
    "a sensor without a model": ("instances", AtScaleBatchSensor, {"catalog": None, "model": None}),
}


@pytest.fixture
def last_poll(monkeypatch):
    for module in (hooks, triggers):
        monkeypatch.setattr(module, "LAST_POLL", 0.3)


@pytest.mark.parametrize(("route", "kind", "arguments"), UNANSWERED.values(), ids=UNANSWERED)
def test_a_server_that_does_not_answer_holds_no_task_beyond_its_timeout(
    engine, route, kind, arguments, last_poll
):
    batch = engine.start_batch("Sales Insights", "Internet Sales")
    given = {**MODEL, "timeout": 0.7, **({} if kind is BUILD else {"batch_id": batch.id}), **arguments}
    hold = engine.hold("received", route=route, times=None)
    began = time.monotonic()
    task = run_task(kind, **given)
    assert time.monotonic() - began < 10
    engine.release(hold)
    assert isinstance(task.error, AtScaleTimeoutError), task.error
    assert len(engine.batches) == 1


def test_a_server_that_stops_to_answer_holds_no_poll_beyond_the_timeout(engine, when, last_poll):
    """Nor the poll by which a retry attaches to its batch."""
    when(lambda: engine.batches, lambda: engine.hold("received", route="history", times=None))
    began = time.monotonic()
    task = run_task(BUILD, timeout=1.0, retries=1, **MODEL, **QUICK)
    assert time.monotonic() - began < 20
    assert isinstance(task.errors[-1], AtScaleTimeoutError), task.errors
    assert (task.tries, len(engine.batches)) == (2, 1)
