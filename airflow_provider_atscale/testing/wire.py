"""A request and a reply as plain values, and what an edition is made of."""

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

    from airflow_provider_atscale.testing.core import EngineCore

LARGEST_PAGE = 101
_NO_TIME = "0001-01-01T00:00:00Z"


class RefusedError(Exception):
    """
    Refuse a request; the edition puts the message in its own kind of error body.

    :param status: HTTP status of the answer.
    :param message: what the body says.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass
class Call:
    """Hold a request that was read to its end."""

    method: str
    path: str
    query_string: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    params: dict[str, str] = field(default_factory=dict)

    @property
    def bearer(self) -> str | None:
        """Give the bearer token, if there is one."""
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
            raise RefusedError(400, f"{name} must be a number") from None
        return max(value, smallest)


@dataclass
class Reply:
    """Hold an answer that was not sent yet."""

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
        """Give the varying parts of a path that fits."""
        found = self._pattern.fullmatch(path) if method == self.method else None
        return found.groupdict() if found else None


class Edition(ABC):
    """
    Speak the REST API of one edition.

    :param core: the state behind it.
    """

    name: ClassVar[str]
    roles: ClassVar[tuple[str, ...]]

    def __init__(self, core: EngineCore) -> None:
        self.core = core

    @abstractmethod
    def routes(self, role: str) -> Sequence[Route]:
        """List the routes that a port with this role serves."""

    @abstractmethod
    def error(self, status: int, message: str) -> Reply:
        """Make an error answer."""

    @abstractmethod
    def connection(self, auth: str, urls: Mapping[str, str]) -> dict[str, Any]:
        """Describe the Airflow connection that leads here."""


def moment(seconds: float) -> str:
    """Write a time as AtScale does."""
    text = datetime.fromtimestamp(seconds, tz=timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def times(style: str, **moments: float | None) -> dict[str, str | None]:
    """Write times by name; those that are ``None`` in the wanted style."""
    written: dict[str, str | None] = {}
    for name, value in moments.items():
        if value is not None:
            written[name] = moment(value)
        elif style != "absent":
            written[name] = None if style == "null" else _NO_TIME
    return written


def truth(call: Call, name: str, default: bool | None = None) -> bool:
    """Read a boolean from the query."""
    text = call.query.get(name)
    if text is None and default is not None:
        return default
    if text not in ("true", "false"):
        raise RefusedError(400, f"{name} must be true or false")
    return text == "true"
