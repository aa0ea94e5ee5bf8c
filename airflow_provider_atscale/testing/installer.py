"""The REST API of the installer edition: one port for the Design Center, one for the engine."""

from __future__ import annotations

import base64
import binascii
import uuid
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.testing.rows import chosen, duration
from airflow_provider_atscale.testing.wire import (
    LARGEST_PAGE,
    Call,
    Edition,
    RefusedError,
    Reply,
    Route,
    moment,
    times,
    truth,
)
from airflow_provider_atscale.testing.world import AlreadyRunningError, Batch, Instance, UnknownModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_atscale.testing.world import Catalog

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
    """Speak the installer edition's API on two ports."""

    name = "installer"
    roles = ("design_center", "engine")

    def routes(self, role: str) -> Sequence[Route]:
        """List the routes of the Design Center or of the engine."""
        if role == "design_center":
            return [
                Route("login", "GET", "/{org}/auth", self._login),
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
        """Describe the Airflow connection that leads here."""
        connection: dict[str, Any] = {
            "conn_type": "atscale",
            "host": urls["design_center"],
            "extra": {
                "edition": self.name,
                "auth_type": auth,
                "organization": self.core.organization,
                "environment": self.core.environment,
                "design_center_url": urls["design_center"],
                "engine_url": urls["engine"],
            },
        }
        if auth in ("auto", "password"):
            connection["login"] = self.core.login
            connection["password"] = self.core.password
        elif auth == "api_token":
            connection["password"] = self.core.api_token
        elif auth == "client_api_key":
            connection["password"] = self.core.client_api_key
        else:
            raise ValueError(f"The installer edition has no authentication {auth!r}")
        return connection

    def _version(self, _: Call) -> Reply:
        return Reply.text(self.core.current.version or _VERSION)

    def _login(self, call: Call) -> Reply:
        scheme, _, credentials = call.headers.get("Authorization", "").partition(" ")
        try:
            text = base64.b64decode(credentials, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            text = ""
        login, _, password = text.partition(":")
        if scheme.lower() != "basic" or (login, password) != (self.core.login, self.core.password):
            raise RefusedError(401, "The credentials are not valid")
        self._check_organization(call)
        self.core.ledger.exchanged()
        # The newline is there on purpose: clients are to strip the token.
        return Reply.text(self.core.tokens.issue(login, _CLIENT, self.core.current.token_ttl) + "\n")

    def _organizations(self, call: Call) -> Reply:
        self._open_bearer(call)
        return _envelope([{"id": self.core.organization, "name": self.core.organization}])

    def _session(self, call: Call) -> Reply:
        claims = self.core.tokens.claims(call.bearer)
        if claims is None:
            raise RefusedError(401, "The token is not valid")
        return _envelope({"user_id": claims["preferred_username"], "generated_at": moment(claims["iat"])})

    def _published(self, call: Call) -> Reply:
        self._open_engine(call)
        return _envelope([row for catalog in self.core.world.catalogs.values() for row in _versions(catalog)])

    def _projects(self, call: Call) -> Reply:
        self._open_engine(call)
        with_cubes = truth(call, "includeCubes", default=False)
        projects = [
            {
                "id": catalog.id,
                "name": catalog.caption,
                **({"cubes": [{"id": m.id, "name": m.caption} for m in catalog.models]} if with_cubes else {}),
            }
            for catalog in self.core.world.catalogs.values()
        ]
        return _envelope({"projects": projects})

    def _start(self, form: str) -> Any:
        cube_key = "cubeID" if form == "literal" else "cubeId"

        def start(call: Call) -> Reply:
            if form not in self.core.current.start_forms:
                raise RefusedError(404, "The requested resource could not be found.")
            self._open_engine(call)
            if not self.core.current.can_manage:
                raise RefusedError(403, "The user lacks the permission Manage Aggregates")
            cube = call.query.get(cube_key)
            if not cube:
                raise RefusedError(400, f"Request is missing required query parameter '{cube_key}'")
            # The oldest form has no such parameter, and none of the forms is documented to require it.
            is_full_build = form != "environment" and truth(call, "isFullBuild", default=False)
            return self._begin(call.params["project"], cube, is_full_build)

        return start

    def _begin(self, project: str, cube: str, is_full_build: bool) -> Reply:
        world = self.core.world
        settings = self.core.current
        try:
            batch = world.start(world.deployed(project, cube), is_full_build=is_full_build)
        except UnknownModelError as error:
            raise RefusedError(404, str(error)) from None
        except AlreadyRunningError as error:
            if settings.on_second_start == "409":
                raise RefusedError(409, str(error)) from None
            raise RefusedError(500, "There was an internal server error.") from None
        started = {"batch": {"id": batch.id, "status": world.word("new")}}
        if settings.batch_envelope == "response":
            return _envelope(started, settings.start_status)
        return Reply.json(started, settings.start_status)

    def _history(self, call: Call) -> Reply:
        mode = self.core.current.history_mode
        if mode == "missing":
            raise RefusedError(404, "The requested resource could not be found.")
        self._open_reading(call)
        limit = min(call.number("limit", _PAGE), LARGEST_PAGE)
        offset = call.number("offset", 0)
        batches = self.core.world.history(call.query.get("cubeId"), call.query.get("projectId"))
        return _envelope(
            {
                "data": [self._row(batch) for batch in batches[offset : offset + limit]],
                "limit": limit,
                "offset": offset,
                "force_pull": False,
            }
        )

    def _row(self, batch: Batch) -> dict[str, Any]:
        world = self.core.world
        now = world.now()
        style = self.core.current.unset_times
        row: dict[str, Any] = {
            "id": batch.id,
            "organizationId": self.core.organization,
            "projectId": batch.catalog_id,
            "cubeId": batch.model_id,
            "batchType": "aggregate_batch",
            "createDate": moment(batch.created),
            **times(
                "year1" if style == "edition" else style,
                startTime=batch.started(now),
                endTime=batch.ended(now),
            ),
            "estimateTime": round(batch.build_seconds * 1000),
            "isFullBuild": batch.is_full_build,
            "status": world.word(batch.status(now)),
        }
        if batch.ended(now) is not None:
            row["sumOfInstanceBuildTimes"] = duration(world.instances(batch))
        return row

    def _latest(self, call: Call) -> Reply:
        self._open_reading(call)
        self._check_environment(call)
        world = self.core.world
        now = world.now()
        rows = []
        for model in world.models.values():
            batches = world.history(model.id)
            if batches:
                newest = batches[0]
                share = (now - newest.created) / newest.build_seconds if newest.build_seconds else 1
                rows.append(
                    {
                        "projectId": model.catalog_id,
                        "cubeId": model.id,
                        "batch": {
                            "id": newest.id,
                            "status": world.word(newest.status(now)),
                            "progressPercentage": 100 if now >= newest.end else int(100 * min(share, 0.99)),
                        },
                    }
                )
        return _envelope({"batches": rows})

    def _instances(self, call: Call) -> Reply:
        self._open_engine(call)
        if not self.core.current.can_view:
            raise RefusedError(403, "The user lacks the permission View Aggregates")
        rows = [self._instance(instance) for instance in chosen(self.core.world, call)]
        wanted = call.query.get("status")
        rows = [row for row in rows if wanted in (None, row["status"])]
        paging = self.core.current.instances_paging
        fields: dict[str, Any] = {}
        if paging == "ignored":
            rows = rows[:_PAGE]
        elif paging == "normal":
            limit, offset = min(call.number("limit", _PAGE), LARGEST_PAGE), call.number("offset", 0)
            rows, fields = rows[offset : offset + limit], {"limit": limit, "offset": offset}
        return Reply.json(
            {
                "status": {"code": 0, "message": "SUCCESS"},
                "responseCreated": moment(self.core.world.now()),
                "response": {"data": rows, **fields},
            }
        )

    def _instance(self, instance: Instance) -> dict[str, Any]:
        style = self.core.current.unset_times
        stats: dict[str, Any] = times(
            "year1" if style == "edition" else style,
            materialization_start_time=instance.started,
            materialization_end_time=instance.ended,
        )
        if instance.started is not None and instance.ended is not None:
            stats["build_duration"] = round((instance.ended - instance.started) * 1000)
        if instance.status == "active":
            stats["number_of_rows"] = instance.aggregate.rows
        # One can filter by the batch, but the documented rows don't name it.
        named = self.core.current.instances_batch_id == "present"
        return {
            "id": instance.id,
            "status": self.core.world.word(instance.status),
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
        if call.params.get("org") != self.core.organization:
            raise RefusedError(404, f"There is no organization {call.params.get('org')!r}")

    def _check_environment(self, call: Call) -> None:
        if call.params.get("env", self.core.environment) != self.core.environment:
            raise RefusedError(404, f"There is no environment {call.params.get('env')!r}")

    def _open_bearer(self, call: Call) -> None:
        # A token that a user fetched with the browser stands in for the API token here.
        if self.core.tokens.is_api_token(call.bearer) or self.core.tokens.claims(call.bearer) is not None:
            return
        raise RefusedError(401, "The token is not valid")

    def _open_engine(self, call: Call) -> None:
        if call.headers.get("client-api-key") != self.core.client_api_key:
            self._open_bearer(call)
        self._check_organization(call)
        self._check_environment(call)

    def _open_reading(self, call: Call) -> None:
        mode = self.core.current.history_mode
        if mode == "unauthorized":
            raise RefusedError(401, "The token is not valid")
        self._open_engine(call)
        if mode == "forbidden" or not self.core.current.can_view:
            raise RefusedError(403, "The user lacks the permission View Aggregates")


def _versions(catalog: Catalog) -> list[dict[str, Any]]:
    """
    List the published versions of a project, of which only one can be built.

    An older version and a younger soft publish are there to be passed over.
    """
    draft = uuid.uuid5(uuid.UUID(catalog.id), "draft")
    cubes = [{"id": m.id, "name": m.name, "caption": m.caption} for m in catalog.models]

    def version(identity: str, publish_type: str, published: float) -> dict[str, Any]:
        return {
            "id": identity,
            "name": catalog.caption,
            "linkedProjectId": str(draft),
            "publishType": publish_type,
            "publishedAt": moment(published),
            "cubes": cubes,
        }

    return [
        version(str(uuid.uuid5(draft, "older")), "normal_publish", catalog.published - 30 * _DAY),
        version(catalog.id, "normal_publish", catalog.published),
        version(str(uuid.uuid5(draft, "soft")), "soft_publish", catalog.published + 1),
    ]


def _envelope(response: Any, status: int = 200) -> Reply:
    return Reply.json(
        {"status": {"i18n_message": "SUCCESS", "message": "SUCCESS"}, "response": response}, status
    )
