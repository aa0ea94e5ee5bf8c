"""The trigger of an asset watcher: each batch that ends is an event, no matter who started it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_atscale.testing import AtScaleEngine

from . import runs
from .conftest import MODEL, of_both_editions

if runs.VERSION < (3, 0):
    pytest.skip("Airflow 2 cannot schedule DAGs on events from elsewhere", allow_module_level=True)

from airflow_provider_atscale.triggers.builds import AtScaleBuildEventTrigger

if TYPE_CHECKING:
    from collections.abc import Callable

#: Longer than anything here takes on a busy machine, a start of Airflow's triggerer included.
PATIENCE = 300.0
QUICK = {"poll_interval": 0.05}

needs_shared_streams = pytest.mark.skipif(
    runs.VERSION < (3, 3), reason="before Airflow 3.3 each trigger polls for itself and stores nothing"
)


class Watcher:
    """Run a trigger as Airflow's triggerer does, and collect its events."""

    def __init__(self, trigger: AtScaleBuildEventTrigger) -> None:
        self.trigger = trigger
        self.events: list[dict[str, Any]] = []

    async def _collect(self) -> None:
        async for event in self.trigger.run():
            self.events.append(event.payload)

    async def until(self, happened: Callable[[], Any]) -> None:
        """Wait until something has happened; the trigger must go on meanwhile."""
        deadline = time.monotonic() + PATIENCE
        while not happened():
            assert time.monotonic() < deadline, f"it never happened; the events: {self.events}"
            if self._task.done():
                self._task.result()
                raise AssertionError("the trigger has ended")
            await asyncio.sleep(0.01)

    async def __aenter__(self) -> Watcher:
        self._task = asyncio.create_task(self._collect())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def reads(engine: AtScaleEngine) -> int:
    return sum(request.route == "history" and request.status == 200 for request in engine.requests)


def play(trigger: AtScaleBuildEventTrigger, scene: Callable[[Watcher], Any]) -> list[dict[str, Any]]:
    """Run a scene while a watcher runs, and return the watcher's events."""

    async def main() -> list[dict[str, Any]]:
        async with Watcher(trigger) as watcher:
            await scene(watcher)
        return watcher.events

    return asyncio.run(main())


def ended(engine: AtScaleEngine, **end: Any) -> str:
    """Let another user's batch end at once."""
    batch = engine.start_batch(None, "Internet Sales", build_seconds=3600)
    return engine.end_batch(batch.id, **end).id


def test_an_event_tells_of_the_batch(engine):
    async def scene(watcher):
        await watcher.until(lambda: reads(engine))
        engine.start_batch(None, "Internet Sales", is_full_build=True, build_seconds=0.1)
        await watcher.until(lambda: watcher.events)

    [event] = play(AtScaleBuildEventTrigger(**MODEL, **QUICK), scene)
    [batch] = engine.batches
    assert event["batch_id"] == batch.id
    assert (event["catalog"], event["model"], event["server"]) == (*MODEL.values(), engine.url)
    assert (event["status"], event["kind"], event["start"]) == ("done", "full", "watched")
    assert event["seconds"] > 0
    assert json.loads(json.dumps(event)) == event


OUTCOMES = {
    "any": ["done", "failed", "cancelled", "success"],
    "succeeded": ["done", "success"],
    "failed": ["failed", "cancelled"],
}


@pytest.mark.parametrize(("outcome", "expected"), OUTCOMES.items(), ids=OUTCOMES)
def test_which_batches_are_events(engine, outcome, expected):
    async def scene(watcher):
        await watcher.until(lambda: reads(engine))
        for status in OUTCOMES["any"]:
            ended(engine, status=status)
        seen = reads(engine)
        await watcher.until(lambda: reads(engine) > seen + 2)

    ended(engine)
    events = play(AtScaleBuildEventTrigger(**MODEL, **QUICK, outcome=outcome), scene)
    assert [event["status"] for event in events] == expected


@of_both_editions
def test_a_model_is_looked_up_again_and_again(engine, monkeypatch):
    """Each version of a project that the installer edition publishes has an id of its own."""
    monkeypatch.setattr("airflow_provider_atscale.triggers.build_events.RESOLVE_AGAIN_AFTER", 0.0)
    # The connection remembers a model for a minute.
    monkeypatch.setattr("airflow_provider_atscale.client.shared_connection.FOUND_FOR", 0.0)

    async def scene(watcher):
        await watcher.until(lambda: reads(engine) > 3)

    play(AtScaleBuildEventTrigger(**MODEL, **QUICK), scene)
    assert sum(each.route == "catalogs" for each in engine.requests) > 3


