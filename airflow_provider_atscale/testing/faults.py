"""Errors on purpose: faults change an answer, holds keep a request waiting."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import threading
from dataclasses import dataclass, field
from typing import Any, Literal

ACTIONS = ("drop", "drop_after", "cut", "truncate", "delay", "html", "empty")
HOLD_POINTS = ("received", "processed", "start.received", "start.created")
Decision = Literal["continue", "drop"]


@dataclass
class Match:
    """
    Select requests; a pattern that is no regular expression is refused.

    :param method: HTTP method, in any case of letters.
    :param path: regular expression searched in the path.
    :param query: regular expression searched in the query string.
    :param route: name of the route, such as ``start`` or ``history``.
    """

    method: str | None = None
    path: str | None = None
    query: str | None = None
    route: str | None = None

    def __post_init__(self) -> None:
        for name, pattern in (("path", self.path), ("query", self.query)):
            try:
                re.compile(pattern or "")
            except (re.error, TypeError) as error:
                raise ValueError(f"{name} {pattern!r} is not a regular expression: {error}") from None

    def fits(self, method: str, path: str, query: str, route: str) -> bool:
        """Return whether a request is selected."""
        return (
            (self.method is None or self.method.upper() == method)
            and (self.route is None or self.route == route)
            and (self.path is None or re.search(self.path, path) is not None)
            and (self.query is None or re.search(self.query, query) is not None)
        )


@dataclass
class Fault:
    """Describe one fault; ``times`` is how many requests it still changes, ``None`` is all."""

    id: int
    action: str | int
    match: Match
    times: int | None
    when: str
    headers: dict[str, str]
    body: Any
    seconds: float


class Faults:
    """Keep the faults that were set and not yet used up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._ids = itertools.count(1)

    def add(
        self,
        action: str | int,
        match: Match,
        *,
        times: int | None,
        when: str,
        headers: dict[str, str] | None,
        body: Any,
        seconds: float,
    ) -> int:
        """Apply a fault to the next requests that fit."""
        if isinstance(action, str) and action.isdecimal():
            action = int(action)
        if isinstance(action, str) and action not in ACTIONS:
            raise ValueError(f"A fault is an HTTP status or one of {', '.join(ACTIONS)}; not {action!r}")
        if when not in ("before", "after"):
            raise ValueError(f"A fault acts before or after processing; not {when!r}")
        fault = Fault(next(self._ids), action, match, times, when, headers or {}, body, seconds)
        with self._lock:
            self._faults.append(fault)
        return fault.id

    def take(self, method: str, path: str, query: str, route: str) -> list[Fault]:
        """Return the faults of a request: any delays, and at most one that changes the answer."""
        if not self._faults:
            return []
        taken: list[Fault] = []
        with self._lock:
            for fault in list(self._faults):
                if not fault.match.fits(method, path, query, route):
                    continue
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self._faults.remove(fault)
                taken.append(fault)
                if fault.action != "delay":
                    break
        return taken

    def clear(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._faults.clear()


@dataclass
class Hold:
    """Keep requests at one point until they are released."""

    id: str
    at: str
    match: Match
    times: int | None
    seen: int = 0
    then: Decision | None = None
    waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[Decision]]] = field(default_factory=list)


class Holds:
    """Keep the holds; tests wait in their thread, requests in the server's event loop."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holds: dict[str, Hold] = {}
        self._ids = itertools.count(1)

    def add(self, at: str, match: Match, times: int | None) -> str:
        """Hold the next requests that fit."""
        if at not in HOLD_POINTS:
            raise ValueError(f"A request is held at one of {', '.join(HOLD_POINTS)}; not {at!r}")
        if at.startswith("start."):
            match.route = "start"
        with self._changed:
            hold = Hold(f"hold-{next(self._ids)}", at, match, times)
            self._holds[hold.id] = hold
        return hold.id

    def status(self, hold_id: str) -> dict[str, Any]:
        """Return how many requests are held now, and how many were in all."""
        with self._changed:
            hold = self._get(hold_id)
            return {
                "id": hold.id,
                "at": hold.at,
                "held": len(hold.waiting),
                "seen": hold.seen,
                "released": hold.then is not None,
            }

    def wait(self, hold_id: str, timeout: float) -> None:
        """Block until a request is held."""
        with self._changed:
            hold = self._get(hold_id)
            if not self._changed.wait_for(lambda: hold.waiting, timeout):
                raise TimeoutError(f"No request came to {hold_id} in {timeout} seconds")

    def release(self, hold_id: str, then: str = "continue") -> None:
        """Continue or drop the held requests, and end the hold."""
        if then not in ("continue", "drop"):
            raise ValueError(f"A held request can continue or drop; not {then!r}")
        decision: Decision = "drop" if then == "drop" else "continue"
        with self._changed:
            hold = self._get(hold_id)
            hold.then = decision
            waiting, hold.waiting = hold.waiting, []
        for loop, future in waiting:
            # The engine may have been stopped in the meantime.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, future, decision)

    def clear(self) -> None:
        """End all holds; held requests continue."""
        for hold_id in list(self._holds):
            self.release(hold_id)
        with self._changed:
            self._holds.clear()

    async def wait_at(self, points: tuple[str, ...], request: tuple[str, str, str, str]) -> Decision | None:
        """Hold a request that has reached some points; ``None`` if no hold is set there."""
        if not self._holds:
            return None
        loop = asyncio.get_running_loop()
        with self._changed:
            hold = next((h for h in self._holds.values() if self._open(h, points, request)), None)
            if hold is None:
                return None
            future: asyncio.Future[Decision] = loop.create_future()
            hold.waiting.append((loop, future))
            hold.seen += 1
            self._changed.notify_all()
        try:
            return await future
        except asyncio.CancelledError:
            with self._changed:
                hold.waiting.remove((loop, future))
            raise

    def _get(self, hold_id: str) -> Hold:
        if hold_id not in self._holds:
            raise ValueError(f"There is no hold {hold_id!r}")
        return self._holds[hold_id]

    @staticmethod
    def _open(hold: Hold, points: tuple[str, ...], request: tuple[str, str, str, str]) -> bool:
        return (
            hold.then is None
            and hold.at in points
            and (hold.times is None or hold.seen < hold.times)
            and hold.match.fits(*request)
        )


def _settle(future: asyncio.Future[Decision], decision: Decision) -> None:
    if not future.done():
        future.set_result(decision)
