"""
Obtain the batch that a task waits for.

Reattach to an earlier try's batch, adopt a batch whose start reply was lost, apply ``on_running`` to a batch that
already runs, or start a new one. Everything around the one call that must not be sent twice is here; it is the same
for a wait on a worker and in a triggerer. What is stored between tries is in ``builds/state.py``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.models import Batch, History, HistoryUnavailable, Phase, kind_of
from airflow_provider_atscale.api.observation import Missing, Seen
from airflow_provider_atscale.api.start import LostReply, Refused, Started
from airflow_provider_atscale.api.values import iso
from airflow_provider_atscale.builds.state import (
    FAILED,
    LOST,
    REFUSED,
    AlreadyDone,
    BuildStateStore,
    Decision,
    Reattach,
    SearchHistory,
    StartIntent,
)
from airflow_provider_atscale.exceptions import (
    AtScaleAlreadyRunningError,
    AtScaleApiError,
    AtScaleConfigurationError,
    AtScaleConnectionError,
    AtScaleError,
    AtScaleStartUnknownError,
    AtScaleTaskStoppedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_atscale.api.models import ModelRef
    from airflow_provider_atscale.builds.request import BuildRequest
    from airflow_provider_atscale.hooks.atscale import AtScaleHook

#: Seconds between two searches for a batch whose id was lost; the last one repeats.
_SEARCH_DELAYS = (1.0, 2.0, 4.0, 8.0, 15.0)
#: How often the history is read for a running batch that explains a refused start.
_READS_AFTER_REFUSAL = 2


@dataclass(frozen=True, slots=True)
class OwnBatch:
    """
    The task's batch: wait for it.

    :param batch_id: The batch.
    :param origin: How the task obtained it: started, attached or adopted.
    :param batch: What is known of it, if anything.
    """

    batch_id: str
    origin: str
    batch: Batch | None = None


@dataclass(frozen=True, slots=True)
class RunningOther:
    """Another batch of the model runs: wait for it to end, then obtain a batch again."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class FinishedBatch:
    """
    An earlier try's batch, which that try judged good.

    :param batch_id: The batch.
    :param origin: How this try obtained it.
    """

    batch_id: str
    origin: str


class Skip(Exception):
    """``on_running="skip"`` is set, and a batch of the model runs."""


Step = OwnBatch | RunningOther | FinishedBatch


