"""Run flows over requests: the blocking client of workers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import tenacity

from airflow_provider_atscale.api.flow import Effect, Flow, MaskSecret, Pause, Request, Response
from airflow_provider_atscale.client.editions import make_edition
from airflow_provider_atscale.exceptions import (
    AtScaleError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import requests

    from airflow_provider_atscale.client.settings import Settings
from airflow_provider_atscale.client.base import BaseClient, T, _step
from airflow_provider_atscale.client.retries import TRIES, _policy

#: Bytes of an answer that are read at once.
_PIECE = 1024


class AtScaleClient(BaseClient):
    """
    Run flows one after the other over requests.

    :param settings: The connection's settings.
    :param mask: Hides a value from all logs.
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

    def run(self, flow: Flow[T], tries: int = TRIES) -> T:
        """
        Run a flow to its end.

        :param flow: The flow.
        :param tries: How often a read is tried at the most.
        """
        outcome: Any = None
        error: BaseException | None = None
        while True:
            try:
                effect, value = _step(flow, outcome, error)
            except AtScaleError as raised:
                raise self._redact_error(raised) from raised.__cause__
            if effect is None:
                return value  # type: ignore[return-value]
            outcome, error = None, None
            try:
                outcome = self._perform(effect, tries)
            except AtScaleError as raised:
                error = raised

    def _perform(self, effect: Effect, tries: int) -> Any:
        if isinstance(effect, Request):
            if not effect.repeatable:
                return self._send(effect)
            retrying = tenacity.Retrying(sleep=self._sleep, **_policy(tries))
            return retrying(self._send, effect)
        if isinstance(effect, Pause):
            return self._sleep(effect.seconds)
        if isinstance(effect, MaskSecret):
            return self._mask(effect.value) if self._remember_token(effect.value) and self._mask else None
        return self.run(effect.flow(), tries)

    def _send(self, request: Request) -> Response:
        import ssl
        from http.cookiejar import DefaultCookiePolicy

        import requests
        from urllib3.exceptions import NewConnectionError

        headers = self._headers(request)
        if self._session is None:
            self._session = requests.Session()
            # No answer's cookie decides what a later request means.
            self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        try:
            began = time.monotonic()
            answer = self._session.request(
                request.method,
                request.url,
                params=dict(request.params) or None,
                headers=headers,
                json=request.json,
                data=dict(request.form) if request.form is not None else None,
                timeout=self.settings.timeout,
                verify=self.settings.verify,
                allow_redirects=False,
                stream=True,
                # Without it a .netrc entry of the host would replace our Authorization header.
                auth=_keep_headers,
            )
            return self._response(request, answer.status_code, answer.headers, self._read_body(answer, began))
        except requests.exceptions.ConnectTimeout as error:
            raise self._no_answer(request, error, sent=False) from None
        except requests.exceptions.RequestException as error:
            reason = getattr(error.args[0], "reason", None) if error.args else None
            refused = isinstance(reason, NewConnectionError)
            # An untrusted certificate ends the handshake; other TLS errors may come after the request.
            inner = reason.args[0] if isinstance(reason, Exception) and reason.args else None
            untrusted = isinstance(inner, ssl.SSLCertVerificationError)
            raise self._no_answer(request, error, sent=not (refused or untrusted)) from None
        except OSError as error:
            # A CA bundle that is not there or is none; nothing of the network comes unwrapped.
            raise self._no_answer(request, error, sent=False) from None

    def _read_body(self, answer: requests.Response, began: float) -> bytes:
        """Read an answer piece by piece: one that only drips must not outlast the request's time limit."""
        import requests

        pieces = []
        with answer:
            for piece in answer.iter_content(_PIECE):
                pieces.append(piece)
                if time.monotonic() - began > self.settings.timeout:
                    raise requests.exceptions.ReadTimeout(
                        f"the answer was not complete after {self.settings.timeout:.0f} s"
                    )
        return b"".join(pieces)

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


def _keep_headers(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
