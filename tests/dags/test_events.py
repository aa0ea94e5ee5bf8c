"""A resumed task trusts its event only if it is exactly one of ours; a killed one says what goes on."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_atscale.exceptions import AtScaleEventError, AtScaleTaskStoppedError
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.sensors.atscale import AtScaleBatchSensor

from .conftest import GIVEN_BACK, MODEL

# --- events -----------------------------------------------------------------------------------------------


@pytest.fixture
def good(engine, context):
    """Return the event of a batch that is done."""
    engine.settings(build_seconds=60)
    operator = AtScaleAggregateBuildOperator(task_id="build", deferrable=True, **MODEL)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    _, arguments = deferred.value.trigger.serialize()
    batch_id = arguments["batch_id"]
    engine.end_batch(batch_id)
    engine.clear_requests()
    return {
        "status": "ended",
        "batch_id": batch_id,
        "batch": {"id": batch_id, "status": "done", "isFullBuild": False},
        **{name: arguments[name] for name in GIVEN_BACK},
    }


def without(event, name):
    return {key: value for key, value in event.items() if key != name}


BAD = {
    "nothing": lambda event: None,
    "a text": lambda event: "done",
    "a list": lambda event: [event],
    "an empty mapping": lambda event: {},
    "no status": lambda event: without(event, "status"),
    "a status of a later version": lambda event: {**event, "status": "paused"},
    "a status of another type": lambda event: {**event, "status": True},
    "no batch id": lambda event: {**event, "batch_id": None},
    "an empty batch id": lambda event: {**event, "batch_id": ""},
    "a batch id of another type": lambda event: {**event, "batch_id": 7},
    "no batch": lambda event: without(event, "batch"),
    "another batch": lambda event: {**event, "batch": {"id": "b2", "status": "done"}},
    "a batch that has not ended": lambda event: {**event, "batch": {**event["batch"], "status": "running"}},
    "a batch in an unknown status": lambda event: {**event, "batch": {**event["batch"], "status": "great"}},
    "a batch without status": lambda event: {**event, "batch": {"id": event["batch_id"]}},
    "no payload": lambda event: without(event, "payload"),
    "a payload of a later version": lambda event: {**event, "payload": {**event["payload"], "more": 1}},
    "a payload of another type": lambda event: {**event, "payload": {**event["payload"], "began": "now"}},
    "no model": lambda event: {**event, "model_id": None},
    "a timeout without its limit": lambda event: {**event, "status": "timeout", "seconds": 1.0},
    "a wait given up without a reason": lambda event: {**event, "status": "gave_up", "kind": "missing"},
}

TASKS = {
    "operator": (lambda: AtScaleAggregateBuildOperator(task_id="t", **MODEL), "execute_complete"),
    "operator after another's batch": (
        lambda: AtScaleAggregateBuildOperator(task_id="t", **MODEL),
        "execute_after_running",
    ),
    "sensor": (lambda: AtScaleBatchSensor(task_id="t", batch_id="b1", **MODEL), "execute_complete"),
}


@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD)
@pytest.mark.parametrize(("make", "method"), TASKS.values(), ids=TASKS)
def test_event_that_is_not_one_of_ours(engine, context, good, make, method, spoil):
    with pytest.raises(AtScaleEventError, match="cannot be trusted"):
        getattr(make(), method)(context, spoil(good))
    assert engine.requests == []
    assert len(engine.batches) == 1
    assert "batch_result" not in context["ti"].xcoms


@pytest.mark.parametrize(("make", "method"), TASKS.values(), ids=TASKS)
def test_resumed_without_any_event(engine, context, good, make, method):
    with pytest.raises(AtScaleEventError):
        getattr(make(), method)(context)


@pytest.mark.parametrize("task", ["operator", "sensor"])
def test_event_of_ours(engine, context, good, task):
    make, method = TASKS[task]
    assert getattr(make(), method)(context, good) == good["batch_id"]
    assert context["ti"].xcoms["batch_result"]["batch_id"] == good["batch_id"]


def test_resumed_task_goes_by_its_plan_not_by_its_arguments(engine, context, good):
    """Templates are rendered anew at each resume, and may say something else by then."""
    operator = AtScaleAggregateBuildOperator(
        task_id="t", catalog="{{ x }}", model="{{ x }}", is_full_build="{{ x }}", atscale_conn_id="not_there"
    )
    operator.catalog, operator.model, operator.is_full_build = "None", "None", "maybe"  # rendered
    assert operator.execute_complete(context, good) == good["batch_id"]


# --- a task that is killed --------------------------------------------------------------------------------


def test_killed_before_the_start(engine, context, logged):
    operator = AtScaleAggregateBuildOperator(task_id="t", **MODEL)
    operator.on_kill()
    assert "The task was stopped before a build was started; none will be started" in logged()
    with pytest.raises(AtScaleTaskStoppedError, match=r"no build of .* is started"):
        operator.execute(context)
    assert engine.batches == []


def test_killed_while_it_waits(engine, context, logged, when):
    engine.settings(build_seconds=600)
    operator = AtScaleAggregateBuildOperator(task_id="t", poll_interval=0.1, **MODEL)
    when(lambda: engine.stats.routes.get("history", 0) >= 3, operator.on_kill)
    with pytest.raises(AtScaleTaskStoppedError, match="the build goes on in AtScale"):
        operator.execute(context)
    [batch] = engine.batches
    said = logged()
    assert f"The task was stopped. Batch {batch.id} goes on in AtScale, which has no call to cancel it" in said
    assert "Design Center > Aggregates > Build History" in said
    assert {request.method for request in engine.requests if request.route not in ("start", "token")} == {"GET"}


def test_killed_between_reading_and_posting(engine, context):
    """A process that was told to end starts nothing any more, wherever it is."""
    hold = engine.hold("processed", route="history")
    operator = AtScaleAggregateBuildOperator(task_id="t", **MODEL)
    import threading

    def kill():
        engine.wait_held(hold)
        operator.on_kill()
        engine.release(hold)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(AtScaleTaskStoppedError):
        operator.execute(context)
    killer.join()
    assert engine.batches == []


def test_on_kill_never_raises():
    AtScaleAggregateBuildOperator(task_id="t", **MODEL).on_kill()
    AtScaleBatchSensor(task_id="t", **MODEL).on_kill()
