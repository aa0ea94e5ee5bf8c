"""What a test reads back: batches, requests and counters, the same in process and over HTTP."""

from __future__ import annotations

import itertools
import threading
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class BatchRecord:
    """Report a batch; times are seconds since the epoch by the server's clock."""

    id: str
    catalog_id: str
    model_id: str
    catalog: str
    model: str
    is_full_build: bool
    status: str
    created: float
    started: float | None
    ended: float | None
    by: str
    failed_aggregates: int
    grace_period_overrides: dict[str, float] = field(default_factory=dict)
    overlapped_with: list[str] = field(default_factory=list)


@dataclass
class RequestRecord:
    """Report a request; ``status`` is ``None`` as long as, or if, the client got no answer."""

    n: int
    time: float
    method: str
    path: str
    query_string: str
    query: dict[str, str]
    headers: dict[str, str]
    body: str
    route: str
    port: str
    connection: int
    status: int | None = None
    was_held: bool = False


@dataclass
class Stats:
    """Count what has reached the server; the control API does not count."""

    requests: int = 0
    routes: dict[str, int] = field(default_factory=dict)
    connections_opened: int = 0
    connections_open: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    token_exchanges: int = 0


class RequestLog:
    """Keep the requests and count them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: deque[RequestRecord] = deque()
        self._routes: Counter[str] = Counter()
        self._stats = Stats()
        self._numbers = 0
        self._connections: dict[object, tuple[int, Callable[[], object]]] = {}
        self._connection_numbers = itertools.count(1)

    def connection(self, key: object, close: Callable[[], object]) -> int:
        """Number a connection at its first request that counts; ``close`` closes it from any thread."""
        with self._lock:
            if key not in self._connections:
                self._stats.connections_opened += 1
                self._connections[key] = (next(self._connection_numbers), close)
            return self._connections[key][0]

    def disconnected(self, key: object) -> None:
        """Note that a connection is closed."""
        with self._lock:
            self._connections.pop(key, None)

    def close_connections(self) -> None:
        """Close the open connections that have carried a request that counts."""
        with self._lock:
            open_ones = list(self._connections.values())
        for _, close in open_ones:
            close()

    def received(self, route: str, record: dict[str, Any], limit: int) -> RequestRecord | None:
        """Count a request, and keep it if ``limit`` is positive."""
        with self._lock:
            self._numbers += 1
            self._routes[route] += 1
            self._stats.in_flight += 1
            self._stats.max_in_flight = max(self._stats.max_in_flight, self._stats.in_flight)
            if limit <= 0:
                return None
            while len(self._kept) >= limit:
                self._kept.popleft()
            kept = RequestRecord(n=self._numbers, route=route, **record)
            self._kept.append(kept)
            return kept

    def finished(self) -> None:
        """Note that a request was answered or dropped."""
        with self._lock:
            self._stats.in_flight -= 1

    def token_issued(self) -> None:
        """Count a token that was issued."""
        with self._lock:
            self._stats.token_exchanges += 1

    def requests(self) -> list[RequestRecord]:
        """Return the requests, oldest first."""
        with self._lock:
            return [replace(record) for record in self._kept]

    def stats(self) -> Stats:
        """Return the counters."""
        with self._lock:
            return replace(
                self._stats,
                requests=self._routes.total(),
                routes=dict(self._routes),
                connections_open=len(self._connections),
            )

    def clear(self) -> None:
        """Forget the requests and counters; open connections and unanswered requests stay known."""
        with self._lock:
            self._kept.clear()
            self._routes.clear()
            self._numbers = 0
            in_flight = self._stats.in_flight
            self._stats = Stats(in_flight=in_flight, max_in_flight=in_flight)
