"""Read long lists page by page: the build history, and the instances of a batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow_provider_atscale.api.models import AggregateInstance, Batch, parse_batch, parse_instance
from airflow_provider_atscale.api.values import id_of
from airflow_provider_atscale.exceptions import AtScaleError

if TYPE_CHECKING:
    from airflow_provider_atscale.api.flow import Flow, Response

#: A batch that a task waits for is nearly always among the newest few.
NEWEST_ROWS = 20
#: AtScale cuts longer pages to 101 rows without saying so.
PAGE_SIZE = 100
#: No list is read further than this.
MAX_PAGES = 50
#: AtScale's page if a server ignores the size that it is asked for; no list is known to have shorter pages.
DEFAULT_PAGE_SIZE = 10
#: A list of one of these lengths may have been cut by a server that cannot page.
CUT_LENGTHS = (DEFAULT_PAGE_SIZE, PAGE_SIZE, 101)


class FoundBatches(dict[str, Batch]):
    """Batches by their ids, and the newest rows of the history as they came: not each wait parses them."""

    def __init__(self, found: Mapping[str, Batch], rows: Sequence[Any] = ()) -> None:
        super().__init__(found)
        self.rows = rows


#: Batches by their ids; for a batch that cannot be judged, the error that says why.
Found: TypeAlias = Mapping[str, "Batch | AtScaleError"]


@dataclass(frozen=True, slots=True)
class Page:
    """
    A page of a list.

    :param total: How many rows the whole list has, if the server says.
    :param size: How many rows a full page has.
    """

    response: Response
    rows: list[Any]
    total: int | None = None
    size: int = PAGE_SIZE

    def is_last(self, before: int) -> bool:
        """Whether the list ends with this page, as far as the server tells."""
        return len(self.rows) < self.size if self.total is None else before + len(self.rows) >= self.total


#: Reads a page: by its number, from 1, and by the count of rows before it.
ReadPage: TypeAlias = Callable[[int, int], "Flow[Page]"]


def search_history(newest: Page, read: ReadPage, wanted: Collection[str]) -> Flow[FoundBatches]:
    """Search batches by their ids among the newest :data:`NEWEST_ROWS` rows, then page by page."""
    found = FoundBatches(_pick(newest.rows, wanted), newest.rows)
    if len(found) == len(set(wanted)) or newest.is_last(0):
        return found
    # Rows can move between two reads, so the search starts again, with longer pages.
    known: set[str | None] = set()
    before = 0
    for number in range(1, MAX_PAGES + 1):
        page = yield from read(number, before)
        found.update(_pick(page.rows, wanted))
        ids = {id_of(row) for row in page.rows}
        # A server that cannot page sends the same rows again.
        if len(found) == len(set(wanted)) or page.is_last(before) or ids <= known:
            break
        known |= ids
        before += len(page.rows)
    return found


def _pick(rows: list[Any], wanted: Collection[str]) -> dict[str, Batch]:
    """Return the wanted batches among the rows; only their rows are parsed, because a poll reads many."""
    found = {}
    for row in rows:
        value = row.get("id") if isinstance(row, dict) else None
        row_id = value.strip() if isinstance(value, str) else None
        if row_id and row_id in wanted:
            # If the status cannot be read, the batch is there, in an unknown status.
            found[row_id] = parse_batch(row) or Batch(row_id, "unreadable")
    return found


def read_instances(
    read: Callable[[int, int], Flow[Page | None]],
) -> Flow[tuple[list[AggregateInstance], bool]]:
    """Read all instances, and tell whether there may be more; a page is None if the server refuses to page."""
    known: dict[str, AggregateInstance] = {}
    before = 0
    for number in range(1, MAX_PAGES + 1):
        page = yield from read(number, before)
        if page is None:
            return list(known.values()), len(known) in CUT_LENGTHS
        instances = page.response.parse_all(page.rows, parse_instance, "an instance without id or status")
        new = {each.id: each for each in instances if each.id not in known}
        known.update(new)
        before += len(page.rows)
        if page.total is not None:
            if len(known) >= page.total or not new:
                return list(known.values()), len(known) < page.total
        elif len(page.rows) < DEFAULT_PAGE_SIZE:
            return list(known.values()), False
        elif not new:
            # The same rows again: a server that cannot page.
            return list(known.values()), len(known) in CUT_LENGTHS
    return list(known.values()), True


def raise_errors(found: Found) -> None:
    """Raise the error of a batch that cannot be judged."""
    for each in found.values():
        if isinstance(each, AtScaleError):
            raise each
