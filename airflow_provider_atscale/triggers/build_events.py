"""Poll a model's build history for event triggers, and tell which batches Airflow has been told of."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import TriggerEvent

from airflow_provider_atscale.api.models import Batch, History, ModelRef
from airflow_provider_atscale.api.observation import ReadFailed
from airflow_provider_atscale.builds.report import make_report
from airflow_provider_atscale.client.shared_connection import SharedConnection, shared_connection
from airflow_provider_atscale.waiting.policy import JITTER, next_poll_delay
from airflow_provider_atscale.waiting.progress import HEARTBEAT
from airflow_provider_atscale.waiting.shared import or_read_failed
from airflow_provider_atscale.waiting.watermark import Watermark, parse_watermark

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from airflow_provider_atscale.triggers.builds import AtScaleBuildEventTrigger

log = logging.getLogger(__name__)

#: The longest delay, in seconds, while AtScale cannot be read.
MAX_BACKOFF = 600.0
#: Seconds after which a model is resolved again: on the installer edition each published version of a project
#: has an id of its own, and the history of the version before it just ends.
RESOLVE_AGAIN_AFTER = 600.0
#: Fields of a report that the history alone cannot fill.
_NOT_KNOWN = (
    "requested_kind", "instances", "rows", "aggregates", "failed_aggregates", "repaired_attempts", "failures",
)  # fmt: skip


@dataclass
class Delivery:
    """The batches of one snapshot that one trigger has passed on to Airflow."""

    events: BuildEvents
    server: str
    batch_ids: list[str] = field(default_factory=list)


@dataclass
class HistorySnapshot:
    """One read of a model's build history, and what the triggers have passed on of it."""

    server: str
    ref: ModelRef
    history: History
    deliveries: list[Delivery] = field(default_factory=list)


class BuildEvents:
    """The events of one trigger."""

    def __init__(self, trigger: AtScaleBuildEventTrigger) -> None:
        self._trigger = trigger
        #: Passed on to Airflow, confirmed by Airflow, and written to the asset state store.
        self._reported: Watermark | None = None
        self._confirmed: Watermark | None = None
        self._stored: Watermark | None = None
        self._unclear: list[Delivery] = []

    async def report(self, snapshot: HistorySnapshot) -> AsyncIterator[TriggerEvent]:
        """Yield an event for each batch that has ended and has not been reported."""
        mark = await self._current_mark(snapshot)
        if mark is None:
            return
        delivery = Delivery(self, snapshot.server)
        snapshot.deliveries.append(delivery)
        for batch in mark.new_batches(snapshot.history):
            if self._trigger.outcome in ("any", batch.phase.value):
                yield TriggerEvent(_payload(snapshot, batch))  # type: ignore[no-untyped-call, unused-ignore]
            # Airflow has taken the event: it asks for the next one only then. A cancelled trigger gets no
            # further than the yield.
            delivery.batch_ids.append(batch.id)
            self._reported = mark = mark.add([batch.id])

    async def _current_mark(self, snapshot: HistorySnapshot) -> Watermark | None:
        """Return what has been reported; None if that cannot be read."""
        if self._reported is None:
            try:
                self._reported = self._confirmed = self._stored = await self._load()
            except Exception as error:
                # To begin again would lose what has ended since the last poll.
                log.warning("Cannot read which batches of %s have been reported: %s", snapshot.ref, error)
                return None
        if self._reported is None or self._reported.server != snapshot.server:
            self._reported = self._confirmed = Watermark.begin(snapshot.server, snapshot.history)
        return self._reported

    def confirm_unclear(self) -> None:
        """Note that Airflow has stored the events of which that was not clear, because it sends more snapshots."""
        # Airflow sends nothing more to a trigger whose events it could not store. So another trigger failed there,
        # and the events of this one are stored.
        for delivery in self._unclear:
            self._add_confirmed(delivery)
        self._unclear.clear()

    def _add_confirmed(self, delivery: Delivery) -> None:
        if self._confirmed is not None and self._confirmed.server == delivery.server:
            self._confirmed = self._confirmed.add(delivery.batch_ids)

    async def confirm(self, delivery: Delivery, *, all_stored: bool) -> None:
        """Note that Airflow has stored the events of a snapshot, of all triggers or only of some."""
        if not all_stored:
            # Airflow does not say whose events are not. If they are this trigger's, it ends and starts again.
            self._unclear.append(delivery)
            return
        self._add_confirmed(delivery)
        mark = self._confirmed
        if mark is None or mark == self._stored:
            return
        try:
            for store in self._stores():
                await store.aset(self.key, mark.to_json())
        except Exception as error:
            # The next snapshot that is confirmed tries again.
            log.warning(
                "Cannot store which batches of %s / %s have been reported: %s",
                self._trigger.catalog,
                self._trigger.model,
                error,
            )
        else:
            self._stored = mark

    # --- the asset state store (Airflow 3.3+) ---

    @property
    def key(self) -> str:
        """The key of this trigger's watermark in the store of an asset, which may have several watchers."""
        _, arguments = self._trigger.serialize()
        # A change of the poll interval does not change what is watched.
        del arguments["poll_interval"]
        digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()
        return f"atscale_builds_{digest[:16]}"

    def _stores(self) -> list[Any]:
        """Return the state stores of the assets that this trigger is attached to; none before Airflow 3.3."""
        store = getattr(self._trigger, "asset_state_store", None)
        if store is None:
            return []
        # Equal watchers of several assets are one trigger. Airflow's accessor of several assets must be told
        # which one is meant, and does not list them.
        several = [*getattr(store, "_by_name", {}).values(), *getattr(store, "_by_uri", {}).values()]
        return several or [store]

    async def _load(self) -> Watermark | None:
        newest: Watermark | None = None
        for store in self._stores():
            mark = parse_watermark(await store.aget(self.key))
            if mark is not None:
                newest = mark.merge(newest) if newest and newest.server == mark.server else mark
        return newest


