"""The REST API of the container edition."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from airflow_provider_atscale.testing.aggregates import SUBTYPE, duration, find_definitions, find_instances
from airflow_provider_atscale.testing.models import AlreadyRunningError, UnknownModelError
from airflow_provider_atscale.testing.tokens import EXCHANGED
from airflow_provider_atscale.testing.wire import (
    LARGEST_PAGE,
    Call,
    Edition,
    InvalidRequestError,
    RefusedError,
    Reply,
    Route,
    moment,
    times,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_atscale.testing.aggregates import Definition
    from airflow_provider_atscale.testing.batches import Batch, Instance

# AtScale's client takes a text that starts with "202" for the installer edition.
_VERSION = "C2026.5.1"
_REFRESH_SECONDS = 1800
_PUBLIC_CLIENTS = ("atscale-ai-link",)
_CONFIDENTIAL_CLIENTS = ("atscale-modeler", "atscale-public-api")
_CAUSES = {
    400: "BadRequestException",
    401: "UnauthorizedException",
    403: "ForbiddenException",
    404: "NotFoundException",
    409: "ConflictException",
    500: "InternalServerErrorException",
    503: "ServiceUnavailableException",
}
_INSTANCE_FILTERS = ("active", "invalid", "pending", "deleted")
_DEFINITION_FILTERS = {
    "status": ("active", "invalid", "pending"),
    "subtype": ("demand_defined", "prediction_defined", "manual", "hinted"),
}
_PAGE = 10


class ContainerEdition(Edition):
    """Answer as the container edition does, on one port."""

    name = "container"
    roles = ("main",)

    def routes(self, role: str) -> Sequence[Route]:
        """Return the routes."""
        v1 = self.state.api_prefix
        keycloak = f"/auth/realms/{self.state.realm}/protocol/openid-connect/token"
        return [
            Route("history", "GET", "/wapi/p/aggregate/batch-history", self._history),
            Route("start", "POST", v1 + "/aggregates-batch/catalogs/{catalog}/models/{model}", self._start),
            Route("instances", "GET", v1 + "/aggregates/instances", self._instances),
            Route("definitions", "GET", v1 + "/aggregates", self._definitions),
            Route("token", "POST", v1 + "/token", self._exchange),
            Route("login", "POST", keycloak, self._keycloak),
            Route("catalogs", "GET", v1 + "/catalogs", self._catalogs),
            Route("deployed", "GET", "/wapi/p/projects/deployed", self._deployed),
            Route("published", "GET", "/api/catalog", self._published),
            Route("repos", "GET", "/api/repo", self._repos),
            Route("version", "GET", "/engine/version", self._version),
        ]

    def unknown_route(self, call: Call) -> str:
        """Word the error as AtScale does: the public API is rewritten in front of the API that answers."""
        prefix = self.state.api_prefix
        path = call.path
        if path.startswith(prefix + "/") and not path.startswith("/v1/public/"):
            path = "/v1/public" + path.removeprefix(prefix)
        return f"Cannot {call.method} {path}"

    def invalid(self, error: InvalidRequestError) -> str:
        """Word the error in one string, as AtScale does."""
        received = "undefined" if error.received is None else "string"
        return f"Validation failed. {error.name}: Expected {error.expected}, received {received}"

    def error(self, status: int, message: str) -> Reply:
        """Make an error answer in the manner of NestJS."""
        cause = _CAUSES.get(status, "HttpException")
        return Reply.json({"statusCode": status, "message": message, "error": {"cause": cause}}, status)

    def connection(self, auth: str, urls: Mapping[str, str]) -> dict[str, Any]:
        """Describe the Airflow connection to this engine."""
        connection: dict[str, Any] = {
            "conn_type": "atscale",
            "host": urls["main"],
            "extra": {"edition": self.name, "auth_type": auth},
        }
        if auth in ("auto", "api_token"):
            connection["password"] = self.state.api_token
        elif auth == "password":
            connection["login"] = self.state.login
            connection["password"] = self.state.password
        else:
            raise ValueError(f"The container edition has no authentication {auth!r}")
        if self.state.realm != "atscale":
            connection["extra"]["realm"] = self.state.realm
        if self.state.api_prefix != "/v1":
            connection["extra"]["api_prefix"] = self.state.api_prefix
        return connection

    def _version(self, _: Call) -> Reply:
        return Reply.text(self.state.current.version or _VERSION)

    def _exchange(self, call: Call) -> Reply:
        if not self.state.current.exchanges_tokens:
            raise RefusedError(404, self.unknown_route(call))
        if not self.state.tokens.is_api_token(call.bearer):
            raise RefusedError(401, "Invalid token format")
        self.state.request_log.token_issued()
        token = self.state.tokens.issue(self.state.login, EXCHANGED, self.state.current.token_ttl)
        return Reply.json({"accessToken": token}, 201)

    def _keycloak(self, call: Call) -> Reply:
        form = {name: values[0] for name, values in parse_qs(call.body.decode(errors="replace")).items()}
        client = form.get("client_id", "")
        if client in _CONFIDENTIAL_CLIENTS:
            if form.get("client_secret") != self.state.client_secret:
                return _oauth_error(401, "unauthorized_client", "Invalid client or Invalid client credentials")
        elif client not in _PUBLIC_CLIENTS:
            return _oauth_error(401, "invalid_client", "Invalid client or Invalid client credentials")
        grant = form.get("grant_type")
        if grant == "password":
            if (form.get("username"), form.get("password")) != (self.state.login, self.state.password):
                return _oauth_error(401, "invalid_grant", "Invalid user credentials")
        elif grant == "refresh_token":
            claims = self.state.tokens.claims(form.get("refresh_token"), "Refresh")
            if claims is None or claims["azp"] != client:
                return _oauth_error(400, "invalid_grant", "Token is not active")
        else:
            return _oauth_error(400, "unsupported_grant_type", "Unsupported grant_type")
        self.state.request_log.token_issued()
        tokens, ttl = self.state.tokens, self.state.current.token_ttl
        return Reply.json(
            {
                "access_token": tokens.issue(self.state.login, client, ttl),
                "expires_in": math.ceil(ttl),
                "refresh_expires_in": _REFRESH_SECONDS,
                "refresh_token": tokens.issue(self.state.login, client, _REFRESH_SECONDS, "Refresh"),
                "token_type": "Bearer",
                "scope": form.get("scope", ""),
            }
        )

    def _catalogs(self, call: Call) -> Reply:
        self._check_public_access(call)
        return Reply.json(
            [
                {
                    "id": catalog.id,
                    "name": catalog.name,
                    "caption": catalog.caption,
                    "publishedAt": moment(catalog.published),
                    "publishedBy": "admin",
                    "models": [{"id": m.id, "name": m.name, "caption": m.caption} for m in catalog.models],
                }
                for catalog in self.state.store.catalogs.values()
            ]
        )

    def _deployed(self, call: Call) -> Reply:
        self._check_private_access(call)
        return Reply.json(
            [
                {
                    "repoId": catalog.id,
                    "name": catalog.name,
                    "projects": [
                        {
                            "id": catalog.id,
                            "name": catalog.name,
                            "caption": catalog.caption,
                            "models": [
                                {"id": m.id, "name": m.name, "caption": m.caption, "type": "model"}
                                for m in catalog.models
                            ],
                        }
                    ],
                }
                for catalog in self.state.store.catalogs.values()
            ]
        )

    def _published(self, call: Call) -> Reply:
        self._check_private_access(call)
        return Reply.json(
            [
                {
                    "id": catalog.id,
                    "name": catalog.name,
                    "caption": catalog.caption,
                    "publishType": "normal_publish",
                    "publishedAt": moment(catalog.published),
                    "linkedCatalogId": catalog.id,
                }
                for catalog in self.state.store.catalogs.values()
            ]
        )

    def _repos(self, call: Call) -> Reply:
        self._check_private_access(call)
        catalogs = self.state.store.catalogs.values()
        return Reply.json([{"id": catalog.id, "name": catalog.name} for catalog in catalogs])

    def _start(self, call: Call) -> Reply:
        self._check_public_access(call)
        if not self.state.current.can_manage:
            raise RefusedError(403, "Forbidden resource")
        is_full_build = call.truth("isFullBuild")
        overrides = _overrides(call.body)
        if not is_full_build and self.state.current.incremental_by_api == "refused":
            raise RefusedError(400, "Incremental builds through the API are disabled")
        if self.state.current.incremental_by_api == "ignored":
            is_full_build, overrides = True, {}
        store = self.state.store
        try:
            model = store.deployed(call.params["catalog"], call.params["model"])
            batch = store.start(model, is_full_build=is_full_build, grace_period_overrides=overrides)
        except UnknownModelError as error:
            raise RefusedError(404, str(error)) from None
        except AlreadyRunningError as error:
            # The status is all that is known; the text of a 500 tells clients nothing they could rely on.
            if self.state.current.on_second_start == "409":
                raise RefusedError(409, str(error)) from None
            raise RefusedError(500, "Internal server error") from None
        started = {
            "id": batch.id,
            "catalogId": batch.catalog_id,
            "modelId": batch.model_id,
            "createDate": moment(batch.created),
            "status": store.word("new"),
            "estimateTime": store.estimate(batch),
            "isFullBuild": batch.is_full_build,
            "batchType": "aggregate_batch",
        }
        return Reply.json({"batch": started, "success": True}, 201)

    def _history(self, call: Call) -> Reply:
        mode = self.state.current.history_mode
        if mode == "missing":
            raise RefusedError(404, self.unknown_route(call))
        if mode == "unauthorized":
            raise RefusedError(401, "Unauthorized")
        self._check_private_access(call)
        if mode == "forbidden" or not self.state.current.can_view:
            raise RefusedError(403, "Forbidden resource")
        page = call.number("page", 1, 1)
        limit = min(call.number("limit", _PAGE), LARGEST_PAGE)
        batches = self.state.store.history(call.query.get("modelId"), call.query.get("catalogId"))
        shown = batches[(page - 1) * limit : page * limit]
        return Reply.json({"data": [self._row(batch) for batch in shown], "total": len(batches)})

    def _row(self, batch: Batch) -> dict[str, Any]:
        store = self.state.store
        now = store.now()
        style = self.state.current.unset_times
        row: dict[str, Any] = {
            "id": batch.id,
            "status": store.word(batch.status(now)),
            "isFullBuild": batch.is_full_build,
            "batchType": "aggregate_batch",
            "createDate": moment(batch.created),
            **times(
                "absent" if style == "edition" else style,
                startTime=batch.started(now),
                endTime=batch.ended(now),
            ),
            "estimateTime": store.estimate(batch),
        }
        if batch.ended(now) is not None:
            row["sumOfInstanceBuildTimes"] = duration(store.built(batch))
        return row

    def _instances(self, call: Call) -> Reply:
        self._check_public_access(call)
        if not self.state.current.can_view:
            raise RefusedError(403, "Forbidden resource")
        wanted = call.query.get("status")
        if wanted not in (None, *_INSTANCE_FILTERS):
            raise RefusedError(400, "Validation failed. status: Invalid enum value")
        page = call.number("page", 1, 1)
        size = min(call.number("size", _PAGE, 1), LARGEST_PAGE)
        rows = [self._instance(instance) for instance in find_instances(self.state.store, call)]
        rows = [row for row in rows if wanted in (None, row["status"])]
        paging = self.state.current.instances_paging
        if paging == "none":
            return Reply.json({"data": rows})
        if paging == "ignored":
            return Reply.json({"data": rows[:_PAGE]})
        offset = (page - 1) * size
        return Reply.json(
            {
                "data": rows[offset : offset + size],
                "total": len(rows),
                "size": size,
                "page": page,
                "offset": offset,
            }
        )

    def _definitions(self, call: Call) -> Reply:
        self._check_public_access(call)
        if not self.state.current.can_view:
            raise RefusedError(403, "Forbidden resource")
        for name, known in _DEFINITION_FILTERS.items():
            if call.query.get(name) not in (None, *known):
                raise RefusedError(400, f"Validation failed. {name}: Invalid enum value")
        rows = [self._definition(found) for found in find_definitions(self.state.store, call)]
        if self.state.current.definitions_paging != "normal":
            return Reply.json({"data": rows[:_PAGE]})
        page = call.number("page", 1, 1)
        size = min(call.number("size", _PAGE, 1), LARGEST_PAGE)
        offset = (page - 1) * size
        shown = rows[offset : offset + size]
        return Reply.json({"data": shown, "total": len(rows), "size": size, "page": page, "offset": offset})

    def _definition(self, found: Definition) -> dict[str, Any]:
        return {
            "id": found.aggregate.id,
            # AtScale names an aggregate that it has defined itself by its id.
            "name": found.aggregate.id,
            "catalogId": found.model.catalog_id,
            "modelId": found.model.id,
            "type": "system_defined",
            "subtype": SUBTYPE,
            "blocked": False,
            "attributes": [],
            **({"latestInstance": self._instance(found.latest)} if found.latest else {}),
            **({"activeInstance": self._instance(found.active)} if found.active else {}),
        }

    def _instance(self, instance: Instance) -> dict[str, Any]:
        style = self.state.current.unset_times
        stats: dict[str, Any] = times(
            "absent" if style == "edition" else style,
            materializationStartTime=instance.started,
            materializationEndTime=instance.ended,
        )
        if instance.started is not None and instance.ended is not None:
            stats["buildDuration"] = round((instance.ended - instance.started) * 1000)
        if instance.status == "active":
            stats["numberOfRows"] = instance.aggregate.rows
        named = self.state.current.instances_batch_id != "absent"
        return {
            "id": instance.id,
            "status": self.state.store.word(instance.status),
            "message": instance.message,
            "tableName": instance.aggregate.table_name,
            "tableSchema": instance.aggregate.table_schema,
            **({"batchId": instance.batch.id} if named else {}),
            "stats": stats,
            "buildQueryId": instance.build_query_id,
            "catalogId": instance.batch.catalog_id,
            "modelId": instance.batch.model_id,
            "definitionId": instance.aggregate.id,
            "connectionId": "con1",
        }

    def _check_public_access(self, call: Call) -> None:
        if self.state.tokens.is_api_token(call.bearer):
            return
        claims = self.state.tokens.claims(call.bearer)
        exchanged = claims is not None and claims["azp"] == EXCHANGED
        if claims is None or (exchanged and not self.state.current.v1_accepts_exchanged_jwt):
            raise RefusedError(401, "Invalid token format")

    def _check_private_access(self, call: Call) -> None:
        if self.state.tokens.claims(call.bearer) is not None:
            return
        if not (self.state.current.wapi_accepts_api_token and self.state.tokens.is_api_token(call.bearer)):
            raise RefusedError(401, "Unauthorized")


def _overrides(body: bytes) -> dict[str, float]:
    if not body.strip():
        return {}
    try:
        content = json.loads(body)
    except ValueError:
        raise RefusedError(400, "Validation failed. The body is not JSON") from None
    overrides = content.get("gracePeriodOverrides", {}) if isinstance(content, dict) else None
    if not isinstance(overrides, dict) or not all(
        isinstance(value, (int, float)) and not isinstance(value, bool) for value in overrides.values()
    ):
        raise RefusedError(400, "Validation failed. gracePeriodOverrides: Expected numbers by dataset name")
    return overrides


def _oauth_error(status: int, error: str, description: str) -> Reply:
    return Reply.json({"error": error, "error_description": description}, status)
