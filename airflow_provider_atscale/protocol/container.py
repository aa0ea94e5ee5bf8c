"""
The container edition's calls (catalogs and models; "C20xx" and newer), each a flow.

Documented are the start (``POST /v1/aggregates-batch/...``) and the instances
(``GET /v1/aggregates/instances``). The build history is the Design Center's own call
(``GET /wapi/p/aggregate/batch-history``): no documented call returns a batch, so it comes first and the
documented one second, because instances alone cannot show a batch that has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleMalformedAnswerError,
    AtScaleNotFoundError,
    AtScaleStartError,
)
from airflow_provider_atscale.protocol.auth import Area, Auth, call, check, server_message
from airflow_provider_atscale.protocol.edition import (
    MAX_PAGES,
    NEWEST,
    PAGE,
    LostReply,
    Refused,
    Started,
    StartOutcome,
    matching,
    post_once,
    title,
)
from airflow_provider_atscale.protocol.messages import Flow, Request, Response
from airflow_provider_atscale.protocol.models import (
    AggregateInstance,
    Batch,
    History,
    ModelRef,
    id_of,
    instances_as_batch,
    parse_batch,
    parse_instance,
    text_of,
)

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}
_ACCEPT = {"Accept": "application/json"}

MANAGE = "aggregates_manage"
VIEW = "aggregates_view"


class ContainerEdition:
    """
    The calls of one container server.

    :param base_url: Scheme, host, port and base path, without a slash at the end.
    :param auth: The way of authentication.
    :param api_prefix: Where the public API begins.
    :param build_history_url: Address of the build history page with ``{catalog_id}``, ``{model_id}`` and
        ``{batch_id}``, where it is known.
    """

    name = "container"
    catalog_word = "catalog"
    model_word = "model"

    def __init__(
        self, base_url: str, auth: Auth, api_prefix: str = "/v1", build_history_url: str | None = None
    ) -> None:
        self.base_url = base_url
        self._auth = auth
        self._public = base_url + api_prefix
        self._build_history_url = build_history_url

    # --- catalogs and models ---

    def resolve(self, catalog: str, model: str) -> Flow[ModelRef]:
        """Find a deployed model (``GET /v1/catalogs``); two ids are taken as they are, without a request."""
        if _UUID.fullmatch(catalog) and _UUID.fullmatch(model):
            return ModelRef(catalog, model, catalog, model)
        catalogs = yield from self._catalogs()
        found = matching("catalog", catalog, catalogs, self.base_url)
        inner = matching("model", model, found["models"], f"catalog {title(found)!r} of {self.base_url}")
        return ModelRef(found["id"], inner["id"], title(found), title(inner))

    def models(self, catalog: str | None = None) -> Flow[list[ModelRef]]:
        """List the deployed models (``GET /v1/catalogs``)."""
        catalogs = yield from self._catalogs()
        if catalog is not None:
            catalogs = [matching("catalog", catalog, catalogs, self.base_url)]
        return [
            ModelRef(outer["id"], inner["id"], title(outer), title(inner))
            for outer in catalogs
            for inner in outer["models"]
        ]

    def _catalogs(self) -> Flow[list[Mapping[str, Any]]]:
        response = yield from self._read(Area.PUBLIC, f"{self._public}/catalogs")
        if response.status == 404:
            raise AtScaleNotFoundError(
                f"{response.url} is not there (HTTP 404). Check host and api_prefix of the connection, or "
                "give catalog and model by their ids (Deployed Catalogs > catalog > Build > Copy cURL).",
                404,
            )
        check(response, "list the catalogs")
        rows = response.json()
        if not isinstance(rows, list):
            raise response.malformed("is not a list of catalogs")
        catalogs: list[Mapping[str, Any]] = []
        for row in rows:
            entry = _entry(row)
            if entry is None:
                raise response.malformed("has a catalog without id")
            models = row.get("models")
            inner = [_entry(model) for model in models] if isinstance(models, list) else []
            catalogs.append({**entry, "models": [model for model in inner if model is not None]})
        return catalogs

    # --- batches ---

    def history(self, ref: ModelRef) -> Flow[History | str]:
        """Read a model's newest batches (``GET /wapi/p/aggregate/batch-history``)."""
        response = yield from self._history_page(ref, page=1, limit=PAGE)
        if response.status in (401, 403, 404):
            return f"{response.url} answers HTTP {response.status}: {server_message(response)}"
        rows = _rows(response)
        batches = [batch for batch in map(parse_batch, rows) if batch is not None and batch.is_rebuild]
        if len(batches) < len(rows) and any(parse_batch(row) is None for row in rows):
            raise response.malformed("has a batch without id or status")
        return History(tuple(batches), response.date)

    def batches(self, ref: ModelRef, wanted: Collection[str]) -> Flow[dict[str, Batch]]:
        """Look for batches by their ids: in the history, or in their instances where it may not be read."""
        response = yield from self._history_page(ref, page=1, limit=NEWEST)
        if response.status in (401, 403, 404):
            return (yield from self._batches_by_instances(ref, wanted, response))
        rows = _rows(response)
        found = _pick(rows, wanted)
        if len(found) == len(set(wanted)) or _is_all(response, len(rows), asked=NEWEST):
            return found
        # The rows may move between two reads, so the search begins anew with longer pages.
        known: set[str | None] = set()
        for page in range(1, MAX_PAGES + 1):
            response = yield from self._history_page(ref, page=page, limit=PAGE)
            check(response, "read the build history", role=VIEW)
            rows = _rows(response)
            found.update(_pick(rows, wanted))
            ids = {id_of(row) for row in rows}
            if len(found) == len(set(wanted)) or ids <= known:
                break
            known |= ids
            if _is_all(response, len(known), asked=PAGE * page):
                break
        return found

    def _history_page(self, ref: ModelRef, *, page: int, limit: int) -> Flow[Response]:
        response = yield from self._read(
            Area.PRIVATE,
            f"{self.base_url}/wapi/p/aggregate/batch-history",
            {
                "page": str(page),
                "limit": str(limit),
                "catalogId": ref.catalog_id,
                "modelId": ref.model_id,
            },
        )
        if response.status not in (401, 403, 404):
            check(response, "read the build history", role=VIEW)
        return response

    def _batches_by_instances(
        self, ref: ModelRef, wanted: Collection[str], refusal: Response
    ) -> Flow[dict[str, Batch]]:
        found = {}
        for batch_id in wanted:
            try:
                instances = yield from self.instances(batch_id, ref)
            except AtScaleApiError as error:
                if error.http_status_code in (401, 403, 404):
                    check(refusal, "read the build history, and neither the instances", role=VIEW)
                raise
            # A server that ignores the filter must not be able to pass another batch's end off as ours.
            batch = instances_as_batch(batch_id, [each for each in instances if each.batch_id == batch_id])
            if batch is not None:
                found[batch_id] = batch
        return found

    def start(
        self,
        ref: ModelRef,
        *,
        is_full_build: bool,
        grace_period_overrides: Mapping[str, Any],
        before_post: Callable[[], None],
    ) -> Flow[StartOutcome]:
        """Start a batch (``POST /v1/aggregates-batch/catalogs/<id>/models/<id>?isFullBuild=``)."""
        headers = yield from self._auth.headers(Area.PUBLIC)
        request = Request(
            "POST",
            f"{self._public}/aggregates-batch/catalogs/{quote(ref.catalog_id, safe='')}"
            f"/models/{quote(ref.model_id, safe='')}",
            params={"isFullBuild": "true" if is_full_build else "false"},
            headers=_JSON,
            json={"gracePeriodOverrides": dict(grace_period_overrides)},
            repeatable=False,
        )
        response = yield from post_once(request, headers, before_post)
        if isinstance(response, LostReply):
            return response
        return read_start(response, ref, MANAGE)

    # --- instances ---

    def instances(self, batch_id: str, ref: ModelRef | None = None) -> Flow[tuple[AggregateInstance, ...]]:
        """Read all instances of a batch (``GET /v1/aggregates/instances?batchId=``)."""
        del ref
        known: dict[str, AggregateInstance] = {}
        for page in range(1, MAX_PAGES + 1):
            response = yield from self._instances_page(batch_id, page=page, size=PAGE)
            rows = _rows(response)
            instances = [instance for instance in map(parse_instance, rows) if instance is not None]
            if len(instances) < len(rows):
                raise response.malformed("has an instance without id or status")
            fresh = [each for each in instances if each.id not in known]
            known.update({each.id: each for each in fresh if each.batch_id in (None, batch_id)})
            total = response.json().get("total")
            # Some builds ignore page and size and tell no total: a page that brings nothing new ends it.
            if not fresh or (isinstance(total, int) and len(known) >= total):
                break
        return tuple(known.values())

    def _instances_page(self, batch_id: str, *, page: int, size: int) -> Flow[Response]:
        response = yield from self._read(
            Area.PUBLIC,
            f"{self._public}/aggregates/instances",
            {"batchId": batch_id, "page": str(page), "size": str(size)},
        )
        check(response, f"read the instances of batch {batch_id}", role=VIEW)
        return response

    def locate(self, batch_id: str) -> Flow[ModelRef | None]:
        """Find the model of a batch through its instances."""
        response = yield from self._instances_page(batch_id, page=1, size=PAGE)
        for row in _rows(response):
            each = parse_instance(row)
            if each and each.batch_id == batch_id and each.catalog_id and each.model_id:
                return ModelRef(each.catalog_id, each.model_id, each.catalog_id, each.model_id)
        return None

    # --- testing a connection ---

    def probe(self) -> Iterator[tuple[str, Flow[str]]]:
        """Return the steps of a connection test."""
        yield "reach the host", self._probe_host()
        yield "use the credentials", self._probe_credentials()
        yield "read the build history", self._probe_history()

    def _probe_host(self) -> Flow[str]:
        response: Response = yield Request("GET", f"{self.base_url}/engine/version", headers=_ACCEPT)
        version = response.text.strip() if response.ok and len(response.body) < 80 else ""
        return f"the host answers{f' (version {version})' if version else ''}"

    def _probe_credentials(self) -> Flow[str]:
        yield from self._auth.headers(Area.PRIVATE)
        refs = yield from self.models()
        return f"the credentials are accepted ({len(refs)} models are deployed)"

    def _probe_history(self) -> Flow[str]:
        refs = yield from self.models()
        if not refs:
            response = yield from self._read(
                Area.PUBLIC, f"{self._public}/aggregates/instances", {"page": "1", "size": "1"}
            )
            check(response, "read aggregate instances", role=VIEW)
            return "aggregates can be read (no model is deployed, so no build history was read)"
        response = yield from self._history_page(refs[0], page=1, limit=1)
        check(response, "read the build history", role=VIEW)
        _rows(response)
        return "the build history can be read"

    # --- helpers ---

    def history_url(self, ref: ModelRef | None, batch_id: str | None) -> str:
        """Return the build history page, or the Design Center where its address is not configured."""
        return fill_history_url(self._build_history_url, self.base_url + "/", ref, batch_id)

    def _read(self, area: Area, url: str, params: Mapping[str, str] | None = None) -> Flow[Response]:
        return (yield from call(self._auth, area, Request("GET", url, params or {}, _ACCEPT)))


