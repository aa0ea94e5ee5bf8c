"""Share one client per connection and event loop."""

from __future__ import annotations

import asyncio
import contextvars
import time
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.models import HistoryUnavailable, ModelRef
from airflow_provider_atscale.client.aiohttp_client import AsyncAtScaleClient
from airflow_provider_atscale.client.editions import make_edition
from airflow_provider_atscale.client.failures import FailureCache
from airflow_provider_atscale.client.limiter import ConcurrencyLimiter
from airflow_provider_atscale.client.settings import Settings, parse_connection
from airflow_provider_atscale.compat import aget_connection, amask_secret
from airflow_provider_atscale.exceptions import (
    AtScaleAuthenticationError,
    AtScaleConnectionError,
    AtScaleError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from types import TracebackType


#: A connection that was refused is looked up again at most this often, in seconds.
RELOAD_INTERVAL = 30.0


#: How long, in seconds, it stands for all waiters that a connection cannot be read.
UNREADABLE_FOR = 5.0


#: How long, in seconds, a name stands for the model that it was found to be: many may wait for one model.
FOUND_FOR = 60.0


async def load_settings(conn_id: str) -> Settings:
    """
    Read and check a connection without blocking the event loop.

    :param conn_id: Id of the connection.
    """
    try:
        conn = await aget_connection(conn_id)
    except Exception as error:
        raise AtScaleConnectionError(
            f"The Airflow connection {conn_id!r} could not be read ({type(error).__name__}: {error}).",
            sent=False,
        ) from None
    settings = parse_connection(conn)
    for secret in settings.secrets:
        await amask_secret(secret)
    return settings


class SharedConnection:
    """
    One connection to AtScale that all waiters of an event loop share.

    :param conn_id: Id of the Airflow connection.
    :param load: Reads the connection.
    :param connect: Makes a client.
    :param limiters: The limiters of the servers by their addresses, shared by all connections of an event loop.
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
        self._looked_up = 0.0
        self._unreadable = FailureCache()
        self._found: dict[tuple[str, str], tuple[ModelRef, float]] = {}
        self._users: dict[AsyncAtScaleClient, int] = {}
        self._retired: list[AsyncAtScaleClient] = []

    def _make_client(self, settings: Settings) -> AsyncAtScaleClient:
        limiter = self._limiters.setdefault(make_edition(settings).base_url, ConcurrencyLimiter())
        return AsyncAtScaleClient(settings, mask=amask_secret, limiter=limiter)

    async def run(self, call: Callable[[AsyncAtScaleClient], Any]) -> Any:
        """
        Run a call; after refused credentials look the connection up again once, for a rotated token.

        :param call: Makes the flow from a client.
        """
        opened = self._client or await self.client()
        # It may have been replaced before this waiter's turn came.
        client = self._client or opened
        try:
            value = await self._use(client, call)
            # A history that may not be read is no error: an operator goes on without one.
            if not isinstance(value, HistoryUnavailable) or value.status != 401:
                return value
            fresh = await self._reload(client)
            if fresh is client:
                return value
        except AtScaleAuthenticationError:
            fresh = await self._reload(client)
            if fresh is client:
                raise
        return await self._use(fresh, call)

    async def _use(self, client: AsyncAtScaleClient, call: Callable[[AsyncAtScaleClient], Any]) -> Any:
        """Run a call; whoever is the last to use a client that was replaced closes it."""
        self._users[client] = self._users.get(client, 0) + 1
        try:
            return await client.run(call(client), tries=1)
        finally:
            self._users[client] -= 1
            if not self._users[client]:
                del self._users[client]
                if client in self._retired:
                    self._retired.remove(client)
                    await client.close()

    async def resolve_model(self, catalog: str, model: str) -> ModelRef:
        """
        Find a model by id, name or caption; cached for a minute, because many triggers may wait for one model.

        :param catalog: Id, name or caption of the catalog.
        :param model: Id, name or caption of the model.
        """
        found, until = self._found.get((catalog, model), (None, 0.0))
        if found is not None and time.monotonic() < until:
            return found
        ref: ModelRef = await self.run(lambda client: client.edition.resolve(catalog, model))
        self._found[catalog, model] = ref, time.monotonic() + FOUND_FOR
        return ref

    async def client(self) -> AsyncAtScaleClient:
        """Return the client; whoever asks first has the connection looked up."""
        if self._client is not None:
            return self._client
        if self._opening is None:
            self._unreadable.check()
        return await asyncio.shield(self._opening or self._open_in_task(self._open()))

    def _open_in_task(self, work: Coroutine[Any, Any, AsyncAtScaleClient]) -> asyncio.Task[AsyncAtScaleClient]:
        # ensure_future copies the context of whoever calls it; this one is empty.
        task = contextvars.Context().run(asyncio.ensure_future, work)
        # Marks the error as seen: each waiter raises it, and the last may have gone.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._opening = task
        return task

    async def _open(self) -> AsyncAtScaleClient:
        try:
            client = self._connect(await self._load(self.conn_id))
            await client.preload_tls()
        except AtScaleError as error:
            self._unreadable.note(error, UNREADABLE_FOR)
            raise
        else:
            self._looked_up = time.monotonic()
            self._client = client
            return client
        finally:
            self._opening = None

    async def _reload(self, client: AsyncAtScaleClient) -> AsyncAtScaleClient:
        if self._client is not None and self._client is not client:
            return self._client
        if self._opening is None:
            if time.monotonic() - self._looked_up < RELOAD_INTERVAL:
                return client
            self._looked_up = time.monotonic()
        return await asyncio.shield(self._opening or self._open_in_task(self._reopen(client)))

    async def _reopen(self, client: AsyncAtScaleClient) -> AsyncAtScaleClient:
        try:
            settings = await self._load(self.conn_id)
            if settings.fingerprint != client.settings.fingerprint:
                fresh = self._connect(settings)
                await fresh.preload_tls()
                self._client = fresh
                self._found.clear()
                if client in self._users:
                    # Others are still reading over it; the last of them closes it.
                    self._retired.append(client)
                else:
                    await client.close()
            return self._client or client
        finally:
            self._opening = None

    # Entered by each waiter, and no object of its own for each: a triggerer may have thousands.

    async def __aenter__(self) -> SharedConnection:
        self.ref_count += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ref_count -= 1
        if not self.ref_count:
            _forget(self)
            await self.close()

    async def close(self) -> None:
        """Close everything."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        for client in (self._client, *self._retired):
            if client is not None:
                await client.close()
        self._client = None
        self._retired.clear()


class LoopState:
    """What the waiters of one event loop share: the lines by the ids of their connections, and the gates."""

    __slots__ = ("connections", "limiters")

    def __init__(self) -> None:
        self.connections: dict[str, SharedConnection] = {}
        self.limiters: dict[str, ConcurrencyLimiter] = {}


_loops: dict[asyncio.AbstractEventLoop, LoopState] = {}


def shared_connection(conn_id: str) -> SharedConnection:
    """
    Return the line of a connection on the running event loop, which is to be entered and left.

    :param conn_id: Id of the Airflow connection.
    """
    loop = asyncio.get_running_loop()
    if loop not in _loops:
        # A loop that was closed without ending its tasks leaves its lines behind.
        for each in list(_loops):
            if each.is_closed():
                _loops.pop(each, None)
    here = _loops.setdefault(loop, LoopState())
    shared = here.connections.get(conn_id)
    if shared is None:
        shared = here.connections[conn_id] = SharedConnection(conn_id, limiters=here.limiters)
    return shared


def _forget(left: SharedConnection) -> None:
    loop = asyncio.get_running_loop()
    here = _loops.get(loop)
    if here is None:
        return
    if here.connections.get(left.conn_id) is left:
        del here.connections[left.conn_id]
    if not here.connections:
        _loops.pop(loop, None)
