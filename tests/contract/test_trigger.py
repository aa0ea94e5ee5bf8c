"""The trigger: what it stores, what it sees, and how little many of them cost."""

from __future__ import annotations

import asyncio
import importlib
import json
import time
from types import SimpleNamespace

import pytest

from airflow_provider_atscale.api.models import ModelRef
from airflow_provider_atscale.builds.usual import Expectation
from airflow_provider_atscale.client import shared_connection as shared_module
from airflow_provider_atscale.tasks.event import read_event
from airflow_provider_atscale.tasks.plan import TaskPlan
from airflow_provider_atscale.triggers import atscale as trigger_module
from airflow_provider_atscale.triggers.atscale import AtScaleBatchTrigger
from airflow_provider_atscale.waiting.deadline import Deadline
from airflow_provider_atscale.waiting.policy import Ended, GaveUp, TimedOut

from .conftest import TOKEN_ROUTE, until


@pytest.fixture
def connected(engine, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_ATSCALE_DEFAULT", engine.connection_json())


@pytest.fixture
def trigger(connected, ref):
    """Make a trigger as the operator does."""

    def trigger(batch_id, *, model=ref, since=None, timeout=None, limit="timeout", **arguments):
        since = time.time() if since is None else since
        deadline = None if timeout is None else Deadline(time.time() + timeout, limit)
        plan = TaskPlan("atscale_default", model, since, 0.2, deadline)
        values = {**plan.trigger_arguments(), "batch_id": batch_id, "since": since}
        return AtScaleBatchTrigger(**{**values, **arguments})

    return trigger


@pytest.fixture
def tolerance(monkeypatch):
    """Set how long a doubt of a kind is borne, as Airflow's configuration does."""

    def tolerance(kind, seconds):
        monkeypatch.setenv(f"AIRFLOW__ATSCALE__{kind.upper()}_TOLERANCE", str(seconds))

    return tolerance


async def first_event(trigger):
    """Run a trigger as the triggerer does: it takes the first event, through JSON."""
    event = await asyncio.wait_for(anext(trigger.run()), 20)
    return json.loads(json.dumps(event.payload))


def event_of(trigger):
    event = asyncio.run(first_event(trigger))
    assert not shared_module._loops
    return event


# --- what it stores ---------------------------------------------------------------------------------------


def to_and_fro(trigger):
    """Store a trigger and make it again, as Airflow does."""
    path, arguments = trigger.serialize()
    try:
        from airflow.sdk.serde import deserialize, serialize
    except ImportError:
        from airflow.serialization.serialized_objects import BaseSerialization

        serialize, deserialize = BaseSerialization.serialize, BaseSerialization.deserialize
    stored = json.loads(json.dumps(serialize(arguments)))
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)(**deserialize(stored))


@pytest.mark.parametrize("batch_id", ["b1", None])
@pytest.mark.parametrize("timeout", [60, None])
def test_it_is_stored_whole(trigger, batch_id, timeout):
    before = trigger(batch_id, timeout=timeout)
    after = to_and_fro(before)
    assert type(after) is AtScaleBatchTrigger
    assert after.serialize() == before.serialize()
    json.dumps(before.serialize()[1], allow_nan=False)


def test_nothing_secret_is_stored(engine, trigger):
    stored = json.dumps(trigger("b1", timeout=60).serialize()) + repr(trigger("b1"))
    assert engine.connection()["password"] not in stored
    assert engine.url not in stored


# --- what it sees -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["done", "success", "failed", "cancelled", "deleted"])
def test_batch_that_ends(engine, trigger, ref, status):
    engine.fail_next(ref.model_id, status)
    batch = engine.start_batch(None, ref.model_id, build_seconds=0.3)
    resumed = read_event(event_of(trigger(batch.id)))
    assert isinstance(resumed.result, Ended)
    assert (resumed.result.batch.id, resumed.result.batch.status) == (batch.id, status)
    assert resumed.batch_id == batch.id


def test_batch_that_ended_before(engine, trigger, ref):
    batch = engine.start_batch(None, ref.model_id, build_seconds=0.0)
    assert read_event(event_of(trigger(batch.id))).result.batch.status == "done"
    assert engine.stats.routes["history"] == 1


def test_wait_that_is_over_at_once_gives_the_scheduler_time(engine, trigger, ref, monkeypatch):
    """A task that comes back before the scheduler has noted that it went is taken for one that was killed."""
    monkeypatch.setattr("airflow_provider_atscale.triggers.atscale.LEAST_SECONDS", 0.7)
    batch = engine.start_batch("Sales Insights", "Internet Sales")
    engine.end_batch(batch.id, "done")
    began = time.monotonic()
    assert event_of(trigger(batch.id, since=time.time() - 3600))["status"] == "ended"
    assert 0.7 <= time.monotonic() - began < 5


