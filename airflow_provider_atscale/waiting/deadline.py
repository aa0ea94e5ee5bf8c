"""When a wait ends before its batch does."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Literal, get_args

from airflow_provider_atscale.api.stored_json import read_json
from airflow_provider_atscale.waiting.policy import TimedOut, WaitPolicy

Limit = Literal["timeout", "execution_timeout"]
LIMITS: tuple[Limit, ...] = get_args(Limit)


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a wait ends before its batch does: in epoch seconds, and which limit that is."""

    at: float
    limit: Limit

    @classmethod
    def earlier(
        cls, began: float, timeout: float | None, task_began: float, execution_timeout: float | None
    ) -> Deadline | None:
        """Return the earlier of both limits, the wait's and the task's, or None if there is none."""
        limits = []
        if timeout is not None:
            limits.append(cls(began + timeout, "timeout"))
        if execution_timeout is not None:
            limits.append(cls(task_began + execution_timeout, "execution_timeout"))
        return min(limits, key=lambda limit: limit.at, default=None)

    def to_json(self) -> dict[str, Any]:
        """Return the deadline as JSON values."""
        return asdict(self)


def parse_deadline(value: Any) -> Deadline | None:
    """Return the deadline that :meth:`Deadline.to_json` wrote; None stays None, others are a ``ValueError``."""
    try:
        deadline: Deadline | None = read_json(Deadline | None, value)
    except ValueError as error:
        raise ValueError(f"{value!r} is not a deadline: {error}") from None
    return deadline


def deferral_timeout(seconds: float, poll_interval: float, request_timeout: float) -> timedelta:
    """
    Return the timeout for ``defer()``: later than the trigger's own deadline, as a safety net.

    If Airflow's timeout fires, the task fails without our code being called again.

    :param seconds: Seconds from the deferral to the deadline.
    :param request_timeout: Seconds that one request may take.
    """
    # The last poll may wait for a connection, for an answer, and once more for both.
    return timedelta(seconds=seconds + max(120.0, 2 * poll_interval, 5 * request_timeout))


def timeout_result(deadline: Deadline, policy: WaitPolicy, now: float) -> TimedOut:
    """Return the result of a wait whose deadline has passed."""
    status = policy.batch.status if policy.batch else None
    return TimedOut(deadline.limit, max(now - policy.since, 0.0), status, policy.last_answer)
