"""Drive flows by hand: scripted answers in, requests and their effects out. No socket, no clock, no sleep."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

from airflow_provider_atscale.api.flow import FetchToken, Pause, Request, Response
from airflow_provider_atscale.api.models import ModelRef
from airflow_provider_atscale.client.body import Body
from airflow_provider_atscale.client.editions import make_edition
from airflow_provider_atscale.client.requests_client import AtScaleClient
from airflow_provider_atscale.client.settings import Settings, parse_connection
from airflow_provider_atscale.exceptions import AtScaleError

CATALOG_ID = "11111111-1111-4111-8111-111111111111"
MODEL_ID = "22222222-2222-4222-8222-222222222222"
BATCH_ID = "3bd0c8f1-3333-4333-8333-33333333abcd"
OTHER_ID = "44444444-4444-4444-8444-444444444444"
REF = ModelRef(CATALOG_ID, MODEL_ID, "Sales Insights", "Internet Sales")

HOST = "https://atscale.example.com"
API_TOKEN = "api-token-of-ninety-days-0123456789"
PASSWORD = "correct horse battery staple"
NOW = 1_740_650_000.0
DATE = format_datetime(datetime.fromtimestamp(NOW, timezone.utc), usegmt=True)

HISTORY = "/wapi/p/aggregate/batch-history"
INSTANCES = "/v1/aggregates/instances"
TOKEN = "/v1/token"
CATALOGS = "/v1/catalogs"
KEYCLOAK = "/auth/realms/atscale/protocol/openid-connect/token"
START = f"/v1/aggregates-batch/catalogs/{CATALOG_ID}/models/{MODEL_ID}"


# --- answers ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def to(self, request: Request) -> Response:
        return Response(self.status, self.headers, self.body, request.url)


Answer = Reply | Exception
Server = Callable[[Request], Answer]


def reply(body: Any = b"", status: int = 200, date: str | None = DATE, **headers: str) -> Reply:
    """Make an answer: bytes and text as they are, anything else as JSON."""
    if isinstance(body, str):
        body = body.encode(errors="surrogatepass")
    elif not isinstance(body, bytes):
        body = json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, body, named if date is None else {"date": date, **named})


def refusal(status: int, message: str = "No") -> Reply:
    """Make an error as the container edition words it."""
    return reply({"statusCode": status, "message": message, "error": {"cause": "HttpException"}}, status)


def jwt(claims: Mapping[str, Any] | None = None, name: str = "signature") -> str:
    parts = [json.dumps({"alg": "RS256"}).encode(), json.dumps(claims or {}).encode(), name.encode()]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def routes(answers: Mapping[str, Answer | Iterable[Answer] | Server]) -> Server:
    """Answer by path; of several answers each is given once, and the last one ever after."""
    queues = {
        path: list(answer) if isinstance(answer, (list, tuple)) else answer for path, answer in answers.items()
    }

    def serve(request: Request) -> Answer:
        path = request.url.split("://", 1)[-1].partition("/")[2]
        found = queues.get("/" + path)
        assert found is not None, f"nothing is scripted for {request.method} {request.url}"
        if isinstance(found, list):
            return found.pop(0) if len(found) > 1 else found[0]
        return found(request) if callable(found) else found

    return serve


def in_turn(*answers: Answer) -> Server:
    """Give each answer once, whatever is asked; one request more is an error of the flow."""
    left = list(answers)

    def serve(request: Request) -> Answer:
        assert left, f"one request too many: {request.method} {request.url}"
        return left.pop(0)

    return serve


# --- driving ----------------------------------------------------------------------------------------------


@dataclass
class Journal:
    """What a flow did."""

    requests: list[Request] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        return ["/" + request.url.split("://", 1)[1].partition("/")[2] for request in self.requests]

    def sent(self, path: str) -> list[Request]:
        return [request for request, its in zip(self.requests, self.paths, strict=True) if its == path]


def perform(flow: Any, server: Server, journal: Journal | None = None) -> Any:
    """Run a flow to its end and return its value."""
    journal = Journal() if journal is None else journal
    outcome: Any = None
    error: BaseException | None = None
    while True:
        try:
            effect = flow.throw(error) if error is not None else flow.send(outcome)
        except StopIteration as stop:
            return stop.value
        outcome, error = None, None
        if isinstance(effect, Request):
            journal.requests.append(effect)
            answer = server(effect)
            if isinstance(answer, Exception):
                error = answer
            else:
                outcome = answer.to(effect)
        elif isinstance(effect, Pause):
            journal.pauses.append(effect.seconds)
        else:
            assert isinstance(effect, FetchToken)
            try:
                outcome = perform(effect.flow(), server, journal)
                journal.secrets.append(outcome.value)
                effect.keep(outcome)
            except AtScaleError as raised:
                error = raised


class ScriptedClient(AtScaleClient):
    """The real blocking client, without its socket."""

    def __init__(self, settings: Settings, server: Server) -> None:
        super().__init__(settings, sleep=lambda _: None)
        self._server = server

    def _send(self, request: Request, until: float | None) -> Response:
        answer = self._server(request)
        if isinstance(answer, Exception):
            raise answer
        headers = dict(answer.headers)
        body = Body()
        body.add(answer.body)
        return self._response(request, answer.status, headers, body)


# --- connections ------------------------------------------------------------------------------------------


def connection(
    host: Any = HOST, port: Any = None, login: Any = None, password: Any = API_TOKEN, **extra: Any
) -> Any:
    """Make an Airflow connection as the package sees it."""
    return SimpleNamespace(
        conn_id="atscale_test",
        host=host,
        port=port,
        login=login,
        password=password,
        extra=json.dumps(extra) if extra else None,
    )


class Clock:
    """A clock that goes on only when it is told to, or when somebody sleeps by it."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept.append(seconds)
        self.now += seconds

    @property
    def moment(self) -> datetime:
        return datetime.fromtimestamp(self.now, timezone.utc)