def test_a_batch_that_ran_already_is_an_event_when_it_ends(engine):
    batch = engine.start_batch(None, "Internet Sales", build_seconds=3600)

    async def scene(watcher):
        await watcher.until(lambda: reads(engine) > 1)
        assert watcher.events == []
        engine.end_batch(batch.id)
        await watcher.until(lambda: watcher.events)

    [event] = play(AtScaleBuildEventTrigger(**MODEL, **QUICK), scene)
    assert event["batch_id"] == batch.id


def test_another_models_batch_is_no_event(engine):
    async def scene(watcher):
        await watcher.until(lambda: reads(engine))
        engine.start_batch(None, "Reseller Sales", build_seconds=0)
        seen = reads(engine)
        await watcher.until(lambda: reads(engine) > seen + 2)

    assert play(AtScaleBuildEventTrigger(**MODEL, **QUICK), scene) == []


TROUBLE = {
    "errors": {"action": 500},
    "a gateway": {"action": 503},
    "dropped connections": {"action": "drop"},
    "a login page": {"action": "html"},
    "refused credentials": {"action": 401},
    "a missing role": {"action": 403},
}


@pytest.mark.parametrize("fault", TROUBLE.values(), ids=TROUBLE)
@pytest.mark.parametrize("route", ["history", "catalogs"])
def test_trouble_is_tolerated_and_nothing_is_lost(engine, monkeypatch, fault, route):
    async def quickly(seconds):
        await pause(min(seconds, 0.05))

    pause = asyncio.sleep
    monkeypatch.setattr("airflow_provider_atscale.triggers.build_events.asyncio.sleep", quickly)

    async def scene(watcher):
        if route == "history":
            await watcher.until(lambda: reads(engine))
        engine.fault(**fault, route=route, times=None)
        hit = len(engine.requests)
        await watcher.until(lambda: len(engine.requests) > hit + 5)
        if route == "history":
            ended(engine)
        engine.clear_faults()
        if route == "catalogs":
            await watcher.until(lambda: reads(engine))
            ended(engine)
        await watcher.until(lambda: watcher.events)

    if route == "catalogs":
        engine.fault(**fault, route=route, times=None)
    [event] = play(AtScaleBuildEventTrigger(**MODEL, **QUICK), scene)
    assert event["batch_id"] == engine.batches[0].id


def test_an_unknown_model_is_waited_for(engine, logged):
    """Airflow would start a trigger that raised again every second."""

    async def scene(watcher):
        await watcher.until(lambda: len(engine.requests) > 1)
        engine.add_model("Sales Insights", "New Sales")
        await watcher.until(lambda: reads(engine))
        engine.start_batch(None, "New Sales", build_seconds=0)
        await watcher.until(lambda: watcher.events)

    trigger = AtScaleBuildEventTrigger(catalog="Sales Insights", model="New Sales", poll_interval=0.05)
    [event] = play(trigger, scene)
    assert event["model"] == "New Sales"
    said = logged()
    assert "Cannot watch Sales Insights / New Sales at the moment" in said
    assert "Watching Sales Insights / New Sales again" in said


def test_a_read_that_is_under_way_ends_with_the_trigger(engine):
    async def scene(watcher):
        hold = engine.hold(route="history")
        await watcher.until(lambda: engine.hold_status(hold)["held"])

    play(AtScaleBuildEventTrigger(**MODEL, **QUICK), scene)
    engine.reset()


# --- shared polling ---------------------------------------------------------------------------------------


