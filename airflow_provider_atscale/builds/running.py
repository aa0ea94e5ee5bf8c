"""What is done about a batch of the model that runs already: ``on_running``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_atscale.api.values import DATE_DELAY, iso
from airflow_provider_atscale.builds.join import FirstLook, find_joinable, serves
from airflow_provider_atscale.builds.steps import OwnBatch, RunningOther, Skip, log_errors
from airflow_provider_atscale.exceptions import AtScaleAlreadyRunningError

if TYPE_CHECKING:
    from airflow_provider_atscale.api.models import Batch, History
    from airflow_provider_atscale.builds.steps import BuildContext


class OnRunning:
    """
    Apply ``on_running`` to what a read of the history shows.

    :param first_look: When the task began, if that is known already.
    """

    def __init__(self, build: BuildContext, first_look: FirstLook | None) -> None:
        self.first_look = first_look
        self._build = build
        self._request = build.request
        self._log = build.log

    def apply(self, history: History | None) -> OwnBatch | RunningOther | None:
        """Return what to do about a batch that runs, or that ran since the task began; None: start a build."""
        joined = self.join(history)
        if joined is not None:
            return joined
        if history is None or not history.running:
            return None
        batch = history.running[0]
        about = f"batch {batch.id} ({batch.kind}, {batch.status}, created {iso(batch.created)})"
        on_running = self._request.on_running
        if on_running == "skip":
            raise Skip(f"Skipped: {about} of {self._build.ref} already runs, and on_running is 'skip'.")
        if on_running == "fail":
            raise AtScaleAlreadyRunningError(
                f"Nothing was started: {about} of {self._build.ref} already runs, and on_running is 'fail'. See "
                f"{self._build.hook.history_url(self._build.ref, batch.id)}."
            )
        if on_running == "attach":
            fitting = [each for each in history.running if self._request.is_met_by(each)]
            if fitting:
                return self._attach(fitting[0])
            self._log.warning(
                "Not attaching to %s: it is not %s build; waiting for it", about, self._request.a_kind
            )
        if on_running == "join":
            self._log.info("Not joining %s: %s", about, self._why_not(batch))
        self._log.info("Waiting for %s of %s to end before a build is started", about, self._build.ref)
        return RunningOther(batch)

    # --- attach ---

    def _attach(self, batch: Batch) -> OwnBatch:
        self._log.warning(
            "Attaching to batch %s (%s), which another task or user started at %s: it may lack data that was "
            "loaded after that",
            batch.id,
            batch.kind,
            iso(batch.created) or "an unknown time",
        )
        return self._build.take(batch, "attached")

    # --- join ---

    @property
    def may_join(self) -> bool:
        """Whether a batch that begins from now on could be joined."""
        return self._request.on_running == "join" and self.first_look is not None

    def join(self, history: History | None) -> OwnBatch | None:
        """Return a batch of another task or user that has this task's data; None if there is none."""
        if self._request.on_running != "join":
            return None
        look = self._find_first_look(history)
        if history is None or look is None:
            return None
        batch = find_joinable(history, look, self._request)
        if batch is None:
            return None
        self._log.info(
            "Joining batch %s (%s, %s), which another task or user started at %s: it began after this task did "
            "(%s), so it has this task's data",
            batch.id,
            batch.kind,
            batch.status,
            iso(batch.created),
            iso(look.server_time),
        )
        return self._build.take(batch, "joined", joined_at=iso(history.server_time))

    def _find_first_look(self, history: History | None) -> FirstLook | None:
        """Return when the task began: known, stored by an earlier try, or else now; None if nothing tells it."""
        if self.first_look is None:
            stored = self._load_first_look()
            look = stored or (FirstLook.at(history) if history is not None else None)
            if look is not None:
                # Without a readable history too: the next start overwrites which batch has failed for this task.
                self.first_look = look.without(self._build.state.failed_ids)
                if self.first_look != stored:
                    self._store_first_look(self.first_look)
        if history is None:
            self._log.warning("on_running='join' works as 'wait' now, because the build history cannot be read")
        elif self.first_look is None:
            self._log.warning(
                "on_running='join' works as 'wait' now, because AtScale's answer has no time: it has no Date header, "
                "or an Age header, with which a proxy marks an answer from its cache"
            )
        return self.first_look

    def _load_first_look(self) -> FirstLook | None:
        # A later moment is safe: it may cost a build, never data.
        with log_errors(
            self._log.warning,
            "When the first try of this task began could not be read from Airflow's task state store (%s: %s); "
            "only a batch that begins from now on is joined",
        ):
            return self._build.state.load_first_look()
        return None

    def _store_first_look(self, look: FirstLook) -> None:
        with log_errors(
            self._log.warning,
            "When this task began could not be written to Airflow's task state store (%s: %s); a retry joins "
            "only a batch that begins after the retry",
        ):
            self._build.state.store_first_look(look)

    def _why_not(self, batch: Batch) -> str:
        look = self.first_look
        if look is None:
            return "it is not known when this task began"
        if not serves(batch, self._request):
            wanted = (
                "grace_period_overrides were"
                if self._request.overrides
                else f"{self._request.a_kind} build was"
            )
            return f"{wanted} asked for, and it is not known to be a full build"
        if batch.created is None:
            return "AtScale does not tell when it was created"
        if batch.id in look.known:
            # Its creation time may be by another server's clock, and later.
            return f"it was listed when this task began ({iso(look.server_time)}), so it may lack data"
        return (
            f"it began before this task did ({iso(look.server_time)}), or less than "
            f"{DATE_DELAY.total_seconds():.0f} seconds later, so it may lack data"
        )
