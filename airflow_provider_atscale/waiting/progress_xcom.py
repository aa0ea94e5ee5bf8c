"""Write what a wait observes to an XCom, so that Airflow's UI shows it while the task runs or is deferred."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.values import iso
from airflow_provider_atscale.waiting.policy import WaitPolicy
from airflow_provider_atscale.waiting.progress import HEARTBEAT, known_aggregates

if TYPE_CHECKING:
    from airflow_provider_atscale.api.models import Batch
    from airflow_provider_atscale.builds.usual import Expectation

KEY = "progress"
#: Seconds that must lie between two writes of one wait.
MIN_INTERVAL = 60.0


class ProgressXCom:
    """Decide when a wait writes its progress: at a change and at the heartbeat, at most once a minute."""

    def __init__(self, expected: Expectation) -> None:
        self._expected = expected
        self._written: tuple[Any, ...] | None = None
        self._written_at = 0.0

    def due(self, policy: WaitPolicy, now: float) -> dict[str, Any] | None:
        """Return what is to be written now, after the policy saw an observation; None if nothing is."""
        if policy.batch is not None and not policy.batch.is_running and not policy.is_uncertain:
            # The end is written by the task, with its report.
            return None
        status = policy.batch.status if policy.batch else None
        state = (status, policy.last_answer, self._expected.is_warned, _aggregates(policy.batch))
        if self._written is not None:
            least = HEARTBEAT if state == self._written else MIN_INTERVAL
            if now - self._written_at < least:
                return None
        self._written, self._written_at = state, now
        return _value(policy, self._expected, now)


def ended_value(batch: Batch, expected: Expectation, now: float) -> dict[str, Any]:
    """Return the progress of a batch that has ended."""
    policy = WaitPolicy(now, 0.0)
    policy.batch = batch
    ended = batch.ended.timestamp() if batch.ended else now
    return {**_value(policy, expected, ended), "updated": _time(now)}


def _value(policy: WaitPolicy, expected: Expectation, now: float) -> dict[str, Any]:
    """Return the progress as JSON values."""
    batch, usual = policy.batch, expected.usual_seconds
    return {
        "batch_id": batch.id if batch else None,
        "status": batch.status if batch else None,
        "since": _time(policy.began),
        "seconds": round(max(now - policy.began, 0.0)),
        "usual_seconds": usual,
        "expected": None if usual is None else _time(policy.began + usual),
        "late": expected.is_warned,
        "aggregates": _aggregates(batch),
        "problem": policy.last_answer,
        "updated": _time(now),
    }


def _aggregates(batch: Batch | None) -> dict[str, int] | None:
    known = known_aggregates(batch)
    return {"built": known.built, "total": known.total} if known else None


def _time(seconds: float) -> str | None:
    return iso(datetime.fromtimestamp(round(seconds), timezone.utc))
