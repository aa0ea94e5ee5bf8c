"""
Waiting together: all triggers of one event loop share what they ask of one AtScale server.

One client per connection (its tokens, its TCP connections), and one read of the build history for all batches
of a model: a read that anybody's cadence asks for is everybody's observation. Whoever comes first opens,
whoever leaves last closes.

A shared read is a task of its own in an empty context, because a task inherits the context of whoever makes
it, and with it the log file of one trigger. It logs nothing itself, and a waiter that is cancelled does not
take it down for the others.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.client import AsyncAtScaleClient
from airflow_provider_atscale.connection import Settings, parse_connection
from airflow_provider_atscale.exceptions import (
    AtScaleAuthenticationError,
    AtScaleConnectionError,
    AtScaleError,
)
from airflow_provider_atscale.protocol.watch import Missing, Observation, Seen, Trouble, observe_found

if TYPE_CHECKING:
    from airflow_provider_atscale.protocol.models import History, ModelRef

#: A connection that was refused is looked up again at most this often, in seconds.
LOOK_UP_AGAIN = 30.0


async def mask_async(secret: str) -> None:
    """Hide a value from all logs, without blocking the event loop."""
    try:
        from airflow.sdk.log import amask_secret
    except ImportError:
        from airflow.providers.common.compat.sdk import mask_secret

        # Called plainly in a task of our own it would fail, and silently.
        await asyncio.to_thread(mask_secret, secret)
    else:
        await amask_secret(secret)


async def load_settings(conn_id: str) -> Settings:
    """
    Read and check a connection without blocking the event loop.

    :param conn_id: Id of the connection.
    """
    from airflow.providers.common.compat.connection import get_async_connection

    try:
        conn = await get_async_connection(conn_id)
    except Exception as error:
        raise AtScaleConnectionError(
            f"The Airflow connection {conn_id!r} could not be read ({type(error).__name__}: {error}).",
            sent=False,
        ) from None
    settings = parse_connection(conn)
    for secret in settings.secrets:
        await mask_async(secret)
    return settings


class Room:
    """
    All waiters for batches of one model.

    :param line: The connection that they share.
    :param ref: The model.
    """

    def __init__(self, line: Line, ref: ModelRef) -> None:
        self._line = line
        self._ref = ref
        self._waiting: dict[asyncio.Future[Observation], str | None] = {}
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reading: asyncio.Task[None] | None = None
        self._asked: frozenset[str | None] = frozenset()
        self.members = 0

    async def next(self, batch_id: str | None, seconds: float) -> Observation:
        """
        Wait for the next observation of a batch: at the latest after so many seconds, or when another looks.

        :param batch_id: The batch; None for whichever is the newest.
        :param seconds: When this waiter wants to look.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Observation] = loop.create_future()
        self._waiting[future] = batch_id
        self._look_at(loop.time() + max(seconds, 0.0))
        try:
            return await future
        finally:
            self._waiting.pop(future, None)
            if not self._waiting and self._timer is not None:
                self._timer.cancel()
                self._timer, self._due = None, None

    def _look_at(self, due: float) -> None:
        """Have the history read at a time, unless it is read earlier anyway."""
        if self._due is not None and self._due <= due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = asyncio.get_running_loop().call_at(due, self._start_read)

    def _start_read(self) -> None:
        self._timer, self._due = None, None
        if self._reading is not None or not self._waiting:
            # The read under way ends soon; whoever is not served by it asks again.
            return
        self._asked = frozenset(self._waiting.values())
        self._reading = contextvars.Context().run(asyncio.ensure_future, self._read())

    async def _read(self) -> None:
        try:
            ids = [each for each in self._asked if each is not None]
            found: dict[str, Any] = {}
            newest: Observation = Missing()
            trouble: Trouble | None = None
            try:
                if ids:
                    found = await self._line.run(lambda client: client.edition.batches(self._ref, ids))
                if None in self._asked:
                    history = await self._line.run(lambda client: client.edition.history(self._ref))
                    newest = observe_newest(history)
            except AtScaleError as error:
                trouble = Trouble(str(error))
            except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                # Airflow's own errors of a triggerer's channel are no Exceptions; a waiter must hear of all.
                trouble = Trouble(f"unexpected {type(error).__name__}: {error}")
            for future, batch_id in list(self._waiting.items()):
                if future.done() or batch_id not in self._asked:
                    continue
                if trouble is not None:
                    future.set_result(trouble)
                elif batch_id is None:
                    future.set_result(newest)
                else:
                    future.set_result(observe_found(found, batch_id))
        finally:
            self._reading = None
            # Who came while the read was under way, for a batch that it did not ask for.
            if any(not future.done() for future in self._waiting) and self._due is None:
                self._look_at(asyncio.get_running_loop().time())

    async def close(self) -> None:
        """End what is under way."""
        if self._timer is not None:
            self._timer.cancel()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