class BuildStarter:
    """
    Obtain the batch that one task waits for.

    :param hook: The hook.
    :param ref: The model.
    :param request: What to build.
    :param state: What earlier tries have stored.
    :param log: The task's logger.
    :param is_stopped: Returns whether the task was stopped.
    :param lost_reply_window: Seconds that a batch may take to appear in the history.
    :param clock: Returns epoch seconds.
    :param sleep: Waits for some seconds.
    """

    def __init__(
        self,
        hook: AtScaleHook,
        ref: ModelRef,
        request: BuildRequest,
        state: BuildStateStore,
        log: Any,
        *,
        is_stopped: Callable[[], bool] = lambda: False,
        lost_reply_window: float = 120.0,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.may_have_started = False
        self._hook = hook
        self._ref = ref
        self._request = request
        self._kind = kind_of(request.is_full_build)
        self._a_kind = "a full" if request.is_full_build else "an incremental"
        self._state = state
        self._log = log
        self._is_stopped = is_stopped
        self._window = lost_reply_window
        self._clock = clock
        self._sleep = sleep

    def obtain_batch(self) -> Step:
        """
        Return the task's batch, or another one that must end first.

        :raises Skip: If a batch runs and ``on_running`` is ``skip``.
        :raises AtScaleAlreadyRunningError: If a batch runs and ``on_running`` is ``fail``.
        :raises AtScaleStartUnknownError: If the reply to the start was lost and no batch was found.
        :raises AtScaleStartError: If AtScale refused the start.
        """
        decision = self._load_state()
        step: Step | None = None
        if isinstance(decision, AlreadyDone):
            batch_id = str(decision.build.batch_id)
            self._log.info("Batch %s of an earlier try is already done: nothing is built again", batch_id)
            return FinishedBatch(batch_id, "attached")
        if isinstance(decision, Reattach):
            step = self._reattach(decision)
        elif isinstance(decision, SearchHistory):
            step = self._search_again(decision)
        elif decision.reason:
            self._log.info("Not using the batch of an earlier try: %s", decision.reason)
        return step or self._start()

    # --- an earlier try's batch ---

    def _load_state(self) -> Decision:
        try:
            return self._state.load()
        except Exception as error:
            raise AtScaleError(
                f"Nothing was started: Airflow's task state store could not be read ({type(error).__name__}: "
                f"{error}). It may hold a build of {self._ref} that an earlier try has started, so a new one could "
                "be the second. A retry of the task tries again."
            ) from error

    def _reattach(self, decision: Reattach) -> Step | None:
        batch_id = str(decision.build.batch_id)
        seen = self._hook.observe_batch(self._ref, batch_id)
        if isinstance(seen, Missing) and decision.build.outcome == LOST:
            self._log.warning(
                "Batch %s of an earlier try is still not in the build history: a new one is started", batch_id
            )
            return None
        # A batch that only its instances show may get more of them.
        if isinstance(seen, Seen) and seen.batch.phase is Phase.FAILED and seen.batch.instances is None:
            self._log.warning(
                "Batch %s of an earlier try ended as %s: a new one is started", batch_id, seen.batch.status
            )
            store_outcome(self._state, self._log, FAILED, batch_id)
            return None
        self._log.info(
            "Attaching to batch %s, which an earlier try of this task %s", batch_id, decision.build.origin
        )
        return OwnBatch(batch_id, "attached", seen.batch if isinstance(seen, Seen) else None)

    def _search_again(self, decision: SearchHistory) -> Step | None:
        intent = decision.build.intent
        self._log.warning(
            "An earlier try was about to start a build at %s, and its id is not known: searching the build history",
            iso(intent.server_time) or f"epoch {intent.at:.0f}",
        )
        # The intent may be by the clock of another worker.
        found = self._search(intent, until=min(intent.at, self._clock()) + self._window)
        if isinstance(found, _NotFound):
            self._log.warning("Not using a batch of the earlier try: %s", found.reason)
            return None
        return found

    def _search(self, intent: StartIntent, until: float) -> Step | _NotFound:
        """Return the one batch that an intent led to, or the reason why none can be found."""
        if intent.had_running:
            return _NotFound(
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
                    return _NotFound(f"no permission to read the build history ({history})")
                found = intent.candidates(history, is_full_build=self._request.is_full_build)
                if found:
                    return self._adopt(found, intent)
            if self._clock() >= until:
                if failure is not None:
                    raise AtScaleStartUnknownError(
                        f"AtScale may or may not have started {self._a_kind} build of {self._ref}, and the build "
                        f"history could not be read: {failure} Nothing more was started; a retry of the task "
                        "searches again before it starts one."
                    ) from failure
                return _NotFound("no new batch appeared in the build history")
            self._check_stopped(
                f"The task was stopped while it searched for a build of {self._ref} that may have been started; "
                "if it was, it goes on in AtScale. A retry of the task searches again."
            )
            delay = _SEARCH_DELAYS[min(attempts, len(_SEARCH_DELAYS) - 1)]
            self._sleep(min(delay, max(until - self._clock(), 0.1)))
            attempts += 1

    def _adopt(self, found: tuple[Batch, ...], intent: StartIntent) -> Step:
        if len(found) > 1:
            listed = ", ".join(f"{batch.id} ({batch.status}, created {iso(batch.created)})" for batch in found)
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
        self._store_batch(batch.id, "adopted", intent)
        return OwnBatch(batch.id, "adopted", batch)

    # --- a new batch ---

    def _start(self) -> Step:
        history = self._read_history()
        step = self._apply_on_running(history)
        if step is not None:
            return step
        intent = StartIntent.after(history, self._clock())
        posted = False

        def before_post(sends_kind: bool) -> None:
            nonlocal posted
            self._store_intent_before_post(replace(intent, sends_kind=sends_kind))
            posted = True

        try:
            outcome = self._hook.start_batch(
                self._ref,
                is_full_build=self._request.is_full_build,
                grace_period_overrides=self._request.overrides,
                before_post=before_post,
            )
        except (AtScaleApiError, AtScaleConfigurationError, AtScaleConnectionError):
            # Refused, or no connection at all: nothing was started, so a retry has nothing to search for. Without
            # a POST, what is stored belongs to an earlier try, and stays.
            if posted:
                self.may_have_started = False
                store_outcome(self._state, self._log, REFUSED)
            raise
        if isinstance(outcome, Started):
            self._store_batch(outcome.batch.id, "started", intent)
            return OwnBatch(outcome.batch.id, "started", outcome.batch)
        if isinstance(outcome, Refused):
            return self._after_refusal(outcome)
        return self._after_lost_reply(outcome, intent)

    def _store_intent_before_post(self, intent: StartIntent) -> None:
        """Store the intent; if that fails, nothing is posted."""
        self._check_stopped()
        try:
            self._state.store_intent(intent)
        except Exception as error:
            raise AtScaleError(
                f"Nothing was started: the intent to build {self._ref} could not be written to Airflow's task "
                f"state store ({type(error).__name__}: {error}), and without it a crash could lose the build. "
                "A retry of the task tries again."
            ) from error
        self._check_stopped()
        self.may_have_started = True

    def _after_lost_reply(self, lost: LostReply, intent: StartIntent) -> Step:
        self._log.warning(
            "The reply to the start was lost (%s): searching the build history for the batch", lost.reason
        )
        found = self._search(intent, until=self._clock() + self._window)
        if not isinstance(found, _NotFound):
            return found
        # With skip and fail, the running batch may be this task's: neither a skip nor "nothing was started".
        if intent.had_running and self._request.on_running not in ("skip", "fail"):
            step = self._apply_on_running(self._try_history())
            if step is not None:
                return step
        raise AtScaleStartUnknownError(
            f"AtScale may or may not have started {self._a_kind} build of {self._ref}: the reply to the start "
            f"was lost ({lost.reason}), and {found.reason}. Nothing more was started; a retry of the task searches "
            "again before it starts one."
        )

    def _after_refusal(self, refused: Refused) -> Step:
        for number in range(_READS_AFTER_REFUSAL):
            if number:
                self._sleep(_SEARCH_DELAYS[number])
            history = self._try_history()
            if history is not None and history.running:
                self._log.info("AtScale refused the start: a batch of the model already runs")
                store_outcome(self._state, self._log, REFUSED)
                step = self._apply_on_running(history)
                if step is not None:
                    return step
        # A 500 may also come after a batch was made; the intent stays open, so that a retry searches for it.
        raise refused.error

    # --- a batch that already runs ---

    def _try_history(self) -> History | None:
        """Return the history; after the POST no failure of this read may hide what became of the start."""
        try:
            return self._read_history()
        except AtScaleError as error:
            self._log.warning("The build history could not be read: %s", error)
            return None

    def _read_history(self) -> History | None:
        history = self._hook.get_history(self._ref)
        if isinstance(history, HistoryUnavailable):
            self._log.warning(
                "No permission to read the build history (%s). So this task cannot see whether a build of %s "
                "already runs, and cannot find a build whose start reply was lost. Give the user of the connection "
                "%s",
                history,
                self._ref,
                self._hook.edition.view_right,
            )
            return None
        return history

    def _apply_on_running(self, history: History | None) -> Step | None:
        """Return what to do about a batch that runs; None if none does."""
        if history is None or not history.running:
            return None
        batch = history.running[0]
        about = f"batch {batch.id} ({batch.kind}, {batch.status}, created {iso(batch.created)})"
        on_running = self._request.on_running
        if on_running == "skip":
            raise Skip(f"Skipped: {about} of {self._ref} already runs, and on_running is 'skip'.")
        if on_running == "fail":
            raise AtScaleAlreadyRunningError(
                f"Nothing was started: {about} of {self._ref} already runs, and on_running is 'fail'. See "
                f"{self._hook.history_url(self._ref, batch.id)}."
            )
        if on_running == "attach":
            fitting = [each for each in history.running if self._satisfies(each)]
            if fitting:
                return self._attach(fitting[0])
            self._log.warning("Not attaching to %s: it is not %s build; waiting for it", about, self._a_kind)
        self._log.info("Waiting for %s of %s to end before a build is started", about, self._ref)
        return RunningOther(batch)

    def _satisfies(self, batch: Batch) -> bool:
        """Return whether a batch builds at least what this task was asked for."""
        return batch.is_full_build is not False or not self._request.is_full_build

    def _attach(self, batch: Batch) -> OwnBatch:
        self._log.warning(
            "Attaching to batch %s (%s), which another task or user started at %s: it may lack data that was "
            "loaded after that",
            batch.id,
            batch.kind,
            iso(batch.created) or "an unknown time",
        )
        self._store_batch(batch.id, "attached", StartIntent(self._clock()))
        return OwnBatch(batch.id, "attached", batch)

    # --- state ---

    def _store_batch(self, batch_id: str, origin: str, intent: StartIntent) -> None:
        try:
            self._state.store_batch(batch_id, origin, intent)
        except Exception as error:
            self._log.error(
                "Batch %s could not be written to Airflow's task state store (%s: %s). This try waits for it all "
                "the same; if the try dies, a retry searches the build history",
                batch_id,
                type(error).__name__,
                error,
            )

    def _check_stopped(self, message: str | None = None) -> None:
        if self._is_stopped():
            raise AtScaleTaskStoppedError(
                message or f"The task was stopped, so no build of {self._ref} is started."
            )


@dataclass(frozen=True, slots=True)
class _NotFound:
    reason: str


def store_outcome(state: BuildStateStore, log: Any, outcome: str, batch_id: str | None = None) -> None:
    """
    Store how a batch was judged; if that fails, a retry judges it again.

    :param state: The task's stored state.
    :param log: The task's logger.
    :param outcome: How it was judged.
    :param batch_id: The batch.
    """
    try:
        state.store_outcome(outcome, batch_id)
    except Exception as error:
        log.warning(
            "The outcome (%s) could not be written to Airflow's task state store (%s: %s); a retry judges it again",
            f"batch {batch_id} is {outcome}" if batch_id else "no batch was started",
            type(error).__name__,
            error,
        )