def test_wait_that_fails_at_once_gives_the_scheduler_time(trigger, tolerance, monkeypatch):
    monkeypatch.setattr("airflow_provider_atscale.triggers.atscale.LEAST_SECONDS", 0.7)
    tolerance("trouble", "half an hour")
    began = time.monotonic()
    with pytest.raises(Exception, match="half an hour"):
        event_of(trigger("batch"))
    assert 0.7 <= time.monotonic() - began < 5


def test_newest_batch(engine, trigger, ref):
    engine.start_batch(None, ref.model_id, build_seconds=0.0)
    newest = engine.start_batch(None, ref.model_id, build_seconds=0.3)
    resumed = read_event(event_of(trigger(None)))
    assert resumed.batch_id == newest.id


def test_batch_that_the_history_shows_late(engine, trigger, ref):
    engine.settings(history_delay=0.4)
    batch = engine.start_batch(None, ref.model_id, build_seconds=0.1)
    assert read_event(event_of(trigger(batch.id))).result.batch.status == "done"


@pytest.mark.parametrize(
    ("kind", "fault", "text"),
    [
        ("missing", None, "has not been in the build history"),
        ("trouble", {"action": 503}, "HTTP 503"),
        ("trouble", {"action": "drop"}, "got no answer"),
        ("trouble", {"action": "html"}, "is not JSON"),
    ],
    ids=["not in the history", "503", "no answer", "a page"],
)
def test_doubt_that_lasts(engine, trigger, tolerance, kind, fault, text):
    tolerance(kind, 0.3)
    if fault:
        engine.fault(**fault, route="history", times=None)
    resumed = read_event(event_of(trigger("b1")))
    assert isinstance(resumed.result, GaveUp)
    assert resumed.result.kind == kind
    assert text in resumed.result.reason


def test_status_that_nobody_knows(engine, trigger, ref, tolerance):
    tolerance("unknown", 0.3)
    engine.settings(status_words={"new": "sleeping", "inprogress": "sleeping"})
    batch = engine.start_batch(None, ref.model_id)
    resumed = read_event(event_of(trigger(batch.id)))
    assert resumed.result.kind == "unknown"
    assert "'sleeping'" in resumed.result.reason


@pytest.mark.parametrize(
    "fault",
    [{"action": 503}, {"action": "drop"}, {"action": "html"}, {"action": 401}, {"action": 429}],
    ids=["503", "no answer", "a page", "401", "429"],
)
@pytest.mark.parametrize("route", ["history", "token"])
@pytest.mark.usefixtures("a_while_later")
def test_trouble_that_passes(engine, edition, trigger, ref, fault, route):
    """Credentials that are refused while a batch is waited for, too: it may be the identity service."""
    batch = engine.start_batch(None, ref.model_id, build_seconds=0.3)
    engine.fault(**fault, route=TOKEN_ROUTE[edition] if route == "token" else route, times=2)
    assert read_event(event_of(trigger(batch.id))).result.batch.status == "done"


@pytest.mark.parametrize("limit", ["timeout", "execution_timeout"])
def test_deadline(engine, trigger, ref, limit):
    batch = engine.start_batch(None, ref.model_id)
    began = time.time()
    resumed = read_event(event_of(trigger(batch.id, timeout=0.4, limit=limit)))
    assert isinstance(resumed.result, TimedOut)
    assert resumed.result.limit == limit
    assert resumed.result.last_status in ("new", "inprogress")
    assert 0.4 <= time.time() - began < 5


def test_deadline_that_passed_while_no_triggerer_ran(engine, trigger, ref):
    """It looks once all the same: the batch may have ended in the meantime."""
    running = engine.start_batch(None, ref.model_id)
    resumed = read_event(event_of(trigger(running.id, timeout=-100, since=time.time() - 200)))
    assert isinstance(resumed.result, TimedOut)
    assert resumed.result.seconds == pytest.approx(200, abs=5)
    engine.end_batch(running.id)
    assert isinstance(read_event(event_of(trigger(running.id, timeout=-100))).result, Ended)


