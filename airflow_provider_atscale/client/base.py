"""What both clients share: headers, time limits, proxies, and errors without secrets."""

from __future__ import annotations

import os
import time
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import certifi

from airflow_provider_atscale import metrics
from airflow_provider_atscale.api.auth import basic_credentials
from airflow_provider_atscale.api.flow import Effect, Flow, Request, Response
from airflow_provider_atscale.client.body import ACCEPT_ENCODING, MAX_BODY, Body
from airflow_provider_atscale.client.causes import cause_of
from airflow_provider_atscale.client.editions import make_edition
from airflow_provider_atscale.client.proxies import credentials_of, find_proxy
from airflow_provider_atscale.client.secrets import Redactor
from airflow_provider_atscale.client.traces import trace_headers
from airflow_provider_atscale.exceptions import (
    AtScaleAuthenticationError,
    AtScaleConfigurationError,
    AtScaleConnectionError,
    AtScaleError,
)
from airflow_provider_atscale.version import user_agent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_provider_atscale.client.settings import Settings

T = TypeVar("T")

_CHECK_NETWORK = "Check the connection's host (https or http?) and port, its verify setting and the network"


class BaseClient:
    """Base of both clients."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.edition = make_edition(settings)
        self._redactor = Redactor(settings.secrets)
        self._proxies: dict[str, str | None] = {}

    def _headers(self, request: Request) -> dict[str, str]:
        """Return a request's headers; they replace those of the connection, in whatever case."""
        defaults = {"User-Agent": user_agent(), "Accept-Encoding": ACCEPT_ENCODING, **trace_headers()}
        merged: dict[str, tuple[str, str]] = {}
        for source in (defaults, self.settings.headers, request.headers):
            merged.update({name.lower(): (name, value) for name, value in source.items()})
        for name, value in merged.values():
            # The errors of the libraries would show the value, which is usually a token.
            if not (value.isprintable() and _is_latin(value)):
                raise AtScaleConfigurationError(
                    f"Connection {self.settings.conn_id!r}: the value of the header {name!r} has a character "
                    "that a header cannot have, such as the end of a line. Was the token, or the field "
                    "'headers', copied with it?"
                )
        return dict(merged.values())

    def _proxy(self, url: str) -> str | None:
        """Return the proxy for an address, and redact its credentials from now on."""
        server = "/".join(url.split("/")[:3])
        if server not in self._proxies:
            proxy = find_proxy(url)
            if proxy is not None:
                login, password = credentials_of(proxy)
                if password:
                    self._redactor.add(password)
                    self._redactor.add(basic_credentials(login, password))
            self._proxies[server] = proxy
        return self._proxies[server]

    def _time_left(self, request: Request, until: float | None) -> float:
        """Return the seconds that a request may take: the timeout and, for a read, no longer than a deadline."""
        if until is None:
            return self.settings.timeout
        left = until - time.time()
        if left <= 0:
            raise AtScaleConnectionError(
                f"{request.method} {request.url} was not sent: the deadline of the wait has passed.", sent=False
            )
        # To cut a start short would lose its reply, and to search for the batch takes longer.
        return min(self.settings.timeout, left) if request.repeatable else self.settings.timeout

    def _step(self, flow: Flow[T], outcome: Any) -> tuple[Effect | None, Any]:
        """Return what :func:`step` returns."""
        try:
            return step(flow, outcome)
        except AtScaleError as error:
            # The server may have sent a secret back.
            error.args = (self._redactor.redact(str(error)), *error.args[1:])
            raise error from error.__cause__

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a token that is fetched, or a login that is refused."""
        try:
            yield
        except AtScaleAuthenticationError:
            metrics.count("atscale.login.refused")
            raise
        metrics.count("atscale.token.renewed")

    def _response(self, request: Request, status: int, headers: Mapping[str, str], body: Body) -> Response:
        """Return an answer as a flow sees it."""
        content = body.to_bytes()
        if status >= 300:
            # Only people read it, and its message is shortened before an error shows it.
            content = self._redactor.redact(content.decode("utf-8", "surrogateescape")).encode(
                "utf-8", "surrogateescape"
            )
        lowered = {name.lower(): value for name, value in headers.items()}
        limit = MAX_BODY if body.is_too_large else None
        return Response(status, lowered, content, request.url, self._redactor.redact, limit)

    def _no_response(self, request: Request, error: Exception, *, sent: bool) -> AtScaleConnectionError:
        """Return the error for a request without an answer."""
        text = self._redactor.redact_error(error)
        said = f"{type(error).__name__}: {text}" if text else type(error).__name__
        cause = cause_of(error, request.url, self._proxy(request.url))
        advice = cause.advice if cause else _CHECK_NETWORK
        if sent and not request.repeatable:
            advice = "The request may have reached AtScale"
        begin = f"{self._redactor.redact(cause.text)}. " if cause else ""
        got = "an answer that cannot be decompressed" if isinstance(error, zlib.error) else "no answer"
        return AtScaleConnectionError(
            f"{begin}{request.method} {request.url} got {got} ({said}). {advice}.", sent=sent
        )


def _is_latin(text: str) -> bool:
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def ca_bundle(verify: bool | str) -> bool | str:
    """Return the path of the CA bundle that both clients trust; False if certificates are not checked."""
    if verify is True:
        return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or certifi.where()
    return verify


def step(flow: Flow[T], outcome: Any) -> tuple[Effect | None, Any]:
    """Give a flow its last effect's outcome, or error; return its next effect, or None and the flow's value."""
    try:
        return (flow.throw(outcome) if isinstance(outcome, AtScaleError) else flow.send(outcome)), None
    except StopIteration as stop:
        return None, stop.value
