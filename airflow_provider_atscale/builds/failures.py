"""Tell from a model's build history that its builds fail one after the other: ``give_up_after``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_atscale.api.models import (
    Batch,
    History,
    Phase,
    aggregates_of,
    kind_of,
    normalize_status,
)
from airflow_provider_atscale.api.values import iso
from airflow_provider_atscale.builds.join import serves
from airflow_provider_atscale.builds.report import failure_message
from airflow_provider_atscale.exceptions import AtScaleError, AtScaleGaveUpError

if TYPE_CHECKING:
    from airflow_provider_atscale.builds.request import BuildRequest
    from airflow_provider_atscale.builds.steps import BuildContext
    from airflow_provider_atscale.hooks.atscale import AtScaleHook

#: People end a batch in these ways; they tell nothing of the model.
_ENDED_BY_PEOPLE = ("cancelled", "deleted")
#: Of how many failed batches the messages are read: each costs a request.
_MESSAGES = 3


def find_failed_series(history: History, request: BuildRequest) -> list[Batch]:
    """
    Return the batches of the kind that have failed since one that serves the request ended well, newest first.

    A batch of an unknown kind counts for both kinds. A batch that was cancelled or deleted does not count.
    """
    failed = []
    for batch in history.newest_first:
        is_of_kind = batch.is_full_build in (None, request.is_full_build)
        if batch.phase is Phase.SUCCEEDED and (is_of_kind or serves(batch, request)):
            break
        is_failure = batch.phase is Phase.FAILED and normalize_status(batch.status) not in _ENDED_BY_PEOPLE
        if is_failure and is_of_kind:
            failed.append(batch)
    return failed


def check_failed_series(build: BuildContext, history: History | None) -> None:
    """Raise if the last batches of the kind have all failed, as many as the user tolerates."""
    hook, ref, request = build.hook, build.ref, build.request
    limit = request.give_up_after
    if limit is None:
        return
    if history is None:
        build.log.warning("give_up_after has no effect now, because the build history cannot be read")
        return
    failed = find_failed_series(history, request)[:limit]
    if len(failed) < limit:
        return
    told = "; ".join(_describe(hook, batch) for batch in failed[:_MESSAGES])
    more = f"; and {len(failed) - _MESSAGES} more" if len(failed) > _MESSAGES else ""
    raise AtScaleGaveUpError(
        f"Nothing was started: the last {len(failed)} {kind_of(request.is_full_build)} builds of {ref} at "
        f"{hook.edition.base_url} have failed, and give_up_after is {limit}. {told}{more}. Correct the model or its "
        f"data, then clear the task: a cleared task builds again. See {hook.history_url(ref, failed[0].id)}."
    )


def _describe(hook: AtScaleHook, batch: Batch) -> str:
    about = f"batch {batch.id} ({batch.status}, ended {iso(batch.ended) or 'at an unknown time'})"
    try:
        missing = aggregates_of(hook.get_instances(batch.id)).missing
    except AtScaleError as error:
        return f"{about}: its messages could not be read: {error}"
    if not missing:
        return f"{about}: AtScale names no reason"
    return f"{about}: {missing[0].label}: {failure_message(missing[0])}"
