"""
The installer edition's calls (projects and cubes; "I20xx"), each a flow.

What the container edition calls a catalog and a model is a project and a cube here. AtScale documents the
start, in words, and the instances. The other forms of the start, the build history and the lists of projects
are known from clients only, AtScale's among them. So whatever is not documented has a fallback, and a pair of
ids needs none of the lists. :mod:`~airflow_provider_atscale.api.calls` lists the calls with their sources.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api import calls
from airflow_provider_atscale.api.auth import Area, Auth
from airflow_provider_atscale.api.edition import ACCEPT_JSON, Edition, Owner, has_id, id_of_nothing
from airflow_provider_atscale.api.errors import REFUSALS, answer_of, server_message
from airflow_provider_atscale.api.flow import Flow, Request, Response
from airflow_provider_atscale.api.history import PAGE_SIZE, Found, Page
from airflow_provider_atscale.api.installer_projects import (
    Version,
    choose_version,
    latest_versions,
    parse_version,
)
from airflow_provider_atscale.api.installer_start import (
    WHERE_IDS_ARE,
    Engine,
    known_variants,
    no_start_error,
    start_request,
    variants_to_try,
)
from airflow_provider_atscale.api.models import Batch, History, HistoryUnavailable, ModelRef
from airflow_provider_atscale.api.start import StartOutcome, post_once, read_start
from airflow_provider_atscale.api.values import number_of, value_at
from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleConfigurationError,
    AtScaleError,
    AtScaleMalformedAnswerError,
    AtScaleNotFoundError,
)

if TYPE_CHECKING:
    from airflow_provider_atscale.api.calls import Call

MANAGE = 'a role with the permission "Manage Aggregates"'
VIEW = 'a role with the permission "View Aggregates"'


class InstallerEdition(Edition):
    """
    The calls of one installer server.

    :param environment: Id of the environment, for old engines; None if there is none.
    :param engine_choice: Whether an engine whose start does not say the kind of build may choose it.
    """

    name = "installer"
    view_right = VIEW
    _catalog_word, _model_word, _server_word = "project", "cube", "engine"

    def __init__(
        self,
        engine_url: str,
        design_center_url: str,
        auth: Auth,
        organization: str = "default",
        environment: str | None = None,
        *,
        engine_choice: bool = False,
        build_history_url: str | None = None,
    ) -> None:
        super().__init__(engine_url, auth, design_center_url, build_history_url)
        self._engine = Engine(engine_url, organization, environment)
        self._engine_choice = engine_choice
        self._has_only_last_batches = False
        self._confirmed_filters: set[str] = set()
        self._forbidden: dict[str, Mapping[str, str]] = {}

    # --- projects and cubes ---

    def _catalogs(self) -> Flow[list[Version]]:
        """Read all published versions of all projects, except those that were published softly."""
        response = yield from self._read(calls.INSTALLER_PROJECTS)
        if response.status == 404 and self._engine.environment:
            response = yield from self._read(calls.INSTALLER_OLD_PROJECTS, {"includeCubes": "true"})
        if response.status == 404:
            raise AtScaleNotFoundError(
                f"{response.url} was not found (HTTP 404: {server_message(response)}). Check organization and "
                "engine_url (port 10502) of the connection, or give project and cube by their ids. "
                f"{WHERE_IDS_ARE}.",
                404,
            )
        self._check(response, "list the published projects")
        versions = response.parse_all(_rows(response, "projects"), parse_version, "a project without id")
        return [version for version in versions if not version.is_soft]

    def _current(self, catalogs: Sequence[Version]) -> Sequence[Version]:
        return latest_versions(catalogs)

    def _choose(self, wanted: str, catalogs: Sequence[Version]) -> Version:
        return choose_version(wanted, catalogs, self.base_url)

    # --- the start ---

    def check_overrides(self, overrides: Mapping[str, Any]) -> None:
        """Raise if there are grace period overrides: no start of this edition takes them."""
        if overrides:
            raise AtScaleConfigurationError(
                f"grace_period_overrides is {dict(overrides)!r}, but the installer edition's start takes no "
                "such overrides; AtScale offers them in the container edition only. Leave them out: the grace "
                "periods of the cube's datasets apply. Nothing was started."
            )

    def start(
        self,
        ref: ModelRef,
        *,
        is_full_build: bool,
        grace_period_overrides: Mapping[str, Any],
        before_post: Callable[[bool], None],
    ) -> Flow[StartOutcome]:
        """
        Start a batch with the first variant of the start call that the engine has.

        The next variant is tried only after a 404, which says that nothing was started. One of them, the path
        ``org_id/project_id`` with ``cubeID``, is no more than the documentation's wording taken literally.
        """
        self.check_overrides(grace_period_overrides)
        # "Rebuild all aggregates" is what AtScale says that a start without a kind does.
        any_kind = is_full_build or self._engine_choice
        answers: list[str] = []
        for variant in variants_to_try(self._engine, any_kind=any_kind):
            headers = yield from self._auth.headers(Area.PUBLIC)
            request = start_request(variant, self._engine, ref, headers, is_full_build=is_full_build)
            response = yield from post_once(request, partial(before_post, variant.sends_kind))
            if isinstance(response, Response) and response.status == 404:
                answers.append(answer_of(response))
                continue
            if isinstance(response, Response):
                outcome = read_start(response, ref, needs=MANAGE, advice=self._auth.advice)
            else:
                outcome = response
            known_variants[self._engine] = variant
            return outcome
        versions: list[Version] | None
        try:
            versions = yield from self._catalogs()
        except AtScaleError:
            versions = None
        raise no_start_error(self._engine, ref, answers, versions, needs_kind=not any_kind)

    # --- batches ---

    def history(self, ref: ModelRef) -> Flow[History | HistoryUnavailable]:
        """Read a cube's newest batches, or its last batch if the engine lists no more."""
        history = yield from super().history(ref)
        variant = known_variants.get(self._engine)
        if isinstance(history, History) and variant is not None and not variant.sends_kind:
            # The engine chose the kind, so a kind that was not asked for does not make a batch another's.
            batches = tuple(replace(batch, is_full_build=None) for batch in history.batches)
            return replace(history, batches=batches)
        return history

    def batches(self, ref: ModelRef, wanted: Collection[str]) -> Flow[Found]:
        """
        Search batches of a cube by their ids.

        Old engines list only the last batch of each cube. The aggregates of an earlier one may still be listed.
        """
        found = yield from super().batches(ref, wanted)
        earlier = [batch_id for batch_id in wanted if batch_id not in found]
        if not self._has_only_last_batches or not earlier:
            return found
        try:
            listed = yield from self._batches_by_instances(earlier, None)
        except AtScaleApiError:
            return found
        return {**found, **{key: each for key, each in listed.items() if isinstance(each, Batch)}}

    def _newest_history(self, ref: ModelRef, limit: int) -> Flow[Response]:
        """Read the history or, of an old engine that has none, the last batch of each cube."""
        if not self._has_only_last_batches:
            response = yield from super()._newest_history(ref, limit)
            if response.status != 404 or not self._engine.environment:
                return response
        response = yield from self._read(calls.INSTALLER_LAST_BATCHES)
        if response.status not in REFUSALS:
            self._check(response, "read the last batch of each cube")
        self._has_only_last_batches = response.ok
        return response

    def _read_history(self, ref: ModelRef, limit: int, number: int, before: int) -> Flow[Response]:
        del number
        params = {"limit": str(limit), **self._model_params(ref)}
        if before:
            params["offset"] = str(before)
        return self._read(calls.INSTALLER_HISTORY, params)

    def _history_page(self, response: Response, ref: ModelRef, limit: int) -> Page:
        body = response.json()
        last_batches = value_at(body, "response", "batches")
        if isinstance(last_batches, list):
            rows = _last_batch(last_batches, ref)
            return Page(response, rows, total=len(rows))
        rows = response.rows_in(body, "response", "data")
        # There is no total. The server may have a limit of its own, which is then the size of a full page.
        return Page(response, rows, size=min(limit, int(number_of(body["response"], "limit") or limit)))

    def _why_refused(self, response: Response) -> str:
        hint = {
            403: f"it takes {VIEW}",
            404: f"an old engine has a list of its own, {self._engine.on_old_calls}",
        }.get(response.status, self._auth.advice)
        return f"{answer_of(response)}; {hint}"

    # --- instances ---

    def _model_params(self, ref: ModelRef) -> dict[str, str]:
        return {"projectId": ref.catalog_id, "cubeId": ref.model_id}

    def _read_instances(self, owner: Owner, number: int, before: int) -> Flow[Page | None]:
        params = dict(owner.params)
        if number > 1:
            params.update(limit=str(PAGE_SIZE), offset=str(before))
        response = yield from self._read(calls.INSTALLER_INSTANCES, params)
        if number > 1 and response.status in (400, 404):
            # The documented call has no paging, and it has answered before.
            return None
        self._check(response, f"read the instances of {owner}")
        return Page(response, _rows(response, "data"))

    def _confirm_filter(self, owner: Owner) -> Flow[None]:
        """
        Raise unless the server filters: for an id that no batch or cube has, it must list nothing.

        The documented rows do not name their batch. It is asked after rows came, so there are some to show.
        """
        *_, (name, wanted) = owner.params.items()
        if name in self._confirmed_filters:
            return
        params = {**owner.params, name: id_of_nothing(wanted)}
        response = yield from self._read(calls.INSTALLER_INSTANCES, params)
        if response.status not in (400, 404):
            self._check(response, f"read the instances of {owner}")
            if _rows(response, "data"):
                raise AtScaleMalformedAnswerError(
                    f"{response.url} lists aggregates even for a {owner.noun} that does not exist, and its rows "
                    f"name no {owner.noun}. So which of them belong to {owner} cannot be told.",
                    response.status,
                )
        self._confirmed_filters.add(name)

    # --- helpers ---

    def _version_url(self) -> str:
        return self._engine.url_of(calls.INSTALLER_VERSION)

    def _read(self, what: Call, params: Mapping[str, str] | None = None) -> Flow[Response]:
        """Read from the engine; after refused credentials renew them once and read again."""
        request = Request(what.method, self._engine.url_of(what), params or {}, ACCEPT_JSON)
        used = yield from self._auth.headers(Area.PUBLIC)
        response: Response = yield request.with_headers(used)
        # Engines answer 401 or 403 to an expired token. A 403 to a new token is a missing permission.
        is_missing_permission = response.status == 403 and self._forbidden.get(what.path) == used
        if response.status not in (401, 403) or is_missing_permission:
            return response
        if (yield from self._auth.renew(Area.PUBLIC, used)):
            used = yield from self._auth.headers(Area.PUBLIC)
            response = yield request.with_headers(used)
            if response.status == 403:
                self._forbidden[what.path] = used
        return response


def _rows(response: Response, name: str) -> list[Any]:
    """Return the rows of a list answer: the envelope's content, or what stands in it under a name."""
    body = response.json()
    is_bare = isinstance(value_at(body, "response"), list)
    return response.rows_in(body, "response", *([] if is_bare else [name]))


def _last_batch(rows: Sequence[Any], ref: ModelRef) -> list[Any]:
    """Return the batch of a cube in a list of the last batch of each cube, if it has one."""
    of_cube = [row for row in rows if isinstance(row, Mapping) and has_id(row, ref.model_id, "cubeId")]
    # Versions of a project may share a cube.
    of_project = [row for row in of_cube if has_id(row, ref.catalog_id, "projectId")]
    batches = [row.get("batch") for row in of_project or of_cube]
    return [batch for batch in batches if batch is not None]
