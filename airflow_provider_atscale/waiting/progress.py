"""Log what a wait observes: each change, and a heartbeat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_atscale import metrics
from airflow_provider_atscale.api.models import AggregateSummary, Batch, Phase, aggregates_of, normalize_status
from airflow_provider_atscale.api.observation import Observation, ReadFailed, Seen

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_atscale.builds.usual import Expectation
    from airflow_provider_atscale.waiting.policy import WaitPolicy

#: Seconds after which a wait logs that it still waits, even if nothing has changed.
HEARTBEAT = 600.0
#: AtScale's words for a batch that is being built; with the others of that phase it has not begun.
_RUNNING = ("inprogress", "running")


class Progress:
    """
    Log each change that a wait observes, and a heartbeat while nothing changes.

    Lines begin with the news and end with the subject: Airflow's log view shows some 90 characters of a line.

    :param since: Epoch seconds at which the wait began.
    :param expected: How long the batch should take; None if the log is not to tell.
    :param write: Called after each observation with the policy and the time, to write the progress elsewhere.
    """

    def __init__(
        self,
        log: Any,
        subject: str,
        since: float,
        expected: Expectation | None = None,
        write: Callable[[WaitPolicy, float], None] | None = None,
    ) -> None:
        self._log = log
        self._subject = subject
        self._since = since
        self._expected = expected
        self._has_learnt = False
        self._told_usual = False
        self._write = write
        self._logged: tuple[str, str] | None = None
        self._logged_at = 0.0
        self._warned_of_fallback = False

    def log_observation(self, observation: Observation, policy: WaitPolicy, now: float) -> None:
        """Log an observation, if it is news; the policy has seen it before."""
        batch = observation.batch if isinstance(observation, Seen) else None
        if self._expected is not None:
            if not self._has_learnt:
                self._expected.learn(observation)
                # From the first history that lists the batch, and only once: to parse all its rows takes long.
                self._has_learnt = isinstance(observation, Seen) and bool(observation.rows)
            self._warn_if_late(self._expected, policy, now)
        if self._write is not None:
            self._write(policy, now)
        if batch is not None and batch.instances is not None and not self._warned_of_fallback:
            self._warned_of_fallback = True
            self._log.warning(
                "No permission to read the build history; falling back to aggregates, which is less reliable. "
                "Give the user of the connection the right to view aggregates. %s",
                self._subject,
            )
        # Two texts only: the garbage collector does not track such a tuple.
        state = (batch.status if batch else "", type(observation).__name__)
        if state == self._logged and now - self._logged_at < HEARTBEAT:
            return
        self._logged, self._logged_at = state, now
        duration = _duration(max(now - self._since, 0.0))
        if policy.is_uncertain:
            level = self._log.warning if isinstance(observation, ReadFailed) else self._log.info
            level("Still waiting after %s: %s. %s", duration, policy.last_answer, self._subject)
        elif batch is not None:
            details = _details(batch)
            usual = self._expected.describe(policy.began) if self._expected else ""
            if usual and batch.is_running and not self._told_usual:
                self._told_usual = True
                details += f"; {usual}"
            self._log.info("%s after %s%s. %s", _news(batch), duration, details, self._subject)

    def _warn_if_late(self, expected: Expectation, policy: WaitPolicy, now: float) -> None:
        if expected.is_warned or not policy.is_late(expected.late_after, now):
            return
        expected.is_warned = True
        metrics.count("atscale.build.late")
        usual = expected.describe(policy.began) or f"warn_after is {_duration(expected.late_after or 0.0)}"
        self._log.warning(
            "Late: not done after %s, %s. %s", _duration(now - policy.began), usual, self._subject
        )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _news(batch: Batch) -> str:
    if batch.phase is Phase.WAITING:
        return "Running" if normalize_status(batch.status) in _RUNNING else f"Not started yet ({batch.status})"
    if batch.instances is not None:
        # What instances alone show must be seen twice.
        return f"Status {batch.status}"
    return "Done" if batch.phase is Phase.SUCCEEDED else f"Ended as {batch.status}"


def _details(batch: Batch) -> str:
    details = ""
    if batch.phase is Phase.WAITING and batch.estimate_ms:
        details += f", AtScale estimates {batch.estimate_ms / 1000:.0f} s"
    if batch.progress is not None:
        details += f", {batch.progress:.0f} % done"
    aggregates = known_aggregates(batch)
    if aggregates is not None:
        details += f", {aggregates.built} of {aggregates.total} aggregates built"
    return details


def known_aggregates(batch: Batch | None) -> AggregateSummary | None:
    """Return what became of a batch's aggregates; None if the server has not told."""
    return None if batch is None or batch.instances is None else aggregates_of(batch.instances)
