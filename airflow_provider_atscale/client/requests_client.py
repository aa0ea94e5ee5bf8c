"""Run flows over requests: the blocking client of workers."""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
import time
import zlib
from contextvars import ContextVar
from http.client import HTTPResponse
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import requests
import tenacity
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from airflow_provider_atscale.api.flow import Effect, Flow, Pause, Request, Response
from airflow_provider_atscale.client.base import BaseClient, T, ca_bundle
from airflow_provider_atscale.client.body import READ_SIZE, Body
from airflow_provider_atscale.client.retries import TRIES, retry_policy
from airflow_provider_atscale.exceptions import AtScaleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_atscale.client.settings import Settings

#: When the answer to the request must be complete, by the monotonic clock.
_end: ContextVar[float] = ContextVar("_end")


class AtScaleClient(BaseClient):
    """Run flows one after the other over requests."""

    def __init__(
        self,
        settings: Settings,
        mask: Callable[[str], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(settings)
        self._mask = mask
        self._sleep = sleep
        self._session: requests.Session | None = None

    def run(self, flow: Flow[T], tries: int = TRIES, *, until: float | None = None) -> T:
        """
        Run a flow to its end.

        :param until: Epoch seconds by which it must end: no request is sent later, and none lasts longer.
        """
        outcome: Any = None
        while True:
            effect, value = self._step(flow, outcome)
            if effect is None:
                return value  # type: ignore[no-any-return]
            try:
                outcome = self._perform(effect, tries, until)
            except AtScaleError as error:
                outcome = error

    def _perform(self, effect: Effect, tries: int, until: float | None) -> Any:
        if isinstance(effect, Request):
            if tries <= 1 or not effect.repeatable:
                return self._send(effect, until)
            return tenacity.Retrying(sleep=self._sleep, **retry_policy(tries, until))(self._send, effect, until)
        if isinstance(effect, Pause):
            return self._sleep(effect.seconds)
        with self._counted():
            token = self.run(effect.flow(), tries, until=until)
        if self._redactor.add_token(token.value) and self._mask is not None:
            self._mask(token.value)
        effect.keep(token)
        return token

    def _send(self, request: Request, until: float | None) -> Response:
        headers, proxy = self._headers(request), self._proxy(request.url)
        timeout = self._time_left(request, until)
        end = time.monotonic() + timeout
        token = _end.set(end)
        try:
            with self._get_session().request(
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
            ) as answer:
                body = Body(answer.headers.get("Content-Encoding", ""))
                for piece in answer.raw.stream(READ_SIZE, decode_content=False):
                    body.add(piece)
                    if body.is_too_large:
                        break
            return self._response(request, answer.status_code, answer.headers, body)
        except (requests.exceptions.RequestException, HTTPError, OSError, zlib.error) as error:
            # The CA bundle cannot be read: all other errors of files and sockets are wrapped.
            is_local = isinstance(error, OSError) and not isinstance(
                error, (requests.exceptions.RequestException, TimeoutError)
            )
            sent = not (is_local or _is_unsent(error))
            if sent and time.monotonic() >= end:
                error = TimeoutError(f"the answer was not complete after {timeout:.1f} s")
            raise self._no_response(request, error, sent=sent) from None
        finally:
            _end.reset(token)

    def _get_session(self) -> requests.Session:
        if self._session is None:
            self._session = requests.Session()
            # The package reads proxies and the CA bundle itself, and no .netrc replaces its credentials.
            self._session.trust_env = False
            # No cookie of an answer decides what a later request means.
            self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
            for scheme in ("http://", "https://"):
                self._session.mount(scheme, _Adapter())
        return self._session

    def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            self._session.close()
            self._session = None


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


def _seconds_left() -> float:
    left = _end.get() - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time of the request is over")
    return left


class _TimedReader(io.RawIOBase):
    """
    Read from a socket until the time of the request is over.

    The timeout of requests limits each single read, so an answer that drips would never time out.
    """

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_seconds_left())
        return self._raw.readinto(buffer)  # type: ignore[no-any-return]

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_TimedReader(sock))


class _Timed:
    """A connection that is made, and answers, within the time of the request."""

    response_class: Any = _TimedResponse
    host: str
    port: int
    timeout: Any

    def _new_conn(self) -> Any:
        # The timeout is for each address of the host, one after the other. An error is raised by the base class.
        with contextlib.suppress(OSError):
            addresses = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            self.timeout = _seconds_left() / max(len(addresses), 1)
        sock = super()._new_conn()  # type: ignore[misc]
        sock.settimeout(_seconds_left())
        return sock


class _HttpConnection(_Timed, HTTPConnection): ...


class _HttpsConnection(_Timed, HTTPSConnection): ...


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


class _Adapter(HTTPAdapter):
    """Use connections that keep the time of a request."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager


_POOLS = {"http": _HttpPool, "https": _HttpsPool}
