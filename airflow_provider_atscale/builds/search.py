"""Search the build history for a batch that was started and whose id was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_atscale.api.models import Batch, History, HistoryUnavailable, kind_of
from airflow_provider_atscale.api.values import iso
from airflow_provider_atscale.builds.steps import NotFound, OwnBatch
from airflow_provider_atscale.exceptions import AtScaleError, AtScaleStartUnknownError

if TYPE_CHECKING:
    from airflow_provider_atscale.builds.running import OnRunning
    from airflow_provider_atscale.builds.state import StartIntent
    from airflow_provider_atscale.builds.steps import BuildContext

#: Seconds between two searches; the last one repeats.
SEARCH_DELAYS = (1.0, 2.0, 4.0, 8.0, 15.0)


def find_lost_batch(
    build: BuildContext, intent: StartIntent, on_running: OnRunning, *, until: float
) -> OwnBatch | NotFound:
    """
    Return the one batch that an intent led to, or the reason why none can be found.

    :param on_running: Joins a batch if it is not certain which one is the task's.
    :param until: Epoch seconds at which the search ends.
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
            with build.hook.deadline(until), build.hook.one_request_more():
                history = build.hook.get_history(build.ref)
        except AtScaleError as error:
            failure = error
        else:
            if isinstance(history, HistoryUnavailable):
                return NotFound(f"no permission to read the build history ({history})")
            found = intent.candidates(history, is_full_build=build.request.is_full_build)
            if len(found) == 1:
                return _adopt(build, found[0], intent)
            if found:
                return _choose(build, found, on_running, history)
        if build.clock() >= until:
            if failure is not None:
                raise AtScaleStartUnknownError(
                    f"AtScale may or may not have started {build.request.a_kind} build of {build.ref}, and the "
                    f"build history could not be read: {failure} Nothing more was started; "
                    f"{build.what_a_retry_does}."
                ) from failure
            return NotFound("no new batch appeared in the build history")
        build.check_stopped(
            f"The task was stopped while it searched for a build of {build.ref} that may have been started; "
            f"if it was, it goes on in AtScale; {build.what_a_retry_does}."
        )
        delay = SEARCH_DELAYS[min(attempts, len(SEARCH_DELAYS) - 1)]
        build.sleep(min(delay, max(until - build.clock(), 0.1)))
        attempts += 1


def _choose(
    build: BuildContext, found: tuple[Batch, ...], on_running: OnRunning, history: History
) -> OwnBatch | NotFound:
    listed = ", ".join(f"{batch.id} ({batch.status}, created {iso(batch.created)})" for batch in found)
    if build.request.on_running == "join":
        # Each of them that began after this task has its data: it need not be known which one is its own.
        return on_running.join(history) or NotFound(
            f"several new builds may be this task's, and none of them certainly has its data: {listed}"
        )
    raise AtScaleStartUnknownError(
        f"AtScale has {len(found)} new {kind_of(build.request.is_full_build)} builds of {build.ref}, and one of "
        f"them may be this task's: {listed}. Nothing more was started. Wait until they have ended, then clear the "
        "task to build once more, or mark it as success if one of them is enough."
    )


def _adopt(build: BuildContext, batch: Batch, intent: StartIntent) -> OwnBatch:
    build.log.warning(
        "Adopting batch %s (%s, created %s): it is the only %s build of %s that is newer than this task's "
        "start, whose reply was lost",
        batch.id,
        batch.status,
        iso(batch.created),
        kind_of(build.request.is_full_build),
        build.ref,
    )
    return build.take(batch, "adopted", intent)
