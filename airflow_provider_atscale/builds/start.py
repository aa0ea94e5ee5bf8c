"""
Obtain the batch that a task waits for.

Reattach to an earlier try's batch, adopt a batch whose start reply was lost (``builds/search.py``), apply
``on_running`` to a batch of another one (``builds/running.py``), or start a new one. Everything around the one call
that must not be sent twice is here; it is the same for a wait on a worker and in a triggerer. What is stored between
tries is in ``builds/state.py``.
"""

from __future__ import annotations

import random
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING

from airflow_provider_atscale.api.models import History, HistoryUnavailable, Phase
from airflow_provider_atscale.api.observation import Missing, Seen
from airflow_provider_atscale.api.start import LostReply, Refused, Started
from airflow_provider_atscale.api.values import iso
from airflow_provider_atscale.builds.failures import check_failed_series
from airflow_provider_atscale.builds.join import pause_before_start
from airflow_provider_atscale.builds.running import OnRunning
from airflow_provider_atscale.builds.search import SEARCH_DELAYS, find_lost_batch
from airflow_provider_atscale.builds.state import (
    FAILED,
    LOST,
    REFUSED,
    AlreadyDone,
    Decision,
    Reattach,
    SearchHistory,
    StartIntent,
    StartNew,
)
from airflow_provider_atscale.builds.steps import NotFound, OwnBatch, RunningOther, Step
from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleConfigurationError,
    AtScaleConnectionError,
    AtScaleError,
    AtScaleStartUnknownError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_atscale.builds.join import FirstLook
    from airflow_provider_atscale.builds.steps import BuildContext

#: How often the history is read for a running batch that explains a refused start.
_READS_AFTER_REFUSAL = 2
#: From the third pause on, the pauses before a batch is waited for once more do not get longer.
_LONGEST_REPEAT = 3


