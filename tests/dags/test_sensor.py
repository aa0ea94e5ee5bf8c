"""The sensor in its three modes: one rule for what is skipped, and the same patience in each."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import AirflowException, TaskDeferred

from airflow_provider_atscale.exceptions import (
    AtScaleBatchNotFoundError,
    AtScaleSensorTimeoutError,
    AtScaleWaitError,
)
from airflow_provider_atscale.sensors.atscale import AtScaleBatchSensor
from airflow_provider_atscale.testing import AtScaleEngine

from . import runs
from .conftest import GIVEN_BACK, MODEL, SENSORS, listing, new_dag, of_both_editions, run_task

in_each_mode = pytest.mark.parametrize("mode", SENSORS.values(), ids=SENSORS)


def wait(batch_id, **arguments):
    return run_task(AtScaleBatchSensor, **{**MODEL, "batch_id": batch_id, "poke_interval": 0.1, **arguments})


# --- soft_fail and never_fail -----------------------------------------------------------------------------

#: (situation, flag, state): a timeout and a failed batch are soft, whatever the user has to correct is not.
RULE = [
    ("late", "no flag", "failed"),
    ("broken", "no flag", "failed"),
    ("good", "soft_fail", "success"),
    ("late", "soft_fail", "skipped"),
    ("broken", "soft_fail", "skipped"),
    ("incomplete", "soft_fail", "skipped"),
    ("missing", "soft_fail", "failed"),
    ("wrong_token", "soft_fail", "failed"),
    ("wrong_config", "soft_fail", "failed"),
    ("wrong_name", "soft_fail", "failed"),
    ("nothing", "soft_fail", "failed"),
    ("late", "never_fail", "skipped"),
    ("broken", "never_fail", "skipped"),
    ("missing", "never_fail", "skipped"),
    ("wrong_token", "never_fail", "skipped"),
    ("nothing", "never_fail", "skipped"),
]
FLAGS = {"no flag": {}, "soft_fail": {"soft_fail": True}, "never_fail": {"never_fail": True}}


def task_id(name, flag, mode):
    return f"{name}.{flag}.{mode}".replace(" ", "_")


def is_without_end(name, mode):
    """Before Airflow 3.3 a rescheduled sensor cannot keep what it saw from poke to poke."""
    return (name, mode) == ("missing", "reschedule") and not runs.HAS_TASK_STATE


def situations(engine):
    """Make one batch for each way in which a wait can end; return the sensor's arguments."""
    batches = {}
    for name, outcome in {"good": {}, "broken": {"status": "failed"}, "incomplete": {"status": "done"}}.items():
        model = engine.add_model("Finance", name)
        if outcome:
            engine.fail_next(model, **outcome)
        batches[name] = engine.start_batch("Finance", model, build_seconds=0.5)
    batches["late"] = engine.start_batch("Finance", engine.add_model("Finance", "late"), build_seconds=600)
    cases = {name: {"batch_id": batch.id, "model": batch.model} for name, batch in batches.items()}
    cases["late"]["timeout"] = 1.0
    cases["incomplete"]["failed_aggregates"] = "fail"
    cases["missing"] = {"batch_id": "b1", "model": "good"}
    cases["wrong_token"] = {**cases["good"], "atscale_conn_id": "wrong_token"}
    cases["wrong_config"] = {**cases["good"], "atscale_conn_id": "wrong_config"}
    cases["wrong_name"] = {**cases["good"], "model": "nothing"}
    cases["nothing"] = {"batch_id": "{{ '' }}", "model": "good"}
    return {name: {"catalog": "Finance", **case} for name, case in cases.items()}


@pytest.fixture(scope="module")
def done():
    """Run all of them in all modes, side by side in one run."""
    with AtScaleEngine() as engine, pytest.MonkeyPatch.context() as env:
        env.setenv("AIRFLOW_CONN_ATSCALE_DEFAULT", engine.connection_json())
        env.setenv("AIRFLOW_CONN_WRONG_CONFIG", engine.connection_json(timeout="soon"))
        wrong = engine.connection_json().replace("local-engine-", "wrong-")
        env.setenv("AIRFLOW_CONN_WRONG_TOKEN", wrong)
        env.setenv("AIRFLOW__ATSCALE__MISSING_TOLERANCE", "0.2")
        cases = situations(engine)
        with new_dag(default_args={"poke_interval": 0.1, "retries": 0}) as dag:
            for name, flag, _ in RULE:
                for mode, how in SENSORS.items():
                    if is_without_end(name, mode):
                        continue
                    AtScaleBatchSensor(task_id=task_id(name, flag, mode), **cases[name], **how, **FLAGS[flag])
        return runs.run(dag)


@pytest.mark.parametrize("mode", SENSORS)
@pytest.mark.parametrize(("name", "flag", "state"), RULE, ids=[f"{name}, {flag}" for name, flag, _ in RULE])
def test_what_is_skipped(done, name, flag, state, mode):
    if is_without_end(name, mode):
        pytest.skip("no poke knows of the one before it, so only the sensor's timeout ends it")
    task = done[task_id(name, flag, mode)]
    assert task.state == state, task.errors


