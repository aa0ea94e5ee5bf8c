"""No batch is lost, wherever Airflow cancels the trigger of an asset watcher."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from typing import Any

import airflow
import pytest

from airflow_provider_atscale.api.models import Batch, History, ModelRef

AIRFLOW = tuple(int(part) for part in airflow.__version__.split(".")[:2])
if AIRFLOW < (3, 0):
    pytest.skip("Airflow 2 has no event triggers", allow_module_level=True)

from airflow_provider_atscale.triggers import build_events  # noqa: E402
from airflow_provider_atscale.triggers.build_events import HistorySnapshot  # noqa: E402
from airflow_provider_atscale.triggers.builds import AtScaleBuildEventTrigger  # noqa: E402

needs_shared_streams = pytest.mark.skipif(AIRFLOW < (3, 3), reason="before Airflow 3.3 nothing is confirmed")

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
OLD = Batch("old", "done", ended=START)
NEW = [Batch(f"b{number}", "done", ended=START + timedelta(minutes=number)) for number in range(1, 6)]
IDS = [batch.id for batch in NEW]


class Feed:
    """Stand in for AtScale: a history that grows, read when the test says so."""

    def __init__(self) -> None:
        self.batches: list[Batch] = [OLD]
        self._queues: list[asyncio.Queue[None]] = []

    async def poll_history(self, *_: Any) -> Any:
        queue: asyncio.Queue[None] = asyncio.Queue()
        self._queues.append(queue)
        while True:
            history = History(tuple(reversed(self.batches)), START)
            yield HistorySnapshot("https://atscale.example.com", ModelRef("c", "m", "C", "M"), history)
            await queue.get()

    def read(self) -> None:
        for queue in self._queues:
            queue.put_nowait(None)


class Store:
    """Stand in for an asset's state store."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.on_read: Any = None

    async def aget(self, key: str) -> Any:
        await asyncio.sleep(0)
        if self.on_read is not None:
            await self.on_read()
        return self.values.get(key)

    async def aset(self, key: str, value: Any) -> None:
        await asyncio.sleep(0)
        self.values[key] = value

    @property
    def known(self) -> list[str]:
        return [each for value in self.values.values() for each in value["known"]]