def _payload(snapshot: HistorySnapshot, batch: Batch) -> dict[str, Any]:
    log.info("Build ended as %s: batch %s of %s", batch.status, batch.id, snapshot.ref)
    report = make_report(batch, server=snapshot.server, ref=snapshot.ref, origin="watched")
    return {name: value for name, value in report.items() if name not in _NOT_KNOWN}


def make_producer(snapshots: AsyncIterator[HistorySnapshot]) -> Any:
    """Return the producer that passes snapshots on to all triggers of a key (Airflow 3.3+)."""
    from airflow.triggers.shared_stream import SharedStreamProducer

    class Producer(SharedStreamProducer):
        """Pass snapshots on to Airflow, and its confirmations back to the triggers."""

        async def open_stream(self) -> AsyncIterator[tuple[HistorySnapshot, HistorySnapshot]]:
            async for snapshot in snapshots:
                yield snapshot, snapshot

        async def advance(self, batch: Sequence[Any]) -> None:
            for item in batch:
                for delivery in item.broker_payload.deliveries:
                    await delivery.events.confirm(delivery, all_stored=not item.outcome.failed)

    return Producer()


async def poll_history(
    conn_id: str, catalog: str, model: str, poll_interval: float
) -> AsyncIterator[HistorySnapshot]:
    """Read a model's build history again and again; a failure is logged and tolerated without limit."""
    # If a trigger gave up, Airflow would start it again at once. It would then send a request every second to a
    # server that is in trouble or refuses the credentials.
    ref: Any = None
    resolved_at, failures, logged_at = 0.0, 0, 0.0
    async with shared_connection(conn_id) as connection:
        while True:
            if ref is None or time.monotonic() - resolved_at >= RESOLVE_AGAIN_AFTER:
                ref = await or_read_failed(connection.resolve_model(catalog, model))
                resolved_at = time.monotonic()
            answer = (
                ref if isinstance(ref, ReadFailed) else await or_read_failed(_read_history(connection, ref))
            )
            if isinstance(answer, History):
                if failures:
                    log.info("Watching %s / %s again", catalog, model)
                failures = 0
                yield HistorySnapshot((await connection.client()).settings.base_url, ref, answer)
                await asyncio.sleep(_next_delay(answer, poll_interval, random.random()))  # noqa: S311
                continue
            failures += 1
            if failures == 1 or time.monotonic() - logged_at >= HEARTBEAT:
                logged_at = time.monotonic()
                reason = answer.reason if isinstance(answer, ReadFailed) else answer
                log.warning("Cannot watch %s / %s at the moment: %s", catalog, model, reason)
            # After any failure, the names may mean another model.
            ref = None
            await asyncio.sleep(max(poll_interval, min(2.0**failures, MAX_BACKOFF)))


async def _read_history(connection: SharedConnection, ref: ModelRef) -> Any:
    return await connection.run(lambda client: client.edition.history(ref))


def _next_delay(history: History, poll_interval: float, random: float) -> float:
    """Return the seconds until the next poll: the poll interval, or less while a batch runs."""
    seconds = poll_interval * (1 + JITTER * random)
    for batch in history.running:
        if batch.created is not None and history.server_time is not None:
            elapsed = max((history.server_time - batch.created).total_seconds(), 0.0)
            seconds = min(seconds, next_poll_delay(elapsed, poll_interval, random))
    return seconds