def test_skip_says_why(engine, logged):
    engine.fail_next("Internet Sales", "failed", message="disk quota exceeded")
    batch = engine.start_batch("Sales Insights", "Internet Sales")
    assert wait(batch.id, soft_fail=True).state == "skipped"
    said = logged()
    assert "Skipped, because soft_fail is set: Failed after " in said
    assert f"Batch {batch.id}" in said
    assert "disk quota exceeded" in said


# --- patience ---------------------------------------------------------------------------------------------


@in_each_mode
def test_trouble_that_passes(engine, mode):
    """Also with credentials, once the first look was good: it may be the identity service."""
    batch = engine.start_batch("Sales Insights", "Internet Sales", build_seconds=2.0)
    sensor = {"503": {"action": 503}, "401": {"action": 401}, "a page": {"action": "html"}}
    for fault in sensor.values():
        engine.fault(**fault, route="history", query="limit=20")
    assert wait(batch.id, **mode).state == "success"


@in_each_mode
def test_trouble_that_lasts(engine, monkeypatch, mode):
    if mode == SENSORS["reschedule"] and not runs.HAS_TASK_STATE:
        pytest.skip("no poke knows of the one before it")
    monkeypatch.setenv("AIRFLOW__ATSCALE__TROUBLE_TOLERANCE", "0.3")
    batch = engine.start_batch("Sales Insights", "Internet Sales", build_seconds=600)
    engine.fault(500, route="history", times=None)
    task = wait(batch.id, **mode)
    assert type(task.error) is AtScaleWaitError
    said = str(task.error)
    assert "the last 3 answers were: " in said
    assert said.count("HTTP 500") == 3
    assert "If the build runs, it goes on in AtScale." in said


@in_each_mode
def test_batch_that_never_shows(engine, monkeypatch, mode):
    if mode == SENSORS["reschedule"] and not runs.HAS_TASK_STATE:
        pytest.skip("no poke knows of the one before it")
    monkeypatch.setenv("AIRFLOW__ATSCALE__MISSING_TOLERANCE", "0.3")
    task = wait("b1", **mode)
    assert type(task.error) is AtScaleBatchNotFoundError
    assert "Batch b1" in str(task.error)


@in_each_mode
def test_batch_that_shows_late(engine, mode):
    engine.settings(history_delay=1.0)
    batch = engine.start_batch("Sales Insights", "Internet Sales")
    task = wait(batch.id, **mode)
    assert (task.state, task.value) == ("success", batch.id)


@of_both_editions
@in_each_mode
def test_batch_that_only_its_instances_show(engine, monkeypatch, logged, mode):
    """Second best: an end must be seen twice, and the log says which role is missing."""
    monkeypatch.setenv("AIRFLOW__ATSCALE__SETTLE_TIME", "0.5")
    engine.settings(history_mode="forbidden")
    batch = engine.start_batch("Sales Insights", "Internet Sales")
    task = wait(batch.id, timeout=30, **mode)
    assert (task.state, task.value) == ("success", batch.id), task.errors
    assert "No permission to read the build history; falling back to aggregates" in logged()
    assert engine.stats.routes["instances"] >= 2


# --- which batch ------------------------------------------------------------------------------------------


@of_both_editions
@in_each_mode
def test_newest_batch(engine, mode):
    engine.start_batch("Sales Insights", "Internet Sales", build_seconds=0)
    newest = engine.start_batch("Sales Insights", "Internet Sales", build_seconds=0.5)
    engine.start_batch("Sales Insights", "Reseller Sales", build_seconds=0)
    task = wait("newest", **mode)
    assert (task.state, task.value) == ("success", newest.id)
    assert task.xcoms["batch_result"]["batch_id"] == newest.id


@of_both_editions
@in_each_mode
def test_batch_alone(engine, mode):
    """Its model is found through its instances."""
    batch = engine.start_batch("Sales Insights", "Internet Sales", build_seconds=0.5)
    task = wait(batch.id, catalog=None, model=None, **mode)
    assert (task.state, task.value) == ("success", batch.id)
    assert task.xcoms["batch_result"]["model_id"] == batch.model_id


@of_both_editions
@in_each_mode
def test_batch_alone_that_has_no_instances_yet(engine, edition, mode):
    batch = engine.start_batch("Sales Insights", "Internet Sales", build_seconds=0.5)
    engine.fault(404, route="history", query="(modelId|cubeId)=($|&)", times=None)
    engine.fault(200, route="instances", body=listing(edition, []), times=2)
    task = wait(batch.id, catalog=None, model=None, **mode)
    assert (task.state, task.value) == ("success", batch.id), task.errors
    assert batch.id in next(iter(task.links.values()))


