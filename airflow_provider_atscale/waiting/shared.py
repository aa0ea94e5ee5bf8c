"""
Shared polling: triggers on one event loop share a client per connection and one history read per model.

A shared read is a separate task in an empty context: a task inherits the context of its creator, and with it
the log file of one trigger. It logs nothing, and a cancelled trigger does not end it for the others.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from airflow_provider_atscale import metrics
from airflow_provider_atscale.api.models import ModelRef
from airflow_provider_atscale.api.observation import (
    Missing,
    Observation,
    ReadFailed,
    observe_found,
    observe_newest,
)
from airflow_provider_atscale.exceptions import AtScaleError

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from types import TracebackType

    from airflow_provider_atscale.client.shared_connection import SharedConnection

#: How many subscribers are woken in one turn of the event loop.
_WAKE_AT_ONCE = 50
#: Precision of the event loop's timers, in seconds.
_TIMER_PRECISION = 0.05

_pollers: WeakKeyDictionary[SharedConnection, dict[tuple[str, str], ModelPoller]] = WeakKeyDictionary()
#: How many subscriptions each event loop has; those of a loop that was abandoned do not count for another one.
_waiters: WeakKeyDictionary[asyncio.AbstractEventLoop, int] = WeakKeyDictionary()
_counters = metrics.Counters()


def _add_waiters(number: int) -> None:
    loop = asyncio.get_running_loop()
    _waiters[loop] = _waiters.get(loop, 0) + number
    metrics.gauge_of_host("atscale.triggerer.waiters", _waiters[loop])


async def or_read_failed(read: Awaitable[Any]) -> Any:
    """Await a read, and return any failure as an observation."""
    try:
        return await read
    except AtScaleError as error:
        return ReadFailed(str(error))
    except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # Some of Airflow's errors in a triggerer are no Exceptions; subscribers must get them all.
        return ReadFailed(f"unexpected {type(error).__name__}: {error}")


async def _find_model(
    connection: SharedConnection, ref: ModelRef, batch_id: str | None
) -> ModelRef | Observation:
    """Find a model by its names or, if they are unknown, through a batch's instances."""
    if ref.catalog:
        read = connection.resolve_model(ref.catalog, ref.model)
    else:
        read = connection.run(lambda client: client.edition.locate(str(batch_id)))
    found: ModelRef | ReadFailed | None = await or_read_failed(read)
    return Missing() if found is None else found


def _observe(answer: Any, batch_id: str | None) -> Observation:
    """Return what an answer, or the failure to get one, shows of a batch."""
    if isinstance(answer, ReadFailed):
        return answer
    return observe_newest(answer) if batch_id is None else observe_found(answer, batch_id)


class ModelPoller:
    """Read one model's history for all its subscribers."""

    def __init__(self, connection: SharedConnection, ref: ModelRef) -> None:
        self._connection = connection
        self._ref = ref
        self._waiting: dict[asyncio.Future[Observation], tuple[str | None, float]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._reading: asyncio.Task[None] | None = None
        self.ref_count = 0

    async def next(self, batch_id: str | None, seconds: float) -> Observation:
        """
        Wait for the next observation of a batch: after so many seconds, or earlier if another subscriber polls.

        :param batch_id: The batch; None for the model's newest.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Observation] = loop.create_future()
        due = loop.time() + max(seconds, 0.0)
        self._waiting[future] = batch_id, due
        self._schedule_read(due)
        try:
            return await future
        finally:
            del self._waiting[future]
            if not self._waiting:
                self._stop_timer()

    def _schedule_read(self, due: float) -> None:
        # A read that is under way schedules the next one for the subscribers that still wait after it.
        if self._reading is not None or (self._timer is not None and self._timer.when() <= due):
            return
        self._stop_timer()
        # The read inherits this empty context; a trigger's context would lead to the trigger's log.
        self._timer = asyncio.get_running_loop().call_at(
            due, self._start_read, context=self._connection.context
        )

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_read(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        due = min(due for _, due in self._waiting.values())
        if due > asyncio.get_running_loop().time() + _TIMER_PRECISION:
            # The subscriber that wanted to poll now has left.
            self._schedule_read(due)
            return
        asked = frozenset(batch_id for batch_id, _ in self._waiting.values())
        self._reading = asyncio.ensure_future(self._read(asked))

    async def _read(self, asked: frozenset[str | None]) -> None:
        try:
            found = history = None
            ids = [each for each in asked if each is not None]
            if ids:
                found = await or_read_failed(
                    self._connection.run(lambda client: client.edition.batches(self._ref, ids))
                )
            if None in asked:
                history = await or_read_failed(
                    self._connection.run(lambda client: client.edition.history(self._ref))
                )
            _counters.add("atscale.triggerer.reads", bool(ids) + (None in asked))
            shared = sum(batch_id in asked for batch_id, _ in self._waiting.values()) - 1
            if shared > 0:
                _counters.add("atscale.triggerer.shared_reads", shared)
            for number, (future, (batch_id, _)) in enumerate(list(self._waiting.items()), 1):
                if number % _WAKE_AT_ONCE == 0:
                    # Each subscriber works on the answer; let other tasks of the event loop run, too.
                    await asyncio.sleep(0)
                if batch_id in asked and not future.done():
                    future.set_result(_observe(history if batch_id is None else found, batch_id))
        finally:
            self._reading = None
            # Subscribers that joined during the read, for a batch that it did not ask for.
            left = [due for future, (_, due) in self._waiting.items() if not future.done()]
            if left:
                self._schedule_read(min(left))

    async def close(self) -> None:
        """Cancel the timer and the read."""
        self._stop_timer()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


class Subscription:
    """
    One trigger's subscription to a model's poller; the model may be resolved later.

    :param ref: The model; without ids if they are not known yet.
    :param batch_id: The batch; None for the model's newest.
    """

    def __init__(self, connection: SharedConnection, ref: ModelRef, batch_id: str | None) -> None:
        self.ref = ref
        self._connection = connection
        self._batch_id = batch_id
        self._poller: ModelPoller | None = None

    async def __aenter__(self) -> Subscription:
        await self._connection.__aenter__()
        _add_waiters(1)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _add_waiters(-1)
        _counters.flush()
        try:
            if self._poller is not None:
                await self._leave(self._poller)
        finally:
            await self._connection.__aexit__(kind, error, trace)

    async def next(self, seconds: float) -> Observation:
        """Wait for the next observation of the batch, which is read after so many seconds at the latest."""
        if self._poller is None:
            if not self.ref.catalog_id:
                await asyncio.sleep(seconds)
                found = await _find_model(self._connection, self.ref, self._batch_id)
                if not isinstance(found, ModelRef):
                    return found
                self.ref, seconds = found, 0.0
            self._poller = self._join()
        return await self._poller.next(self._batch_id, seconds)

    @property
    def _key(self) -> tuple[str, str]:
        # Triggers may name a model differently; its ids are the same.
        return self.ref.catalog_id, self.ref.model_id

    def _join(self) -> ModelPoller:
        pollers = _pollers.setdefault(self._connection, {})
        poller = pollers.setdefault(self._key, ModelPoller(self._connection, self.ref))
        poller.ref_count += 1
        return poller

    async def _leave(self, poller: ModelPoller) -> None:
        poller.ref_count -= 1
        if not poller.ref_count:
            del _pollers[self._connection][self._key]
            await poller.close()
