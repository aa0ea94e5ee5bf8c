"""The REST API of the installer edition: one port for the Design Center, one for the engine."""

from __future__ import annotations

import base64
import binascii
import json
import uuid
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.testing.aggregates import SUBTYPE, duration, find_definitions, find_instances
from airflow_provider_atscale.testing.models import AlreadyRunningError, UnknownModelError
from airflow_provider_atscale.testing.wire import (
    LARGEST_PAGE,
    Call,
    Edition,
    RefusedError,
    Reply,
    Route,
    fine_moment,
    moment,
    times,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_atscale.testing.aggregates import Definition
    from airflow_provider_atscale.testing.batches import Batch, Instance
    from airflow_provider_atscale.testing.models import Catalog

_VERSION = "2024.2.1.8888"
_CLIENT = "design-center"
_PAGE = 10
_DAY = 86_400
_PHRASES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class InstallerEdition(Edition):
    """Answer as the installer edition does, on two ports."""

    name = "installer"
    roles = ("design_center", "engine")

    def routes(self, role: str) -> Sequence[Route]:
        """Return the routes of the Design Center or of the engine."""
        if role == "design_center":
            return [
                Route("login", "GET", "/{org}/auth", self._login),
                Route("login page", "GET", "/login", self._login_page),
                Route("organizations", "GET", "/api/1.0/orgs", self._organizations),
                Route("session", "GET", "/api/1.0/sessiontoken", self._session),
            ]
        start = self._start
        return [
            Route("history", "GET", "/aggregate-batch/orgId/{org}/history", self._history),
            Route("latest", "GET", "/aggregate-batch/orgId/{org}/envId/{env}", self._latest),
            Route("start", "POST", "/aggregate-batch/orgId/{org}/projectId/{project}", start("project_id")),
            Route("start", "POST", "/aggregate-batch/orgId/{org}/envId/{env}/{project}", start("environment")),
            Route("start", "POST", "/aggregate-batch/{org}/{project}", start("literal")),
            Route("definitions", "GET", "/aggregates/orgId/{org}", self._definitions),
            Route("instances", "GET", "/aggregates/orgId/{org}/instances", self._instances),
            Route("catalogs", "GET", "/projects/published/orgId/{org}", self._published),
            Route("projects", "GET", "/projects/orgId/{org}/envId/{env}", self._projects),
            Route("version", "GET", "/version", self._version),
        ]

    def error(self, status: int, message: str) -> Reply:
        """Make an error answer in the engine's envelope."""
        phrase = _PHRASES.get(status, "Error")
        return Reply.json(
            {"status": {"message": phrase, "i18n_message": phrase}, "response": {"message": message}}, status
        )

    def connection(self, auth: str, urls: Mapping[str, str]) -> dict[str, Any]:
        """Describe the Airflow connection to this engine."""
        connection: dict[str, Any] = {
            "conn_type": "atscale",
            "host": urls["design_center"],
            "extra": {
                "edition": self.name,
                "auth_type": auth,
                "organization": self.state.organization,
                "environment": self.state.environment,
                "design_center_url": urls["design_center"],
                "engine_url": urls["engine"],
            },
        }
        if auth in ("auto", "password"):
            connection["login"] = self.state.login
            connection["password"] = self.state.password
        elif auth == "api_token":
            connection["password"] = self.state.api_token
        elif auth == "client_api_key":
            connection["password"] = self.state.client_api_key
        else:
            raise ValueError(f"The installer edition has no authentication {auth!r}")
        return connection

    def _version(self, _: Call) -> Reply:
        return Reply.text(self.state.current.version or _VERSION)

    def _login(self, call: Call) -> Reply:
        scheme, _, credentials = call.headers.get("Authorization", "").partition(" ")
        try:
            text = base64.b64decode(credentials, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            text = ""
        login, _, password = text.partition(":")
        if scheme.lower() != "basic" or (login, password) != (self.state.login, self.state.password):
            raise RefusedError(401, "The credentials are not valid")
        self._check_organization(call)
        self.state.request_log.token_issued()
        token = self.state.tokens.issue(login, _CLIENT, self.state.current.token_ttl)
        return Reply.text(token + "\n" if self.state.current.login_newline else token)

    def _login_page(self, _: Call) -> Reply:
        # AtScale's client reads from this page whether an organization allows logins by password.
        organization = {"id": self.state.organization, "name": self.state.organization, "OAuth": "", "SAML": {}}
        return Reply.html(f"<script>window.organizations = {json.dumps([organization])};</script>")

    def _organizations(self, call: Call) -> Reply:
        self._check_bearer(call)
        return _envelope([{"id": self.state.organization, "name": self.state.organization}])

    def _session(self, call: Call) -> Reply:
        claims = self.state.tokens.claims(call.bearer)
        if claims is None:
            raise RefusedError(401, "The token is not valid")
        return _envelope({"user_id": claims["preferred_username"], "generated_at": moment(claims["iat"])})

    def _published(self, call: Call) -> Reply:
        self._check_engine_access(call)
        return _envelope([row for catalog in self.state.store.catalogs.values() for row in _versions(catalog)])

    def _projects(self, call: Call) -> Reply:
        self._check_engine_access(call)
        with_cubes = call.truth("includeCubes", default=False)
        projects = [
            {
                "id": catalog.id,
                "name": catalog.caption,
                **({"cubes": [{"id": m.id, "name": m.caption} for m in catalog.models]} if with_cubes else {}),
            }
            for catalog in self.state.store.catalogs.values()
        ]
        return _envelope({"projects": projects})

    def _start(self, form: str) -> Any:
        cube_key = "cubeID" if form == "literal" else "cubeId"

        def start(call: Call) -> Reply:
            if form not in self.state.current.start_forms:
                raise RefusedError(404, "The requested resource could not be found.")
            self._check_engine_access(call)
            if not self.state.current.can_manage:
                raise RefusedError(403, "The user lacks the permission Manage Aggregates")
            cube = call.query.get(cube_key)
            if not cube:
                raise RefusedError(400, f"Request is missing required query parameter '{cube_key}'")
            # The oldest form has no such parameter, and none of the forms is documented to require it.
            is_full_build = form != "environment" and call.truth("isFullBuild", default=False)
            # AtScale's script for the oldest form accepts no other status than 200.
            status = self.state.current.start_status or (200 if form == "environment" else 201)
            return self._begin(call.params["project"], cube, is_full_build, status)

        return start

    def _begin(self, project: str, cube: str, is_full_build: bool, status: int) -> Reply:
        store = self.state.store
        settings = self.state.current
        try:
            batch = store.start(store.deployed(project, cube), is_full_build=is_full_build)
        except UnknownModelError as error:
            raise RefusedError(404, str(error)) from None
        except AlreadyRunningError as error:
            if settings.on_second_start == "409":
                raise RefusedError(409, str(error)) from None
            raise RefusedError(500, "There was an internal server error.") from None
        started = {"batch": {"id": batch.id, "status": store.word("new")}}
        if settings.batch_envelope == "response":
            return _envelope(started, status)
        return Reply.json(started, status)

    def _history(self, call: Call) -> Reply:
        mode = self.state.current.history_mode
        if mode == "missing":
            raise RefusedError(404, "The requested resource could not be found.")
        self._check_history_access(call)
        limit = min(call.number("limit", _PAGE), LARGEST_PAGE)
        offset = call.number("offset", 0)
        batches = self.state.store.history(call.query.get("cubeId"), call.query.get("projectId"))
        return _envelope(
            {
                "data": [self._row(batch) for batch in batches[offset : offset + limit]],
                "limit": limit,
                "offset": offset,
                "force_pull": False,
            }
        )

    def _row(self, batch: Batch) -> dict[str, Any]:
        store = self.state.store
        now = store.now()
        style = self.state.current.unset_times
        row: dict[str, Any] = {
            "id": batch.id,
            "organizationId": self.state.organization,
            "projectId": batch.catalog_id,
            "cubeId": batch.model_id,
            "batchType": "aggregate_batch",
            "createDate": moment(batch.created),
            **times(
                "year1" if style == "edition" else style,
                startTime=batch.started(now),
                endTime=batch.ended(now),
            ),
            "estimateTime": store.estimate(batch),
            "isFullBuild": batch.is_full_build,
            "status": store.word(batch.status(now)),
        }
        if batch.ended(now) is not None:
            row["sumOfInstanceBuildTimes"] = duration(store.built(batch))
        return row

    def _latest(self, call: Call) -> Reply:
        self._check_history_access(call)
        self._check_environment(call)
        store = self.state.store
        now = store.now()
        rows = []
        for model in store.models.values():
            batches = store.history(model.id)
            if batches:
                newest = batches[0]
                share = (now - newest.created) / newest.build_seconds if newest.build_seconds else 1
                rows.append(
                    {
                        "projectId": model.catalog_id,
                        "cubeId": model.id,
                        "batch": {
                            "id": newest.id,
                            "status": store.word(newest.status(now)),
                            "progressPercentage": 100 if now >= newest.end else int(100 * min(share, 0.99)),
                        },
                    }
                )
        return _envelope({"batches": rows})

    def _instances(self, call: Call) -> Reply:
        self._check_engine_access(call)
        if not self.state.current.can_view:
            raise RefusedError(403, "The user lacks the permission View Aggregates")
        rows = [self._instance(instance) for instance in find_instances(self.state.store, call)]
        wanted = call.query.get("status")
        rows = [row for row in rows if wanted in (None, row["status"])]
        paging = self.state.current.instances_paging
        fields: dict[str, Any] = {}
        if paging == "ignored":
            rows = rows[:_PAGE]
        elif paging == "normal":
            limit, offset = min(call.number("limit", _PAGE), LARGEST_PAGE), call.number("offset", 0)
            rows, fields = rows[offset : offset + limit], {"limit": limit, "offset": offset}
        return self._engine_envelope({"data": rows, **fields})

    def _definitions(self, call: Call) -> Reply:
        self._check_engine_access(call)
        if not self.state.current.can_view:
            raise RefusedError(403, "The user lacks the permission View Aggregates")
        rows = [self._definition(found) for found in find_definitions(self.state.store, call)]
        ignored = self.state.current.definitions_paging == "ignored"
        limit = _PAGE if ignored else min(call.number("limit", _PAGE), LARGEST_PAGE)
        return self._engine_envelope({"data": rows[:limit]})

    def _definition(self, found: Definition) -> dict[str, Any]:
        return {
            "id": found.aggregate.id,
            # AtScale names an aggregate that it has defined itself by its id.
            "name": found.aggregate.id,
            "project_id": found.model.catalog_id,
            "cube_id": found.model.id,
            "type": "system_defined",
            "subtype": SUBTYPE,
            "blocked": False,
            "attributes": [],
            **({"latest_instance": self._instance(found.latest)} if found.latest else {}),
            **({"active_instance": self._instance(found.active)} if found.active else {}),
        }

    def _engine_envelope(self, response: Any) -> Reply:
        """Wrap an answer as the engine's lists of aggregates are documented."""
        return Reply.json(
            {
                "status": {"code": 0, "message": "200 OK"},
                "responseCreated": moment(self.state.store.now()),
                "response": response,
            }
        )

    def _instance(self, instance: Instance) -> dict[str, Any]:
        style = self.state.current.unset_times
        stats: dict[str, Any] = times(
            "year1" if style == "edition" else style,
            materialization_start_time=instance.started,
            materialization_end_time=instance.ended,
        )
        if instance.started is not None and instance.ended is not None:
            stats["build_duration"] = round((instance.ended - instance.started) * 1000)
        if instance.status == "active":
            stats["number_of_rows"] = instance.aggregate.rows
        # The batch is a documented filter, but the documented rows do not name it.
        named = self.state.current.instances_batch_id == "present"
        return {
            "id": instance.id,
            "status": self.state.store.word(instance.status),
            "message": instance.message,
            "table_name": instance.aggregate.table_name,
            "table_schema": instance.aggregate.table_schema,
            **({"batch_id": instance.batch.id} if named else {}),
            "stats": stats,
            "build_query_id": instance.build_query_id,
            "project_id": instance.batch.catalog_id,
            "cube_id": instance.batch.model_id,
            "definition_id": instance.aggregate.id,
            "connection_id": "con1",
        }

    def _check_organization(self, call: Call) -> None:
        if call.params.get("org") != self.state.organization:
            raise RefusedError(404, f"There is no organization {call.params.get('org')!r}")

    def _check_environment(self, call: Call) -> None:
        if call.params.get("env", self.state.environment) != self.state.environment:
            raise RefusedError(404, f"There is no environment {call.params.get('env')!r}")

    def _check_bearer(self, call: Call) -> None:
        # The API token stands for a token that a user has fetched with the browser.
        if self.state.tokens.is_api_token(call.bearer) or self.state.tokens.claims(call.bearer) is not None:
            return
        raise RefusedError(401, "The token is not valid")

    def _check_engine_access(self, call: Call) -> None:
        if call.headers.get("client-api-key") != self.state.client_api_key:
            self._check_bearer(call)
        self._check_organization(call)
        self._check_environment(call)

    def _check_history_access(self, call: Call) -> None:
        mode = self.state.current.history_mode
        if mode == "unauthorized":
            raise RefusedError(401, "The token is not valid")
        self._check_engine_access(call)
        if mode == "forbidden" or not self.state.current.can_view:
            raise RefusedError(403, "The user lacks the permission View Aggregates")


def _versions(catalog: Catalog) -> list[dict[str, Any]]:
    """
    Return the published versions of a project, of which only one can be built.

    A client must ignore the older version and the newer soft publish.
    """
    draft = uuid.uuid5(uuid.UUID(catalog.id), "draft")
    cubes = [{"id": m.id, "name": m.name, "caption": m.caption} for m in catalog.models]

    def version(identity: str, publish_type: str, published: float) -> dict[str, Any]:
        return {
            "id": identity,
            "name": catalog.caption,
            "linkedProjectId": str(draft),
            "publishType": publish_type,
            # AtScale's client reads no fewer digits than microseconds here.
            "publishedAt": fine_moment(published),
            "cubes": cubes,
        }

    return [
        version(str(uuid.uuid5(draft, "older")), "normal_publish", catalog.published - 30 * _DAY),
        version(catalog.id, "normal_publish", catalog.published),
        version(str(uuid.uuid5(draft, "soft")), "soft_publish", catalog.published + 1),
    ]


def _envelope(response: Any, status: int = 200) -> Reply:
    return Reply.json(
        {"status": {"i18n_message": "response.ok", "message": "OK"}, "response": response}, status
    )
