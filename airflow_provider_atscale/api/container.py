"""
The container edition's calls (catalogs and models; "C20xx" and newer), each a flow.

AtScale documents the start and the instances. The build history is the Design Center's own call: no documented
call returns a batch. So the history comes first, and the instances second, because instances alone cannot show
a batch that has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api import calls
from airflow_provider_atscale.api.auth import Area, Auth, call
from airflow_provider_atscale.api.edition import ACCEPT_JSON, Edition, Owner
from airflow_provider_atscale.api.flow import Flow, Request, Response
from airflow_provider_atscale.api.history import PAGE_SIZE, Page
from airflow_provider_atscale.api.models import Instances, ModelRef
from airflow_provider_atscale.api.names import Catalog, parse_models, parse_names
from airflow_provider_atscale.api.start import LostReply, StartOutcome, post_once, read_start
from airflow_provider_atscale.api.values import value_at
from airflow_provider_atscale.exceptions import AtScaleNotFoundError

if TYPE_CHECKING:
    from airflow_provider_atscale.api.calls import Call

MANAGE = "the role aggregates_manage"
VIEW = "the role aggregates_view"

#: Settings without which AtScale may refuse an incremental build by API. Both are off by default.
INCREMENTAL_HINT = (
    "AtScale may refuse incremental builds by API until two settings are on, and both are off by default: "
    "aggregate.batch.gracePeriodOverrides.enabled in the engine's settings, which an AtScale administrator "
    "sets, and aggregate.batch.cube.gracePeriodOverrides.enabled in the model's settings, which the model's "
    "owner sets. A full build needs neither."
)


class ContainerEdition(Edition):
    """The calls of one container server."""

    name = "container"
    view_right = VIEW

    def __init__(
        self, base_url: str, auth: Auth, api_prefix: str = "/v1", build_history_url: str | None = None
    ) -> None:
        super().__init__(base_url, auth, base_url, build_history_url)
        self._prefix = api_prefix

    # --- catalogs and models ---

    def _catalogs(self) -> Flow[list[Catalog]]:
        response = yield from self._read(Area.PUBLIC, calls.CATALOGS)
        if response.status == 404:
            raise AtScaleNotFoundError(
                f"{response.url} was not found (HTTP 404). Check host and api_prefix of the connection, or "
                "give catalog and model by their ids (Deployed Catalogs > catalog > Build > Copy cURL).",
                404,
            )
        self._check(response, "list the catalogs")
        return response.parse_all(response.rows_in(response.json()), _parse_catalog, "a catalog without id")

    # --- batches ---

    def check_overrides(self, overrides: Mapping[str, Any]) -> None:
        """Accept grace period overrides: this edition takes them."""

    def start(
        self,
        ref: ModelRef,
        *,
        is_full_build: bool,
        grace_period_overrides: Mapping[str, Any],
        before_post: Callable[[bool], None],
    ) -> Flow[StartOutcome]:
        """Start a batch, with one POST that is never repeated."""
        headers = yield from self._auth.headers(Area.PUBLIC)
        request = Request(
            calls.START.method,
            calls.START.url(self.base_url, self._prefix, catalog=ref.catalog_id, model=ref.model_id),
            params={"isFullBuild": "true" if is_full_build else "false"},
            headers={"Content-Type": "application/json", **ACCEPT_JSON, **headers},
            json={"gracePeriodOverrides": dict(grace_period_overrides)},
            repeatable=False,
        )
        response = yield from post_once(request, partial(before_post, True))
        if isinstance(response, LostReply):
            return response
        hint = "" if is_full_build else INCREMENTAL_HINT
        return read_start(response, ref, needs=MANAGE, advice=self._auth.advice, hint=hint)

    def _read_history(self, ref: ModelRef, limit: int, number: int, before: int) -> Flow[Response]:
        del before
        params = {"page": str(number), "limit": str(limit), **self._model_params(ref)}
        return self._read(Area.PRIVATE, calls.HISTORY, params)

    def _history_page(self, response: Response, ref: ModelRef, limit: int) -> Page:
        del ref
        return _page(response, limit)

    # --- instances ---

    def _model_params(self, ref: ModelRef) -> dict[str, str]:
        return {"catalogId": ref.catalog_id, "modelId": ref.model_id}

    def _read_instances(self, owner: Owner, number: int, before: int) -> Flow[Page | None]:
        del before
        params = {**owner.params, "page": str(number), "size": str(PAGE_SIZE)}
        response = yield from self._read(Area.PUBLIC, calls.INSTANCES, params)
        self._check(response, f"read the instances of {owner}")
        return _page(response, PAGE_SIZE)

    def _instances_that_judge(self, batch_id: str) -> Flow[Instances]:
        # This edition's rows name their batch. A row that does not is shown, and judges nothing.
        listed = yield from self.instances(batch_id)
        own = [each for each in listed if each.batch_id == batch_id]
        return Instances.of(own, is_truncated=listed.is_truncated)

    # --- helpers ---

    def _version_url(self) -> str:
        return calls.VERSION.url(self.base_url)

    def _read(self, area: Area, what: Call, params: Mapping[str, str] | None = None) -> Flow[Response]:
        request = Request(what.method, what.url(self.base_url, self._prefix), params or {}, ACCEPT_JSON)
        return call(self._auth, area, request)


def _parse_catalog(row: Any) -> Catalog | None:
    names = parse_names(row)
    if names is None:
        return None
    models = row.get("models")
    # Perspectives are listed like models and have no aggregates of their own.
    rows = [
        model
        for model in (models if isinstance(models, list) else ())
        if not isinstance(model, Mapping) or model.get("type") in (None, "model")
    ]
    return Catalog(**names, models=parse_models(rows))


def _page(response: Response, size: int) -> Page:
    body = response.json()
    rows, total = response.rows_in(body, "data"), value_at(body, "total")
    is_count = isinstance(total, int) and not isinstance(total, bool) and total >= 0
    return Page(response, rows, total if is_count else None, size)
