"""Log what a wait sees: each change, and a sign of life."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.models import Batch, Phase
from airflow_provider_atscale.api.observation import Observation, ReadFailed

if TYPE_CHECKING:
    from airflow_provider_atscale.waiting.policy import Decision, WaitPolicy

#: Seconds after which a wait says that it still waits, though nothing changed.
HEARTBEAT = 600.0


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

    def note(self, observation: Observation, watch: WaitPolicy, decision: Decision, now: float) -> None:
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
        doubt = watch.last_answer if watch.is_uncertain else None
        # Of texts alone: a tuple that holds nothing else costs collections of garbage nothing.
        state = (batch.status if batch else "", type(observation).__name__)
        if state == self._said and now - self._said_at < HEARTBEAT:
            return
        self._said, self._said_at = state, now
        elapsed = max(now - self._since, 0.0)
        if doubt is not None:
            level = self._log.warning if isinstance(observation, ReadFailed) else self._log.info
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