class Store:
    """Stand in for the state store of an asset: refuse on demand."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.works = True

    async def aget(self, key: str, default: Any = None) -> Any:
        if not self.works:
            raise RuntimeError("the store is out of order")
        return self.kept.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        if not self.works:
            raise RuntimeError("the store is out of order")
        self.kept[key] = json.loads(json.dumps(value))


class Triggerer:
    """Airflow's own manager of shared streams, its confirmations in the test's hands."""

    def __init__(self, **limits: float) -> None:
        from airflow.triggers.shared_stream import SharedStreamManager

        self.manager = SharedStreamManager(**limits)
        self.events: dict[int, list[str]] = {}
        self.unconfirmed: list[int] = []
        self._tasks: list[asyncio.Task[None]] = []

    def run(self, trigger: AtScaleBuildEventTrigger, store: Any) -> list[str]:
        """Run a trigger, and return the list to which it adds the batches it reports."""
        number = len(self.events)
        trigger.asset_state_store = store
        events = self.events[number] = []
        self._tasks.append(asyncio.create_task(self._run(number, trigger, events)))
        return events

    async def _run(self, number: int, trigger: AtScaleBuildEventTrigger, events: list[str]) -> None:
        key = trigger.shared_stream_key()
        stream = self.manager.subscribe(trigger_id=number, trigger=trigger, key=key)
        try:
            async for event in trigger.filter_shared_stream(stream):
                self.unconfirmed.append(self.manager.bind_pending_event(trigger_id=number, key=key))
                events.append(event.payload["batch_id"])
        finally:
            await self.manager.unsubscribe(number, key)

    def confirm(self) -> None:
        """Say that all events are in Airflow's database."""
        self.manager.confirm_persisted(self.unconfirmed)
        self.unconfirmed.clear()

    async def until(self, happened: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not happened():
            assert time.monotonic() < deadline, f"it never happened; the events: {self.events}"
            for task in self._tasks:
                if task.done():
                    self._tasks.remove(task)
                    task.result()
            await asyncio.sleep(0.01)

    async def __aenter__(self) -> Triggerer:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.manager.stop_all()


def known(store: Store) -> list[str]:
    return [each for value in store.kept.values() for each in value["known"]]


@needs_shared_streams
def test_triggers_of_one_model_share_one_read(engine):
    async def main():
        async with Triggerer() as triggerer:
            stores = [Store(), Store(), Store()]
            for outcome, store in zip(("any", "succeeded", "failed"), stores, strict=True):
                triggerer.run(AtScaleBuildEventTrigger(**MODEL, outcome=outcome, poll_interval=3600), store)
            await triggerer.until(lambda: all(store.kept for store in stores))
        return reads(engine)

    assert asyncio.run(main()) == 1


@needs_shared_streams
def test_the_watermark_moves_when_airflow_has_stored_the_event_and_not_before(engine):
    store = Store()

    async def main():
        async with Triggerer() as triggerer:
            events = triggerer.run(AtScaleBuildEventTrigger(**MODEL, **QUICK), store)
            await triggerer.until(lambda: store.kept)
            batch = ended(engine)
            await triggerer.until(lambda: events)
            seen = reads(engine)
            await triggerer.until(lambda: reads(engine) > seen + 3)
            assert known(store) == []
            triggerer.confirm()
            await triggerer.until(lambda: known(store) == [batch])
        return events, batch

    events, batch = asyncio.run(main())
    assert events == [batch]


@needs_shared_streams
def test_an_event_that_airflow_never_confirmed_is_reported_again(engine):
    """At least once: the trigger cannot know whether the event was stored."""
    store = Store()

    async def watch(act, confirms):
        async with Triggerer() as triggerer:
            events = triggerer.run(AtScaleBuildEventTrigger(**MODEL, **QUICK), store)
            await triggerer.until(lambda: store.kept)
            act()
            await triggerer.until(lambda: events)
            if confirms:
                triggerer.confirm()
                await triggerer.until(lambda: known(store) == events)
        return events

    first = asyncio.run(watch(lambda: ended(engine), confirms=False))
    second = asyncio.run(watch(lambda: None, confirms=True))
    assert first == second == [engine.batches[0].id]


@needs_shared_streams
def test_an_event_that_airflow_could_not_store_is_reported_again(engine):
    """Another watcher of the model continues meanwhile, and Airflow confirms those reads."""
    from airflow.triggers.shared_stream import AckTimeout

    store = Store()

    async def main():
        async with Triggerer(ack_timeout=5.0) as triggerer:
            triggerer.run(AtScaleBuildEventTrigger(**MODEL, **QUICK, outcome="failed"), Store())
            events = triggerer.run(AtScaleBuildEventTrigger(**MODEL, **QUICK), store)
            await triggerer.until(lambda: store.kept)
            batch = ended(engine)
            with pytest.raises(AckTimeout):
                await triggerer.until(lambda: False)
            assert events == [batch]
            seen = reads(engine)
            await triggerer.until(lambda: reads(engine) > seen + 3)
            assert known(store) == []
            triggerer.unconfirmed.clear()
            events = triggerer.run(AtScaleBuildEventTrigger(**MODEL, **QUICK), store)
            await triggerer.until(lambda: events)
            triggerer.confirm()
            await triggerer.until(lambda: known(store) == [batch])
        return events, batch

    events, batch = asyncio.run(main())
    assert events == [batch]


@needs_shared_streams
def test_a_store_that_fails_loses_nothing(engine, logged):
    store = Store()

    async def begin():
        async with Triggerer() as triggerer:
            triggerer.run(AtScaleBuildEventTrigger(**MODEL, **QUICK), store)
            await triggerer.until(lambda: store.kept)

    async def go_on():
        async with Triggerer() as triggerer:
            store.works = False
            events = triggerer.run(AtScaleBuildEventTrigger(**MODEL, **QUICK), store)
            await triggerer.until(lambda: reads(engine) > 3)
            assert events == []
            store.works = True
            await triggerer.until(lambda: events == [missed])
            store.works = False
            triggerer.confirm()
            batch = ended(engine)
            await triggerer.until(lambda: events == [missed, batch])
            triggerer.confirm()
            seen = reads(engine)
            await triggerer.until(lambda: reads(engine) > seen + 2)
            store.works = True
            await triggerer.until(lambda: known(store) == [missed, batch])
        return events, batch

    asyncio.run(begin())
    # Nobody watches while this one ends.
    missed = ended(engine)
    events, batch = asyncio.run(go_on())
    assert events == [missed, batch]
    assert "the store is out of order" in logged()


@needs_shared_streams
def test_an_asset_that_was_not_watched_for_a_while_repeats_nothing(engine):
    """Two assets with the same watcher are one trigger; Airflow watches none of a paused DAG."""

    class Stores:
        def __init__(self, *stores: Store) -> None:
            self._by_name = dict(enumerate(stores))

    async def watch(store, until, act=lambda: None):
        async with Triggerer() as triggerer:
            events = triggerer.run(AtScaleBuildEventTrigger(**MODEL, **QUICK), store)
            await triggerer.until(lambda: reads(engine) > seen)
            act()
            await triggerer.until(lambda: until(events))
            triggerer.confirm()
            now = reads(engine)
            await triggerer.until(lambda: reads(engine) > now + 3)
        return events

    paused, watched = Store(), Store()
    seen = 0
    asyncio.run(watch(Stores(paused, watched), lambda events: paused.kept and watched.kept))
    seen = reads(engine)
    events = asyncio.run(watch(Stores(watched), lambda events: events, lambda: ended(engine)))
    assert events == known(watched) == [engine.batches[0].id]
    seen = reads(engine)
    assert asyncio.run(watch(Stores(paused, watched), lambda events: True)) == []


@needs_shared_streams
def test_another_server_is_watched_from_the_beginning(engine, monkeypatch):
    """Its batches are unrelated to those of the other server."""
    store = Store()

    async def main(during):
        async with Triggerer() as triggerer:
            events = triggerer.run(AtScaleBuildEventTrigger(**MODEL, **QUICK), store)
            await during(triggerer, events)
        return events

    async def first(triggerer, events):
        await triggerer.until(lambda: store.kept)

    asyncio.run(main(first))
    with AtScaleEngine(build_seconds=0.1) as other:
        ended(other)
        monkeypatch.setenv("AIRFLOW_CONN_ATSCALE_DEFAULT", other.connection_json())

        async def second(triggerer, events):
            await triggerer.until(lambda: other.url in json.dumps(store.kept))
            batch = ended(other)
            await triggerer.until(lambda: events)
            assert events == [batch]

        asyncio.run(main(second))


# --- the real triggerer -----------------------------------------------------------------------------------

DAGS = """
from airflow.sdk import DAG, Asset, AssetWatcher
from airflow_provider_atscale.triggers.builds import AtScaleBuildEventTrigger

def watched(outcome):
    trigger = AtScaleBuildEventTrigger(
        catalog="Sales Insights", model="Internet Sales", outcome=outcome, poll_interval=0.2
    )
    return Asset(f"builds_{outcome}", watchers=[AssetWatcher(name=outcome, trigger=trigger)])

for outcome in ("any", "failed"):
    with DAG(f"on_{outcome}", schedule=[watched(outcome)]) as dag:
        pass
    globals()[dag.dag_id] = dag
"""


class Site:
    """Airflow's database and a real triggerer, which the test starts and kills."""

    def __init__(self) -> None:
        from conftest import DAGS_FOLDER

        self._file = DAGS_FOLDER / "watchers.py"
        self._file.write_text(DAGS)
        self._log = DAGS_FOLDER.parent / "triggerer.log"
        self._triggerer: Any = None
        self._clear()
        self._sync()
        self._unpause()
        # Airflow watches only the assets of DAGs that are not paused.
        self._sync()

    def _clear(self) -> None:
        """Forget the triggers of other tests: a triggerer that is full of them takes no others."""
        from airflow.models.taskinstance import TaskInstance
        from airflow.models.trigger import Trigger
        from airflow.utils.session import create_session

        with create_session() as session:
            session.query(TaskInstance).update({TaskInstance.trigger_id: None})
            session.query(Trigger).delete()

    def _sync(self) -> None:
        from airflow.dag_processing.bundles.manager import DagBundlesManager
        from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db

        [bundle] = DagBundlesManager().get_all_dag_bundles()
        bag = BundleDagBag(dag_folder=self._file, bundle_path=bundle.path, bundle_name=bundle.name)
        assert not bag.import_errors
        sync_bag_to_db(bag, bundle.name, None)

    def _unpause(self) -> None:
        from airflow.models.dag import DagModel
        from airflow.utils.session import create_session

        with create_session() as session:
            session.query(DagModel).update({DagModel.is_paused: False})

    def start_triggerer(self) -> None:
        from airflow.models.trigger import Trigger
        from airflow.utils.session import create_session

        with create_session() as session:
            # As Airflow does after a while for those of a triggerer whose heartbeat stays away.
            session.query(Trigger).update({Trigger.triggerer_id: None})
        with self._log.open("ab") as log:
            self._triggerer = subprocess.Popen(
                [sys.executable, "-m", "airflow", "triggerer", "--capacity", "10", "--skip-serve-logs"],
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group of its own, so that a kill reaches the process that runs the triggers, too.
                start_new_session=True,
            )

    def until(self, happened: Callable[[], Any]) -> None:
        """Wait until something has happened; the triggerer must live meanwhile."""
        deadline = time.monotonic() + PATIENCE
        while not happened():
            assert time.monotonic() < deadline, f"it never happened:\n{self._log.read_text()[-5000:]}"
            assert self._triggerer.poll() is None, f"the triggerer has died:\n{self._log.read_text()[-5000:]}"
            time.sleep(0.1)

    def kill_triggerer(self) -> None:
        """Kill it as the kernel does if memory runs out: it gets no chance to clean up."""
        if self._triggerer is not None:
            os.killpg(self._triggerer.pid, signal.SIGKILL)
            self._triggerer.wait()
            self._triggerer = None

    def events(self, asset: str) -> list[str]:
        """List the batches that were events of an asset."""
        from airflow.models.asset import AssetEvent, AssetModel
        from airflow.utils.session import create_session

        with create_session() as session:
            rows = session.query(AssetEvent).join(AssetModel, AssetModel.id == AssetEvent.asset_id)
            found = rows.filter(AssetModel.name == asset).order_by(AssetEvent.id).all()
            assert all(event.extra["from_trigger"] for event in found)
            return [event.extra["payload"]["batch_id"] for event in found]

    def marks(self) -> list[list[str]]:
        """List the batches that are marked as reported, for each asset."""
        from airflow.models.asset_state_store import AssetStateStoreModel
        from airflow.utils.session import create_session

        with create_session() as session:
            return [json.loads(row.value)["known"] for row in session.query(AssetStateStoreModel)]

    def close(self) -> None:
        from airflow.models.asset_state_store import AssetStateStoreModel
        from airflow.utils.session import create_session

        self.kill_triggerer()
        self._file.unlink()
        with create_session() as session:
            session.query(AssetStateStoreModel).delete()


@pytest.fixture
def site():
    site = Site()
    yield site
    site.close()


@needs_shared_streams
def test_each_batch_is_one_event_however_often_the_triggerer_is_killed(engine, site):
    before = ended(engine)
    site.start_triggerer()
    site.until(lambda: len(site.marks()) == 2)
    first = ended(engine)
    site.until(lambda: site.marks() == [[before, first]] * 2)
    site.kill_triggerer()
    # Nobody watches while these end.
    second, third = ended(engine, status="failed"), ended(engine)
    site.start_triggerer()
    site.until(lambda: site.marks() == [[before, first, second, third]] * 2)
    site.kill_triggerer()
    site.start_triggerer()
    engine.clear_requests()
    site.until(lambda: reads(engine) > 3)
    assert site.events("builds_any") == [first, second, third]
    assert site.events("builds_failed") == [second]
