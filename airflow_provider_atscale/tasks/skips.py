"""Skip a build that is not needed: ``skip_if_built_within`` and ``only_if_newer``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_atscale.api.models import Batch, History, HistoryUnavailable, aggregates_of
from airflow_provider_atscale.api.values import DATE_DELAY, iso
from airflow_provider_atscale.builds.freshness import find_fresh, find_last_good
from airflow_provider_atscale.builds.state import StartNew
from airflow_provider_atscale.exceptions import AtScaleConfigurationError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_atscale.builds.steps import BuildContext
    from airflow_provider_atscale.tasks.plan import TaskPlan


@dataclass(frozen=True, slots=True)
class SkipCheck:
    """Tell, before anything else is done, that a task need not build."""

    build: BuildContext
    plan: TaskPlan

    def is_due(self) -> bool:
        """Return whether the task may be skipped: not if it is a retry, and not after a clear."""
        decision = self.build.state.load()
        # A retry has a batch of its own, which may be the one that makes the model fresh, or it waited for
        # another one, which may lack its data; a clear means: build again.
        is_retry = self.build.state.is_persistent and self.plan.try_number > 1
        return not is_retry and isinstance(decision, StartNew) and not decision.cleared

    def skip_if_built_within(self, within: float) -> None:
        """Skip the task if what it would build was built within so many seconds."""
        history = self._read_history("skip_if_built_within")
        if history is None:
            return
        now = history.server_time or datetime.now(timezone.utc)
        fresh = find_fresh(history, self.build.request, within=within, now=now)
        if fresh is None:
            return
        batch, age = fresh
        why = f"{timedelta(seconds=round(age))} ago, and skip_if_built_within is {timedelta(seconds=within)}"
        self._skip(batch, self._describe(batch, f"ended {iso(batch.ended)}"), why)

    def skip_if_nothing_is_newer(self, context: Context, inlets: list[Any]) -> None:
        """Skip the task if no inlet has an asset event since the last good build began."""
        newest = _find_newest_event(context, inlets, self.build.log)
        if newest is None:
            return
        asked_at = datetime.now(timezone.utc)
        history = self._read_history("only_if_newer")
        if history is None:
            return
        batch = find_last_good(history, self.build.request)
        if batch is None or batch.created is None or history.server_time is None:
            what = "no time in AtScale's answer" if batch else "no successful build that serves this request"
            self.build.log.info("Building: only_if_newer found %s", what)
            return
        about = self._describe(batch, f"began {iso(batch.created)}")
        # The event's time is by Airflow's clock. Rounded up, so that a doubt leads to a build.
        event = newest + (history.server_time + DATE_DELAY - asked_at)
        if event >= batch.created:
            self.build.log.info(
                "Building: the newest asset event of the inlets is of %s, and %s", iso(newest), about
            )
            return
        why = f"the newest asset event of the inlets is of {iso(newest)}, which is older, and only_if_newer is true"
        self._skip(batch, about, why)

    def _read_history(self, argument: str) -> History | None:
        history = self.build.hook.get_history(self.build.ref)
        if isinstance(history, HistoryUnavailable):
            self.build.log.warning(
                "%s has no effect: no permission to read the build history (%s). The build is started. Give the "
                "user of the connection %s",
                argument,
                history,
                self.build.hook.edition.view_right,
            )
            return None
        return history

    def _describe(self, batch: Batch, moment: str) -> str:
        return f"batch {batch.id} ({batch.kind}, {batch.status}) of {self.build.ref} {moment}"

    def _skip(self, batch: Batch, about: str, why: str) -> None:
        """Skip the task, unless it needs all aggregates and the batch may lack some."""
        if self.plan.failed_aggregates == "fail":
            listed = self.build.hook.get_instances(batch.id)
            if listed.is_truncated or aggregates_of(listed).missing:
                self.build.log.info(
                    'Building, although %s: it may lack aggregates, and failed_aggregates is "fail"', about
                )
                return
        raise AirflowSkipException(f"Skipped: {about}, {why}.")


def check_only_if_newer() -> None:
    """Raise on Airflow 2, whose asset events this provider does not read."""
    from airflow import __version__

    if int(__version__.partition(".")[0]) < 3:
        raise AtScaleConfigurationError(
            f"only_if_newer needs Airflow 3.0 or newer, and this is {__version__}. Leave it out, or use "
            "skip_if_built_within."
        )


def _find_newest_event(context: Context, inlets: list[Any], log: Any) -> datetime | None:
    """Return when the newest asset event of the inlets happened; None, with the reason logged, if unknown."""
    accessors: Any = context.get("inlet_events")
    times: list[datetime] = []
    for inlet in inlets:
        try:
            events = accessors[inlet]
        except TypeError:
            # An inlet that is no asset has no events.
            continue
        try:
            if hasattr(events, "limit"):
                events = events.ascending(False).limit(1)
            times += [events[-1].timestamp] if len(events) else []
        except Exception as error:
            log.warning(
                "Building: only_if_newer could not read the asset events of %r (%s: %s)",
                inlet,
                type(error).__name__,
                error,
            )
            return None
    if not times:
        log.info("Building: only_if_newer found no asset event of the task's inlets")
        return None
    return max(times)
