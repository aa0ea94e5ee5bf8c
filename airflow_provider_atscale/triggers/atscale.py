"""Wait for an AtScale batch in the triggerer."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import random
import time
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_atscale.api.models import ModelRef, batch_to_json
from airflow_provider_atscale.api.observation import Observation, ReadFailed
from airflow_provider_atscale.builds.usual import Expectation, parse_expectation
from airflow_provider_atscale.client.retries import LAST_POLL
from airflow_provider_atscale.client.shared_connection import shared_connection
from airflow_provider_atscale.compat import apush_xcom, time_limit
from airflow_provider_atscale.waiting.deadline import parse_deadline, timeout_result
from airflow_provider_atscale.waiting.policy import (
    JITTER,
    Decision,
    Ended,
    TimedOut,
    Wait,
    WaitPolicy,
    WaitResult,
    next_poll_delay,
)
from airflow_provider_atscale.waiting.progress import Progress
from airflow_provider_atscale.waiting.progress_xcom import KEY as XCOM_KEY
from airflow_provider_atscale.waiting.progress_xcom import ProgressXCom
from airflow_provider_atscale.waiting.shared import Subscription
from airflow_provider_atscale.waiting.tolerance import load_tolerance

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

log = logging.getLogger(__name__)

#: The shortest wait, in seconds. Airflow's scheduler learns once per loop that a task has deferred. A task that
#: is queued again before that looks killed to the scheduler, which costs a try.
LEAST_SECONDS = 2.0
#: Airflow's configuration does not change while a triggerer runs, and to read it takes as long as many polls.
_tolerance = cache(load_tolerance)


class AtScaleBatchTrigger(BaseTrigger):
    """
    Wait until an AtScale batch has ended, and send one event; never start or stop anything.

    All triggers of one triggerer share one client per connection and one read of the build history per model.
    The event says how the wait ended (``ended``, ``gave_up`` or ``timeout``), has the batch as AtScale shows it,
    and gives the trigger's arguments back. The task that receives the event judges the batch.

    Experimental: the arguments that have a default, but for ``payload``.

    :param atscale_conn_id: The Airflow connection.
    :param catalog_id: Id of the batch's catalog; empty if it is not known: the trigger finds it by ``catalog``.
    :param model_id: Id of the batch's model; empty if it is not known.
    :param catalog: Id, name or caption of the catalog; empty if the trigger must find the model through the batch's
        aggregates.
    :param model: Id, name or caption of the model; empty as ``catalog``.
    :param batch_id: The batch. None: the model's newest batch.
    :param since: Epoch seconds at which the wait began, in any process.
    :param poll_interval: The longest time between two polls, in seconds.
    :param seen_in_history: Whether the build history has listed the batch.
    :param deadline: When the wait ends even if the batch has not: ``at``, in epoch seconds, and ``limit``, which is
        ``timeout`` or ``execution_timeout``. None (default): the trigger has no deadline.
    :param expectation: How long the batch should take, as JSON values. None: the trigger learns it from the history.
    :param push_progress: Whether to write the XCom ``progress``. Default: False.
    :param payload: JSON values that the event gives back.
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
        seen_in_history: bool = False,
        deadline: dict[str, Any] | None = None,
        expectation: dict[str, Any] | None = None,
        push_progress: bool = False,
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
        self.seen_in_history = seen_in_history
        self.deadline = deadline
        self.expectation = expectation
        self.push_progress = push_progress
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
                "seen_in_history": self.seen_in_history,
                "deadline": self.deadline,
                "expectation": self.expectation,
                "push_progress": self.push_progress,
                "payload": self.payload,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield one event."""
        loop = asyncio.get_running_loop()
        soonest = loop.time() + LEAST_SECONDS
        try:
            event = await self._wait()
        except Exception:
            # An option of the configuration that is not valid, for example, is found at once.
            await asyncio.sleep(soonest - loop.time())
            raise
        await asyncio.sleep(soonest - loop.time())
        yield TriggerEvent(event)  # type: ignore[no-untyped-call, unused-ignore]

    async def _wait(self) -> dict[str, Any]:
        ref = ModelRef(self.catalog_id, self.model_id, self.catalog, self.model)
        deadline = parse_deadline(self.deadline)
        until = deadline.at if deadline else math.inf
        expected = parse_expectation(self.expectation)
        subject = f"Batch {self.batch_id}" if self.batch_id else "The newest batch"
        policy = WaitPolicy(
            self.since, self.poll_interval, _tolerance(), subject, seen_in_history=self.seen_in_history
        )
        progress = Progress(self.log, f"{subject} of {ref}" if self.model else subject, self.since, expected)
        progress_xcom = ProgressXCom(expected)
        # The triggers of a restarted triggerer begin at once: a random first delay spreads their polls.
        longest = next_poll_delay(max(time.time() - self.since, 0.0), self.poll_interval, 0.5)
        seconds = random.uniform(LEAST_SECONDS, max(longest, LEAST_SECONDS * (1 + JITTER)))  # noqa: S311
        async with Subscription(shared_connection(self.atscale_conn_id), ref, self.batch_id) as subscription:
            while True:
                observation = await _poll(subscription, seconds, until)
                now = time.time()
                result: Decision | WaitResult = policy.observe(observation, now, random.random())  # noqa: S311
                progress.log_observation(observation, policy, now)
                # It holds the whole history, for as long as the next poll takes to come.
                del observation
                if isinstance(result, Wait):
                    if self.push_progress:
                        await self._push(progress_xcom.due(policy, now))
                    if deadline is None or now < until:
                        seconds = result.seconds
                        continue
                    result = timeout_result(deadline, policy, now)
                return self._event(result, expected, subscription.ref)

    async def _push(self, value: dict[str, Any] | None) -> None:
        """Write the progress; a write that fails is logged and nothing more."""
        if value is None or self.task_instance is None:
            return
        # Separate and shielded: if a cancelled trigger took its request to the supervisor with it, the reply would
        # be read as that of another trigger's request.
        write = contextvars.Context().run(
            asyncio.ensure_future, apush_xcom(self.task_instance, XCOM_KEY, value)
        )
        _writes.add(write)
        write.add_done_callback(_end_of_write)
        with contextlib.suppress(Exception):
            await asyncio.shield(write)

    def _event(self, result: WaitResult, expected: Expectation, ref: ModelRef) -> dict[str, Any]:
        status, batch_id = "timeout" if isinstance(result, TimedOut) else "gave_up", self.batch_id
        if isinstance(result, Ended):
            status, batch_id = "ended", result.batch.id
        return {
            "status": status,
            "batch_id": batch_id,
            "atscale_conn_id": self.atscale_conn_id,
            "catalog_id": ref.catalog_id,
            "model_id": ref.model_id,
            "catalog": ref.catalog,
            "model": ref.model,
            "poll_interval": self.poll_interval,
            "deadline": self.deadline,
            "expectation": expected.to_json(),
            "payload": self.payload,
            **({"batch": batch_to_json(result.batch)} if isinstance(result, Ended) else asdict(result)),
        }

    async def on_kill(self) -> None:
        """
        Log that the build goes on: AtScale has no call that cancels a batch.

        Airflow 3.3+ calls it when the task is cleared or marked while deferred, and also when another triggerer
        has taken over; nothing tells which of the two it is.
        """
        self.log.warning(
            "This triggerer stopped waiting for %s (%s of %s): another triggerer has taken over the wait, or the "
            "task was cleared or marked. The build goes on in AtScale either way",
            f"batch {self.batch_id}" if self.batch_id else "the newest batch",
            self.model,
            self.catalog,
        )


async def _poll(subscription: Subscription, seconds: float, until: float) -> Observation:
    """Poll after some seconds, or at the deadline; a last poll without an answer ends soon after it."""
    left = until - time.time()
    try:
        async with time_limit(None if left == math.inf else max(left, 0.0) + LAST_POLL):
            return await subscription.next(min(seconds, left))
    except asyncio.TimeoutError:
        return ReadFailed("AtScale gave no answer before the deadline of the wait")


#: The writes that are under way: the event loop keeps only weak references to them.
_writes: set[asyncio.Task[None]] = set()


def _end_of_write(write: asyncio.Task[None]) -> None:
    _writes.discard(write)
    if not write.cancelled() and (error := write.exception()) is not None:
        log.debug("The XCom %s could not be written (%s: %s)", XCOM_KEY, type(error).__name__, error)