class ChoosingSensor(AtScaleBatchSensor):
    """Set arguments just before each poke, as a user's subclass may do."""

    def __init__(self, *, chosen, **kwargs):
        super().__init__(**kwargs)
        self.chosen = chosen

    def poke(self, context):
        for name, value in self.chosen.items():
            setattr(self, name, value)
        return super().poke(context)


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_batch_that_a_subclass_chooses_in_its_poke(engine, mode):
    chosen = engine.start_batch("Sales Insights", "Internet Sales", build_seconds=0)
    engine.start_batch("Sales Insights", "Internet Sales", build_seconds=0)
    task = run_task(ChoosingSensor, **MODEL, poke_interval=0.1, mode=mode, chosen={"batch_id": chosen.id})
    assert (task.state, task.value) == ("success", chosen.id), task.errors


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_connection_that_a_subclass_chooses_in_its_poke(engine, mode):
    batch = engine.start_batch("Sales Insights", "Internet Sales", build_seconds=0)
    chosen = {"atscale_conn_id": "atscale_default"}
    task = run_task(ChoosingSensor, **MODEL, atscale_conn_id="another", mode=mode, chosen=chosen)
    assert (task.state, task.value) == ("success", batch.id), task.errors


@in_each_mode
@pytest.mark.parametrize("wanted", ["a batch", "the newest"])
def test_trouble_at_the_first_look(engine, monkeypatch, mode, wanted):
    """The model could not be found out: nobody must go on with a history of all models."""
    monkeypatch.setattr("airflow_provider_atscale.client.retries.LONGEST_PAUSE", 0.0)
    engine.start_batch("Finance", "General Ledger", build_seconds=0)
    batch = engine.start_batch("Sales Insights", "Internet Sales", build_seconds=1.0)
    engine.fault(503, route="catalogs", times=6, headers={"Retry-After": "0"})
    task = wait(batch.id if wanted == "a batch" else "newest", **mode)
    assert (task.state, task.value) == ("success", batch.id), task.errors
    for request in engine.requests:
        assert request.query.get("modelId", request.query.get("cubeId", "-")) != ""


# --- how often --------------------------------------------------------------------------------------------


def test_pokes_grow_with_the_time_already_waited(engine, context, monkeypatch):
    """A build of an hour, by a clock that only sleeping moves: far fewer looks than one a minute makes."""
    import time

    batch = engine.start_batch("Sales Insights", "Internet Sales", build_seconds=3600)
    begin, naps = time.time(), []
    begin_steady = time.monotonic()

    def sleep(seconds):
        naps.append(seconds)
        engine.advance(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "time", lambda: begin + sum(naps))
    monkeypatch.setattr(time, "monotonic", lambda: begin_steady + sum(naps))
    engine_now = engine.now
    sensor = AtScaleBatchSensor(task_id="task", **MODEL, batch_id=batch.id, poke_interval=60)
    assert sensor.execute(context) == batch.id
    assert engine.now >= engine_now
    assert 0.9 <= naps[0] <= 1.2
    assert max(naps) <= 66.1
    assert len(naps) <= 3600 / 60 + 20
    assert naps.index(max(naps)) > 5


def test_users_own_backoff_is_respected(engine, context, monkeypatch):
    sensor = AtScaleBatchSensor(
        task_id="task", **MODEL, batch_id="b1", exponential_backoff=True, poke_interval=10, max_wait=20
    )
    sensor._pause = 1.0
    assert 10 <= sensor._get_next_poke_interval(0.0, lambda: 0.0, 3) <= 20


# --- what Airflow itself may hand back --------------------------------------------------------------------


def resume(sensor, context, error):
    """Resume a sensor of which Airflow says that its trigger failed."""

    def fail(*_, **__):
        raise error

    sensor.execute_complete = fail
    sensor.resume_execution("execute_complete", {"event": {}}, context)


@pytest.mark.parametrize(("flag", "expected"), [({}, False), ({"soft_fail": True}, False)])
def test_trigger_that_failed_is_no_soft_failure(context, flag, expected):
    """That our trigger could not run is a fault of the installation, not of the batch."""
    sensor = AtScaleBatchSensor(task_id="task", **MODEL, batch_id="b1", **flag)
    with pytest.raises(AirflowException) as caught:
        resume(sensor, context, AirflowException("Trigger failure"))
    assert type(caught.value) is AirflowException


def test_deferred_sensor_keeps_its_deadline(engine, context):
    batch = engine.start_batch("Sales Insights", "Internet Sales", build_seconds=600)
    sensor = AtScaleBatchSensor(task_id="task", **MODEL, batch_id=batch.id, timeout=100, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context)
    _, arguments = deferred.value.trigger.serialize()
    assert arguments["deadline"]["limit"] == "timeout"
    event = {
        "status": "timeout",
        "batch_id": batch.id,
        "limit": "timeout",
        "seconds": 100.0,
        "last_status": "inprogress",
        **{name: arguments[name] for name in GIVEN_BACK},
    }
    with pytest.raises(AtScaleSensorTimeoutError, match="Its last status was 'inprogress'"):
        sensor.execute_complete(context, event)
