"""What operators, sensors and triggers may ask of an AtScale server, whichever edition it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_atscale.exceptions import AtScaleConnectionError, AtScaleError, AtScaleNotFoundError
from airflow_provider_atscale.protocol.messages import Flow, Pause, Request, Response

if TYPE_CHECKING:
    from airflow_provider_atscale.protocol.models import AggregateInstance, Batch, History, ModelRef

#: A batch that is waited for is nearly always among the newest few.
NEWEST = 20
#: AtScale cuts longer pages to 101 rows without saying so.
PAGE = 100
#: No read ever asks for more pages than this.
MAX_PAGES = 50


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

    def resolve(self, catalog: str, model: str) -> Flow[ModelRef]:
        """Find a deployed model by ids, names or captions."""
        ...

    def models(self, catalog: str | None = None) -> Flow[list[ModelRef]]:
        """List the deployed models, of one catalog or of all."""
        ...

    def history(self, ref: ModelRef) -> Flow[History | str]:
        """Read a model's newest batches; return the reason as text where that is not possible."""
        ...

    def batches(self, ref: ModelRef, wanted: Collection[str]) -> Flow[dict[str, Batch]]:
        """Look for batches of a model by their ids; those not listed yet are not in the answer."""
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

    def instances(self, batch_id: str, ref: ModelRef | None = None) -> Flow[tuple[AggregateInstance, ...]]:
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
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(f"{row['id']} ({title(row)})" for row in found)
        raise AtScaleNotFoundError(
            f"{len(found)} {kind}s in {where} are called {value!r}: {ids}. Use the id of the one that is meant."
        )
    known = ", ".join(sorted(repr(title(row)) for row in candidates)) or "nothing"
    raise AtScaleNotFoundError(
        f"There is no {kind} {value!r} in {where}. Deployed there: {known}. "
        f"Use its id, its name or its caption, written exactly so."
    )


def title(row: Mapping[str, Any]) -> str:
    """Return what people call a catalog or model."""
    return str(row["caption"] or row["name"] or row["id"])


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
