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
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_atscale.client import AsyncAtScaleClient, Gate, StandingFailure
from airflow_provider_atscale.compat import aget_connection, amask_secret
from airflow_provider_atscale.connection import Settings, parse_connection
from airflow_provider_atscale.exceptions import (
    AtScaleAuthenticationError,
    AtScaleConnectionError,
    AtScaleError,
)
from airflow_provider_atscale.protocol.messages import Flow, Response
from airflow_provider_atscale.protocol.models import ModelRef, Unreadable
from airflow_provider_atscale.protocol.watch import Missing, Observation, Seen, Trouble, observe_found
from airflow_provider_atscale.waiting import tolerance

if TYPE_CHECKING:
    from types import TracebackType

    from airflow_provider_atscale.protocol.models import History

T = TypeVar("T")

#: A connection that was refused is looked up again at most this often, in seconds.
LOOK_UP_AGAIN = 30.0
#: How long, in seconds, it stands for all waiters that a connection cannot be read.
UNREADABLE_FOR = 5.0
#: How long, in seconds, a name stands for the model that it was found to be: many may wait for one model.
FOUND_FOR = 60.0
#: How many waiters are woken in one turn of the event loop.
_AT_ONCE = 50
#: Timers are as exact as this, in seconds.
_GRAIN = 0.05


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


class Recall:
    """What the last read of a model's history brought, and what it meant."""

    __slots__ = ("_seen", "_value")

    def __init__(self) -> None:
        self._seen: int | None = None
        self._value: Any = None

    def over(self, flow: Flow[T], asked: object) -> Flow[T]:
        """
        Run a flow, but spare it an answer that is the same as at its last run: so is its value then.

        A history changes two or three times in the life of a batch and is read far more often. What a flow
        makes of a single answer depends on nothing else; flows that need more than one run as they are.

        :param flow: The flow.
        :param asked: What it looks for.
        """
        outcome: Any = None
        error: AtScaleError | None = None
        answers: list[int | None] = []
        while True:
            try:
                effect = flow.send(outcome) if error is None else flow.throw(error)
            except StopIteration as stop:
                if len(answers) == 1:
                    self._seen, self._value = answers[0], stop.value
                value: T = stop.value
                return value
            error = None
            try:
                outcome = yield effect
            except AtScaleError as raised:
                error = raised
                continue
            if isinstance(outcome, Response):
                # The hash of both, for a triggerer may have thousands of models to remember.
                answers.append(hash((asked, outcome.body)) if outcome.ok else None)
                if self._seen is not None and answers == [self._seen]:
                    flow.close()
                    value = self._value
                    return value


