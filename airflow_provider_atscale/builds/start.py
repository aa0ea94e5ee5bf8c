"""
Come by a batch: attach to an earlier try's, adopt one whose id was lost, meet a running one, start one.

Everything around the one call that must not be made twice happens here, and nothing of it knows whether the
task waits on a worker or in a triggerer. What is stored, and what follows from it, is in ``durable``.
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
    StartNew,
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

    from airflow_provider_atscale.hooks.atscale import AtScaleHook
    from airflow_provider_atscale.tasks.plan import Plan

#: Seconds between two looks for a batch whose id was lost; the last one repeats.
_LOOKS = (1.0, 2.0, 4.0, 8.0, 15.0)
#: After a refusal a batch that explains it is looked for this often.
_LOOKS_AFTER_REFUSAL = 2


@dataclass(frozen=True, slots=True)
class OwnBatch:
    """
    The task's own batch: wait for it.

    :param batch_id: The batch.
    :param start: How the task came to it: started, attached or adopted.
    :param batch: What is known of it, where anything is.
    """

    batch_id: str
    start: str
    batch: Batch | None = None


@dataclass(frozen=True, slots=True)
class RunningOther:
    """Somebody else's batch: wait for it to end, then begin again."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class FinishedBatch:
    """
    An earlier try saw its batch done, and judged it good.

    :param batch_id: The batch.
    :param start: How that try came to it.
    """

    batch_id: str
    start: str


class Skip(Exception):
    """``on_running="skip"`` was chosen, and a batch of the model runs."""


Step = OwnBatch | RunningOther | FinishedBatch


