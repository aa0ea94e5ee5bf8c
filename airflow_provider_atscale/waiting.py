"""What every wait has, whichever process waits: a deadline, tolerances, a log of progress, a blocking loop."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.exceptions import AtScaleError, AtScaleTaskStoppedError
from airflow_provider_atscale.protocol.models import Batch, Phase, is_number
from airflow_provider_atscale.protocol.watch import (
    BatchWatch,
    Decision,
    Observation,
    Tolerance,
    Trouble,
    Wait,
    observe_found,
)
from airflow_provider_atscale.report import TimedOut, Verdict

if TYPE_CHECKING:
    from airflow_provider_atscale.hooks.atscale import AtScaleHook
    from airflow_provider_atscale.protocol.models import ModelRef

#: Seconds after which a wait says that it still waits, though nothing changed.
HEARTBEAT = 600.0
#: What can end a wait without the batch: the task's own limit, or Airflow's.
LIMITS = ("timeout", "execution_timeout")


@dataclass(frozen=True, slots=True)
class Deadline:
    """
    When a wait ends without the batch.

    :param at: Epoch seconds.
    :param limit: Which limit it is: ``timeout`` or ``execution_timeout``.
    """

    at: float
    limit: str

    @classmethod
    def earlier(
        cls, began: float, timeout: float | None, task_began: float, execution_timeout: float | None
    ) -> Deadline | None:
        """
        Return the earlier of both limits, None where there is none.

        :param began: Epoch seconds at which the wait began.
        :param timeout: Seconds that the user grants the wait.
        :param task_began: Epoch seconds at which the task began.
        :param execution_timeout: Seconds that the user grants the task.
        """
        limits = []
        if timeout is not None:
            limits.append(cls(began + timeout, "timeout"))
        if execution_timeout is not None:
            limits.append(cls(task_began + execution_timeout, "execution_timeout"))
        return min(limits, key=lambda limit: limit.at, default=None)

    def to_json(self) -> dict[str, Any]:
        """Return the deadline as JSON values."""
        return {"at": self.at, "limit": self.limit}


def parse_deadline(value: Any) -> Deadline | None:
    """Return the deadline that JSON values are; None stays None, anything else is a ``ValueError``."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        at, limit = value.get("at"), value.get("limit")
        if is_number(at) and limit in LIMITS:
            return Deadline(float(at), str(limit))
    raise ValueError(f"{value!r} is no deadline")


def backstop(seconds: float, poll_interval: float, request_timeout: float) -> timedelta:
    """
    Return Airflow's own limit of a deferral, late enough that the trigger's comes first.

    The trigger keeps the deadline; where Airflow's own timeout fires, nothing of ours runs any more.

    :param seconds: Seconds from the deferral to the deadline.
    :param poll_interval: The longest time between two looks, in seconds.
    :param request_timeout: Seconds that one answer may take.
    """
    # A look that begins before it may wait for a connection, for an answer, and once more for both.
    return timedelta(seconds=seconds + max(120.0, 2 * poll_interval, 5 * request_timeout))


def tolerance() -> Tolerance:
    """Return how long doubt is borne, as the section ``[atscale]`` of Airflow's configuration says."""
    from airflow.providers.common.compat.sdk import conf

    standard = Tolerance()
    return Tolerance(
        missing=conf.getfloat("atscale", "missing_tolerance", fallback=standard.missing),
        trouble=conf.getfloat("atscale", "trouble_tolerance", fallback=standard.trouble),
        unknown=conf.getfloat("atscale", "unknown_tolerance", fallback=standard.unknown),
        settle=conf.getfloat("atscale", "settle_time", fallback=standard.settle),
    )


class Progress:
    """
    Log what a wait sees: each change, and a sign of life where nothing changes.

    :param log: Where to.
    :param subject: What is waited for.
    :param since: Epoch seconds at which the wait began.
    """

    def __init__(self, log: Any, subject: str, since: float) -> None:
        self._log = log
        self._subject = subject
        self._since = since
        self._said: object = None
        self._said_at = 0.0
        self._second_best = False

    def note(self, observation: Observation, watch: BatchWatch, decision: Decision, now: float) -> None:
        """
        Log an observation, if it is news.

        :param observation: What was seen.
        :param watch: The judge, after it saw it.
        :param decision: What the judge said.
        :param now: Epoch seconds.
        """
        batch = getattr(observation, "batch", None)
        if batch is not None and batch.instances is not None and not self._second_best:
            self._second_best = True
            self._log.warning(
                "%s: the build history may not be read, so the batch is judged by its aggregate instances. "
                "That is second best: the user of the connection should be given the right to view aggregates",
                self._subject,
            )
        doubt = watch.last_answer if watch.is_in_doubt else None
        # Of texts alone: a tuple that holds nothing else costs collections of garbage nothing.
        state = (batch.status if batch else "", type(observation).__name__)
        if state == self._said and now - self._said_at < HEARTBEAT:
            return
        self._said, self._said_at = state, now
        elapsed = max(now - self._since, 0.0)
        if doubt is not None:
            level = self._log.warning if isinstance(observation, Trouble) else self._log.info
            level("%s: waiting on after %.0f s, though %s", self._subject, elapsed, doubt)
        elif batch is not None:
            self._log.info("%s: %s after %.0f s%s", self._subject, batch.status, elapsed, _details(batch))


def _details(batch: Batch) -> str:
    details = ""
    if batch.phase is Phase.WAITING and batch.estimate_ms:
        details += f", AtScale estimates {batch.estimate_ms / 1000:.0f} s"
    if batch.progress is not None:
        details += f", {batch.progress:.0f} % done"
    if batch.instances is not None:
        built = sum(each.phase is Phase.SUCCEEDED for each in batch.instances)
        details += f", {built} of {len(batch.instances)} aggregates built"
    return details


def look(hook: AtScaleHook, ref: ModelRef, batch_id: str) -> Observation:
    """
    Look at a batch once; whatever fails is an observation too.

    :param hook: The hook.
    :param ref: The batch's model.
    :param batch_id: The batch.
    """
    try:
        return observe_found(hook.get_batches(ref, (batch_id,), tries=1), batch_id)
    except AtScaleError as error:
        return Trouble(str(error))


def wait_blocking(
    observe: Callable[[], Observation],
    watch: BatchWatch,
    progress: Progress,
    deadline: Deadline | None,
    is_stopped: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> Verdict:
    """
    Wait until a batch has ended, the judge gives up or a deadline passes; look a last time at the deadline.

    :param observe: Looks at the batch.
    :param watch: The judge.
    :param progress: The log.
    :param deadline: When to stop waiting.
    :param is_stopped: Whether somebody stopped the task.
    :param clock: Tells the epoch seconds.
    :param sleep: Lets time pass.
    """
    while True:
        if is_stopped():
            raise AtScaleTaskStoppedError(
                f"The task was stopped while it waited for {watch.subject}; the build goes on in AtScale."
            )
        observation = observe()
        now = clock()
        decision = watch.observe(observation, now, random.random())  # noqa: S311
        progress.note(observation, watch, decision, now)
        if not isinstance(decision, Wait):
            return decision
        if deadline is not None and now >= deadline.at:
            return timed_out(deadline, watch, now)
        left = decision.seconds if deadline is None else min(decision.seconds, deadline.at - now)
        sleep(max(left, 0.0))


def timed_out(deadline: Deadline, watch: BatchWatch, now: float) -> TimedOut:
    """Return the verdict of a wait whose deadline has passed."""
    return TimedOut(deadline.limit, max(now - watch.since, 0.0), watch.batch.status if watch.batch else None)