class Runner:
    """
    Run triggers as ``TriggerRunner.run_trigger`` of Airflow does, with its own manager of shared streams.

    :param confirm: When Airflow's database has the events: ``at once``, ``later`` or ``never``.
    :param is_shared: Whether triggers share their polls, as from Airflow 3.3 on.
    """

    def __init__(self, confirm: str = "at once", is_shared: bool = True, **limits: Any) -> None:
        self.manager: Any = None
        if is_shared:
            from airflow.triggers.shared_stream import SharedStreamManager

            self.manager = SharedStreamManager(**limits)
        self.confirm = confirm
        self.events: dict[str, list[str]] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.unconfirmed: list[int] = []
        self.on_log: Any = None

    def start(self, name: str, trigger: AtScaleBuildEventTrigger, store: Store) -> None:
        trigger.asset_state_store = store  # type: ignore[assignment, unused-ignore]
        self.events[name] = []
        self.tasks[name] = asyncio.create_task(self._run(name, len(self.tasks), trigger))

    async def _run(self, name: str, number: int, trigger: AtScaleBuildEventTrigger) -> None:
        key = trigger.shared_stream_key()
        if self.manager is None:
            events = trigger.run()
        else:
            stream = self.manager.subscribe(trigger_id=number, trigger=trigger, key=key)
            events = trigger.filter_shared_stream(stream)
        try:
            async for event in events:
                # Airflow logs the event first, which is a point at which it may be cancelled.
                if self.on_log is not None:
                    await self.on_log(name, event.payload["batch_id"])
                await asyncio.sleep(0)
                if self.manager is not None:
                    self.unconfirmed.append(self.manager.bind_pending_event(trigger_id=number, key=key))
                self.events[name].append(event.payload["batch_id"])
                if self.confirm == "at once":
                    self.confirm_all()
        finally:
            if self.manager is not None:
                await self.manager.unsubscribe(number, key)

    def confirm_all(self) -> None:
        if self.manager is not None:
            self.manager.confirm_persisted(self.unconfirmed)
        self.unconfirmed.clear()

    async def stop(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        if self.manager is not None:
            await self.manager.stop_all()


async def turns(count: int = 200) -> None:
    """Let everything run that can."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> Feed:
    feed = Feed()
    monkeypatch.setattr(build_events, "poll_history", feed.poll_history)
    return feed


def trigger(outcome: str) -> AtScaleBuildEventTrigger:
    return AtScaleBuildEventTrigger(catalog="C", model="M", outcome=outcome)


async def begin(feed: Feed, stores: dict[str, Store], runner: Runner) -> None:
    """Watch until all triggers have stored where they began."""
    for name, store in stores.items():
        runner.start(name, trigger(name), store)
    await turns()
    feed.read()
    await turns()


async def watch_again(feed: Feed, stores: dict[str, Store], is_shared: bool = True) -> dict[str, list[str]]:
    """Start a new triggerer, in which everything works, and return its events."""
    runner = Runner(is_shared=is_shared)
    await begin(feed, stores, runner)
    await runner.stop()
    return runner.events


# --- cancelled --------------------------------------------------------------------------------------------

#: Where the first trigger is cancelled.
POINTS = [
    "before it gets the snapshot",
    "while it reads the store",
    *(f"when Airflow logs {each}" for each in IDS),
    "after all events, before the next snapshot",
    "after the next snapshot",
]
WATCHERS = {"one watcher": ["any"], "two watchers": ["any", "succeeded"]}


async def play(feed: Feed, stores: dict[str, Store], runner: Runner, point: str) -> None:
    """Let five batches end, and cancel the first trigger at a point."""

    async def cancel() -> None:
        runner.tasks["any"].cancel()
        await asyncio.sleep(0)

    async def on_log(name: str, batch_id: str) -> None:
        if name == "any" and point == f"when Airflow logs {batch_id}":
            await cancel()

    runner.on_log = on_log
    if point == "while it reads the store":
        stores["any"].on_read = cancel
    for name, store in stores.items():
        runner.start(name, trigger(name), store)
    if point == "before it gets the snapshot":
        await asyncio.sleep(0)
        await cancel()
    await turns()
    if point == "after all events, before the next snapshot":
        await cancel()
    feed.read()
    await turns()
    if point == "after the next snapshot":
        await cancel()
    await turns()
    stores["any"].on_read = None
    if runner.confirm == "later":
        runner.confirm_all()
        await turns()
    # The other trigger goes on.
    feed.read()
    await turns()
    await runner.stop()


@needs_shared_streams
@pytest.mark.parametrize("watchers", WATCHERS.values(), ids=WATCHERS)
@pytest.mark.parametrize("confirm", ["at once", "later", "never"])
@pytest.mark.parametrize("point", POINTS)
def test_a_cancelled_trigger_loses_nothing(feed, point, confirm, watchers):
    """Events that Airflow never confirmed may not be in its database, so they are reported again."""
    stores = {name: Store() for name in watchers}

    async def main() -> Any:
        first = Runner()
        await begin(feed, stores, first)
        await first.stop()
        assert {name: store.known for name, store in stores.items()} == {name: ["old"] for name in watchers}
        feed.batches += NEW
        second = Runner(confirm)
        await play(feed, stores, second, point)
        return second.events, await watch_again(feed, stores)

    before, after = asyncio.run(main())
    for name in watchers:
        stored = [] if confirm == "never" else before[name]
        assert sorted({*stored, *after[name]}) == IDS, f"{name} lost some: {stored}, {after[name]}"
        if confirm == "at once" or (confirm == "later" and len(watchers) == 2 and name == "any"):
            assert sorted(stored + after[name]) == IDS, f"{name} reported some twice: {stored}, {after[name]}"


@pytest.mark.parametrize("point", POINTS)
def test_a_trigger_that_polls_for_itself_loses_nothing(feed, point):
    """Airflow confirms none of its events, so it never writes to the store."""
    stores = {"any": Store()}

    async def main() -> Any:
        feed.batches = [OLD]
        runner = Runner(is_shared=False)
        stores["any"].values[trigger("any")._events.key] = {
            "version": 1,
            "server": "https://atscale.example.com",
            "since": START.isoformat(),
            "known": ["old"],
        }
        feed.batches += NEW
        await play(feed, stores, runner, point)
        return await watch_again(feed, stores, is_shared=False)

    assert asyncio.run(main()) == {"any": IDS}


# --- an event that Airflow could not store ------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def started(clock: Clock) -> Runner:
    return Runner("later", ack_timeout=0.1, _now=clock)


async def timed_out(clock: Clock) -> None:
    """Let Airflow give up the events that are not confirmed."""
    clock.now += 1.0
    await asyncio.sleep(0.05)
    await turns()


@needs_shared_streams
@pytest.mark.parametrize("is_busy", [False, True], ids=["waits for a snapshot", "is at work on another event"])
def test_an_event_that_airflow_could_not_store_is_reported_again(feed, is_busy):
    """A later snapshot, of which everything is stored, must not say that this event is."""
    stores = {"any": Store()}

    async def main() -> Any:
        runner = Runner()
        await begin(feed, stores, runner)
        await runner.stop()
        clock = Clock()
        runner = started(clock)

        async def on_log(name: str, batch_id: str) -> None:
            if batch_id == "b2":
                await asyncio.Event().wait()

        runner.on_log = on_log
        feed.batches.append(NEW[0])
        runner.start("any", trigger("any"), stores["any"])
        await turns()
        # Nothing new: this snapshot is done with as soon as the trigger waits for the next one.
        feed.read()
        await turns()
        if is_busy:
            feed.batches.append(NEW[1])
        feed.read()
        await turns()
        await timed_out(clock)
        assert stores["any"].known == ["old"]
        await runner.stop()
        return await watch_again(feed, stores)

    assert asyncio.run(main()) == {"any": ["b1", "b2"] if is_busy else ["b1"]}


@needs_shared_streams
def test_what_one_trigger_failed_to_store_is_not_reported_again_by_the_other(feed):
    stores = {"any": Store(), "succeeded": Store()}

    async def main() -> Any:
        runner = Runner()
        await begin(feed, stores, runner)
        await runner.stop()
        clock = Clock()
        runner = started(clock)
        feed.batches.append(NEW[0])
        for name, store in stores.items():
            runner.start(name, trigger(name), store)
        await turns()
        # The event of the second one is stored, that of the first is not.
        runner.unconfirmed.pop(0)
        runner.confirm_all()
        await turns()
        await timed_out(clock)
        feed.read()
        await turns()
        feed.read()
        await turns()
        await runner.stop()
        return await watch_again(feed, stores)

    assert asyncio.run(main()) == {"any": ["b1"], "succeeded": []}
