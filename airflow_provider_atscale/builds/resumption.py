"""Say in the words of Airflow's metrics ``resumable_job.*`` what a retry did with an earlier try's build."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_atscale.builds.state import AlreadyDone, Reattach, SearchHistory, StartNew

if TYPE_CHECKING:
    from airflow_provider_atscale.builds.state import Decision
    from airflow_provider_atscale.builds.steps import OwnBatch


def resumption_events(decision: Decision, step: OwnBatch) -> tuple[str, ...]:
    """Return the last parts of the names of the metrics to count."""
    if isinstance(decision, AlreadyDone):
        return ("reconnect_attempt", "already_succeeded")
    is_same = (isinstance(decision, Reattach) and step.batch_id == decision.build.batch_id) or (
        isinstance(decision, SearchHistory) and step.origin == "adopted"
    )
    if is_same:
        return ("reconnect_attempt", "reconnect_success")
    has_failed = isinstance(decision, Reattach) or (isinstance(decision, StartNew) and decision.failed)
    attempt = ("reconnect_attempt",) if has_failed or isinstance(decision, SearchHistory) else ()
    if step.origin != "started":
        # Another task's batch: Airflow has no word for that.
        return attempt
    return (*attempt, "terminal_resubmit" if has_failed else "fresh_submit")
