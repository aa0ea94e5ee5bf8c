"""
Values that flows and their drivers exchange.

A *flow* is a generator: one call of AtScale's API, with its paging and fallbacks. It yields an effect, such as
a :class:`Request`, and is sent the outcome, such as a :class:`Response`; failures are thrown into it. Only the
driver knows sockets, clocks and threads. So each call is written once, for the blocking and the async client.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias, TypeVar

from airflow_provider_atscale.api.values import usable_time, value_at
from airflow_provider_atscale.exceptions import AtScaleMalformedAnswerError

T = TypeVar("T")

#: How many characters of an answer an error message shows.
MAX_EXCERPT = 200
#: What to do about an answer that is not AtScale's.
CHECK_ADDRESS = (
    "Check that the connection's host (installer edition: engine_url and design_center_url, too) is AtScale "
    "itself and not a proxy or a login page"
)
#: Characters of a token, at the end of a text.
_CUT_TOKEN = re.compile(r"[\w.~+/=-]+$")


def shorten(text: str, limit: int = MAX_EXCERPT) -> str:
    """Return a foreign text as an error message may show it: on one line, printable, not too long."""
    # Read more than is shown, but not a megabyte of some proxy's page.
    line = " ".join(text[: 20 * limit].split())
    line = "".join(character if character.isprintable() else "?" for character in line)
    if len(line) <= limit and len(text) <= 20 * limit:
        return line
    # Show a token whole or not at all: half a token is not recognized as a secret that must be masked.
    return _CUT_TOKEN.sub("", line[:limit]) + "..."


@dataclass(frozen=True, slots=True)
class Request:
    """
    Send an HTTP request.

    :param url: Absolute URL, without the query.
    :param headers: Headers of this request; they win over the connection's.
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
        return replace(self, headers={**self.headers, **headers})


@dataclass(frozen=True, slots=True)
class Response:
    """
    The server's answer.

    :param headers: Headers, their names in lower case.
    :param url: URL of the request, without the query.
    :param redact: Replaces known secrets in a text, in case the server sent one back.
    :param limit: The size limit in bytes, if the body was larger and so only its beginning is here.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str
    redact: Callable[[str], str] = str
    limit: int | None = None

    @property
    def ok(self) -> bool:
        """Whether the status means success."""
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        """The body as text, whatever its bytes."""
        return self.body.decode("utf-8", errors="replace")

    @property
    def excerpt(self) -> str:
        """The first characters of the body; secrets are replaced first, or half of one might be left."""
        return shorten(self.redact(self.text))

    @property
    def date(self) -> datetime | None:
        """The server's clock when it answered; None if it is not told, or if a cache gave an old answer again."""
        # Even "Age: 0" can be a second old, on top of what a Date header may be late.
        if "age" in self.headers:
            return None
        try:
            moment = parsedate_to_datetime(self.headers.get("date", ""))
        except (TypeError, ValueError, OverflowError, IndexError):
            return None
        # HTTP dates are in GMT, even if they do not say so.
        return usable_time(moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc))

    @property
    def retry_after(self) -> float | None:
        """The seconds of the ``Retry-After`` header, which may be a number or a date; None if there is none."""
        value = self.headers.get("retry-after", "").strip()
        if value.isascii() and value.isdigit():
            return float(value)
        try:
            # A date without a zone cannot be compared, which is a TypeError.
            return max((parsedate_to_datetime(value) - self.date).total_seconds(), 0.0)  # type: ignore[operator]
        except (TypeError, ValueError, OverflowError):
            return None

    def json(self) -> Any:
        """Return the parsed body, or raise a typed error that shows what came instead."""
        if self.limit is not None:
            raise self.malformed(f"is larger than {self.limit // 2**20} MiB")
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise self.malformed("is not JSON") from None

    def json_or_none(self) -> Any:
        """Return the parsed body; None if it is not JSON."""
        try:
            return self.json()
        except AtScaleMalformedAnswerError:
            return None

    def rows_in(self, body: Any, *path: str) -> list[Any]:
        """Return the list at a path of keys in this answer's parsed body, or raise a typed error."""
        value = value_at(body, *path)
        if not isinstance(value, list):
            raise self.malformed(f"has no list {'.'.join(path)!r}" if path else "is not a list")
        return value

    def parse_all(self, rows: list[Any], parse: Callable[[Any], T | None], what: str) -> list[T]:
        """
        Return the parsed rows, or raise a typed error if one of them cannot be parsed.

        :param parse: Returns what a row describes; None if it lacks something.
        :param what: What a bad row is, for the error: "a batch without id or status".
        """
        parsed = [each for each in map(parse, rows) if each is not None]
        if len(parsed) < len(rows):
            raise self.malformed(f"has {what}")
        return parsed

    def malformed(self, reason: str) -> AtScaleMalformedAnswerError:
        """Return the error for an answer that is not what the call returns."""
        return AtScaleMalformedAnswerError(
            f"The answer of {self.url} (HTTP {self.status}) {reason}. It begins with: {self.excerpt!r}. "
            f"{CHECK_ADDRESS}.",
            self.status,
        )


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before the next request."""

    seconds: float


@dataclass(frozen=True, slots=True)
class FetchToken:
    """
    Get a token, once for all concurrent callers.

    :param flow: Gets it; its ``value`` is masked in all logs before anybody has it.
    :param keep: Is called with it before any caller goes on, so that nobody fetches another one.
    """

    flow: Callable[[], Generator[Any, Any, Any]]
    keep: Callable[[Any], None]


Effect: TypeAlias = Request | Pause | FetchToken
Flow: TypeAlias = Generator[Effect, Any, T]


def immediate(value: T) -> Flow[T]:
    """Return a flow that needs no effect and returns the value."""
    return value
    yield  # never reached: it makes this function a generator, as every flow is
