"""Search the build history for a batch that was started and whose id was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.models import Batch, History, HistoryUnavailable, kind_of
from airflow_provider_atscale.api.values import iso
from airflow_provider_atscale.builds.state import store_batch
from airflow_provider_atscale.builds.steps import NotFound, OwnBatch
from airflow_provider_atscale.exceptions import AtScaleError, AtScaleStartUnknownError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_atscale.api.models import ModelRef
    from airflow_provider_atscale.builds.request import BuildRequest
    from airflow_provider_atscale.builds.running import OnRunning
    from airflow_provider_atscale.builds.state import BuildStateStore, StartIntent
    from airflow_provider_atscale.hooks.atscale import AtScaleHook

#: Seconds between two searches; the last one repeats.
SEARCH_DELAYS = (1.0, 2.0, 4.0, 8.0, 15.0)


def what_a_retry_does(state: BuildStateStore) -> str:
    """Return what a retry does about a build that may have been started."""
    if state.is_persistent:
        return "a retry of the task searches again before it starts one"
    return "before Airflow 3.3 a retry does not search for it, so look into the build history before you retry"


class LostBatchSearch:
    """
    Find the one batch that a start led to whose reply was lost.

    :param check_stopped: Raises, with the given text, if the task was stopped.
    """

    def __init__(
        self,
        hook: AtScaleHook,
        ref: ModelRef,
        request: BuildRequest,
        state: BuildStateStore,
        log: Any,
        *,
        on_running: OnRunning,
        check_stopped: Callable[[str], None],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._hook = hook
        self._ref = ref
        self._request = request
        self._kind = kind_of(request.is_full_build)
        self._state = state
        self._log = log
        self._on_running = on_running
        self._check_stopped = check_stopped
        self._clock = clock
        self._sleep = sleep

    def find(self, intent: StartIntent, until: float) -> OwnBatch | NotFound:
        """
        Return the one batch that an intent led to, or the reason why none can be found.

        :raises AtScaleStartUnknownError: If several batches may be the one, or the history cannot be read.
        """
        if intent.had_running:
            return NotFound(
                "just before the start a batch of the model ran, or the build history could not be read, so no "
                "batch can be recognized as this task's"
            )
        attempts = 0
        while True:
            failure: AtScaleError | None = None
            try:
                # A build that may have been started must be found, whatever the deadline of the wait is.
                with self._hook.deadline(until), self._hook.one_request_more():
                    history = self._hook.get_history(self._ref)
            except AtScaleError as error:
                failure = error
            else:
                if isinstance(history, HistoryUnavailable):
                    return NotFound(f"no permission to read the build history ({history})")
                found = intent.candidates(history, is_full_build=self._request.is_full_build)
                if found:
                    return self._adopt(found, intent, history)
            if self._clock() >= until:
                if failure is not None:
                    raise AtScaleStartUnknownError(
                        f"AtScale may or may not have started {self._request.a_kind} build of {self._ref}, and the "
                        f"build history could not be read: {failure} Nothing more was started; "
                        f"{what_a_retry_does(self._state)}."
                    ) from failure
                return NotFound("no new batch appeared in the build history")
            self._check_stopped(
                f"The task was stopped while it searched for a build of {self._ref} that may have been started; "
                f"if it was, it goes on in AtScale; {what_a_retry_does(self._state)}."
            )
            delay = SEARCH_DELAYS[min(attempts, len(SEARCH_DELAYS) - 1)]
            self._sleep(min(delay, max(until - self._clock(), 0.1)))
            attempts += 1

    def _adopt(self, found: tuple[Batch, ...], intent: StartIntent, history: History) -> OwnBatch | NotFound:
        if len(found) > 1:
            listed = ", ".join(f"{batch.id} ({batch.status}, created {iso(batch.created)})" for batch in found)
            if self._request.on_running == "join":
                # Each of them that began after this task has its data: it need not be known which one is its own.
                return self._on_running.join(history) or NotFound(
                    f"several new builds may be this task's, and none of them certainly has its data: {listed}"
                )
            raise AtScaleStartUnknownError(
                f"AtScale has {len(found)} new {self._kind} builds of {self._ref}, and one of them may be this "
                f"task's: {listed}. Nothing more was started. Wait until they have ended, then clear the task "
                "to build once more, or mark it as success if one of them is enough."
            )
        batch = found[0]
        self._log.warning(
            "Adopting batch %s (%s, created %s): it is the only %s build of %s that is newer than this task's "
            "start, whose reply was lost",
            batch.id,
            batch.status,
            iso(batch.created),
            self._kind,
            self._ref,
        )
        store_batch(self._state, self._log, batch.id, "adopted", intent)
        return OwnBatch(batch.id, "adopted", batch)
