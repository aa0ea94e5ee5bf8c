"""Write what a wait observes to an XCom, so that Airflow's UI shows it while the task runs or is deferred."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.values import iso
from airflow_provider_atscale.waiting.policy import WaitPolicy
from airflow_provider_atscale.waiting.progress import HEARTBEAT, built_aggregates

if TYPE_CHECKING:
    from airflow_provider_atscale.api.models import Batch
    from airflow_provider_atscale.waiting.progress import Expected

KEY = "progress"
#: Seconds that must lie between two writes of one wait.
MIN_INTERVAL = 60.0


class ProgressXCom:
    """
    Decide when a wait writes its progress: at a change and at the heartbeat, at most once a minute.

    :param expected: How long the batch should take.
    """

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._written: tuple[Any, ...] | None = None
        self._written_at = 0.0

    def due(self, policy: WaitPolicy, now: float) -> dict[str, Any] | None:
        """
        Return what is to be written now; None if nothing is.

        :param policy: The wait policy, after the observation.
        :param now: Epoch seconds.
        """
        if policy.batch is not None and not policy.batch.is_running and not policy.is_uncertain:
            # The end is written by the task, with its report.
            return None
        state = (
            policy.batch.status if policy.batch else None,
            policy.last_answer if policy.is_uncertain else None,
            self._expected.is_warned,
            _aggregates(policy.batch),
        )
        if self._written is not None:
            least = HEARTBEAT if state == self._written else MIN_INTERVAL
            if now - self._written_at < least:
                return None
        self._written, self._written_at = state, now
        return self.value(policy, now)

    def value(self, policy: WaitPolicy, now: float) -> dict[str, Any]:
        """
        Return the progress as JSON values.

        :param policy: The wait policy.
        :param now: Epoch seconds.
        """
        batch = policy.batch
        return {
            "batch_id": batch.id if batch else None,
            "status": batch.status if batch else None,
            "since": _time(policy.began),
            "seconds": round(max(now - policy.began, 0.0)),
            "usual_seconds": self._expected.usual_seconds,
            "expected": None
            if self._expected.usual_seconds is None
            else _time(policy.began + self._expected.usual_seconds),
            "late": self._expected.is_warned,
            "aggregates": _aggregates(batch),
            "problem": policy.last_answer if policy.is_uncertain else None,
            "updated": _time(now),
        }


def ended_value(batch: Batch, expected: Expected, now: float) -> dict[str, Any]:
    """
    Return the progress of a batch that has ended.

    :param batch: The batch.
    :param expected: How long it should have taken.
    :param now: Epoch seconds.
    """
    policy = WaitPolicy(now, 0.0)
    policy.batch = batch
    ended = batch.ended.timestamp() if batch.ended else now
    return {**ProgressXCom(expected).value(policy, ended), "updated": _time(now)}


def _aggregates(batch: Batch | None) -> dict[str, int] | None:
    """Return how many aggregates are built, if the server has told."""
    built = built_aggregates(batch) if batch else None
    return {"built": built[0], "total": built[1]} if built else None


def _time(seconds: float) -> str | None:
    return iso(datetime.fromtimestamp(round(seconds), timezone.utc))
