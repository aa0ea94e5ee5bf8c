"""Run flows over requests: the blocking client of workers."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
import zlib
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import requests
import tenacity
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from airflow_provider_atscale.api.flow import Effect, Flow, MaskSecret, Pause, Request, Response
from airflow_provider_atscale.client.base import BaseClient, T, ca_bundle, step
from airflow_provider_atscale.client.body import READ_SIZE, Body
from airflow_provider_atscale.client.editions import make_edition
from airflow_provider_atscale.client.retries import TRIES, retry_policy
from airflow_provider_atscale.exceptions import AtScaleError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from airflow_provider_atscale.client.settings import Settings

#: How often, in seconds, a request that is over its time is ended again, should it still be connecting.
_END_AGAIN = 0.1


class AtScaleClient(BaseClient):
    """
    Run flows one after the other over requests.

    :param settings: The connection's settings.
    :param mask: Masks a value in all logs.
    :param sleep: Lets time pass.
    """

    def __init__(
        self,
        settings: Settings,
        mask: Callable[[str], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(settings)
        self.edition = make_edition(settings)
        self._mask = mask
        self._sleep = sleep
        self._session: requests.Session | None = None
        self._adapter = _Adapter()

    def run(self, flow: Flow[T], tries: int = TRIES, *, until: float | None = None) -> T:
        """
        Run a flow to its end.

        :param flow: The flow.
        :param tries: How often a read is tried.
        :param until: Epoch seconds by which it must end: no request is sent later, and none lasts longer.
        """
        outcome: Any = None
        error: BaseException | None = None
        while True:
            try:
                effect, value = step(flow, outcome, error)
            except AtScaleError as raised:
                raise self._redact_error(raised) from raised.__cause__
            if effect is None:
                return value  # type: ignore[return-value]
            outcome, error = None, None
            try:
                outcome = self._perform(effect, tries, until)
            except AtScaleError as raised:
                error = raised

    def _perform(self, effect: Effect, tries: int, until: float | None) -> Any:
        if isinstance(effect, Request):
            if tries <= 1 or not effect.repeatable:
                return self._send(effect, until)
            return tenacity.Retrying(sleep=self._sleep, **retry_policy(tries, until))(self._send, effect, until)
        if isinstance(effect, Pause):
            return self._sleep(effect.seconds)
        if isinstance(effect, MaskSecret):
            return self._mask(effect.value) if self._redactor.add_token(effect.value) and self._mask else None
        return self.run(effect.flow(), tries, until=until)

    def _send(self, request: Request, until: float | None = None) -> Response:
        headers, proxy = self._headers(request), self._proxy(request.url)
        timeout = self._time_left(request, until)
        limit = _TimeLimit(self._adapter.in_use, timeout)
        try:
            with limit:
                answer = self._get_session().request(
                    request.method,
                    request.url,
                    params=dict(request.params) or None,
                    headers=headers,
                    json=request.json,
                    data=dict(request.form) if request.form is not None else None,
                    timeout=timeout,
                    verify=ca_bundle(self.settings.verify),
                    proxies={request.url.partition(":")[0]: proxy} if proxy else None,
                    allow_redirects=False,
                    stream=True,
                )
                with answer:
                    body = Body(answer.headers.get("Content-Encoding"))
                    for piece in answer.raw.stream(READ_SIZE, decode_content=False):
                        body.add(piece)
                        if body.is_too_large:
                            break
            if not limit.is_over:
                return self._response(request, answer.status_code, answer.headers, body)
            late: Exception = TimeoutError(f"the answer was not complete after {timeout:.1f} s")
            sent = True
        except (requests.exceptions.RequestException, HTTPError, zlib.error) as error:
            sent = not _is_unsent(error)
            late = (
                TimeoutError(f"the answer was not complete after {timeout:.1f} s")
                if limit.is_over and sent
                else error
            )
        except OSError as error:
            # The CA bundle cannot be read; errors of the network are wrapped.
            late, sent = error, False
        raise self._no_response(request, late, sent=sent) from None

    def _get_session(self) -> requests.Session:
        if self._session is None:
            self._session = requests.Session()
            # The package reads proxies and the CA bundle itself, and no .netrc replaces its credentials.
            self._session.trust_env = False
            # No cookie of an answer decides what a later request means.
            self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
            for scheme in ("http://", "https://"):
                self._session.mount(scheme, self._adapter)
        return self._session

    def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def __enter__(self) -> AtScaleClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_unsent(error: Exception) -> bool:
    """Whether a request that failed has certainly not reached AtScale."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    # Errors on the way to a proxy are wrapped once more.
    cause = getattr(reason, "original_error", reason)
    if isinstance(cause, (NewConnectionError, ConnectTimeoutError)):
        return True
    if isinstance(cause, OSError) and str(cause).startswith("Tunnel connection failed"):
        return True
    # An untrusted certificate ends the handshake; other TLS errors may come after the request.
    inner = cause.args[0] if isinstance(cause, Exception) and cause.args else None
    return isinstance(inner, ssl.SSLCertVerificationError)


class _TimeLimit:
    """
    End a request that takes too long, whatever it waits for.

    The timeout of requests limits each single read, so an answer that drips would never time out. Therefore
    a thread shuts the socket down when the time is over.

    :param in_use: Notes the connection that the request of this thread uses.
    :param seconds: The time that the request may take.
    """

    def __init__(self, in_use: _InUse, seconds: float) -> None:
        self.is_over = False
        # A list for this request alone: other threads may use the same client, and a pool its connections again.
        self._connections: list[Any] = []
        self._in_use = in_use
        self._seconds = seconds
        self._done = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._in_use.connections = self._connections
        threading.Thread(target=self._watch, daemon=True, name="atscale-timeout").start()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._done.set()

    def _watch(self) -> None:
        if self._done.wait(self._seconds):
            return
        while True:
            with self._lock:
                if self._done.is_set():
                    return
                self.is_over = True
                self._shut_down()
            if self._done.wait(_END_AGAIN):
                return

    def _shut_down(self) -> None:
        for each in [sock for used in list(self._connections) for sock in (used.sock, used.reading_from)]:
            # TLS inside of TLS is not a socket but has one.
            sock = getattr(each, "socket", each)
            if isinstance(sock, socket.socket):
                with contextlib.suppress(OSError):
                    # Not the method of SSLSocket: it also changes what the other thread reads from.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _InUse(threading.local):
    """The connections that the request of a thread uses."""

    connections: list[Any] = []


class _Adapter(HTTPAdapter):
    """Know the connection that a request uses."""

    def __init__(self) -> None:
        self.in_use = _InUse()
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self._track(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        self._track(manager)
        return manager

    def _track(self, manager: Any) -> None:
        manager.pool_classes_by_scheme = {
            "http": partial(_HttpPool, self.in_use),
            "https": partial(_HttpsPool, self.in_use),
        }


class _KeepsSocket:
    """A connection that knows its socket even while the last answer is read from it."""

    sock: Any
    reading_from: Any = None

    def getresponse(self) -> Any:
        # If the server will close the connection, http.client removes the socket before the body is read.
        self.reading_from = self.sock
        return super().getresponse()  # type: ignore[misc]


class _HttpConnection(_KeepsSocket, HTTPConnection): ...


class _HttpsConnection(_KeepsSocket, HTTPSConnection): ...


class _Tracking:
    """A connection pool that notes which connection it gives to a request."""

    def __init__(self, in_use: _InUse, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_use = in_use

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection = super()._get_conn(timeout)  # type: ignore[misc]
        self._in_use.connections[:] = [connection]
        return connection


class _HttpPool(_Tracking, HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(_Tracking, HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection
