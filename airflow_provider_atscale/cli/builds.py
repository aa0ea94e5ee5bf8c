"""List the newest builds of a model."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.models import Batch, HistoryUnavailable, aggregates_of
from airflow_provider_atscale.api.values import iso
from airflow_provider_atscale.builds.report import format_duration
from airflow_provider_atscale.cli.exit_codes import DONE
from airflow_provider_atscale.cli.run import command
from airflow_provider_atscale.exceptions import (
    AtScaleConfigurationError,
    AtScaleError,
    AtScalePermissionError,
)
from airflow_provider_atscale.hooks.atscale import AtScaleHook

if TYPE_CHECKING:
    import argparse

    from airflow_provider_atscale.cli.output import Output

#: As many batches as one page of the history has.
_MAX_BUILDS = 100


@command
def builds(options: argparse.Namespace, out: Output) -> int:
    """List the newest builds with their status and the aggregates that were not built."""
    if not 1 <= options.limit <= _MAX_BUILDS:
        raise AtScaleConfigurationError(f"--limit is {options.limit}; it must be from 1 to {_MAX_BUILDS}.")
    with closing(AtScaleHook(options.conn_id)) as hook:
        ref = hook.resolve_model(options.catalog, options.model)
        history = hook.get_history(ref)
        if isinstance(history, HistoryUnavailable):
            raise AtScalePermissionError(
                f"No permission to read the build history of {ref} at {hook.edition.base_url} ({history}). Give "
                f"the user of the connection {hook.edition.view_right}.",
                history.status,
            )
        newest = history.newest_first[: options.limit]
        rows = [_describe(hook, batch) for batch in newest]
    out.document(rows)
    if not rows:
        out.info(f"There is no build of {ref} in the build history.")
    else:
        out.table(
            ("batch", "kind", "status", "created (UTC)", "duration", "aggregates not built"),
            [_row(each) for each in rows],
        )
    return DONE


def _describe(hook: AtScaleHook, batch: Batch) -> dict[str, Any]:
    total = failed = problem = None
    try:
        aggregates = aggregates_of(hook.get_instances(batch.id))
        total, failed = aggregates.total, len(aggregates.missing)
    except AtScaleError as error:
        problem = str(error)
    return {
        "batch_id": batch.id,
        "kind": batch.kind,
        "status": batch.status,
        "created": iso(batch.created),
        "started": iso(batch.started),
        "ended": iso(batch.ended),
        "seconds": batch.seconds,
        "aggregates": total,
        "failed_aggregates": failed,
        "aggregates_problem": problem,
    }


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    aggregates = "?" if row["aggregates"] is None else f"{row['failed_aggregates']} of {row['aggregates']}"
    created = (row["created"] or "")[:19].replace("T", " ")
    duration = "" if row["seconds"] is None else format_duration(row["seconds"])
    return row["batch_id"], row["kind"], row["status"], created, duration, aggregates