def container(clock: Callable[[], float] = lambda: NOW, **fields: Any) -> Any:
    """Return the container edition's calls, wired as a connection wires them."""
    return make_edition(parse_connection(connection(**fields)), clock)


def row(batch_id: str = BATCH_ID, status: Any = "inprogress", **values: Any) -> dict[str, Any]:
    """Make a row of the build history as AtScale shows it."""
    return {
        "id": batch_id,
        "status": status,
        "isFullBuild": False,
        "batchType": "aggregate_batch",
        "createDate": "2025-02-27T09:53:22.654Z",
        "startTime": "2025-02-27T09:53:23.100Z",
        "endTime": None,
        "estimateTime": 1053,
        "sumOfInstanceBuildTimes": "PT3.232S",
        **values,
    }


def history(*rows: Any, **values: Any) -> dict[str, Any]:
    return {"data": list(rows), "total": len(rows), **values}


def instance(
    number: int = 1, status: Any = "active", batch_id: Any = BATCH_ID, **values: Any
) -> dict[str, Any]:
    """Make a row of the aggregate instances as AtScale shows it."""
    return {
        "id": f"instance-{number}",
        "status": status,
        "message": "Normal aggregate activated",
        "tableName": f"as_agg_{number}",
        "tableSchema": "aggregates",
        "batchId": batch_id,
        "stats": {
            "materializationStartTime": "2025-02-27T09:53:23.100Z",
            "materializationEndTime": "2025-02-27T09:53:23.336Z",
            "buildDuration": 236,
            "numberOfRows": 100,
        },
        "catalogId": CATALOG_ID,
        "modelId": MODEL_ID,
        "definitionId": f"definition-{number}",
        "buildQueryId": f"query-{number}",
        **values,
    }


def started(batch_id: Any = BATCH_ID, **values: Any) -> dict[str, Any]:
    """Make the body of an answer to the start, as the documentation shows it."""
    return {
        "batch": {
            "id": batch_id,
            "catalogId": CATALOG_ID,
            "modelId": MODEL_ID,
            "createDate": "2025-02-27T09:53:22.654Z",
            "status": "new",
            "estimateTime": 1053,
            "isFullBuild": True,
            "batchType": "aggregate_batch",
        },
        "success": True,
        **values,
    }


TOKENS = {TOKEN: reply({"accessToken": jwt()}, 201)}