def observe_newest(history: History | str) -> Observation:
    """Return the observation that a model's history is for whoever waits for its newest batch."""
    if isinstance(history, str):
        return Trouble(f"the build history may not be read ({history})")
    return Missing() if history.newest is None else Seen(history.newest)


class Line:
    """
    One connection to AtScale that all waiters of an event loop share.

    :param conn_id: Id of the Airflow connection.
    :param load: Reads the connection.
    :param connect: Makes a client.
    """

    def __init__(
        self,
        conn_id: str,
        load: Callable[[str], Awaitable[Settings]] = load_settings,
        connect: Callable[[Settings], AsyncAtScaleClient] | None = None,
    ) -> None:
        self.conn_id = conn_id
        self.members = 0
        self._load = load
        self._connect = connect or (lambda settings: AsyncAtScaleClient(settings, mask=mask_async))
        self._client: AsyncAtScaleClient | None = None
        self._opening: asyncio.Task[AsyncAtScaleClient] | None = None
        self._looked_up = 0.0
        self._rooms: dict[ModelRef, Room] = {}
        self._retired: list[AsyncAtScaleClient] = []

    async def run(self, call: Callable[[AsyncAtScaleClient], Any]) -> Any:
        """
        Run a call; after refused credentials look the connection up again once, for a rotated token.

        :param call: Makes the flow from a client.
        """
        client = await self.client()
        try:
            return await client.run(call(client), tries=1)
        except AtScaleAuthenticationError:
            fresh = await self._look_up_again(client)
            if fresh is client:
                raise
            return await fresh.run(call(fresh), tries=1)

    async def client(self) -> AsyncAtScaleClient:
        """Return the client; whoever asks first has the connection looked up."""
        if self._client is not None:
            return self._client
        if self._opening is None:
            self._opening = contextvars.Context().run(asyncio.ensure_future, self._open())
        return await asyncio.shield(self._opening)

    async def _open(self) -> AsyncAtScaleClient:
        try:
            client = self._connect(await self._load(self.conn_id))
            self._looked_up = time.monotonic()
            self._client = client
            return client
        finally:
            self._opening = None

    async def _look_up_again(self, client: AsyncAtScaleClient) -> AsyncAtScaleClient:
        if self._client is not None and self._client is not client:
            return self._client
        if self._opening is None:
            if time.monotonic() - self._looked_up < LOOK_UP_AGAIN:
                return client
            self._looked_up = time.monotonic()
            self._opening = contextvars.Context().run(asyncio.ensure_future, self._reopen(client))
        return await asyncio.shield(self._opening)

    async def _reopen(self, client: AsyncAtScaleClient) -> AsyncAtScaleClient:
        try:
            settings = await self._load(self.conn_id)
            if settings.fingerprint != client.settings.fingerprint:
                # Others may still be reading over the old one, so it is closed with the line.
                self._retired.append(client)
                self._client = self._connect(settings)
            return self._client or client
        finally:
            self._opening = None

    @asynccontextmanager
    async def room(self, ref: ModelRef) -> AsyncIterator[Room]:
        """
        Enter the room of a model.

        :param ref: The model.
        """
        room = self._rooms.setdefault(ref, Room(self, ref))
        room.members += 1
        try:
            yield room
        finally:
            room.members -= 1
            if not room.members:
                if self._rooms.get(ref) is room:
                    del self._rooms[ref]
                await room.close()

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


_lines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Line]] = weakref.WeakKeyDictionary()


@asynccontextmanager
async def line(conn_id: str) -> AsyncIterator[Line]:
    """
    Enter the line of a connection on the running event loop.

    :param conn_id: Id of the Airflow connection.
    """
    lines = _lines.setdefault(asyncio.get_running_loop(), {})
    shared = lines.get(conn_id)
    if shared is None:
        shared = lines[conn_id] = Line(conn_id)
    shared.members += 1
    try:
        yield shared
    finally:
        shared.members -= 1
        if not shared.members:
            if lines.get(conn_id) is shared:
                del lines[conn_id]
            await shared.close()