class BuildStarter:
    """
    Come by the batch of one task.

    :param hook: The hook.
    :param plan: What the task was asked to do.
    :param memory: What earlier tries have stored.
    :param log: Where to say what happens.
    :param is_stopped: Whether somebody stopped the task.
    :param lost_reply_window: Seconds that a batch may take to appear in the history.
    :param clock: Tells the epoch seconds.
    :param sleep: Lets time pass.
    """

    def __init__(
        self,
        hook: AtScaleHook,
        plan: Plan,
        memory: BuildStateStore,
        log: Any,
        *,
        is_stopped: Callable[[], bool] = lambda: False,
        lost_reply_window: float = 120.0,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._hook = hook
        self._plan = plan
        self._memory = memory
        self._log = log
        self._is_stopped = is_stopped
        self.may_have_started = False
        self._window = lost_reply_window
        self._clock = clock
        self._sleep = sleep

    @property
    def _ref(self) -> Any:
        return self._plan.ref

    @property
    def _kind(self) -> str:
        return kind_of(self._plan.is_full_build)

    @property
    def _full(self) -> bool:
        return bool(self._plan.is_full_build)

    def obtain_batch(self) -> Step:
        """
        Come by a batch, or by one that must end first.

        :raises Skip: If a batch runs and ``on_running`` is ``skip``.
        :raises AtScaleAlreadyRunningError: If a batch runs and ``on_running`` is ``fail``.
        :raises AtScaleStartUnknownError: If the reply to the start was lost and no batch was found.
        :raises AtScaleStartError: If AtScale refused the start.
        """
        decision = self._load_state()
        if isinstance(decision, AlreadyDone):
            batch_id = str(decision.entry.batch_id)
            self._log.info("Batch %s of an earlier try is done already, so nothing is built again", batch_id)
            return FinishedBatch(batch_id, decision.entry.start)
        if isinstance(decision, Reattach):
            step = self._attach_again(decision)
            if step is not None:
                return step
        elif isinstance(decision, SearchHistory):
            step = self._find_again(decision)
            if step is not None:
                return step
        elif isinstance(decision, StartNew) and decision.reason:
            self._log.info("Not going on with an earlier batch: %s", decision.reason)
        return self._start()

    # --- what an earlier try left ---

    def _load_state(self) -> Decision:
        try:
            return self._memory.load()
        except Exception as error:
            raise AtScaleError(
                f"Nothing was started: what an earlier try to build {self._ref} has left in Airflow's task "
                f"state store could not be read ({type(error).__name__}: {error}), and without it a build "
                "could be started twice. A retry of the task tries again."
            ) from error

    def _attach_again(self, decision: Reattach) -> Step | None:
        batch_id, start = str(decision.entry.batch_id), decision.entry.start
        seen = self._hook.observe_batch(self._ref, batch_id)
        if isinstance(seen, Missing) and decision.entry.outcome == LOST:
            self._log.warning(
                "Batch %s of an earlier try is still not in the build history, so a fresh one is built",
                batch_id,
            )
            return None
        # A batch that only its instances show may have more of them to come.
        if isinstance(seen, Seen) and seen.batch.phase is Phase.FAILED and seen.batch.instances is None:
            self._log.warning(
                "Batch %s of an earlier try ended as %s, so a fresh one is built", batch_id, seen.batch.status
            )
            self._stamp(FAILED, batch_id)
            return None
        self._log.info("Attaching to batch %s, which an earlier try of this task %s", batch_id, start)
        return OwnBatch(batch_id, start, seen.batch if isinstance(seen, Seen) else None)

    def _find_again(self, decision: SearchHistory) -> Step | None:
        intent = decision.entry.intent
        self._log.warning(
            "An earlier try was about to start a build at %s and did not learn its id: looking for the batch",
            iso(intent.server_time) or f"epoch {intent.at:.0f}",
        )
        # The intent may be by the clock of another worker.
        found = self._look_for(intent, until=min(intent.at, self._clock()) + self._window)
        if isinstance(found, str):
            self._log.warning("Not going on with a batch of the earlier try: %s", found)
            return None
        return found

    def _look_for(self, intent: StartIntent, until: float) -> Step | str:
        """Return the one batch that an intent led to, or the reason why there is none to be found."""
        if intent.had_running:
            return (
                "just before it a batch of the model ran, or the build history could not be read, so no batch "
                "can be told to be its own"
            )
        looks = 0
        while True:
            trouble: AtScaleError | None = None
            try:
                history = self._hook.get_history(self._ref)
            except AtScaleError as error:
                trouble = error
            else:
                if isinstance(history, HistoryUnavailable):
                    return f"the build history may not be read ({history})"
                found = intent.candidates(history, is_full_build=self._full)
                if found:
                    return self._adopt(found, intent)
            if self._clock() >= until:
                if trouble is not None:
                    raise AtScaleStartUnknownError(
                        f"AtScale may or may not have started a {self._kind} build of {self._ref}, and the "
                        f"build history that would tell could not be read: {trouble} Nothing more was "
                        "started; a retry of the task looks again before it starts one."
                    ) from trouble
                return "no new batch appeared in the build history"
            self._check_stopped(
                f"The task was stopped while it looked for a build of {self._ref} that may have been started; "
                "if it was, it goes on in AtScale. A retry of the task looks again."
            )
            self._sleep(min(_LOOKS[min(looks, len(_LOOKS) - 1)], max(until - self._clock(), 0.1)))
            looks += 1

    def _adopt(self, found: tuple[Batch, ...], intent: StartIntent) -> Step:
        if len(found) > 1:
            listed = ", ".join(f"{batch.id} ({batch.status}, created {iso(batch.created)})" for batch in found)
            raise AtScaleStartUnknownError(
                f"AtScale has {len(found)} new {self._kind} builds of {self._ref}, and one of them may be this "
                f"task's: {listed}. Nothing more was started. Wait until they have ended, then clear the task "
                "to build once more, or mark it as success if one of them will do."
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

    # --- a fresh batch ---

    def _start(self) -> Step:
        history = self._read_history()
        step = self._apply_on_running(history)
        if step is not None:
            return step
        intent = StartIntent.after(history, self._clock())
        try:
            outcome = self._hook.start_batch(
                self._ref,
                is_full_build=self._full,
                grace_period_overrides=self._plan.overrides,
                before_post=lambda sends_kind: self._store_intent_before_post(
                    replace(intent, sends_kind=sends_kind)
                ),
            )
        except (AtScaleApiError, AtScaleConfigurationError, AtScaleConnectionError):
            # A plain no, or no connection at all: nothing was started, so nothing must be looked for.
            self.may_have_started = False
            self._stamp(REFUSED)
            raise
        if isinstance(outcome, Started):
            self._store_batch(outcome.batch.id, "started", intent)
            return OwnBatch(outcome.batch.id, "started", outcome.batch)
        if isinstance(outcome, Refused):
            return self._after_refusal(outcome)
        return self._after_lost_reply(outcome, intent)

    def _store_intent_before_post(self, intent: StartIntent) -> None:
        """Write the intent, or let nothing be started: the last step before the POST."""
        self._check_stopped()
        try:
            self._memory.store_intent(intent)
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
            "The reply to the start was lost (%s): looking for the batch in the build history", lost.reason
        )
        found = self._look_for(intent, until=self._clock() + self._window)
        if not isinstance(found, str):
            return found
        if intent.had_running:
            step = self._apply_on_running(self._try_history())
            if step is not None:
                return step
        raise AtScaleStartUnknownError(
            f"AtScale may or may not have started a {self._kind} build of {self._ref}: the reply to the start "
            f"was lost ({lost.reason}), and {found}. Nothing more was started; a retry of the task looks again "
            "before it starts one."
        )

    def _after_refusal(self, refused: Refused) -> Step:
        for number in range(_LOOKS_AFTER_REFUSAL):
            if number:
                self._sleep(_LOOKS[number])
            history = self._try_history()
            if history is not None and history.running:
                self._log.info("AtScale refused the start, because a batch of the model runs already")
                self._stamp(REFUSED)
                step = self._apply_on_running(history)
                if step is not None:
                    return step
        # A 500 may also come after a batch was made; the intent stays open, so that a retry looks for it.
        raise refused.error

    def _try_history(self) -> History | None:
        """Return the history; after the POST nothing that ails its reading may hide what became of it."""
        try:
            return self._read_history()
        except AtScaleError as error:
            self._log.warning("The build history could not be read: %s", error)
            return None

    # --- a batch that runs already ---

    def _read_history(self) -> History | None:
        history = self._hook.get_history(self._ref)
        if isinstance(history, HistoryUnavailable):
            self._log.warning(
                "The build history may not be read (%s). So this task cannot see whether a build of %s runs "
                "already, and cannot find a build whose reply was lost. Give the user of the connection %s",
                history,
                self._ref,
                self._hook.edition.view_right,
            )
            return None
        return history

    def _apply_on_running(self, history: History | None) -> Step | None:
        """Return what follows from the batches that run, None where none does."""
        if history is None or not history.running:
            return None
        batch = history.running[0]
        about = f"batch {batch.id} ({batch.kind}, {batch.status}, created {iso(batch.created)})"
        policy = self._plan.on_running
        if policy == "skip":
            raise Skip(f"Skipped: {about} of {self._ref} runs already, and on_running is 'skip'.")
        if policy == "fail":
            raise AtScaleAlreadyRunningError(
                f"Nothing was started: {about} of {self._ref} runs already, and on_running is 'fail'. See "
                f"{self._hook.history_url(self._ref, batch.id)}."
            )
        if policy == "attach":
            fitting = [each for each in history.running if self._satisfies(each)]
            if fitting:
                return self._attach(fitting[0])
            self._log.warning("Not attaching to %s: it is no %s build; waiting for it", about, self._kind)
        self._log.info("Waiting for %s of %s to end before a build is started", about, self._ref)
        return RunningOther(batch)

    def _satisfies(self, batch: Batch) -> bool:
        """Whether a batch builds at least what this task was asked for."""
        return batch.is_full_build is not False or not self._full

    def _attach(self, batch: Batch) -> OwnBatch:
        self._log.warning(
            "Attaching to batch %s (%s), which somebody else started at %s: data that was loaded after that "
            "may not be in it",
            batch.id,
            batch.kind,
            iso(batch.created) or "an unknown time",
        )
        self._store_batch(batch.id, "attached", StartIntent(self._clock()))
        return OwnBatch(batch.id, "attached", batch)

    # --- storing ---

    def _store_batch(self, batch_id: str, start: str, intent: StartIntent) -> None:
        try:
            self._memory.store_batch(batch_id, start, intent)
        except Exception as error:
            self._log.error(
                "Batch %s could not be written to Airflow's task state store (%s: %s). This try goes on with "
                "it; should it die, a retry looks for the batch in the build history",
                batch_id,
                type(error).__name__,
                error,
            )

    def _stamp(self, outcome: str, batch_id: str | None = None) -> None:
        store_outcome(self._memory, self._log, outcome, batch_id)

    def _check_stopped(self, consequence: str | None = None) -> None:
        if self._is_stopped():
            raise AtScaleTaskStoppedError(
                consequence or f"The task was stopped, so no build of {self._ref} is started."
            )


def store_outcome(memory: BuildStateStore, log: Any, outcome: str, batch_id: str | None = None) -> None:
    """
    Store how a batch was judged; where that fails a retry judges it again.

    :param memory: What is stored.
    :param log: Where to say that it failed.
    :param outcome: How it was judged.
    :param batch_id: The batch.
    """
    try:
        memory.store_outcome(outcome, batch_id)
    except Exception as error:
        log.warning(
            "That %s could not be written to Airflow's task state store (%s: %s); a retry looks again",
            f"batch {batch_id} is {outcome}" if batch_id else "no batch was started",
            type(error).__name__,
            error,
        )
