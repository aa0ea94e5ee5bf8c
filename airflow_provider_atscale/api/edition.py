"""What AtScale's editions can do, and what they do alike."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from airflow_provider_atscale.api.auth import Area, Auth
from airflow_provider_atscale.api.errors import REFUSALS, answer_of, check
from airflow_provider_atscale.api.flow import Flow, Request, Response, immediate
from airflow_provider_atscale.api.history import (
    NEWEST_ROWS,
    PAGE_SIZE,
    Found,
    Page,
    raise_errors,
    read_instances,
    search_history,
)
from airflow_provider_atscale.api.models import (
    AggregateInstance,
    Batch,
    History,
    HistoryUnavailable,
    Instances,
    ModelRef,
    Phase,
    instances_as_batch,
    parse_batch,
)
from airflow_provider_atscale.api.names import Catalog, is_id, match_exactly_one, model_refs
from airflow_provider_atscale.api.values import id_of
from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleError,
    AtScaleMalformedAnswerError,
    AtScaleNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from airflow_provider_atscale.api.start import StartOutcome

ACCEPT_JSON = {"Accept": "application/json"}


@dataclass(frozen=True, slots=True)
class Owner:
    """
    Whose aggregate instances are read: a batch's or a model's.

    :param field: The field of an instance that names it.
    :param params: The query parameters that select its instances; the last one names it.
    """

    label: str
    noun: str
    field: str
    params: Mapping[str, str]

    def __str__(self) -> str:
        return self.label

    @classmethod
    def batch(cls, batch_id: str) -> Owner:
        """Return a batch."""
        return cls(f"batch {batch_id}", "batch", "batch_id", {"batchId": batch_id})

    def owns(self, instance: AggregateInstance) -> bool | None:
        """Whether an instance names this owner; None if it names none."""
        named: str | None = getattr(instance, self.field)
        *_, own_id = self.params.values()
        return None if named is None else named.lower() == own_id.lower()


class Edition(ABC):
    """
    The calls of one server, each a flow.

    ``history`` is read before and after a start to learn what runs, and says if it cannot be read. ``batches``
    is what a wait polls: it knows the ids that it searches, and falls back to the batches' instances.

    :param base_url: Scheme, host, port and base path, without a slash at the end.
    :param home_url: Address of the Design Center.
    :param build_history_url: Address of the build history page with ``{catalog_id}``, ``{model_id}`` and
        ``{batch_id}``, if it is known.
    """

    name: ClassVar[str]
    #: What a user needs to read the build history: "the role ...".
    view_right: ClassVar[str]
    #: What the edition calls a catalog and a model.
    _catalog_word: ClassVar[str] = "catalog"
    _model_word: ClassVar[str] = "model"
    _server_word: ClassVar[str] = "host"

    def __init__(self, base_url: str, auth: Auth, home_url: str, build_history_url: str | None) -> None:
        self.base_url = base_url
        self._auth = auth
        self._home_url = home_url
        self._build_history_url = build_history_url

    # --- catalogs and models ---

    def resolve(self, catalog: str, model: str) -> Flow[ModelRef]:
        """Find a deployed model by ids, names or captions; two ids are taken as they are, without a request."""
        if is_id(catalog) and is_id(model):
            return ModelRef(catalog, model, catalog, model)
        found = self._choose(catalog, (yield from self._catalogs()))
        if not found.models and is_id(model):
            # Lists of old engines may lack the models.
            return ModelRef(found.id, model, found.display_name, model)
        where = f"{self._catalog_word} {found.display_name!r} of {self.base_url}"
        inner = match_exactly_one(self._model_word, model, found.models, where)
        return ModelRef(found.id, inner.id, found.display_name, inner.display_name)

    def models(self, catalog: str | None = None) -> Flow[list[ModelRef]]:
        """List the deployed models, of one catalog or of all."""
        catalogs = yield from self._catalogs()
        current = self._current(catalogs)
        return model_refs(current if catalog is None else [self._choose(catalog, catalogs)], current)

    @abstractmethod
    def _catalogs(self) -> Flow[Sequence[Any]]:
        """Read the deployed catalogs with their models."""

    def _current(self, catalogs: Sequence[Any]) -> Sequence[Catalog]:
        """Return the catalogs that a name can mean."""
        return catalogs

    def _choose(self, wanted: str, catalogs: Sequence[Any]) -> Catalog:
        """Return the catalog that an id, name or caption means."""
        chosen: Catalog = match_exactly_one(self._catalog_word, wanted, catalogs, self.base_url)
        return chosen

    # --- batches ---

    @abstractmethod
    def check_overrides(self, overrides: Mapping[str, Any]) -> None:
        """Raise if there are grace period overrides and the edition takes none; no request is sent."""

    @abstractmethod
    def start(
        self,
        ref: ModelRef,
        *,
        is_full_build: bool,
        grace_period_overrides: Mapping[str, Any],
        before_post: Callable[[bool], None],
    ) -> Flow[StartOutcome]:
        """
        Start a batch, with one POST that is never repeated.

        :param before_post: Called right before the POST with whether it says the kind of build. If it raises,
            nothing is sent.
        """

    def history(self, ref: ModelRef) -> Flow[History | HistoryUnavailable]:
        """Read a model's newest batches, or why they cannot be read."""
        response = yield from self._newest_history(ref, PAGE_SIZE)
        if response.status in REFUSALS:
            return HistoryUnavailable(self._why_refused(response), response.status)
        rows = self._history_page(response, ref, PAGE_SIZE).rows
        batches = response.parse_all(rows, parse_batch, "a batch without id or status")
        # A server that ignores the filter must not pass another model's batches off as this one's.
        own = (
            batch
            for row, batch in zip(rows, batches, strict=True)
            if has_id(row, ref.model_id, "modelId", "model_id", "cubeId", "cube_id") is not False
        )
        return History(tuple(batch for batch in own if batch.is_rebuild), response.date)

    def batches(self, ref: ModelRef, wanted: Collection[str]) -> Flow[Found]:
        """
        Search batches of a model by their ids; those not listed yet are not in the answer.

        A batch that cannot be judged has its error there, unless it is the only one: then the error is raised.
        """
        response = yield from self._newest_history(ref, NEWEST_ROWS)
        if response.status in REFUSALS:
            return (yield from self._batches_by_instances(wanted, response))

        def read(number: int, before: int) -> Flow[Page]:
            response = yield from self._read_history(ref, PAGE_SIZE, number, before)
            self._check(response, "read the build history")
            return self._history_page(response, ref, PAGE_SIZE)

        return (yield from search_history(self._history_page(response, ref, NEWEST_ROWS), read, wanted))

    def _batches_by_instances(
        self, wanted: Collection[str], refusal: Response | None
    ) -> Flow[dict[str, Batch | AtScaleError]]:
        """
        Judge batches by their instances, because the history cannot be read or does not list them.

        :param refusal: The answer instead of the history.
        """
        found: dict[str, Batch | AtScaleError] = {}
        for batch_id in wanted:
            try:
                instances = yield from self._instances_that_judge(batch_id)
            except AtScaleApiError as error:
                if refusal is not None and error.http_status_code in REFUSALS:
                    self._check(refusal, "read the build history or the aggregate instances")
                raise
            if instances.is_truncated and not any(each.phase is Phase.WAITING for each in instances):
                # Those that are listed are built; those that are not may be under way.
                why = answer_of(refusal) if refusal else "The build history does not list it"
                found[batch_id] = AtScaleMalformedAnswerError(
                    f"AtScale lists {len(instances)} aggregates of batch {batch_id}, all of them ended, and "
                    "cannot list whether there are more, so whether the batch has ended cannot be told. "
                    f"{why}. Give the user of the connection {self.view_right}, so that the build history can "
                    "be read."
                )
                continue
            batch = instances_as_batch(batch_id, instances)
            if batch is not None:
                found[batch_id] = batch
        if len(wanted) == 1:
            raise_errors(found)
        return found

    def _newest_history(self, ref: ModelRef, limit: int) -> Flow[Response]:
        """Read the newest rows of the history; a refusal is returned, another error is raised."""
        response = yield from self._read_history(ref, limit, 1, 0)
        if response.status not in REFUSALS:
            self._check(response, "read the build history")
        return response

    @abstractmethod
    def _read_history(self, ref: ModelRef, limit: int, number: int, before: int) -> Flow[Response]:
        """Read a page of the history, by its number and by the count of rows before it."""

    @abstractmethod
    def _history_page(self, response: Response, ref: ModelRef, limit: int) -> Page:
        """Return the page of the history that an answer holds."""

    def _why_refused(self, response: Response) -> str:
        """Return why the history cannot be read."""
        return answer_of(response)

    # --- instances ---

    def instances(self, batch_id: str) -> Flow[Instances]:
        """Read all aggregate instances of a batch."""
        return self._instances_of(Owner.batch(batch_id))

    def model_instances(self, ref: ModelRef) -> Flow[Instances]:
        """Read all aggregate instances of a model, whichever batch has built them."""
        # The catalog's id is not compared: several published versions of a project share a cube.
        return self._instances_of(Owner(str(ref), self._model_word, "model_id", self._model_params(ref)))

    def _instances_of(self, owner: Owner) -> Flow[Instances]:
        """Read all instances of an owner; whatever the server lists, those that name another one are left out."""
        listed, is_truncated = yield from read_instances(
            lambda number, before: self._read_instances(owner, number, before)
        )
        own = [each for each in listed if owner.owns(each) is not False]
        # Rows need not name their owner.
        if any(owner.owns(each) is None for each in own):
            yield from self._confirm_filter(owner)
        return Instances.of(own, is_truncated=is_truncated)

    @abstractmethod
    def _model_params(self, ref: ModelRef) -> dict[str, str]:
        """Return the query parameters that select a model, its own id last."""

    @abstractmethod
    def _read_instances(self, owner: Owner, number: int, before: int) -> Flow[Page | None]:
        """Read a page of instances; return None if the server has answered before and refuses to page."""

    def _confirm_filter(self, owner: Owner) -> Flow[None]:
        """Raise if the server may list instances of other owners, too, although it was asked for one."""
        del owner
        return immediate(None)

    def _instances_that_judge(self, batch_id: str) -> Flow[Instances]:
        """Read the instances that are certain to belong to a batch."""
        return self.instances(batch_id)

    def locate(self, batch_id: str) -> Flow[ModelRef | None]:
        """Find the model of a batch through the batch's instances; None while it has none."""
        for each in (yield from self._instances_that_judge(batch_id)):
            if each.catalog_id and each.model_id:
                return ModelRef(each.catalog_id, each.model_id, each.catalog_id, each.model_id)
        return None

    # --- testing a connection, and the link ---

    def probe(self) -> Iterator[tuple[str, Flow[str]]]:
        """Return the steps that test a connection: what each step does, and its flow."""
        yield f"reach the {self._server_word}", self._probe_version()
        yield "use the credentials", self._probe_credentials()
        yield "read the build history", self._probe_history()

    @abstractmethod
    def _version_url(self) -> str:
        """Return the URL of the server's version, which needs no credentials."""

    def _probe_version(self) -> Flow[str]:
        response: Response = yield Request("GET", self._version_url(), headers={"Accept": "*/*"})
        version = response.text.strip() if response.ok and len(response.body) < 80 else ""
        return f"the {self._server_word} answers{f' (version {version})' if version else ''}"

    def _probe_credentials(self) -> Flow[str]:
        yield from self._auth.headers(Area.PRIVATE)
        refs = yield from self._probe_models()
        if refs is None:
            words = f"lists no {self._catalog_word}s: give ids instead of names"
            return f"the credentials are accepted (this {self._server_word} {words})"
        return f"the credentials are accepted ({len(refs)} {self._model_word}s are deployed)"

    def _probe_history(self) -> Flow[str]:
        refs = yield from self._probe_models()
        if refs:
            response = yield from self._newest_history(refs[0], 1)
            if response.status != 404:
                self._check(response, "read the build history")
                self._history_page(response, refs[0], 1)
                return "the build history can be read"
        if refs is not None:
            yield from self._probe_instances()
        nothing = f"no {self._model_word} is known, so no build history was read"
        why = f"this {self._server_word} has no build history" if refs else nothing
        return f"aggregates can be read ({why})"

    def _probe_models(self) -> Flow[list[ModelRef] | None]:
        """Return the models; None if the server does not list them, but lets aggregates be read."""
        try:
            return (yield from self.models())
        except AtScaleNotFoundError:
            yield from self._probe_instances()
            return None

    def _probe_instances(self) -> Flow[None]:
        # Without a batch's id the answer could be long. The id of no batch may be called a bad request.
        try:
            yield from self._read_instances(Owner.batch(id_of_nothing("probe")), 1, 0)
        except AtScaleApiError as error:
            if error.http_status_code != 400:
                raise

    def history_url(self, ref: ModelRef | None, batch_id: str | None) -> str:
        """Return the address of the build history page, or of the Design Center if it is not configured."""
        url = self._build_history_url
        if not url:
            return self._home_url + "/"
        values = {
            "catalog_id": ref.catalog_id if ref else "",
            "model_id": ref.model_id if ref else "",
            "batch_id": batch_id or "",
        }
        for name, value in values.items():
            url = url.replace("{" + name + "}", quote(value, safe=""))
        return url

    def _check(self, response: Response, what: str) -> None:
        """Raise the typed error for an answer to a read that is not a success."""
        check(response, what, needs=self.view_right, advice=self._auth.advice)


def has_id(row: Mapping[str, Any], wanted: str, *names: str) -> bool | None:
    """Whether a row's id is the wanted one, in upper or lower case; None if the row has no such id."""
    found = id_of(row, *names)
    return None if found is None else found.lower() == wanted.lower()


def id_of_nothing(text: str) -> str:
    """Return an id in AtScale's form that no batch and no model has, the same one at every call."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, text))