def _entry(row: Any) -> dict[str, Any] | None:
    """Return id, name and caption of a catalog or model; None for what cannot be built."""
    row_id = id_of(row)
    # Perspectives are listed like models and have no aggregates of their own.
    if row_id is None or row.get("type") not in (None, "model"):
        return None
    return {"id": row_id, "name": text_of(row, "name"), "caption": text_of(row, "caption")}


def _rows(response: Response) -> list[Any]:
    """Return the rows of a list answer."""
    body = response.json()
    rows = body.get("data") if isinstance(body, Mapping) else None
    if not isinstance(rows, list):
        raise response.malformed("has no list 'data'")
    return rows


def _is_all(response: Response, seen: int, *, asked: int) -> bool:
    """Return whether a list ends here, by its total or, where it tells none, by a page that is not full."""
    total = response.json().get("total")
    return seen >= total if isinstance(total, int) else seen < asked


def _pick(rows: list[Any], wanted: Collection[str]) -> dict[str, Batch]:
    """Return the wanted batches among the rows; only their rows are parsed, for a poll reads many."""
    found = {}
    for row in rows:
        row_id = id_of(row)
        if row_id in wanted and row_id is not None:
            batch = parse_batch(row)
            if batch is not None:
                found[row_id] = batch
    return found


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
    if response.status in (408, 502, 503, 504):
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
