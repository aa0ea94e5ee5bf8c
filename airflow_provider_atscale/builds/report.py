"""The report of a batch: JSON values for XCom, asset events and lineage, and their texts for logs and errors."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.flow import shorten
from airflow_provider_atscale.api.models import (
    AggregateInstance,
    Batch,
    ModelRef,
    aggregates_of,
    kind_of,
    normalize_status,
)
from airflow_provider_atscale.api.values import iso

if TYPE_CHECKING:
    from collections.abc import Sequence

#: XComs: which batch a task started or joined, its report, and the report of one that fails the task. The last has
#: another key, so that nobody takes a failed batch for a good one.
BATCH_KEY = "batch"
REPORT_KEY = "batch_result"
FAILURE_KEY = "batch_failure"
#: How many failed aggregates a report and an error name.
MAX_FAILURES_SHOWN = 5
#: How much of the message of each is shown: a database's error may be a page of SQL.
MAX_FAILURE_MESSAGE = 500


def make_report(
    batch: Batch,
    *,
    server: str,
    ref: ModelRef | None,
    origin: str,
    joined_at: str | None = None,
    is_full_build: bool | None = None,
    instances: Sequence[AggregateInstance] | None = None,
    usual_seconds: float | None = None,
    late: bool | None = None,
) -> dict[str, Any]:
    """
    Return the report of a batch as JSON values.

    :param joined_at: The server's time at which the task joined it, if it did.
    :param is_full_build: The kind that was asked for, if it is known.
    :param instances: The batch's aggregate instances; None if they could not be read.
    :param late: Whether it took longer than it should; None if that is not known.
    """
    aggregates = None if instances is None else aggregates_of(instances)
    counts = Counter(normalize_status(each.status) for each in instances or ())
    missing = aggregates.missing if aggregates else ()
    return {
        "batch_id": batch.id,
        "server": server,
        "catalog": ref.catalog if ref else None,
        "model": ref.model if ref else None,
        "catalog_id": ref.catalog_id if ref else None,
        "model_id": ref.model_id if ref else None,
        "status": batch.status,
        "kind": kind_of(is_full_build if batch.is_full_build is None else batch.is_full_build),
        "requested_kind": None if is_full_build is None else kind_of(is_full_build),
        "start": origin,
        "joined_at": joined_at,
        "created": iso(batch.created),
        "started": iso(batch.started),
        "ended": iso(batch.ended),
        "seconds": batch.seconds,
        "usual_seconds": usual_seconds,
        "late": late,
        "instances": None if instances is None else dict(sorted(counts.items())),
        "rows": None if instances is None else sum(each.rows or 0 for each in instances),
        "aggregates": aggregates.total if aggregates else None,
        "failed_aggregates": len(missing),
        "repaired_attempts": aggregates.repaired_attempts if aggregates else None,
        "failures": [_failure(each) for each in missing[:MAX_FAILURES_SHOWN]],
    }


def _failure(instance: AggregateInstance) -> dict[str, Any]:
    return {
        "aggregate": instance.label,
        "status": instance.status,
        "message": None if instance.message is None else shorten(instance.message, MAX_FAILURE_MESSAGE),
        "query_id": instance.query_id,
    }


def describe_failures(report: dict[str, Any]) -> str:
    """Return a sentence on the aggregates that were not built; empty if there are none."""
    count, shown = report["failed_aggregates"], report["failures"]
    if not count:
        return ""
    named = "; ".join(map(_describe, shown))
    more = f"; and {count - len(shown)} more" if count > len(shown) else ""
    return f"{count} of {report['aggregates']} aggregates were not built: {named}{more}."


def _describe(failure: dict[str, Any]) -> str:
    query = f", query {failure['query_id']}" if failure["query_id"] else ""
    return f"{failure['aggregate']}: {failure['message'] or 'no message'} ({failure['status']}{query})"


def failure_message(instance: AggregateInstance) -> str:
    """Return why an instance failed, in AtScale's words."""
    return shorten(instance.message or "no message", MAX_FAILURE_MESSAGE)


def summarize(report: dict[str, Any]) -> str:
    """Return the report of a batch that ended well as one line for the log."""
    parts = []
    if report["aggregates"] is not None:
        total, failed = report["aggregates"], report["failed_aggregates"]
        parts.append(f"{total - failed} of {total} aggregates" if failed else _many(total, "aggregate"))
        parts.append(_many(report["rows"], "row"))
    parts.append(report["kind"])
    parts.append(f"{report['start']} by this task" if report["start"] == "started" else report["start"])
    if report["repaired_attempts"]:
        parts.append(f"{_many(report['repaired_attempts'], 'failed attempt')} repaired by AtScale")
    took = "" if report["seconds"] is None else f" in {format_duration(report['seconds'])}"
    return f"Done{took}: {', '.join(parts)}"


def _many(count: int, what: str) -> str:
    """Return a number of things, a large one in few characters."""
    for size, name in ((1e9, "G"), (1e6, "M")):
        if count >= size:
            return f"{count / size:.1f} {name} {what}s"
    return f"{count} {what}{'' if count == 1 else 's'}"


def format_duration(seconds: float) -> str:
    """Return seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
