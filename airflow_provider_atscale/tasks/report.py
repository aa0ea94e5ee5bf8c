"""
The one way out of a wait: a verdict becomes a report or an exception, alike in every mode.

The blocking wait, the batch that had ended before the task could defer, the resumed task and the sensor all
come through :func:`conclude`.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.flow import shorten
from airflow_provider_atscale.api.models import (
    AggregateInstance,
    Batch,
    Instances,
    Phase,
    kind_of,
    normalize_status,
)
from airflow_provider_atscale.api.values import iso
from airflow_provider_atscale.exceptions import (
    AtScaleAggregatesFailedError,
    AtScaleBatchFailedError,
    AtScaleBatchNotFoundError,
    AtScaleBatchSupersededError,
    AtScaleError,
    AtScaleTimeoutError,
    AtScaleWaitError,
)
from airflow_provider_atscale.waiting.policy import GaveUp, TimedOut, WaitResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_provider_atscale.api.models import ModelRef

log = logging.getLogger(__name__)

#: How many failed aggregates a report and an exception name.
SHOWN = 5
#: How much of the message of each: a database's error may be a page of SQL.
MESSAGE = 500


@dataclass(frozen=True, slots=True)
class WaitContext:
    """
    What was waited for, and by whom.

    :param server: Address of the AtScale server, as the connection has it.
    :param ref: The model, where it is known.
    :param batch_id: The batch, where it is known.
    :param origin: How the task obtained the batch: started, attached, adopted or watched.
    :param is_full_build: The kind that was asked for, where it is known.
    :param failed_aggregates: What missing aggregates of a batch that is done mean: warn, fail or ignore.
    :param next_step: What a reader can do about a wait that ended without the batch.
    :param history_url: Where people see the build history.
    """

    server: str
    ref: ModelRef | None
    batch_id: str | None
    origin: str = "started"
    is_full_build: bool | None = None
    failed_aggregates: str = "warn"
    next_step: str = ""
    history_url: str | None = None

    def __str__(self) -> str:
        batch = f"Batch {self.batch_id}" if self.batch_id else "The newest batch"
        model = f" of {self.ref}" if self.ref else ""
        return f"{batch}{model} at {self.server}"


def conclude(
    verdict: WaitResult, wait: WaitContext, read_instances: Callable[[], Sequence[AggregateInstance]]
) -> dict[str, Any]:
    """
    Return the report of a batch that ended well; raise the typed error of anything else.

    :param verdict: What the wait came to.
    :param wait: What was waited for.
    :param read_instances: Reads the batch's aggregate instances.
    :raises AtScaleTimeoutError: If a deadline passed.
    :raises AtScaleBatchNotFoundError: If the batch never appeared in the history.
    :raises AtScaleWaitError: If AtScale could not be read, or not understood, for too long.
    :raises AtScaleBatchFailedError: If the batch ended without success.
    :raises AtScaleBatchSupersededError: If a later build has replaced all that would tell how it ended.
    :raises AtScaleAggregatesFailedError: If ``failed_aggregates`` is ``fail`` and aggregates are missing.
    """
    if isinstance(verdict, TimedOut):
        last = f" Its last status was {verdict.last_status!r}." if verdict.last_status else ""
        raise AtScaleTimeoutError(
            f"{wait} did not end within {verdict.limit}, {_duration(verdict.seconds)} after the wait began."
            f"{last} The build goes on in AtScale. {wait.next_step}"
        )
    if isinstance(verdict, GaveUp):
        if verdict.kind == "missing":
            if wait.ref is None:
                raise AtScaleBatchNotFoundError(
                    f"{wait}: {verdict.reason}, as far as aggregates tell, by which alone its model could "
                    "be found. A batch may have none: give the sensor catalog and model."
                )
            raise AtScaleBatchNotFoundError(
                f"{wait}: {verdict.reason}. Look for it at {wait.history_url or wait.server}: it may "
                "belong to another model or server, or the history may have dropped it."
            )
        raise AtScaleWaitError(
            f"{wait}: {verdict.reason}. The build, if it runs, goes on in AtScale. {wait.next_step}"
        )
    return _judge(verdict.batch, wait, read_instances)


def _judge_a_part(batch: Batch, wait: WaitContext, listed: int) -> None:
    """Say, or raise, that aggregates may be missing which the server does not list."""
    text = (
        f"{wait} is {batch.status!r}. AtScale lists {listed} of its aggregates, all of them built, and "
        "cannot list whether there are more"
    )
    if wait.failed_aggregates == "fail":
        raise AtScaleWaitError(
            f'{text}, which failed_aggregates="fail" asks for. Look at '
            f'{wait.history_url or wait.server}, or let "warn" be enough for this model.'
        )
    if wait.failed_aggregates == "warn":
        log.warning("%s", text)


def _judge(
    batch: Batch, wait: WaitContext, read_instances: Callable[[], Sequence[AggregateInstance]]
) -> dict[str, Any]:
    if batch.phase is Phase.SUPERSEDED:
        raise AtScaleBatchSupersededError(
            f"{wait} cannot be judged: all its aggregates are deleted, most likely because a later build has "
            "replaced them, and the build history, which would tell how it ended, may not be read. Look for "
            f"the later build at {wait.history_url or wait.server}: if it ended well, mark the task as success; "
            f"else {_again(wait)}. To avoid this, let the user of the connection read the build history."
        )
    succeeded = batch.phase is Phase.SUCCEEDED
    instances: Sequence[AggregateInstance] | None = batch.instances
    trouble: AtScaleError | None = None
    if instances is None:
        try:
            instances = read_instances()
        except AtScaleError as error:
            trouble = error
    report = make_report(batch, wait, instances)
    failures = describe_failures(report)
    if not succeeded:
        detail = failures or (f"The reasons could not be read: {trouble}" if trouble else "AtScale names none.")
        raise AtScaleBatchFailedError(
            f"{wait} ended as {batch.status!r}. {detail} See {wait.history_url or wait.server}; {_again(wait)}."
        )
    if trouble is not None and wait.failed_aggregates == "fail":
        raise AtScaleWaitError(
            f"{wait} is {batch.status!r}, but whether all aggregates were built could not be read, which "
            f'failed_aggregates="fail" asks for: {trouble} A retry of the task looks again.'
        ) from trouble
    if trouble is not None:
        log.warning("%s is %s; its aggregates could not be read: %s", wait, batch.status, trouble)
    if isinstance(instances, Instances) and instances.is_truncated and not failures:
        _judge_a_part(batch, wait, len(instances))
    if failures and wait.failed_aggregates == "fail":
        raise AtScaleAggregatesFailedError(
            f'{wait} is {batch.status!r}, but not complete. {failures} failed_aggregates="fail" makes this '
            f"an error. See {wait.history_url or wait.server}; {_again(wait)}."
        )
    if None not in (wait.is_full_build, batch.is_full_build) and wait.is_full_build != batch.is_full_build:
        log.warning(
            "%s: AtScale reports the batch as %s, but the task asked for %s",
            wait,
            batch.kind,
            kind_of(wait.is_full_build),
        )
    if failures and wait.failed_aggregates == "warn":
        log.warning("%s is %s, but not complete. %s", wait, batch.status, failures)
    return report


def _again(wait: WaitContext) -> str:
    """Return what makes AtScale build once more."""
    if wait.origin == "watched":
        return "to build again, clear the task that started it"
    return "a retry of the task builds again"


def was_not_built(instance: AggregateInstance) -> bool:
    """Whether a batch that is done lacks this aggregate; a deleted one was only replaced by a newer one."""
    return instance.phase is Phase.FAILED


def make_report(
    batch: Batch, wait: WaitContext, instances: Sequence[AggregateInstance] | None
) -> dict[str, Any]:
    """
    Return what is to be known of a batch, as JSON values.

    :param batch: The batch.
    :param wait: What was waited for.
    :param instances: Its aggregate instances; None where they could not be read.
    """
    missing = [each for each in instances or () if was_not_built(each)]
    counts = Counter(normalize_status(each.status) for each in instances or ())
    return {
        "batch_id": batch.id,
        "server": wait.server,
        "catalog": wait.ref.catalog if wait.ref else None,
        "model": wait.ref.model if wait.ref else None,
        "catalog_id": wait.ref.catalog_id if wait.ref else None,
        "model_id": wait.ref.model_id if wait.ref else None,
        "status": batch.status,
        "kind": kind_of(wait.is_full_build if batch.is_full_build is None else batch.is_full_build),
        "start": wait.origin,
        "created": iso(batch.created),
        "started": iso(batch.started),
        "ended": iso(batch.ended),
        "seconds": batch.seconds,
        "instances": dict(sorted(counts.items())) if instances is not None else None,
        "rows": sum(each.rows or 0 for each in instances) if instances is not None else None,
        "failed_aggregates": len(missing),
        "failures": [
            {
                "aggregate": each.label,
                "status": each.status,
                "message": None if each.message is None else shorten(each.message, MESSAGE),
            }
            for each in missing[:SHOWN]
        ],
    }


def describe_failures(report: dict[str, Any]) -> str:
    """Return a sentence on the aggregates that were not built; empty where there are none."""
    count, shown = report["failed_aggregates"], report["failures"]
    if not count:
        return ""
    total = sum((report["instances"] or {}).values())
    named = "; ".join(
        f"{each['aggregate']}: {each['message'] or 'no message'} ({each['status']})" for each in shown
    )
    more = f"; and {count - len(shown)} more" if count > len(shown) else ""
    return f"{count} of {total} aggregates were not built: {named}{more}."


def summarize(report: dict[str, Any]) -> str:
    """Return the report as one line for the log."""
    parts = [
        f"{report['kind']} build",
        f"{report['start']} by this task" if report["start"] == "started" else report["start"],
    ]
    if report["seconds"] is not None:
        parts.append(_duration(report["seconds"]))
    if report["instances"] is not None:
        counts = ", ".join(f"{count} {status}" for status, count in report["instances"].items()) or "none"
        parts.append(f"aggregates: {counts}")
        parts.append(f"{report['rows']} rows")
    return "; ".join(parts)


def _duration(seconds: float) -> str:
    """Return seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
