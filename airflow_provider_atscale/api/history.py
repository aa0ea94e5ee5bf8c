"""Find batches in the build history, or in their instances where the history cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow_provider_atscale.api.errors import server_message
from airflow_provider_atscale.api.models import Batch, Phase, instances_as_batch, parse_batch
from airflow_provider_atscale.api.values import id_of
from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleError,
    AtScaleMalformedAnswerError,
)

if TYPE_CHECKING:
    from airflow_provider_atscale.api.flow import Flow, Response
    from airflow_provider_atscale.api.models import Instances


#: A batch that is waited for is nearly always among the newest few.
NEWEST = 20


#: AtScale cuts longer pages to 101 rows without saying so.
PAGE = 100


#: No read ever asks for more pages than this.
MAX_PAGES = 50


#: Answers that say that a read is not allowed or not there.
REFUSALS = (401, 403, 404)


#: Batches by their ids, and in the place of one that cannot be judged why it cannot.
Found: TypeAlias = Mapping[str, "Batch | AtScaleError"]


@dataclass(frozen=True, slots=True)
class Page:
    """
    A part of the build history.

    :param rows: The rows as they came.
    :param is_last: Whether the list ends here, as far as the server tells.
    """

    rows: Sequence[Any]
    is_last: bool


def search(
    first: Page, read: Callable[[int, int], Flow[Page]], wanted: Collection[str]
) -> Flow[dict[str, Batch]]:
    """
    Look for batches by their ids among the newest, then page by page.

    :param first: The newest :data:`NEWEST` rows.
    :param read: Reads a page of :data:`PAGE` rows by its number, from 1, and the count of rows before it.
    :param wanted: Ids of the batches.
    """
    found = _pick(first.rows, wanted)
    if len(found) == len(set(wanted)) or first.is_last:
        return found
    # The rows may move between two reads, so the search begins anew with longer pages.
    known: set[str | None] = set()
    seen = 0
    for number in range(1, MAX_PAGES + 1):
        page = yield from read(number, seen)
        found.update(_pick(page.rows, wanted))
        ids = {id_of(row) for row in page.rows}
        # A server that does not page sends the same rows again.
        if len(found) == len(set(wanted)) or page.is_last or ids <= known:
            break
        known |= ids
        seen += len(page.rows)
    return found


def _pick(rows: Sequence[Any], wanted: Collection[str]) -> dict[str, Batch]:
    """Return the wanted batches among the rows; only their rows are parsed, for a poll reads many."""
    found = {}
    for row in rows:
        # As id_of does, at a fraction of its cost for the many rows that nobody looks for.
        value = row.get("id") if isinstance(row, dict) else None
        row_id = value.strip() if isinstance(value, str) else None
        if row_id and row_id in wanted:
            # A status that cannot be read is one that nobody knows: the batch is there, and not judged by it.
            found[row_id] = parse_batch(row) or Batch(row_id, repr(row.get("status"))[:80])
    return found


def batches_by_instances(
    wanted: Collection[str],
    read: Callable[[str], Flow[Instances]],
    refusal: Response,
    refused: Callable[[], None],
    right: str,
) -> Flow[Found]:
    """
    Look for batches by their ids where no history may be read: in their aggregate instances.

    :param wanted: Ids of the batches.
    :param read: Reads the instances that are a batch's beyond doubt.
    :param refusal: The answer instead of the history.
    :param refused: Raises the error for instances that may not be read either.
    :param right: What a user needs to read the history, as in "the role ...".
    """
    found: dict[str, Batch | AtScaleError] = {}
    for batch_id in wanted:
        try:
            instances = yield from read(batch_id)
        except AtScaleApiError as error:
            if error.http_status_code in REFUSALS:
                refused()
            raise
        if instances.is_truncated and not any(each.phase is Phase.WAITING for each in instances):
            # Those that are listed are built; those that are not may be under way.
            found[batch_id] = AtScaleMalformedAnswerError(
                f"AtScale lists {len(instances)} aggregates of batch {batch_id}, all of them ended, and cannot "
                "list whether there are more, so whether the batch has ended cannot be told. "
                f"{refusal.url} answered HTTP {refusal.status}: {server_message(refusal)}. Give the user of "
                f"the connection {right}, so that the build history can be read."
            )
            continue
        batch = instances_as_batch(batch_id, instances)
        if batch is not None:
            found[batch_id] = batch
    if len(wanted) == 1:
        raise_errors(found)
    return found


def raise_errors(found: Found) -> None:
    """Raise the error that a batch has in its place."""
    for each in found.values():
        if isinstance(each, AtScaleError):
            raise each
