"""
Start DAGs when builds end, whoever started them: Design Center, AtScale's scheduler, another Airflow.

For Airflow 3.0 and newer, which call it event-driven scheduling: the trigger watches a model, and every batch
that ends becomes an event of the asset that it is attached to.

What is promised, and what is not
---------------------------------

===============  ===========================================================================================
Airflow          each batch that ends is an event
===============  ===========================================================================================
3.3 and newer    exactly once as long as no process dies in a bad moment. How far a model has been reported
                 is kept in Airflow's asset state store, and moved on only when Airflow has confirmed that
                 it has stored the events: builds that end while no triggerer runs are reported when one
                 runs again. A triggerer that dies in the second or two between both reports the same batch
                 once more, and so do two triggerers as long as each takes the other for dead: never less
                 than once, seldom twice. ``batch_id`` tells.
3.0 to 3.2       at most once. There is nothing to keep anything in: a triggerer that starts begins anew,
                 and builds that end while none runs are never reported.
===============  ===========================================================================================

Builds that ended before a model was watched for the first time are not reported, on any version. One look sees
the newest hundred batches of a model: should more of them end while no triggerer runs, the oldest are missed.
Airflow watches nothing for a paused DAG: once it is unpaused, 3.3 and newer report what ended meanwhile.
Where the build history may not be read nothing is reported, and the triggerer's log says why.
Airflow itself may start one DAG run for several events that come close together.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowOptionalProviderFeatureException

try:
    from airflow.triggers.base import BaseEventTrigger, TriggerEvent
except ImportError:
    raise AirflowOptionalProviderFeatureException(
        "AtScaleBuildTrigger needs Airflow 3.0 or newer: older versions cannot schedule DAGs on events from "
        "elsewhere. Schedule the DAG by time and let an AtScaleBatchSensor look at the model's newest batch."
    ) from None
try:
    from airflow.triggers.shared_stream import SharedStreamProducer
except ImportError:
    # Airflow before 3.3: each trigger looks for itself.
    SharedStreamProducer = None  # type: ignore[assignment, misc, unused-ignore]

from airflow_provider_atscale.arguments import parse_choice, parse_name, parse_seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence

    from airflow_provider_atscale.api.flow import Flow
    from airflow_provider_atscale.api.models import Batch, History, HistoryUnavailable, ModelRef
    from airflow_provider_atscale.client.aiohttp_client import AsyncAtScaleClient
    from airflow_provider_atscale.waiting.watermark import Watermark

log = logging.getLogger(__name__)

OUTCOMES = ("any", "succeeded", "failed")
#: The longest pause, in seconds, while AtScale cannot be read.
LONGEST_PAUSE = 600.0
#: How long, in seconds, a name stands for the model that it was found to be: the installer edition gives each
#: published version of a project an id of its own, and the history of the version before it just ends.
FIND_AGAIN = 600.0
#: What a report lacks that comes from the history alone.
_NOT_KNOWN = ("instances", "rows", "failed_aggregates", "failures")


@dataclass
class Look:
    """
    What one look at a model's build history has shown.

    :param server: Address of the server.
    :param ref: The model.
    :param history: Its history.
    :param on_persisted: What to do once Airflow has stored all events that this look led to.
    """

    server: str
    ref: ModelRef
    history: History
    on_persisted: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    async def confirm(self) -> None:
        """Airflow has stored all events."""
        for call in self.on_persisted:
            await call()
        self.on_persisted.clear()


class AtScaleBuildEventTrigger(BaseEventTrigger):
    """
    Watch a model, and report each batch that ends; never start or stop anything.

    For an asset watcher: ``Asset(..., watchers=[AssetWatcher(name=..., trigger=AtScaleBuildTrigger(...))])``.
    The event's payload is the report of the batch, without what only its aggregates could tell. An asset that
    a watcher feeds should not also be the outlet of a task that builds the model: the batch would be two
    events.

    Triggers of one triggerer that watch the same model share one read of its history (Airflow 3.3+).

    :param catalog: Id, name or caption of the catalog; on the installer edition of the project.
    :param model: Id, name or caption of the model; on the installer edition of the cube.
    :param outcome: Which batches to report: ``any``, the default, ``succeeded`` or ``failed``.
    :param atscale_conn_id: The :ref:`Airflow connection <howto/connection:atscale>`.
    :param poll_interval: The longest time between two looks, in seconds; while a batch runs, looks follow its
        length. Default: 60.
    """

    def __init__(
        self,
        *,
        catalog: str,
        model: str,
        outcome: str = "any",
        atscale_conn_id: str = "atscale_default",
        poll_interval: float = 60,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.catalog = parse_name(catalog, "catalog")
        self.model = parse_name(model, "model")
        self.outcome = parse_choice(outcome, "outcome", OUTCOMES)
        self.atscale_conn_id = parse_name(atscale_conn_id, "atscale_conn_id")
        self.poll_interval = parse_seconds(poll_interval, "poll_interval")
        self._mark: Watermark | None = None
        self._stored: Watermark | None = None
        self._is_over = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, all of them JSON values and none of them secret."""
        return (
            "airflow_provider_atscale.triggers.builds.AtScaleBuildTrigger",
            {
                "catalog": self.catalog,
                "model": self.model,
                "outcome": self.outcome,
                "atscale_conn_id": self.atscale_conn_id,
                "poll_interval": self.poll_interval,
            },
        )

    # --- looking alone ---

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look again and again, and yield an event for each batch that has ended."""
        before: Look | None = None
        async for look in watch(self.atscale_conn_id, self.catalog, self.model, self.poll_interval):
            # Nobody confirms anything here; what was yielded a whole look ago has long been stored.
            if before is not None:
                await before.confirm()
            before = look
            for payload in await self._take(look):
                yield _event(payload)

    # --- looking together ---

    def shared_stream_key(self) -> Hashable | None:
        """Return what makes two triggers look together; None where Airflow confirms no events."""
        if SharedStreamProducer is None:
            return None
        return (__name__, self.atscale_conn_id, self.catalog, self.model, self.poll_interval)

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> Any:
        """
        Return who looks for all triggers with the same key.

        :param kwargs: The arguments of one of them.
        """
        return _make_producer(
            watch(kwargs["atscale_conn_id"], kwargs["catalog"], kwargs["model"], kwargs["poll_interval"])
        )

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Look]) -> AsyncIterator[TriggerEvent]:
        """
        Yield an event for each batch that has ended, from looks that are shared.

        :param shared_stream: The looks.
        """
        try:
            async for look in shared_stream:
                for payload in await self._take(look):
                    yield _event(payload)
        except Exception:
            # Airflow could not store an event: looks that came after its look must not say that it is stored.
            self._is_over = True
            raise

    # --- what is news ---

    async def _take(self, look: Look) -> list[dict[str, Any]]:
        """Return what is to be reported of a look."""
        from airflow_provider_atscale.waiting.watermark import Watermark

        if self._mark is None:
            try:
                self._mark = self._stored = await self._recall()
            except Exception as error:
                # To begin anew now would be to lose what ended since the last look.
                log.warning("%s: how far it has been reported cannot be read: %s", look.ref, error)
                return []
        if self._mark is None or self._mark.server != look.server:
            self._mark = Watermark.begin(look.server, look.history)
        self._mark, ended = self._mark.advance(look.history)
        if self._mark != self._stored:
            look.on_persisted.append(partial(self._store, self._mark))
        return [self._payload(look, batch) for batch in ended if self._is_wanted(batch)]

    def _is_wanted(self, batch: Batch) -> bool:
        return self.outcome in ("any", batch.phase.value)

    def _payload(self, look: Look, batch: Batch) -> dict[str, Any]:
        from airflow_provider_atscale.tasks.report import WaitContext, make_report

        log.info("Batch %s of %s ended as %s", batch.id, look.ref, batch.status)
        report = make_report(batch, WaitContext(look.server, look.ref, batch.id, "watched"), None)
        return {name: value for name, value in report.items() if name not in _NOT_KNOWN}

    # --- from triggerer to triggerer ---

    @property
    def _key(self) -> str:
        """Under which key an asset, which may have several watchers, keeps this one's watermark."""
        _, arguments = self.serialize()
        # To look more or less often is not to watch something else.
        del arguments["poll_interval"]
        digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()
        return f"atscale_builds_{digest[:16]}"

    def _stores(self) -> list[Any]:
        """Return the state stores of the assets that this trigger is attached to; none before Airflow 3.3."""
        store = getattr(self, "asset_state_store", None)
        if store is None:
            return []
        # Watchers that are alike are one trigger. The accessor of several assets wants to be told which is
        # meant, and does not tell which there are.
        several = [*getattr(store, "_by_name", {}).values(), *getattr(store, "_by_uri", {}).values()]
        return several or [store]

    async def _recall(self) -> Watermark | None:
        from airflow_provider_atscale.waiting.watermark import parse_watermark

        newest: Watermark | None = None
        for store in self._stores():
            mark = parse_watermark(await store.aget(self._key))
            if mark is not None:
                newest = mark.merge(newest) if newest and newest.server == mark.server else mark
        return newest

    async def _store(self, mark: Watermark) -> None:
        """Keep a watermark; where that fails, the next look tries again."""
        if self._is_over:
            return
        try:
            for store in self._stores():
                await store.aset(self._key, mark.to_json())
        except Exception as error:
            log.warning("How far %s / %s is reported cannot be stored: %s", self.catalog, self.model, error)
        else:
            self._stored = mark


