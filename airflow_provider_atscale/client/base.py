"""What both clients share: headers, secrets, errors."""

from __future__ import annotations

import html
import itertools
import json
import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, quote_plus

from airflow_provider_atscale.api.flow import Effect, Flow, Request, Response
from airflow_provider_atscale.exceptions import (
    AtScaleConfigurationError,
    AtScaleConnectionError,
    AtScaleError,
)
from airflow_provider_atscale.version import user_agent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from airflow_provider_atscale.client.settings import Settings


T = TypeVar("T")


#: How many tokens of a process Airflow is told to hide in everybody's logs. It keeps each value for ever and
#: compiles all of them into one expression whenever one is added: a triggerer that renews a token every few
#: minutes would use up its memory within days, and before Airflow 3.1 get no token any more, because the
#: expression is too large. Texts of ours show no token, however many there were.
HIDDEN_BY_AIRFLOW = 32


#: How many tokens a client takes out of texts; those before have long ended.
REMEMBERED = 8


_tokens_of_process = itertools.count()


@dataclass(frozen=True, slots=True)
class RedactingResponse(Response):
    """
    An answer that shows no known secret, should a server have sent one back.

    :param hide: Takes known secrets out of a text.
    """

    hide: Callable[[str], str] = str

    @property
    def excerpt(self) -> str:
        """The first characters of the body; secrets are hidden first, or half of one might be left."""
        return Response(self.status, self.headers, self.hide(self.text).encode(), self.url).excerpt


class BaseClient:
    """What both drivers share: the connection's settings and the secrets that were met."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._fixed = frozenset(value for value in settings.secrets if len(value) > 3)
        self._tokens: deque[str] = deque(maxlen=REMEMBERED)
        self._last_headers: tuple[object, dict[str, str]] = None, {}

    def _headers(self, request: Request) -> dict[str, str]:
        """Return a request's headers: its own win over the connection's, however those are written."""
        own = tuple(request.headers.items())
        if own != self._last_headers[0]:
            # Most requests carry the headers of the one before.
            self._last_headers = own, self._merge_headers(request.headers)
        return self._last_headers[1]

    def _merge_headers(self, own: Mapping[str, str]) -> dict[str, str]:
        merged: dict[str, tuple[str, str]] = {}
        for source in ({"User-Agent": user_agent()}, self.settings.headers, own):
            merged.update({name.lower(): (name, value) for name, value in source.items()})
        for name, value in merged.values():
            # The libraries' own errors about it show the value, which is a token as a rule.
            if not (value.isprintable() and _is_latin(value)):
                raise AtScaleConfigurationError(
                    f"Connection {self.settings.conn_id!r}: the value of the header {name!r} has a character "
                    "that a header cannot have, such as the end of a line. Was the token, or the field "
                    "'headers', copied with it?"
                )
        return dict(merged.values())

    def _redact_error(self, error: AtScaleError) -> AtScaleError:
        """Take known secrets out of an error's text, should a server have sent one back."""
        text = str(error)
        cleaned = self._redact(text)
        if cleaned != text:
            error.args = (cleaned, *error.args[1:])
        return error

    def _redact(self, text: str) -> str:
        for spelling in self._encodings_of_secrets():
            text = text.replace(spelling, "***")
        return text

    def _remember_token(self, token: str) -> bool:
        """Remember a token that was received; return whether Airflow is to be told of it."""
        self._tokens.append(token)
        return next(_tokens_of_process) < HIDDEN_BY_AIRFLOW

    def _encodings_of_secrets(self) -> Iterator[str]:
        """Return the secrets as they are, and as servers that send them back write them in JSON, HTML, URLs."""
        for secret in sorted(self._fixed.union(self._tokens), key=len, reverse=True):
            yield from {
                secret,
                json.dumps(secret)[1:-1],
                json.dumps(secret, ensure_ascii=False)[1:-1],
                html.escape(secret),
                quote(secret),
                quote(secret, safe=""),
                quote_plus(secret),
            }

    def _response(self, request: Request, status: int, headers: Mapping[str, str], body: bytes) -> Response:
        """Return an answer as a flow sees it."""
        if status >= 300:
            # Nothing but a text for people, and a message is shortened before an error shows it.
            for spelling in self._encodings_of_secrets():
                body = body.replace(spelling.encode(), b"***")
        lowered = {name.lower(): value for name, value in headers.items()}
        return RedactingResponse(status, lowered, body, request.url, self._redact)

    def _no_answer(self, request: Request, error: BaseException, *, sent: bool) -> AtScaleConnectionError:
        # Errors of proxies show the whole address of the proxy, login and password included.
        text = re.sub(r"(?<=://)[^/@\s]+@", "***@", str(error))
        what = f"{type(error).__name__}: {text}" if text else type(error).__name__
        hint = (
            "Check the connection's host (https or http?) and port, its verify setting and the network"
            if request.repeatable or not sent
            else "The request may have reached AtScale"
        )
        return AtScaleConnectionError(
            f"{request.method} {request.url} got no answer ({what}). {hint}.", sent=sent
        )


def _is_latin(text: str) -> bool:
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def _step(flow: Flow[T], outcome: Any, error: BaseException | None) -> tuple[Effect | None, T | None]:
    """Give a flow the outcome of its last effect; return its next effect, or its value and None."""
    try:
        return (flow.throw(error) if error is not None else flow.send(outcome)), None
    except StopIteration as stop:
        return None, stop.value
