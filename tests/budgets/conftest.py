"""
What waiting costs, counted exactly, on a clock that jumps.

The event loop's clock jumps to the next timer, and the client answers from a timetable: a month of waiting takes
seconds, and each poll is counted.
"""

from __future__ import annotations

import asyncio
import json
import random
import selectors
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from airflow_provider_atscale.api.flow import Request, Response
from airflow_provider_atscale.client import shared_connection as shared_module
from airflow_provider_atscale.client.aiohttp_client import AsyncAtScaleClient
from airflow_provider_atscale.client.settings import parse_connection
from airflow_provider_atscale.triggers.atscale import AtScaleBatchTrigger

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")
BEGIN = 1_750_000_000.0


class JumpingSelector(selectors.SelectSelector):
    """Jump to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None or super().get_map(), "no timer is left"
        self.now += timeout or 0.0
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock that jumps."""

    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


class Server:
    """
    Answers the history of models whose batches run for a known time.

    :param clock: Tells the epoch seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.ends: dict[str, float] = {}
        self.estimates: dict[str, float] = {}
        self.polls: list[tuple[float, str]] = []
        self.parsed = 0

    async def send(self, request: Request) -> Response:
        if request.url.endswith("/token"):
            return self._answer(request, {"accessToken": "opaque-token"})
        now, model = self._clock(), str(request.params["modelId"])
        self.polls.append((now, model))
        row: dict[str, Any] = {
            "id": f"batch-of-{model}",
            "status": "done" if now >= self.ends[model] else "inprogress",
            "createDate": _iso(BEGIN),
            "startTime": _iso(BEGIN),
        }
        if model in self.estimates:
            row["estimateTime"] = self.estimates[model] * 1000
        return self._answer(request, {"data": [row], "total": 1})

    def _answer(self, request: Request, body: dict[str, Any]) -> Response:
        return Counted(200, {}, json.dumps(body).encode(), request.url, self)


class Counted(Response):
    """A response that counts when it is parsed."""

    __slots__ = ("_server",)

    def __init__(self, status: int, headers: Any, body: bytes, url: str, server: Server) -> None:
        super().__init__(status, headers, body, url)
        object.__setattr__(self, "_server", server)

    def json(self) -> Any:
        self._server.parsed += 1
        return super().json()


def _iso(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, timezone.utc).isoformat().replace("+00:00", "Z")


class World:
    """A triggerer in fast time: its loop, its clock and the server that it asks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = JumpingLoop()
        self.server = Server(self.now)
        random.seed(5)
        # Undo what the conftest of all tests sets.
        monkeypatch.setattr("airflow_provider_atscale.triggers.atscale.LEAST_SECONDS", 2.0)
        for module in ("triggers.atscale", "client.shared_connection"):
            clock = SimpleNamespace(time=self.now, monotonic=self.loop.time)
            monkeypatch.setattr(f"airflow_provider_atscale.{module}.time", clock)

        async def load(conn_id: str) -> Any:
            fields = {"host": "https://atscale.invalid", "port": None, "login": None, "password": "api-token"}
            return parse_connection(SimpleNamespace(conn_id=conn_id, extra="", **fields))

        async def send(client: AsyncAtScaleClient, request: Request, *_: Any) -> Response:
            del client
            return await self.server.send(request)

        async def mask(secret: str) -> None:
            """No log is written."""

        monkeypatch.setattr(shared_module, "load_settings", load)
        # On some versions of Airflow it uses a thread, and a jumping clock does not wait for threads.
        monkeypatch.setattr(shared_module, "amask_secret", mask)
        monkeypatch.setattr(shared_module.SharedConnection.__init__, "__defaults__", (load, None, None))
        for name in ("_send", "_send_at_once"):
            monkeypatch.setattr(AsyncAtScaleClient, name, send)

    def now(self) -> float:
        return BEGIN + self.loop.time()

    def trigger(self, model: str, *, began: float = 0.0, poll_interval: float = 60.0) -> AtScaleBatchTrigger:
        """Return a trigger for the batch of a model; ``began`` is by the loop's clock."""
        return AtScaleBatchTrigger(
            atscale_conn_id="atscale_default",
            catalog_id="catalog",
            model_id=model,
            catalog="Sales Insights",
            model="Internet Sales",
            batch_id=f"batch-of-{model}",
            since=BEGIN + began,
            poll_interval=poll_interval,
            deadline={"at": BEGIN + 1e9, "limit": "timeout"},
            payload={},
        )

    async def fire(self, trigger: AtScaleBatchTrigger) -> dict[str, Any]:
        """Run a trigger to its event."""
        async for event in trigger.run():
            return dict(event.payload)
        raise AssertionError("The trigger ended without an event")

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)


@pytest.fixture
def world(monkeypatch):
    world = World(monkeypatch)
    yield world
    world.loop.close()
