"""Wait for an AtScale batch in the triggerer."""

from __future__ import annotations

import asyncio
import math
import random
import time
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_atscale.api.models import ModelRef, batch_to_json
from airflow_provider_atscale.client.shared_connection import shared_connection
from airflow_provider_atscale.waiting.deadline import parse_deadline, timed_out
from airflow_provider_atscale.waiting.policy import JITTER, Ended, Wait, WaitPolicy, next_poll_delay
from airflow_provider_atscale.waiting.progress import Progress
from airflow_provider_atscale.waiting.shared import Subscription
from airflow_provider_atscale.waiting.tolerance import tolerance

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: Seconds that a wait takes at least. Airflow's scheduler learns once per loop that a deferral has ended on its
#: worker. A task that is queued again before that looks to it like one that was killed, which costs a try.
LEAST_SECONDS = 2.0


class AtScaleBatchTrigger(BaseTrigger):
    """
    Wait until an AtScale batch has ended, and report what was seen; never start or stop anything.

    All waiters of one triggerer share one client per connection and one read of the build history per model.
    The event says how the wait ended (``ended``, ``gave_up``, ``timeout``), the batch as AtScale shows it,
    and gives ``payload`` back. Whether the batch ended well is judged by who receives the event.

    :param atscale_conn_id: The Airflow connection.
    :param catalog_id: Id of the batch's catalog; empty where it could not be found out yet: the trigger does.
    :param model_id: Id of the batch's model.
    :param catalog: What people call the catalog; empty where the model is found through the batch.
    :param model: What people call the model.
    :param batch_id: The batch. None: whichever batch of the model is the newest.
    :param since: Epoch seconds at which the wait began, in whichever process.
    :param poll_interval: The longest time between two looks, in seconds.
    :param listed: Whether the build history has shown the batch before.
    :param deadline: When the wait ends without the batch: epoch seconds ``at``, and which ``limit`` it is.
    :param payload: JSON values that the event gives back, its ``ref`` filled in where the trigger found it.
    """

    def __init__(
        self,
        *,
        atscale_conn_id: str,
        catalog_id: str,
        model_id: str,
        catalog: str,
        model: str,
        batch_id: str | None,
        since: float,
        poll_interval: float,
        listed: bool = False,
        deadline: dict[str, Any] | None = None,
        payload: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.atscale_conn_id = atscale_conn_id
        self.catalog_id = catalog_id
        self.model_id = model_id
        self.catalog = catalog
        self.model = model
        self.batch_id = batch_id
        self.since = since
        self.poll_interval = poll_interval
        self.listed = listed
        self.deadline = deadline
        self.payload = payload

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, all of them JSON values and none of them secret."""
        return (
            "airflow_provider_atscale.triggers.atscale.AtScaleBatchTrigger",
            {
                "atscale_conn_id": self.atscale_conn_id,
                "catalog_id": self.catalog_id,
                "model_id": self.model_id,
                "catalog": self.catalog,
                "model": self.model,
                "batch_id": self.batch_id,
                "since": self.since,
                "poll_interval": self.poll_interval,
                "listed": self.listed,
                "deadline": self.deadline,
                "payload": self.payload,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield one event."""
        loop = asyncio.get_running_loop()
        soonest = loop.time() + LEAST_SECONDS
        event = await self._wait()
        await asyncio.sleep(soonest - loop.time())
        yield TriggerEvent(event)  # type: ignore[no-untyped-call, unused-ignore]

    async def _wait(self) -> dict[str, Any]:
        ref = ModelRef(self.catalog_id, self.model_id, self.catalog, self.model)
        # Thousands may wait on one loop, and whatever each of them holds while it does is looked at by every
        # collection of garbage: so nothing is kept here that can be made again.
        until = _moment(self.deadline)
        async with Subscription(shared_connection(self.atscale_conn_id), ref, self.batch_id) as subscription:
            # Many waiters of a restarted triggerer begin at once: the first look of each is anywhere within
            # its cadence, and whatever is not needed before it comes after it. No event is wanted any sooner.
            longest = next_poll_delay(max(time.time() - self.since, 0.0), None, self.poll_interval, 0.5)
            longest = max(longest, LEAST_SECONDS * (1 + JITTER))
            seconds = random.uniform(LEAST_SECONDS, longest)  # noqa: S311
            observation = await subscription.next(min(seconds, until - time.time()))
            subject = f"Batch {self.batch_id}" if self.batch_id else "The newest batch"
            watch = WaitPolicy(self.since, self.poll_interval, tolerance(), subject, listed=self.listed)
            progress = Progress(self.log, f"{subject} of {ref}" if self.model else subject, self.since)
            while True:
                now = time.time()
                decision = watch.observe(observation, now, random.random())  # noqa: S311
                progress.note(observation, watch, decision, now)
                if isinstance(decision, Ended):
                    batch = decision.batch
                    return self._event("ended", batch.id, subscription.ref, batch=batch_to_json(batch))
                if not isinstance(decision, Wait):
                    kind, reason = decision.kind, decision.reason
                    return self._event("gave_up", self.batch_id, subscription.ref, kind=kind, reason=reason)
                if now >= until and (deadline := parse_deadline(self.deadline)) is not None:
                    verdict = timed_out(deadline, watch, now)
                    return self._event(
                        "timeout",
                        self.batch_id,
                        subscription.ref,
                        limit=verdict.limit,
                        seconds=verdict.seconds,
                        last_status=verdict.last_status,
                    )
                seconds = min(decision.seconds, until - time.time())
                del observation, decision
                observation = await subscription.next(seconds)

    def _event(self, status: str, batch_id: str | None, ref: ModelRef, **facts: Any) -> dict[str, Any]:
        payload = self.payload
        if payload is not None and not self.catalog_id:
            payload = {**payload, "ref": [ref.catalog_id, ref.model_id, ref.catalog, ref.model]}
        return {"status": status, "batch_id": batch_id, "payload": payload, **facts}

    async def on_kill(self) -> None:
        """
        Say that the build goes on: AtScale has no call that cancels a batch.

        Called by Airflow 3.3+ when the task is cleared or marked while deferred, and also when another
        triggerer has taken over.
        """
        self.log.warning(
            "This wait for %s (%s of %s) ends. The build goes on in AtScale, which offers no call to "
            "cancel it; if it should stop, cancel it in Design Center > Aggregates > Build History",
            f"batch {self.batch_id}" if self.batch_id else "the newest batch",
            self.model,
            self.catalog,
        )


def _moment(deadline: dict[str, Any] | None) -> float:
    """Return the epoch seconds of a deadline; without one, that is never."""
    parsed = parse_deadline(deadline)
    return math.inf if parsed is None else parsed.at
