"""What operators, sensors and triggers may ask of an AtScale server, whichever edition it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from urllib.parse import quote

from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleConnectionError,
    AtScaleError,
    AtScaleMalformedAnswerError,
    AtScaleNotFoundError,
    AtScaleStartError,
)
from airflow_provider_atscale.protocol.auth import check, server_message
from airflow_provider_atscale.protocol.messages import Flow, Pause, Request, Response
from airflow_provider_atscale.protocol.models import (
    Batch,
    ModelRef,
    Phase,
    id_of,
    instances_as_batch,
    parse_batch,
    text_of,
)

if TYPE_CHECKING:
    from airflow_provider_atscale.protocol.models import History, Instances

#: A batch that is waited for is nearly always among the newest few.
NEWEST = 20
#: AtScale cuts longer pages to 101 rows without saying so.
PAGE = 100
#: No read ever asks for more pages than this.
MAX_PAGES = 50
#: How many names the error about an unknown one lists.
SHOWN = 50
#: Answers that say that a read is not allowed or not there.
REFUSALS = (401, 403, 404)

#: Batches by their ids, and in the place of one that cannot be judged why it cannot.
Found: TypeAlias = Mapping[str, "Batch | AtScaleError"]

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Started:
    """The server accepted the start and told the batch's id."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class LostReply:
    """
    The server got the start, and what it made of it is not known.

    :param reason: What came instead of an answer.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """
    The server answered 409 or 500, which is also how it says that a batch of the model runs already.

    :param error: What to raise where no batch runs.
    """

    error: AtScaleError


StartOutcome = Started | LostReply | Refused


class Edition(Protocol):
    """
    One edition's calls, each a flow.

    ``history`` and ``batches`` differ in what they are for: ``history`` is read before and after a start to
    learn what runs, and says when it may not be read; ``batches`` is what a wait polls, knows the ids that it
    looks for and falls back to the batch's instances.
    """

    name: str
    base_url: str
    catalog_word: str
    model_word: str
    #: What a user needs to read the build history, as in "the role ...".
    view_right: str
    #: Whether the start that is about to be posted, or was the last one, tells the engine which kind to build.
    tells_kind: bool

    def resolve(self, catalog: str, model: str) -> Flow[ModelRef]:
        """Find a deployed model by ids, names or captions."""
        ...

    def models(self, catalog: str | None = None) -> Flow[list[ModelRef]]:
        """List the deployed models, of one catalog or of all."""
        ...

    def check_overrides(self, overrides: Mapping[str, Any]) -> None:
        """Raise where there are grace period overrides and the edition takes none; no request is sent."""
        ...

    def history(self, ref: ModelRef) -> Flow[History | str]:
        """Read a model's newest batches; return the reason as text where that is not possible."""
        ...

    def batches(self, ref: ModelRef, wanted: Collection[str]) -> Flow[Found]:
        """
        Look for batches of a model by their ids; those not listed yet are not in the answer.

        Where several are wanted, one that cannot be judged has its error there and is not the others' trouble.
        """
        ...

    def start(
        self,
        ref: ModelRef,
        *,
        is_full_build: bool,
        grace_period_overrides: Mapping[str, Any],
        before_post: Callable[[], None],
    ) -> Flow[StartOutcome]:
        """Start a batch, with one POST that is never repeated."""
        ...

    def instances(self, batch_id: str, ref: ModelRef | None = None) -> Flow[Instances]:
        """Read all aggregate instances of a batch."""
        ...

    def locate(self, batch_id: str) -> Flow[ModelRef | None]:
        """Find the model of a batch through the batch's instances; None while it has none."""
        ...

    def probe(self) -> Iterator[tuple[str, Flow[str]]]:
        """Return the steps that test a connection: what each step does, and the flow that does it."""
        ...

    def history_url(self, ref: ModelRef | None, batch_id: str | None) -> str:
        """Return the address at which people see the build history."""
        ...


def matching(kind: str, value: str, candidates: Sequence[Mapping[str, Any]], where: str) -> Mapping[str, Any]:
    """
    Return the one candidate whose id, name or caption is exactly the value.

    :param kind: What is looked for, for the error.
    :param value: Id, name or caption.
    :param candidates: Rows with ``id``, ``name`` and ``caption``.
    :param where: Where was looked, for the error.
    """
    by_id = [row for row in candidates if row["id"] == value]
    found = by_id or [row for row in candidates if value in (row["name"], row["caption"])]
    found = list({row["id"]: row for row in found}.values())
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(f"{row['id']} ({title(row)})" for row in found)
        raise AtScaleNotFoundError(
            f"{len(found)} {kind}s in {where} are called {value!r}: {ids}. Use the id of the one that is meant."
        )
    known = sorted(repr(title(row)) for row in candidates)
    shown = ", ".join(known[:SHOWN]) or "nothing"
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    raise AtScaleNotFoundError(
        f"There is no {kind} {value!r} in {where}. Deployed there: {shown}{more}. "
        f"Use its id, its name or its caption, written exactly so."
    )


