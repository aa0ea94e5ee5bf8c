"""Share one client per connection and event loop."""

from __future__ import annotations

import asyncio
import contextvars
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.models import HistoryUnavailable, ModelRef
from airflow_provider_atscale.client.aiohttp_client import AsyncAtScaleClient, ConcurrencyLimiter
from airflow_provider_atscale.client.editions import make_edition
from airflow_provider_atscale.client.retries import RELOAD_INTERVAL
from airflow_provider_atscale.client.settings import Settings, parse_connection, unreadable
from airflow_provider_atscale.client.shared_tasks import FailureCache, start_task
from airflow_provider_atscale.compat import aget_connection, amask_secret
from airflow_provider_atscale.exceptions import AtScaleAuthenticationError, AtScaleError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: How long, in seconds, the failure to read a connection is raised again for all waiters.
UNREADABLE_FOR = 5.0
#: How long, in seconds, a model that was found by its names is cached.
FOUND_FOR = 60.0


async def load_settings(conn_id: str) -> Settings:
    """Read and check a connection without blocking the event loop."""
    try:
        conn = await aget_connection(conn_id)
    except Exception as error:
        raise unreadable(conn_id, error) from None
    settings = parse_connection(conn)
    for secret in settings.secrets:
        await amask_secret(secret)
    return settings


class SharedConnection:
    """
    One connection to AtScale for all waiters of an event loop.

    :param limiters: The limiters of the servers by their addresses, for all connections of an event loop.
    """

    def __init__(
        self,
        conn_id: str,
        load: Callable[[str], Awaitable[Settings]] = load_settings,
        connect: Callable[[Settings], AsyncAtScaleClient] | None = None,
        limiters: dict[str, ConcurrencyLimiter] | None = None,
    ) -> None:
        self.conn_id = conn_id
        self.ref_count = 0
        self.context = contextvars.Context()
        self._load = load
        self._connect = connect or self._make_client
        self._limiters = {} if limiters is None else limiters
        self._client: AsyncAtScaleClient | None = None
        self._opening: asyncio.Task[AsyncAtScaleClient] | None = None
        self._loaded_at = 0.0
        self._unreadable = FailureCache()
        self._found: dict[tuple[str, str], tuple[ModelRef, float]] = {}
        self._running: dict[AsyncAtScaleClient, int] = {}

    def _make_client(self, settings: Settings) -> AsyncAtScaleClient:
        limiter = self._limiters.setdefault(make_edition(settings).base_url, ConcurrencyLimiter())
        return AsyncAtScaleClient(settings, mask=amask_secret, limiter=limiter)

    async def run(self, call: Callable[[AsyncAtScaleClient], Any]) -> Any:
        """Run a call; after refused credentials read the connection again once, for a rotated token."""
        client = await self.client()
        try:
            value = await self._run(client, call)
            # An unavailable history is no error, because an operator can do without one.
            if not isinstance(value, HistoryUnavailable) or value.status != 401:
                return value
            fresh = await self._reload(client)
            if fresh is client:
                return value
        except AtScaleAuthenticationError:
            fresh = await self._reload(client)
            if fresh is client:
                raise
        return await self._run(fresh, call)

    async def _run(self, client: AsyncAtScaleClient, call: Callable[[AsyncAtScaleClient], Any]) -> Any:
        """Run a call; close the client after it if it was replaced and no other call uses it."""
        self._running[client] = self._running.get(client, 0) + 1
        try:
            return await client.run(call(client), tries=1)
        finally:
            self._running[client] -= 1
            if not self._running[client]:
                del self._running[client]
                if client is not self._client:
                    await client.aclose()

    async def resolve_model(self, catalog: str, model: str) -> ModelRef:
        """Find a model by id, name or caption; cached, because many triggers may wait for one model."""
        found, until = self._found.get((catalog, model), (None, 0.0))
        if found is not None and time.monotonic() < until:
            return found
        ref: ModelRef = await self.run(lambda client: client.edition.resolve(catalog, model))
        self._found[catalog, model] = ref, time.monotonic() + FOUND_FOR
        return ref

    async def client(self) -> AsyncAtScaleClient:
        """Return the client; read the connection if this was not done yet."""
        if self._client is not None:
            return self._client
        if self._opening is None:
            self._unreadable.check()
        opened = await self._open(None)
        # It may have been replaced before this waiter's turn.
        return self._client or opened

    async def _reload(self, client: AsyncAtScaleClient) -> AsyncAtScaleClient:
        """Return a new client if the connection has changed, else the same one."""
        if self._client is not None and self._client is not client:
            return self._client
        if self._opening is None and time.monotonic() - self._loaded_at < RELOAD_INTERVAL:
            return client
        return await self._open(client)

    async def _open(self, old: AsyncAtScaleClient | None) -> AsyncAtScaleClient:
        """Read the connection once for all waiters; the read goes on if one of them leaves."""
        if self._opening is None:
            self._loaded_at = time.monotonic()
            self._opening = start_task(self._load_client(old))
        return await asyncio.shield(self._opening)

    async def _load_client(self, old: AsyncAtScaleClient | None) -> AsyncAtScaleClient:
        try:
            settings = await self._load(self.conn_id)
            if old is not None and settings == old.settings:
                return old
            self._client = client = self._connect(settings)
            self._found.clear()
            # Else the last call that uses it closes it.
            if old is not None and old not in self._running:
                await old.aclose()
        except AtScaleError as error:
            if old is None:
                self._unreadable.store(error, UNREADABLE_FOR)
            raise
        else:
            return client
        finally:
            self._opening = None

    async def __aenter__(self) -> SharedConnection:
        self.ref_count += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self.ref_count -= 1
        if not self.ref_count:
            _remove(self)
            await self.close()

    async def close(self) -> None:
        """Close all clients."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        for client in {self._client, *self._running}:
            if client is not None:
                await client.aclose()
        self._client = None


@dataclass(slots=True)
class LoopState:
    """The shared connections of one event loop by their ids, and the limiters of the servers."""

    connections: dict[str, SharedConnection] = field(default_factory=dict)
    limiters: dict[str, ConcurrencyLimiter] = field(default_factory=dict)


_loops: dict[asyncio.AbstractEventLoop, LoopState] = {}


def shared_connection(conn_id: str) -> SharedConnection:
    """Return the shared connection of the running event loop; enter it while you need it."""
    loop = asyncio.get_running_loop()
    if loop not in _loops:
        # A loop that was closed without ending its tasks leaves its connections behind.
        for each in list(_loops):
            if each.is_closed():
                _loops.pop(each, None)
    state = _loops.setdefault(loop, LoopState())
    shared = state.connections.get(conn_id)
    if shared is None:
        shared = state.connections[conn_id] = SharedConnection(conn_id, limiters=state.limiters)
    return shared


def _remove(shared: SharedConnection) -> None:
    loop = asyncio.get_running_loop()
    state = _loops.get(loop)
    if state is None:
        return
    if state.connections.get(shared.conn_id) is shared:
        del state.connections[shared.conn_id]
    if not state.connections:
        _loops.pop(loop, None)