@pytest.mark.parametrize(
    ("catalog", "model"), [("", ""), ("Sales Insights", "Internet Sales")], ids=["by the batch", "by names"]
)
def test_model_that_was_not_known_is_in_the_event(engine, trigger, ref, catalog, model):
    batch = engine.start_batch(None, ref.model_id, build_seconds=0.1)
    resumed = read_event(event_of(trigger(batch.id, model=ModelRef("", "", catalog, model))))
    assert (resumed.plan.ref.catalog_id, resumed.plan.ref.model_id) == (ref.catalog_id, ref.model_id)
    assert resumed.result.batch.id == batch.id


def test_newest_batch_of_a_model_that_was_not_known(engine, trigger, ref):
    """Never that of another model, though the very first read fails."""
    engine.start_batch(None, "General Ledger", build_seconds=0.0)
    batch = engine.start_batch(None, ref.model_id, build_seconds=0.3)
    engine.fault(503, route="catalogs", times=2)
    resumed = read_event(event_of(trigger(None, model=ModelRef("", "", "Sales Insights", "Internet Sales"))))
    assert resumed.batch_id == batch.id


# --- many -------------------------------------------------------------------------------------------------


def test_many_triggers_are_cheap(engine, connected, trigger):
    """200 triggers over 10 models: one exchange, at most eight connections, reads by model and round."""
    models = [engine.add_model("Finance", f"model {number}") for number in range(10)]
    batches = [engine.start_batch(None, model, build_seconds=1.0) for model in models]

    async def main():
        waiting = [
            first_event(trigger(batch.id, model=ModelRef(model.catalog_id, model.id, "Finance", model.name)))
            for model, batch in zip(models, batches, strict=True)
            for _ in range(20)
        ]
        return await asyncio.gather(*waiting)

    events = asyncio.run(main())
    assert {event["status"] for event in events} == {"ended"}
    assert len({event["batch_id"] for event in events}) == 10
    assert engine.stats.token_exchanges == 1
    assert engine.stats.connections_opened <= 10
    assert engine.stats.max_in_flight <= 8
    assert not shared_module._loops


def test_restarted_triggerer_does_not_ask_all_at_once(trigger, monkeypatch):
    """The first look of each is anywhere within its cadence, which for old waits is the poll interval."""
    asked = []

    class Subscription:
        ref = ModelRef("c", "m", "c", "m")

        def __init__(self, connection, ref, batch_id):
            pass

        async def next(self, seconds):
            asked.append(seconds)
            raise asyncio.CancelledError

        async def __aenter__(self):
            return self

        async def __aexit__(self, *_):
            return None

    monkeypatch.setattr("airflow_provider_atscale.triggers.atscale.Subscription", Subscription)

    async def main():
        old = [trigger("b1", since=time.time() - 3600, poll_interval=60.0) for _ in range(200)]
        new = [trigger("b1", poll_interval=60.0) for _ in range(200)]
        for each in (*old, *new):
            with pytest.raises(asyncio.CancelledError):
                await anext(each.run())

    asyncio.run(main())
    old, new = sorted(asked[:200]), sorted(asked[200:])
    assert old[20] < 15
    assert 45 < old[180] <= 66
    assert new[-1] <= 1.1


@pytest.mark.parametrize("ticks", range(8))
@pytest.mark.parametrize("until", [9e9, float("inf")], ids=["deadline", "none"])
def test_a_cancellation_is_heard_even_if_the_answer_comes_with_it(ticks, until):
    async def main():
        answer = asyncio.get_running_loop().create_future()

        async def read(seconds):
            return await answer

        async def wait():
            await trigger_module._poll(SimpleNamespace(next=read), 60.0, until)
            await asyncio.sleep(3600)

        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0.01)
        answer.set_result(None)
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=1)
        assert task.cancelled()
        task.cancel()

    asyncio.run(main())