class Room:
    """
    All waiters for batches of one model.

    :param line: The connection that they share.
    :param key: By what the line knows the room.
    :param ref: The model.
    """

    __slots__ = ("_due", "_line", "_reading", "_recall", "_ref", "_timer", "_waiting", "key", "members")

    def __init__(self, line: Line, key: tuple[str, str], ref: ModelRef) -> None:
        self.key = key
        self._line = line
        self._ref = ref
        self._waiting: dict[asyncio.Future[Observation], tuple[str | None, float]] = {}
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reading: asyncio.Task[None] | None = None
        self._recall = Recall()
        self.members = 0

    async def next(self, batch_id: str | None, seconds: float) -> Observation:
        """
        Wait for the next observation of a batch: at the latest after so many seconds, or when another looks.

        :param batch_id: The batch; None for whichever is the newest.
        :param seconds: When this waiter wants to look.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Observation] = loop.create_future()
        due = loop.time() + max(seconds, 0.0)
        self._waiting[future] = batch_id, due
        self._look_by(due)
        try:
            return await future
        finally:
            del self._waiting[future]
            if not self._waiting:
                self._stop_timer()

    def _look_by(self, due: float) -> None:
        """Have the history read by a time, unless it is read earlier anyway."""
        # A read under way ends soon, and only then it shows who is left and when they want to look.
        if self._reading is not None or (self._due is not None and self._due <= due):
            return
        self._stop_timer()
        self._due = due
        # In an empty context, which the read inherits: that of a waiter would lead to its own log.
        self._timer = asyncio.get_running_loop().call_at(due, self._start_read, context=self._line.context)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._due = None, None

    def _start_read(self) -> None:
        self._timer, self._due = None, None
        if not self._waiting:
            return
        due = min(due for _, due in self._waiting.values())
        if due > asyncio.get_running_loop().time() + _GRAIN:
            # Whoever wanted to look now has left.
            self._look_by(due)
            return
        asked = frozenset(batch_id for batch_id, _ in self._waiting.values())
        self._reading = asyncio.ensure_future(self._read(asked))

    async def _read(self, asked: frozenset[str | None]) -> None:
        try:
            ids = [each for each in asked if each is not None]
            found: Any = {}
            history: Any = None
            if ids:
                found = await self._line.ask(
                    lambda client: self._recall.over(client.edition.batches(self._ref, ids), asked)
                )
            if None in asked:
                history = await self._line.ask(lambda client: client.edition.history(self._ref))
            for number, (future, (batch_id, _)) in enumerate(list(self._waiting.items()), 1):
                if number % _AT_ONCE == 0:
                    # Each has its own to do with the answer; others on the loop want to run as well.
                    await asyncio.sleep(0)
                if future.done() or batch_id not in asked:
                    continue
                answer = history if batch_id is None else found
                if isinstance(answer, Trouble):
                    future.set_result(answer)
                elif batch_id is None:
                    future.set_result(observe_newest(answer))
                else:
                    future.set_result(observe_found(answer, batch_id))
        finally:
            self._reading = None
            # Who came while the read was under way, for a batch that it did not ask for.
            left = [due for future, (_, due) in self._waiting.items() if not future.done()]
            if left:
                self._look_by(min(left))

    async def close(self) -> None:
        """End what is under way."""
        self._stop_timer()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


class Seat:
    """
    One waiter's place on the line, and in the room of its model once it is known which model that is.

    :param line: The connection.
    :param ref: The model; without ids where they could not be found out yet.
    :param batch_id: The batch; None for whichever is the newest.
    """

    __slots__ = ("_batch_id", "_room", "line", "ref")

    def __init__(self, line: Line, ref: ModelRef, batch_id: str | None) -> None:
        self.ref = ref
        self.line = line
        self._batch_id = batch_id
        self._room: Room | None = None

    async def __aenter__(self) -> Seat:
        await self.line.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._room is not None:
                await self.line.leave(self._room)
        finally:
            await self.line.__aexit__(kind, error, trace)

    def next(self, seconds: float) -> Awaitable[Observation]:
        """
        Wait for the next observation of the batch.

        :param seconds: When this waiter wants to look.
        """
        if self._room is None:
            if not self.ref.catalog_id:
                return self._find(seconds)
            self._room = self.line.enter(self.ref)
        return self._room.next(self._batch_id, seconds)

    async def _find(self, seconds: float) -> Observation:
        """Find out which model it is, and look."""
        await asyncio.sleep(seconds)
        found = self.line.found(self.ref) or await self.line.find(self.ref, self._batch_id)
        if not isinstance(found, ModelRef):
            return found
        self.ref = found
        return await self.next(0.0)


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
    :param gates: The gates of the servers, by their addresses, which the lines of an event loop share.
    """

    def __init__(
        self,
        conn_id: str,
        load: Callable[[str], Awaitable[Settings]] = load_settings,
        connect: Callable[[Settings], AsyncAtScaleClient] | None = None,
        gates: dict[str, Gate] | None = None,
    ) -> None:
        self.conn_id = conn_id
        self.members = 0
        # Read once: a thousand waiters of a restarted triggerer begin in the same moment.
        self.tolerance = tolerance()
        #: The waiters' logger. One for each would be a dozen objects for each collection of garbage to look at;
        #: which waiter's log a line belongs to is told by the context anyway.
        self.log: Any = None
        self.context = contextvars.Context()
        self._load = load
        self._connect = connect or self._make_client
        self._gates = {} if gates is None else gates
        self._client: AsyncAtScaleClient | None = None
        self._opening: asyncio.Task[AsyncAtScaleClient] | None = None
        self._looked_up = 0.0
        self._unreadable = StandingFailure()
        self._found: dict[tuple[str, str], tuple[ModelRef, float]] = {}
        self._users: dict[AsyncAtScaleClient, int] = {}
        self._rooms: dict[tuple[str, str], Room] = {}
        self._retired: list[AsyncAtScaleClient] = []

    def _make_client(self, settings: Settings) -> AsyncAtScaleClient:
        gate = self._gates.setdefault(settings.protocol().base_url, Gate())
        return AsyncAtScaleClient(settings, mask=amask_secret, gate=gate)

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
            if not isinstance(value, Unreadable) or value.status != 401:
                return value
            fresh = await self._look_up_again(client)
            if fresh is client:
                return value
        except AtScaleAuthenticationError:
            fresh = await self._look_up_again(client)
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

    async def ask(self, call: Callable[[AsyncAtScaleClient], Any]) -> Any:
        """
        Run a call as :meth:`run` does, and return whatever fails as an observation.

        :param call: Makes the flow from a client.
        """
        try:
            return await self.run(call)
        except AtScaleError as error:
            return Trouble(str(error))
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # Airflow's own errors of a triggerer's channel are no Exceptions; a waiter must hear of all.
            return Trouble(f"unexpected {type(error).__name__}: {error}")

    async def find(self, ref: ModelRef, batch_id: str | None) -> ModelRef | Observation:
        """
        Find a model by what people call it or, where nothing is known of it, by a batch's instances.

        :param ref: What is known of the model.
        :param batch_id: The batch.
        """

        def call(client: AsyncAtScaleClient) -> Any:
            if ref.catalog:
                return client.edition.resolve(ref.catalog, ref.model)
            return client.edition.locate(str(batch_id))

        found: ModelRef | Trouble | None = await self.ask(call)
        if isinstance(found, ModelRef) and ref.catalog:
            self._found[ref.catalog, ref.model] = found, time.monotonic() + FOUND_FOR
        return Missing() if found is None else found

    def found(self, ref: ModelRef) -> ModelRef | None:
        """
        Return the model that a name was found to be a moment ago.

        :param ref: What is known of the model.
        """
        found, until = self._found.get((ref.catalog, ref.model), (None, 0.0))
        return found if time.monotonic() < until else None

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
            await client.prepare()
        except AtScaleError as error:
            self._unreadable.note(error, UNREADABLE_FOR)
            raise
        else:
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
        return await asyncio.shield(self._opening or self._open_in_task(self._reopen(client)))

    async def _reopen(self, client: AsyncAtScaleClient) -> AsyncAtScaleClient:
        try:
            settings = await self._load(self.conn_id)
            if settings.fingerprint != client.settings.fingerprint:
                fresh = self._connect(settings)
                await fresh.prepare()
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

    def seat(self, ref: ModelRef, batch_id: str | None) -> Seat:
        """
        Return a seat, which is to be entered and left.

        :param ref: The model; without ids where they could not be found out yet.
        :param batch_id: The batch; None for whichever is the newest.
        """
        return Seat(self, ref, batch_id)

    @asynccontextmanager
    async def room(self, ref: ModelRef) -> AsyncIterator[Room]:
        """
        Enter the room of a model, and leave it at the end.

        :param ref: The model.
        """
        room = self.enter(ref)
        try:
            yield room
        finally:
            await self.leave(room)

    def enter(self, ref: ModelRef) -> Room:
        """
        Enter the room of a model.

        :param ref: The model.
        """
        # What people call a model differs from waiter to waiter; its ids do not.
        key = (ref.catalog_id, ref.model_id)
        room = self._rooms.get(key)
        if room is None:
            room = self._rooms[key] = Room(self, key, ref)
        room.members += 1
        return room

    async def leave(self, room: Room) -> None:
        """
        Leave a room; the last one out closes it.

        :param room: The room.
        """
        room.members -= 1
        if not room.members:
            if self._rooms.get(room.key) is room:
                del self._rooms[room.key]
            await room.close()

    # Entered by each waiter, and no object of its own for each: a triggerer may have thousands.

    async def __aenter__(self) -> Line:
        self.members += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.members -= 1
        if not self.members:
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


class _Loop:
    """What the waiters of one event loop share: the lines by the ids of their connections, and the gates."""

    __slots__ = ("gates", "lines")

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}
        self.gates: dict[str, Gate] = {}


_loops: dict[asyncio.AbstractEventLoop, _Loop] = {}


def line(conn_id: str) -> Line:
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
    here = _loops.setdefault(loop, _Loop())
    shared = here.lines.get(conn_id)
    if shared is None:
        shared = here.lines[conn_id] = Line(conn_id, gates=here.gates)
    return shared


def _forget(left: Line) -> None:
    loop = asyncio.get_running_loop()
    here = _loops.get(loop)
    if here is None:
        return
    if here.lines.get(left.conn_id) is left:
        del here.lines[left.conn_id]
    if not here.lines:
        _loops.pop(loop, None)
