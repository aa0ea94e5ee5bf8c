"""Requests and replies as plain values, and the base class of the two editions."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_atscale.testing.core import EngineState

LARGEST_PAGE = 101
_NO_TIME = "0001-01-01T00:00:00Z"


class RefusedError(Exception):
    """
    Refuse a request; each edition has its kind of error body for the message.

    :param status: HTTP status of the answer.
    :param message: what the body says.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class InvalidRequestError(RefusedError):
    """
    Refuse a request with 400 for one of its values; each edition words that differently.

    :param name: name of the value.
    :param expected: what it must be, in a word or two.
    :param received: what it is.
    """

    def __init__(self, name: str, expected: str, received: str | None) -> None:
        super().__init__(400, f"{name} must be {expected}; not {received!r}")
        self.name = name
        self.expected = expected
        self.received = received


@dataclass
class Call:
    """Hold a request that was read completely."""

    method: str
    path: str
    query_string: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    params: dict[str, str] = field(default_factory=dict)

    @property
    def bearer(self) -> str | None:
        """Return the bearer token, if there is one."""
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None

    def number(self, name: str, default: int, smallest: int = 0) -> int:
        """Read a whole number from the query."""
        text = self.query.get(name)
        if text is None:
            return default
        try:
            value = int(text)
        except ValueError:
            raise InvalidRequestError(name, "number", text) from None
        return max(value, smallest)

    def truth(self, name: str, default: bool | None = None) -> bool:
        """Read a boolean from the query."""
        text = self.query.get(name)
        if text is None and default is not None:
            return default
        if text not in ("true", "false"):
            raise InvalidRequestError(name, "boolean", text)
        return text == "true"

    def time(self, name: str) -> float | None:
        """Read a time from the query, as seconds since the epoch; without an offset it is UTC."""
        text = self.query.get(name)
        if text is None:
            return None
        try:
            # Python 3.10 does not read the "Z".
            moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        except ValueError:
            raise InvalidRequestError(name, "date", text) from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


@dataclass
class Reply:
    """Hold an answer that is not sent yet."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value: object, status: int = 200) -> Reply:
        """Answer with JSON."""
        return cls(status, json.dumps(value).encode())

    @classmethod
    def text(cls, value: str, status: int = 200) -> Reply:
        """Answer with plain text."""
        return cls(status, value.encode(), "text/plain")

    @classmethod
    def html(cls, value: str, status: int = 200) -> Reply:
        """Answer with a page."""
        return cls(status, value.encode(), "text/html")


Handler = Callable[[Call], Reply]


class Route:
    """
    Bind a method and a path to a handler.

    :param name: what the request log and the statistics call it; the same word in both editions.
    :param template: path with ``{name}`` for each part that varies.
    """

    def __init__(self, name: str, method: str, template: str, handler: Handler) -> None:
        self.name = name
        self.method = method
        self.handler = handler
        literal = re.split(r"\{(\w+)\}", template)
        self._pattern = re.compile(
            "".join(
                f"(?P<{part}>[^/]+)" if number % 2 else re.escape(part) for number, part in enumerate(literal)
            )
        )

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """Return the varying parts of a path that fits, ``None`` if it does not."""
        found = self._pattern.fullmatch(path) if method == self.method else None
        return found.groupdict() if found else None


class Edition(ABC):
    """
    Answer as the REST API of one edition does.

    :param state: the state of the engine.
    """

    name: ClassVar[str]
    roles: ClassVar[tuple[str, ...]]

    def __init__(self, state: EngineState) -> None:
        self.state = state

    @abstractmethod
    def routes(self, role: str) -> Sequence[Route]:
        """Return the routes that a port with this role serves."""

    @abstractmethod
    def error(self, status: int, message: str) -> Reply:
        """Make an error answer."""

    def unknown_route(self, call: Call) -> str:
        """Word the error of a request that no route serves."""
        return f"Cannot {call.method} {call.path}"

    def invalid(self, error: InvalidRequestError) -> str:
        """Word the error of a request with an invalid value."""
        return error.message

    @abstractmethod
    def connection(self, auth: str, urls: Mapping[str, str]) -> dict[str, Any]:
        """Describe the Airflow connection that leads here."""


def moment(seconds: float) -> str:
    """Write a time as AtScale does."""
    text = datetime.fromtimestamp(seconds, tz=timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def fine_moment(seconds: float) -> str:
    """Write a time with nanoseconds, as AtScale's installer edition writes when a project was published."""
    whole, nanoseconds = divmod(round(seconds * 1_000_000_000), 1_000_000_000)
    text = datetime.fromtimestamp(whole, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{nanoseconds:09}Z"


def times(style: str, **moments: float | None) -> dict[str, str | None]:
    """Write times by name; a time that is ``None`` is written in the wanted style."""
    written: dict[str, str | None] = {}
    for name, value in moments.items():
        if value is not None:
            written[name] = moment(value)
        elif style != "absent":
            written[name] = None if style == "null" else _NO_TIME
    return written