def test_cancelled_trigger_leaves_nothing(engine, trigger, ref):
    batch = engine.start_batch(None, ref.model_id)

    async def main():
        task = asyncio.ensure_future(first_event(trigger(batch.id, poll_interval=0.1)))
        await until(lambda: engine.stats.routes.get("history"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert not shared_module._loops


@pytest.mark.parametrize(("batch_id", "text"), [("b1", "batch b1"), (None, "the newest batch")])
def test_on_kill_tells_the_truth(trigger, logged, batch_id, text):
    asyncio.run(trigger(batch_id).on_kill())
    said = logged()
    assert (
        f"This triggerer stopped waiting for {text} (Internet Sales of Sales Insights): another triggerer"
        in said
    )
    assert "The build goes on in AtScale either way" in said
    assert "cancel" not in said


def test_log_tells_changes_and_no_polls(engine, trigger, ref, logged):
    engine.settings(queue_seconds=0)
    batch = engine.start_batch(None, ref.model_id)

    async def main():
        task = asyncio.ensure_future(first_event(trigger(batch.id, poll_interval=0.1)))
        await until(lambda: engine.stats.routes.get("history", 0) >= 8, 15)
        engine.end_batch(batch.id)
        await task

    asyncio.run(main())
    said = [line for line in logged().splitlines() if f"Batch {batch.id}" in line]
    assert len(said) == 2
    assert "Running after" in said[0]
    assert "Done after" in said[1]


def test_log_and_event_tell_the_usual_duration_and_that_the_batch_is_late(engine, trigger, ref, logged):
    for _ in range(5):
        engine.end_batch(engine.start_batch(None, ref.model_id).id)
    batch = engine.start_batch(None, ref.model_id)
    expectation = Expectation(warn_after=0.001).to_json()

    async def main():
        waiting = trigger(batch.id, poll_interval=0.1, expectation=expectation)
        task = asyncio.ensure_future(first_event(waiting))
        await until(lambda: engine.stats.routes.get("history", 0) >= 8, 15)
        engine.end_batch(batch.id)
        return await task

    event = asyncio.run(main())
    assert (event["expectation"]["usual"]["count"], event["expectation"]["is_warned"]) == (5, True)
    said = logged()
    assert said.count("Late: not done after") == 1
    assert said.count("usually 0") == 2
    assert said.count("expected by") == 2


@pytest.fixture
def written(monkeypatch):
    """Collect what triggers write to XCom."""
    kept = []

    async def write(ti, key, value):
        kept.append((ti, key, value))

    monkeypatch.setattr(trigger_module, "apush_xcom", write)
    return kept


def wait_for(engine, batch, waiting):
    """Wait with a trigger until it has polled some times and its batch has ended."""

    async def main():
        task = asyncio.ensure_future(first_event(waiting))
        await until(lambda: engine.stats.routes.get("history", 0) >= 6, 15)
        engine.end_batch(batch.id)
        return await task

    return asyncio.run(main())


def test_progress_is_written_at_most_once_a_minute(engine, trigger, ref, written):
    batch = engine.start_batch(None, ref.model_id)
    waiting = trigger(batch.id, poll_interval=0.1, push_progress=True)
    waiting.task_instance = ti = SimpleNamespace(task_id="task")
    assert wait_for(engine, batch, waiting)["status"] == "ended"
    [(of, key, value)] = written
    assert (of, key, value["batch_id"], value["late"]) == (ti, "progress", batch.id, False)
    json.dumps(value, allow_nan=False)


@pytest.mark.parametrize(
    ("push", "ti"), [(False, SimpleNamespace(task_id="task")), (True, None)], ids=["off", "no task instance"]
)
def test_no_progress_is_written(engine, trigger, ref, written, push, ti):
    batch = engine.start_batch(None, ref.model_id)
    waiting = trigger(batch.id, poll_interval=0.1, push_progress=push)
    if ti is not None:
        waiting.task_instance = ti
    assert wait_for(engine, batch, waiting)["status"] == "ended"
    assert written == []


def test_a_write_that_fails_does_not_fail_the_wait(engine, trigger, ref, monkeypatch):
    async def fail(*_):
        raise RuntimeError("the supervisor is gone")

    monkeypatch.setattr(trigger_module, "apush_xcom", fail)
    batch = engine.start_batch(None, ref.model_id)
    waiting = trigger(batch.id, poll_interval=0.1, push_progress=True)
    waiting.task_instance = SimpleNamespace(task_id="task")
    assert wait_for(engine, batch, waiting)["status"] == "ended"


def test_a_cancelled_trigger_leaves_its_write_alone(engine, trigger, ref, monkeypatch):
    """Its reply would otherwise be read as that of another trigger's request."""
    steps = []

    async def slow(*_):
        steps.append("begun")
        await asyncio.sleep(0.2)
        steps.append("ended")

    monkeypatch.setattr(trigger_module, "apush_xcom", slow)
    batch = engine.start_batch(None, ref.model_id)
    waiting = trigger(batch.id, poll_interval=0.1, push_progress=True)
    waiting.task_instance = SimpleNamespace(task_id="task")

    async def main():
        task = asyncio.ensure_future(first_event(waiting))
        await until(lambda: steps, 15)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert steps == ["begun"]
        await asyncio.sleep(0.5)

    asyncio.run(main())
    assert steps == ["begun", "ended"]