def _event(payload: dict[str, Any]) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call, unused-ignore]


def _make_producer(looks: AsyncIterator[Look]) -> Any:
    class Producer(SharedStreamProducer):
        """Give looks to Airflow, and take its word that their events are stored."""

        async def open_stream(self) -> AsyncIterator[tuple[Look, Look]]:
            async for look in looks:
                yield look, look

        async def advance(self, batch: Sequence[Any]) -> None:
            for item in batch:
                # Who failed begins again from what is stored, so nobody's watermark may move on; that of the
                # others does with the next look.
                if not item.outcome.failed:
                    await item.broker_payload.confirm()

    return Producer()


async def watch(conn_id: str, catalog: str, model: str, poll_interval: float) -> AsyncIterator[Look]:
    """
    Look at a model's build history for ever; trouble is logged and borne.

    A trigger that gave up would be started again at once, and ask a server that is in trouble, or that refuses
    the credentials, every second.

    :param conn_id: The Airflow connection.
    :param catalog: Id, name or caption of the catalog.
    :param model: Id, name or caption of the model.
    :param poll_interval: The longest time between two looks, in seconds.
    """
    from airflow_provider_atscale.api.models import HistoryUnavailable, ModelRef
    from airflow_provider_atscale.api.observation import ReadFailed
    from airflow_provider_atscale.client.shared_connection import shared_connection
    from airflow_provider_atscale.waiting.progress import HEARTBEAT
    from airflow_provider_atscale.waiting.shared import or_read_failed

    ref: ModelRef | None = None
    found_at, troubles, said_at = 0.0, 0, 0.0
    async with shared_connection(conn_id) as shared:
        while True:
            answer: Any = ref
            if ref is None or time.monotonic() - found_at >= FIND_AGAIN:
                answer = await or_read_failed(shared.resolve_model(catalog, model))
                found_at = time.monotonic()
            if isinstance(answer, ModelRef):
                ref = answer
                answer = await or_read_failed(shared.run(partial(_history, ref)))
            if not isinstance(answer, (HistoryUnavailable, ReadFailed)):
                if troubles:
                    log.info("%s / %s can be watched again", catalog, model)
                troubles = 0
                assert ref is not None  # noqa: S101 - without a model there is no history
                yield Look((await shared.client()).settings.base_url, ref, answer)
                await asyncio.sleep(pause(answer, poll_interval, random.random()))  # noqa: S311
                continue
            troubles += 1
            if troubles == 1 or time.monotonic() - said_at >= HEARTBEAT:
                said_at = time.monotonic()
                reason = answer.reason if isinstance(answer, ReadFailed) else answer
                log.warning("%s / %s cannot be watched at the moment: %s", catalog, model, reason)
            # Whatever it is, the model may be another one after it.
            ref = None
            await asyncio.sleep(max(poll_interval, min(2.0**troubles, LONGEST_PAUSE)))


def _history(ref: ModelRef, client: AsyncAtScaleClient) -> Flow[History | HistoryUnavailable]:
    return client.edition.history(ref)


def pause(history: History, poll_interval: float, random: float) -> float:
    """
    Return the seconds until the next look: the poll interval, or less while a batch runs.

    :param history: What the last look has shown.
    :param poll_interval: The longest time.
    :param random: A random number from 0 to 1, so that watchers never beat in step.
    """
    from airflow_provider_atscale.waiting.policy import JITTER, next_poll_delay

    seconds = poll_interval * (1 + JITTER * random)
    for batch in history.running:
        if batch.created is not None and history.server_time is not None:
            elapsed = max((history.server_time - batch.created).total_seconds(), 0.0)
            seconds = min(seconds, next_poll_delay(elapsed, poll_interval, random))
    return seconds
