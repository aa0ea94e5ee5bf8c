"""
Plain values that flows and their drivers exchange.

A *flow* is a generator. It yields one of the effects below and is sent its outcome: a :class:`Response`
for a :class:`Request`, the sub-flow's value for :class:`Once`, None for the others. What cannot be answered
is thrown into it as an exception. The driver alone knows sockets, clocks and threads, so each call is
written once and serves the blocking and the asynchronous client alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias, TypeVar

from airflow_provider_atscale.exceptions import AtScaleMalformedAnswerError

T = TypeVar("T")

#: How much of an answer's text an error message may show.
MAX_EXCERPT = 200
#: What to do about an answer that is not AtScale's.
CHECK_ADDRESS = (
    "Check that the connection's host (installer edition: engine_url and design_center_url, too) is AtScale "
    "itself and not a proxy or a login page"
)
#: The characters of which tokens consist.
_CUT_TOKEN = re.compile(r"[\w.~+/=-]+$")


def shorten(text: str, limit: int = MAX_EXCERPT) -> str:
    """
    Return a foreign text as an error message may show it: on one line, printable, not too long.

    :param text: The text.
    :param limit: How many characters may be shown.
    """
    # Far more than is shown, and not a megabyte of a page that somebody's proxy serves.
    line = " ".join(text[: 20 * limit].split())
    line = "".join(character if character.isprintable() else "?" for character in line)
    if len(line) <= limit and len(text) <= 20 * limit:
        return line
    # A token is shown whole or not at all: half of one is no longer known as a secret that must be hidden.
    return _CUT_TOKEN.sub("", line[:limit]) + "..."


@dataclass(frozen=True, slots=True)
class Request:
    """
    Ask the server something.

    :param method: HTTP method.
    :param url: Absolute address, without the query.
    :param params: Query parameters, already text.
    :param headers: Headers of this request, over the connection's own.
    :param json: Body to send as JSON.
    :param form: Body to send as a form.
    :param repeatable: Whether sending it twice does no harm. The driver never repeats any other request.
    """

    method: str
    url: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    form: Mapping[str, str] | None = None
    repeatable: bool = True

    def with_headers(self, headers: Mapping[str, str]) -> Request:
        """Return the same request with more headers."""
        merged = {**self.headers, **headers}
        return Request(self.method, self.url, self.params, merged, self.json, self.form, self.repeatable)


@dataclass(frozen=True, slots=True)
class Response:
    """
    The server's answer.

    :param status: HTTP status.
    :param headers: Headers, their names in lower case.
    :param body: The body as received.
    :param url: Address that was asked, without the query.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str

    @property
    def ok(self) -> bool:
        """Whether the status is one of success."""
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        """The body as text, whatever its bytes."""
        return self.body.decode("utf-8", errors="replace")

    @property
    def excerpt(self) -> str:
        """The first characters of the body on one line, for error messages."""
        return shorten(self.text)

    @property
    def date(self) -> datetime | None:
        """The server's own clock when it answered."""
        try:
            moment = parsedate_to_datetime(self.headers.get("date", ""))
        except (TypeError, ValueError, OverflowError):
            return None
        # HTTP dates are in GMT, said or not; one without a zone could not be compared with any other.
        return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)

    def json(self) -> Any:
        """Return the parsed body, or raise a typed error that shows what came instead."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise self.malformed("is not JSON") from None

    def malformed(self, reason: str) -> AtScaleMalformedAnswerError:
        """Return the error for an answer that is not what the call promises."""
        return AtScaleMalformedAnswerError(
            f"The answer of {self.url} (HTTP {self.status}) {reason}. It begins with: {self.excerpt!r}. "
            f"{CHECK_ADDRESS}.",
            self.status,
        )


@dataclass(frozen=True, slots=True)
class Pause:
    """Let time pass before the next request."""

    seconds: float


@dataclass(frozen=True, slots=True)
class MaskSecret:
    """Have a value hidden from all logs, from now on."""

    value: str


@dataclass(frozen=True, slots=True)
class SingleFlight:
    """
    Run a flow, or ride on the same flow if one is under way already.

    :param key: What makes two flows the same.
    :param flow: Makes the flow.
    """

    key: str
    flow: Callable[[], Generator[Any, Any, Any]]


Effect: TypeAlias = Request | Pause | MaskSecret | SingleFlight
Flow: TypeAlias = Generator[Effect, Any, T]