def is_id(text: str) -> bool:
    """Whether a text has the form of AtScale's ids."""
    return _UUID.fullmatch(text) is not None


def title(row: Mapping[str, Any]) -> str:
    """Return what people call a catalog or model."""
    return str(row["caption"] or row["name"] or row["id"])


def model_refs(
    chosen: Sequence[Mapping[str, Any]], known: Sequence[Mapping[str, Any]], inside: str
) -> list[ModelRef]:
    """
    Return the models of some catalogs, each by a name that finds it again.

    :param chosen: The catalogs.
    :param known: All catalogs among which they are looked for.
    :param inside: Under which key a catalog has its models.
    """
    return [
        ModelRef(outer["id"], inner["id"], _unmistakable(outer, known), _unmistakable(inner, outer[inside]))
        for outer in chosen
        for inner in outer[inside]
    ]


def _unmistakable(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what people call one of several rows, or its id where :func:`matching` would find another too."""
    name = title(row)
    return name if sum(name in (each["id"], each["name"], each["caption"]) for each in rows) == 1 else row["id"]


def post_once(
    request: Request, headers: Mapping[str, str], before_post: Callable[[], None]
) -> Flow[Response | LostReply]:
    """
    Send the start POST: once, unless the connection was refused and so nothing was sent.

    :param request: The POST, without credentials.
    :param headers: The credentials.
    :param before_post: Called right before each try; nothing is sent where it raises.
    """
    for pause in (0.5, 2.0, None):
        before_post()
        try:
            response: Response = yield request.with_headers(headers)
        except AtScaleConnectionError as error:
            if error.sent:
                return LostReply(str(error))
            if pause is None:
                raise
            yield Pause(pause)
        else:
            return response
    raise AssertionError("unreachable")  # pragma: no cover


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
        if instances.is_cut and not any(each.phase is Phase.WAITING for each in instances):
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


def read_start(response: Response, ref: ModelRef, role: str) -> StartOutcome:
    """
    Return what an answer to the start means.

    :param response: The answer.
    :param ref: The model, for the error.
    :param role: The role that the call needs, for the error.
    """
    said = f"{response.url} answered HTTP {response.status}: {server_message(response)}"
    if response.ok:
        try:
            body = response.json()
        except AtScaleMalformedAnswerError as error:
            return LostReply(str(error))
        inner = body.get("response") if isinstance(body, Mapping) else None
        places = [place for place in (body, inner) if isinstance(place, Mapping)]
        for place in places:
            row = place.get("batch")
            if isinstance(row, Mapping):
                # The status only informs here; the id alone makes it a start.
                batch = parse_batch({**row, "status": text_of(row, "status") or "new"})
                if batch is not None:
                    return Started(batch)
        if any(place.get("success") is False for place in places):
            raise AtScaleStartError(f"AtScale did not start a build of {ref}: {said}.", response.status)
        return LostReply(str(response.malformed("has no batch id")))
    if response.status == 408 or response.status > 501:
        # Gateways say so when they stop waiting for AtScale, some with numbers of their own (520 to 530, 599).
        return LostReply(said)
    if response.status in (409, 500):
        return Refused(
            AtScaleStartError(
                f"AtScale refused to build {ref}: {said}. No running batch of it was found that would explain "
                "it; look at AtScale's engine log.",
                response.status,
            )
        )
    if response.status == 404:
        raise AtScaleNotFoundError(
            f"AtScale cannot build {ref}: {said}. Check that it is deployed and that both ids are right "
            "(Deployed Catalogs > catalog > Build > Copy cURL shows them).",
            404,
        )
    if response.status in (401, 403):
        check(response, f"start a build of {ref}", role=role)
    try:
        check(response, f"start a build of {ref}", role=role)
    except AtScaleApiError as error:
        raise AtScaleStartError(str(error), response.status) from None
    raise AssertionError("unreachable")  # pragma: no cover


def fill_history_url(template: str | None, default: str, ref: ModelRef | None, batch_id: str | None) -> str:
    """Return the configured address with its ids filled in, else the default."""
    if not template:
        return default
    values = {
        "catalog_id": ref.catalog_id if ref else "",
        "model_id": ref.model_id if ref else "",
        "batch_id": batch_id or "",
    }
    for name, value in values.items():
        template = template.replace("{" + name + "}", quote(value, safe=""))
    return template
