"""The engine on sockets: one event loop in a separate thread."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from email.utils import formatdate
from http import HTTPStatus
from http.client import responses
from typing import TYPE_CHECKING, Any

from aiohttp import web

from airflow_provider_atscale.testing.calls import EngineCalls
from airflow_provider_atscale.testing.container import ContainerEdition
from airflow_provider_atscale.testing.control import Control
from airflow_provider_atscale.testing.core import EngineState
from airflow_provider_atscale.testing.installer import InstallerEdition
from airflow_provider_atscale.testing.pages import gateway_page, login_page
from airflow_provider_atscale.testing.wire import (
    Call,
    Edition,
    Handler,
    InvalidRequestError,
    RefusedError,
    Reply,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from aiohttp.web_protocol import RequestHandler

    from airflow_provider_atscale.testing.faults import Fault
    from airflow_provider_atscale.testing.records import RequestRecord

logger = logging.getLogger(__name__)

EDITIONS: dict[str, type[Edition]] = {"container": ContainerEdition, "installer": InstallerEdition}
_GATEWAY_ERRORS = (502, 503, 504)
_START_TIMEOUT = 30
_SHUTDOWN_TIMEOUT = 0.01


class _Port(web.Server):
    """Serve one port, and tell the request log when a connection is closed."""

    def __init__(self, engine: AtScaleEngine, role: str) -> None:
        super().__init__(self._answer, access_log=None)
        self._engine = engine
        self._role = role
        self._routes = engine.edition.routes(role)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Note the end of a connection."""
        self._engine.request_log.disconnected(handler)
        super().connection_lost(handler, exc)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        # Read to the end first: from here on the request counts, even if the client disconnects.
        body = await request.read()
        call = Call(
            method=request.method,
            path=request.path,
            query_string=request.query_string,
            query=request.query,
            headers=request.headers,
            body=body,
        )
        if Control.concerns(call.path):
            return self._response(self._engine.control_api.answer(call))
        return await self._serve(request, call)

    async def _serve(self, request: web.BaseRequest, call: Call) -> web.StreamResponse:
        log = self._engine.request_log
        handler, name = self._find(call)
        connection = log.connection(request.protocol, self._closer(request))
        if request.transport is None:
            # The client closed the connection before this ran; nothing will report that again.
            log.disconnected(request.protocol)
        settings = self._engine.current
        if settings.log_requests:
            record = log.received(name, self._record(call, connection), settings.log_limit)
        else:
            record = log.received(name, {}, 0)
        logger.debug("%s %s?%s", call.method, call.path, call.query_string)
        try:
            return await self._respond(request, call, handler, name, record)
        finally:
            log.finished()

    async def _respond(
        self,
        request: web.BaseRequest,
        call: Call,
        handler: Handler | None,
        name: str,
        record: RequestRecord | None,
    ) -> web.StreamResponse:
        engine = self._engine
        target = (call.method, call.path, call.query_string, name)

        async def dropped_at(*points: str) -> bool:
            decision = await engine.hold_list.wait_at(points, target)
            if record and decision:
                record.was_held = True
            return decision == "drop"

        if await dropped_at("received", "start.received"):
            return self._dropped(request)
        if engine.current.latency:
            await asyncio.sleep(engine.current.latency)
        faults = engine.fault_list.take(*target)
        for fault in faults:
            if fault.action == "delay":
                await asyncio.sleep(fault.seconds)
        chosen = next((fault for fault in faults if fault.action != "delay"), None)
        action = chosen.action if chosen else None
        if action == "drop":
            return self._dropped(request)
        reply = self._replacement(chosen, "before")
        if reply is None:
            reply = self._process(handler, call)
            created = name == "start" and reply.status < HTTPStatus.BAD_REQUEST
            if await dropped_at("processed", *(("start.created",) if created else ())):
                return self._dropped(request)
            reply = self._replacement(chosen, "after") or reply
        if action == "drop_after":
            return self._dropped(request)
        if action == "cut":
            return await self._cut(request, reply)
        if action == "truncate":
            reply.body = reply.body[: len(reply.body) // 2]
        if record:
            record.status = reply.status
        return self._response(reply)

    @staticmethod
    def _closer(request: web.BaseRequest) -> Callable[[], None]:
        """Return what closes a request's connection from any thread."""
        loop, transport = asyncio.get_running_loop(), request.transport

        def close() -> None:
            # The engine may have been stopped since.
            with contextlib.suppress(RuntimeError):
                if transport is not None:
                    loop.call_soon_threadsafe(transport.close)

        return close

    def _find(self, call: Call) -> tuple[Handler | None, str]:
        for route in self._routes:
            params = route.match(call.method, call.path)
            if params is not None:
                call.params = params
                return route.handler, route.name
        return None, "unknown"

    def _record(self, call: Call, connection: int) -> dict[str, Any]:
        return {
            "time": self._engine.now,
            "method": call.method,
            "path": call.path,
            "query_string": call.query_string,
            "query": dict(call.query),
            "headers": dict(call.headers),
            "body": call.body.decode(errors="replace"),
            "port": self._role,
            "connection": connection,
        }

    def _process(self, handler: Handler | None, call: Call) -> Reply:
        engine = self._engine
        if handler is None:
            return engine.edition.error(404, engine.edition.unknown_route(call))
        try:
            with engine.lock:
                return handler(call)
        except InvalidRequestError as invalid:
            return engine.edition.error(invalid.status, engine.edition.invalid(invalid))
        except RefusedError as refusal:
            return engine.edition.error(refusal.status, refusal.message)
        except Exception:
            logger.exception("%s %s could not be answered", call.method, call.path)
            return engine.edition.error(500, "Internal server error")

    def _replacement(self, fault: Fault | None, when: str) -> Reply | None:
        if fault is None or fault.when != when:
            return None
        if fault.action == "html":
            return Reply(200, login_page().encode(), "text/html", dict(fault.headers))
        if fault.action == "empty":
            return Reply(200, b"", "application/json", dict(fault.headers))
        if not isinstance(fault.action, int):
            return None
        reply = self._status(fault.action, fault.body)
        reply.headers.update(fault.headers)
        return reply

    def _status(self, status: int, body: Any) -> Reply:
        phrase = responses.get(status, "Unknown")
        if body is None:
            if status in _GATEWAY_ERRORS:
                return Reply.html(gateway_page(status, phrase), status)
            return self._engine.edition.error(status, phrase)
        if isinstance(body, str):
            kind = "text/html" if body.lstrip().startswith("<") else "text/plain"
            kind = "application/json" if body.lstrip().startswith(("{", "[")) else kind
            return Reply(status, body.encode(), kind)
        return Reply(status, json.dumps(body).encode())

    def _response(self, reply: Reply) -> web.Response:
        headers = {"Date": formatdate(self._engine.store.now(), usegmt=True), "Server": "local-engine"}
        if reply.body:
            headers["Content-Type"] = f"{reply.content_type}; charset=utf-8"
        return web.Response(status=reply.status, body=reply.body, headers=headers | reply.headers)

    async def _cut(self, request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
        response = web.StreamResponse(status=reply.status, headers={"Content-Type": reply.content_type})
        response.content_length = len(reply.body)
        await response.prepare(request)
        await response.write(reply.body[: len(reply.body) // 2])
        if request.transport is not None:
            request.transport.close()
        return response

    @staticmethod
    def _dropped(request: web.BaseRequest) -> web.Response:
        # A closed transport swallows the answer that aiohttp wants in any case.
        if request.transport is not None:
            request.transport.close()
        return web.Response()


class AtScaleEngine(EngineCalls, EngineState):
    """
    Run a local AtScale engine on this machine.

    Use it as a context manager, or with ``start`` and ``stop``; state stays when it is started again.

    :param edition: ``container`` or ``installer``.
    :param host: address to listen on.
    :param port: port, 0 for a free one; on the installer edition that of the Design Center.
    :param engine_port: port of the engine on the installer edition.
    :param ssl_context: serve HTTPS with it.
    :param options: see :class:`~airflow_provider_atscale.testing.core.EngineState`.
    """

    def __init__(
        self,
        edition: str = "container",
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        engine_port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        **options: Any,
    ) -> None:
        if edition not in EDITIONS:
            raise ValueError(f"An edition is one of {', '.join(EDITIONS)}; not {edition!r}")
        super().__init__(**options)
        self._state = self
        self.edition = EDITIONS[edition](self)
        self.control_api = Control(self, self, edition)
        self.host = host
        self._ssl_context = ssl_context
        self._ports = dict(zip(self.edition.roles, (port, engine_port), strict=False))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> AtScaleEngine:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def urls(self) -> dict[str, str]:
        """The address of each port: ``main``, or ``design_center`` and ``engine``."""
        scheme = "http" if self._ssl_context is None else "https"
        # An IPv6 address stands in brackets in a URL.
        host = f"[{self.host}]" if ":" in self.host else self.host
        return {role: f"{scheme}://{host}:{port}" for role, port in self._ports.items()}

    @property
    def url(self) -> str:
        """The address of the first port."""
        return self.urls[self.edition.roles[0]]

    def connection(self, auth: str = "auto", **extra: Any) -> dict[str, Any]:
        """
        Describe the Airflow connection that leads here.

        :param auth: ``auto``, ``api_token``, ``password`` or ``client_api_key``, if the edition has it.
        :param extra: goes into the connection's extra.
        """
        connection = self.edition.connection(auth, self.urls)
        if auth == "auto":
            del connection["extra"]["auth_type"]
        if self._ssl_context is not None:
            connection["extra"]["verify"] = False
        connection["extra"]["build_history_url"] = f"{self.url}/_engine/history?batchId={{batch_id}}"
        connection["extra"].update(extra)
        return connection

    def connection_json(self, auth: str = "auto", **extra: Any) -> str:
        """Write that connection as Airflow reads it from the environment."""
        return json.dumps(self.connection(auth, **extra))

    def start(self) -> AtScaleEngine:
        """Listen; ports that were free ones stay the same when started again."""
        if self._loop is not None:
            raise RuntimeError("The engine already runs")
        loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(loop,), name="local-atscale-engine", daemon=True)
        self._thread.start()
        self._loop = loop
        try:
            self._in_loop(self._listen())
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Close all connections and the ports at once, as a crash would."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        self._in_loop(self._close())
        self._loop = self._thread = None
        loop.call_soon_threadsafe(loop.stop)
        thread.join()

    def _in_loop(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None  # noqa: S101
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_START_TIMEOUT)

    async def _listen(self) -> None:
        self._listening: list[tuple[asyncio.Server, _Port]] = []
        for role, wanted in self._ports.items():
            port = _Port(self, role)
            server = await asyncio.get_running_loop().create_server(
                port, self.host, wanted, ssl=self._ssl_context, backlog=1024
            )
            self._listening.append((server, port))
            self._ports[role] = server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        for server, _ in self._listening:
            server.close()
        for _, port in self._listening:
            await port.shutdown(_SHUTDOWN_TIMEOUT)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()