class BuildStarter:
    """
    Obtain the batch that one task waits for.

    :param lost_reply_window: Seconds that a batch may take to appear in the history.
    :param first_look: When the task began, if this try has looked before.
    :param has_waited: Whether this try has waited for a batch of another one.
    """

    def __init__(
        self,
        build: BuildContext,
        *,
        lost_reply_window: float = 120.0,
        first_look: FirstLook | None = None,
        has_waited: bool = False,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.may_have_started = False
        #: What the state of earlier tries said when the batch was last asked for.
        self.decision: Decision = StartNew()
        self._build = build
        self._request = build.request
        self._log = build.log
        self._window = lost_reply_window
        self._has_waited = has_waited
        self._other: str | None = None
        self._repeats = 0
        self._chance = chance
        self._on_running = OnRunning(build, first_look)

    @property
    def first_look(self) -> FirstLook | None:
        """When the task began, if it has looked at the history and may join a batch."""
        return self._on_running.first_look

    def obtain_own_batch(self, wait_for_other: Callable[[str], None]) -> OwnBatch:
        """Return the task's batch, after a wait for each other one that must end first."""
        while isinstance(step := self.obtain_batch(), RunningOther):
            wait_for_other(step.batch.id)
        return step

    def obtain_batch(self) -> Step:
        """
        Return the task's batch, or another one that must end first.

        :raises Skip: If a batch runs and ``on_running`` is ``skip``.
        :raises AtScaleAlreadyRunningError: If a batch runs and ``on_running`` is ``fail``.
        :raises AtScaleStartUnknownError: If the reply to the start was lost and no batch was found.
        :raises AtScaleStartError: If AtScale refused the start.
        """
        self.decision = decision = self._load_state()
        step: Step | None = None
        if isinstance(decision, AlreadyDone):
            batch_id = str(decision.build.batch_id)
            self._log.info("Batch %s of an earlier try is already done: nothing is built again", batch_id)
            return OwnBatch(batch_id, "attached", is_finished=True)
        if isinstance(decision, Reattach):
            step = self._reattach(decision)
        elif isinstance(decision, SearchHistory):
            step = self._search_again(decision)
        elif decision.reason:
            self._log.info("Not using the batch of an earlier try: %s", decision.reason)
        step = step or self._start()
        if isinstance(step, RunningOther):
            self._has_waited = True
            self._pause_if_listed_again(step.batch.id)
        return step

    def _pause_if_listed_again(self, batch_id: str) -> None:
        """Pause if the caller has waited for this batch: an old answer, as of a cache, may list it as running."""
        self._repeats = self._repeats + 1 if batch_id == self._other else 0
        self._other = batch_id
        if self._repeats:
            self._build.sleep(SEARCH_DELAYS[min(self._repeats, _LONGEST_REPEAT) - 1])

    # --- an earlier try's batch ---

    def _load_state(self) -> Decision:
        try:
            decision = self._build.state.load()
        except Exception as error:
            raise AtScaleError(
                f"Nothing was started: Airflow's task state store could not be read ({type(error).__name__}: "
                f"{error}). It may hold a build of {self._build.ref} that an earlier try has started, so a new one "
                "could be the second. A retry of the task tries again."
            ) from error
        on_running = self._request.on_running
        if (
            isinstance(decision, (AlreadyDone, Reattach))
            and decision.build.origin == "attached"
            and on_running != "attach"
        ):
            # It may lack this task's data, which only "attach" accepts.
            return StartNew(f"an earlier try attached to it, and on_running is now {on_running!r}")
        return decision

    def _reattach(self, decision: Reattach) -> Step | None:
        batch_id = str(decision.build.batch_id)
        seen = self._build.hook.observe_batch(self._build.ref, batch_id)
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
            self._build.store_outcome(FAILED, batch_id)
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
        found = find_lost_batch(
            self._build, intent, self._on_running, until=min(intent.at, self._build.clock()) + self._window
        )
        if isinstance(found, NotFound):
            self._log.warning("Not using a batch of the earlier try: %s", found.reason)
            return None
        return found

    # --- a new batch ---

    def _start(self) -> Step:
        history = self._read_history()
        step = self._on_running.apply(history)
        if step is None and history is not None and self._on_running.may_join:
            pause = pause_before_start(self._request, has_waited=self._has_waited, chance=self._chance())
            self._build.sleep(pause)
            history = self._read_history()
            step = self._on_running.apply(history)
        if step is not None:
            return step
        check_failed_series(self._build, history)
        intent = StartIntent.after(history, self._build.clock())
        posted = False

        def before_post(sends_kind: bool) -> None:
            nonlocal posted
            self._store_intent_before_post(replace(intent, sends_kind=sends_kind))
            posted = True

        try:
            outcome = self._build.hook.start_batch(
                self._build.ref,
                is_full_build=self._request.is_full_build,
                grace_period_overrides=self._request.overrides,
                before_post=before_post,
            )
        except (AtScaleApiError, AtScaleConfigurationError, AtScaleConnectionError):
            # Refused, or no connection at all: nothing was started, so a retry has nothing to search for. Without
            # a POST, what is stored belongs to an earlier try, and stays.
            if posted:
                self.may_have_started = False
                self._build.store_outcome(REFUSED)
            raise
        if isinstance(outcome, Started):
            return self._build.take(outcome.batch, "started", intent)
        if isinstance(outcome, Refused):
            return self._after_refusal(outcome)
        return self._after_lost_reply(outcome, intent)

    def _store_intent_before_post(self, intent: StartIntent) -> None:
        """Store the intent; if that fails, nothing is posted."""
        self._build.check_stopped()
        try:
            self._build.state.store_intent(intent)
        except Exception as error:
            raise AtScaleError(
                f"Nothing was started: the intent to build {self._build.ref} could not be written to Airflow's task "
                f"state store ({type(error).__name__}: {error}), and without it a crash could lose the build. "
                "A retry of the task tries again."
            ) from error
        self._build.check_stopped()
        self.may_have_started = True

    def _after_lost_reply(self, lost: LostReply, intent: StartIntent) -> Step:
        self._log.warning(
            "The reply to the start was lost (%s): searching the build history for the batch", lost.reason
        )
        found = find_lost_batch(self._build, intent, self._on_running, until=self._build.clock() + self._window)
        if not isinstance(found, NotFound):
            return found
        # With skip and fail, the running batch may be this task's: neither a skip nor "nothing was started".
        on_running = self._request.on_running
        if on_running == "join" or (intent.had_running and on_running not in ("skip", "fail")):
            step = self._on_running.apply(self._try_history())
            if step is not None:
                return step
        raise AtScaleStartUnknownError(
            f"AtScale may or may not have started {self._request.a_kind} build of {self._build.ref}: the reply to "
            f"the start was lost ({lost.reason}), and {found.reason}. Nothing more was started; "
            f"{self._build.what_a_retry_does}."
        )

    def _after_refusal(self, refused: Refused) -> Step:
        if refused.error.http_status_code == HTTPStatus.CONFLICT:
            self.may_have_started = False
        for number in range(_READS_AFTER_REFUSAL):
            if number:
                self._build.sleep(SEARCH_DELAYS[number])
            history = self._try_history()
            if history is None:
                continue
            if history.running:
                self._log.info("AtScale refused the start: a batch of the model already runs")
                self._build.store_outcome(REFUSED)
            step = self._on_running.apply(history)
            if step is not None:
                return step
        # A 500 may also come after a batch was made; the intent stays open, so that a retry searches for it. But
        # what a retry finds may also be the batch that explains the refusal, listed late, and then it may lack data.
        # A task that joins needs no search: it joins whatever began after it, and waits for the rest.
        if self._request.on_running == "join" or refused.error.http_status_code == HTTPStatus.CONFLICT:
            self._build.store_outcome(REFUSED)
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
        history = self._build.hook.get_history(self._build.ref)
        if isinstance(history, HistoryUnavailable):
            self._log.warning(
                "No permission to read the build history (%s). So this task cannot see whether a build of %s "
                "already runs, and cannot find a build whose start reply was lost. Give the user of the connection "
                "%s",
                history,
                self._build.ref,
                self._build.hook.edition.view_right,
            )
            return None
        return history
