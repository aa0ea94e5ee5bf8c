"""When a wait ends without its batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow_provider_atscale.api.values import is_number
from airflow_provider_atscale.waiting.policy import TimedOut, WaitPolicy

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


def deferral_timeout(seconds: float, poll_interval: float, request_timeout: float) -> timedelta:
    """
    Return Airflow's own limit of a deferral, late enough that the trigger's comes first.

    The trigger keeps the deadline; where Airflow's own timeout fires, nothing of ours runs any more.

    :param seconds: Seconds from the deferral to the deadline.
    :param poll_interval: The longest time between two looks, in seconds.
    :param request_timeout: Seconds that one answer may take.
    """
    # A look that begins before it may wait for a connection, for an answer, and once more for both.
    return timedelta(seconds=seconds + max(120.0, 2 * poll_interval, 5 * request_timeout))


def timed_out(deadline: Deadline, watch: WaitPolicy, now: float) -> TimedOut:
    """Return the verdict of a wait whose deadline has passed."""
    return TimedOut(deadline.limit, max(now - watch.since, 0.0), watch.batch.status if watch.batch else None)
