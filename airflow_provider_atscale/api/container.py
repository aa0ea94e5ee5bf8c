"""
The container edition's calls (catalogs and models; "C20xx" and newer), each a flow.

Documented are the start (``POST /v1/aggregates-batch/...``) and the instances
(``GET /v1/aggregates/instances``). The build history is the Design Center's own call
(``GET /wapi/p/aggregate/batch-history``): no documented call returns a batch, so it comes first and the
documented one second, because instances alone cannot show a batch that has none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from airflow_provider_atscale.api.auth import Area, Auth, call
from airflow_provider_atscale.api.edition import fill_history_url
from airflow_provider_atscale.api.errors import check, server_message
from airflow_provider_atscale.api.flow import Flow, Request, Response
from airflow_provider_atscale.api.history import (
    MAX_PAGES,
    NEWEST,
    PAGE,
    Found,
    Page,
    batches_by_instances,
    search,
)
from airflow_provider_atscale.api.models import (
    AggregateInstance,
    History,
    HistoryUnavailable,
    Instances,
    ModelRef,
    parse_batch,
    parse_instance,
)
from airflow_provider_atscale.api.names import is_id, match_exactly_one, model_refs, title
from airflow_provider_atscale.api.start import LostReply, StartOutcome, post_once, read_start
from airflow_provider_atscale.api.values import id_of, text_of
from airflow_provider_atscale.exceptions import AtScaleNotFoundError

_JSON = {"Content-Type": "application/json", "Accept": "application/json"}
_ACCEPT = {"Accept": "application/json"}

#: How many rows come where a server ignores the page size that it is asked for.
UNASKED_PAGE = 10

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
    view_right = f"the role {VIEW}"

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
        if is_id(catalog) and is_id(model):
            return ModelRef(catalog, model, catalog, model)
        catalogs = yield from self._catalogs()
        found = match_exactly_one("catalog", catalog, catalogs, self.base_url)
        inner = match_exactly_one(
            "model", model, found["models"], f"catalog {title(found)!r} of {self.base_url}"
        )
        return ModelRef(found["id"], inner["id"], title(found), title(inner))

    def models(self, catalog: str | None = None) -> Flow[list[ModelRef]]:
        """List the deployed models (``GET /v1/catalogs``)."""
        catalogs = yield from self._catalogs()
        chosen = (
            catalogs if catalog is None else [match_exactly_one("catalog", catalog, catalogs, self.base_url)]
        )
        return model_refs(chosen, catalogs, "models")

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
            # Perspectives are listed like models and have no aggregates of their own.
            inner = [
                _entry(model)
                for model in (models if isinstance(models, list) else ())
                if not isinstance(model, Mapping) or model.get("type") in (None, "model")
            ]
            catalogs.append({**entry, "models": [model for model in inner if model is not None]})
        return catalogs

    # --- batches ---

    def check_overrides(self, overrides: Mapping[str, Any]) -> None:
        """Accept grace period overrides: this edition takes them."""

    def history(self, ref: ModelRef) -> Flow[History | HistoryUnavailable]:
        """Read a model's newest batches (``GET /wapi/p/aggregate/batch-history``)."""
        response = yield from self._history_page(ref, page=1, limit=PAGE)
        if response.status in (401, 403, 404):
            said = f"{response.url} answers HTTP {response.status}: {server_message(response)}"
            return HistoryUnavailable(said, response.status)
        rows = _rows(response)
        batches = [batch for batch in map(parse_batch, rows) if batch is not None]
        if len(batches) < len(rows):
            raise response.malformed("has a batch without id or status")
        return History(tuple(batch for batch in batches if batch.is_rebuild), response.date)

    def batches(self, ref: ModelRef, wanted: Collection[str]) -> Flow[Found]:
        """Look for batches by their ids: in the history, or in their instances where it may not be read."""
        response = yield from self._history_page(ref, page=1, limit=NEWEST)
        if response.status in (401, 403, 404):
            return (yield from self._batches_by_instances(wanted, response))
        first = _page(response, seen=0, asked=NEWEST)

        def read(number: int, seen: int) -> Flow[Page]:
            response = yield from self._history_page(ref, page=number, limit=PAGE)
            check(response, "read the build history", role=VIEW)
            return _page(response, seen, asked=PAGE)

        return (yield from search(first, read, wanted))

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

    def _batches_by_instances(self, wanted: Collection[str], refusal: Response) -> Flow[Found]:
        def read(batch_id: str) -> Flow[Instances]:
            listed = yield from self.instances(batch_id)
            # A server that ignores the filter must not be able to pass another batch's end off as ours.
            own = [each for each in listed if each.batch_id == batch_id]
            return Instances.of(own, is_truncated=listed.is_truncated)

        def refused() -> None:
            check(refusal, "read the build history, and neither the instances", role=VIEW)

        return (yield from batches_by_instances(wanted, read, refusal, refused, self.view_right))

    def start(
        self,
        ref: ModelRef,
        *,
        is_full_build: bool,
        grace_period_overrides: Mapping[str, Any],
        before_post: Callable[[bool], None],
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
        response = yield from post_once(request, headers, partial(before_post, True))
        if isinstance(response, LostReply):
            return response
        return read_start(response, ref, MANAGE)

    # --- instances ---

    def instances(self, batch_id: str, ref: ModelRef | None = None) -> Flow[Instances]:
        """Read all instances of a batch (``GET /v1/aggregates/instances?batchId=``)."""
        del ref
        known: dict[str, AggregateInstance] = {}
        seen: set[str] = set()
        is_truncated = True
        for page in range(1, MAX_PAGES + 1):
            response = yield from self._instances_page(batch_id, page=page, size=PAGE)
            rows, total = _list(response)
            instances = [instance for instance in map(parse_instance, rows) if instance is not None]
            if len(instances) < len(rows):
                raise response.malformed("has an instance without id or status")
            fresh = [each for each in instances if each.id not in seen]
            seen.update(each.id for each in fresh)
            known.update({each.id: each for each in fresh if each.batch_id in (None, batch_id)})
            # Some builds ignore page and size and tell no total: a page that brings nothing new ends it.
            if total is not None and len(seen) >= total:
                is_truncated = False
                break
            if not fresh:
                is_truncated = len(seen) < total if total is not None else len(rows) == UNASKED_PAGE
                break
        return Instances.of(tuple(known.values()), is_truncated=is_truncated)

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
    """Return id, name and caption of a catalog or model; None where it has no id."""
    row_id = id_of(row)
    if row_id is None:
        return None
    return {"id": row_id, "name": text_of(row, "name"), "caption": text_of(row, "caption")}


def _rows(response: Response) -> list[Any]:
    """Return the rows of a list answer."""
    return _list(response)[0]


def _list(response: Response) -> tuple[list[Any], int | None]:
    """Return the rows of a list answer, and how many the server says there are."""
    body = response.json()
    rows = body.get("data") if isinstance(body, Mapping) else None
    if not isinstance(rows, list):
        raise response.malformed("has no list 'data'")
    total = body.get("total")
    return rows, total if isinstance(total, int) and not isinstance(total, bool) and total >= 0 else None


def _page(response: Response, seen: int, *, asked: int) -> Page:
    """Return a page; it is the last by its total or, where the server tells none, by not being full."""
    rows, total = _list(response)
    return Page(rows, len(rows) < asked if total is None else seen + len(rows) >= total)
