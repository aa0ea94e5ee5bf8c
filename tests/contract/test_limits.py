"""The time, the number of tries and the size of an answer are limited, in the same way by both clients."""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
import ssl
import threading
import time
import zlib
from types import SimpleNamespace

import pytest

from airflow_provider_atscale.api.start import LostReply
from airflow_provider_atscale.client import aiohttp_client, base, retries
from airflow_provider_atscale.client.body import MAX_BODY
from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleConnectionError,
    AtScaleMalformedAnswerError,
)

from .conftest import TOKEN_ROUTE, at, routes, server_context, whatever_the_edition
from .raw_server import RawServer

TIMEOUT = 0.5
#: Far less than the answers below take, and far more than the timeout, on a busy machine too.
SOON = 8.0


class Server(RawServer):
    """
    Give raw answers over a socket, until the client has enough.

    :param answer: Yields the pieces of an answer.
    :param context: For TLS.
    """

    def __init__(self, answer, context: ssl.SSLContext | None = None) -> None:
        self._answer = answer
        self._stopped = threading.Event()
        super().__init__(context)
        self.url = f"{'https' if context else 'http'}://{self.place}"

    def _talk(self, peer: socket.socket) -> None:
        with peer:
            peer.settimeout(5)
            self._receive(peer)
            for piece in self._answer():
                if self._stopped.is_set():
                    return
                peer.sendall(piece)

    def _receive(self, peer: socket.socket) -> None:
        """Read a request to its end: to close with a part of it unread would reset the connection."""
        received = b""
        while b"\r\n\r\n" not in received and (data := peer.recv(65536)):
            received += data
        head, _, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        while length and len(body) < int(length[1]) and (data := peer.recv(65536)):
            body += data

    def close(self) -> None:
        self._stopped.set()
        super().close()


@pytest.fixture
def serve():
    servers = []

    def serve(answer, context=None):
        servers.append(Server(answer, context))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


def read(caller, **more):
    return caller.run(lambda edition: edition.models(), tries=1, **more)


# --- the time of one request ------------------------------------------------------------------------------


def drip(head: bytes, piece: bytes):
    """Send the head at once, and then a piece every few milliseconds for ever."""

    def answer():
        yield head
        while True:
            time.sleep(0.02)
            yield piece

    return answer


DRIPPING = {
    "nothing": drip(b"", b""),
    "the status line": drip(b"HTTP/1.1 200 ", b"O"),
    "the headers": drip(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a"),
    "further headers": drip(b"HTTP/1.1 200 OK\r\n", b""),
    "interim answers": drip(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a body with a length": drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b" "),
    "a body without a length": drip(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b" "),
    "a body in chunks": drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
}


@whatever_the_edition
@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("answer", DRIPPING.values(), ids=DRIPPING)
def test_an_answer_that_drips_does_not_outlast_the_timeout(make_caller, ref, serve, authority, answer, tls):
    server = serve(answer, server_context(authority) if tls else None)
    caller = make_caller(**at("container", server.url), timeout=TIMEOUT, verify=False)
    began = time.monotonic()
    with pytest.raises(AtScaleConnectionError, match="got no answer") as caught:
        read(caller)
    assert time.monotonic() - began < SOON
    assert caught.value.sent is True


@whatever_the_edition
def test_a_start_whose_answer_drips_is_a_lost_reply(make_caller, ref, serve):
    server = serve(DRIPPING["the headers"])
    caller = make_caller(**at("container", server.url), timeout=TIMEOUT)
    began = time.monotonic()
    outcome = caller.start(ref)
    assert isinstance(outcome, LostReply)
    assert "was not complete after 0.5 s" in outcome.reason
    assert time.monotonic() - began < SOON


@whatever_the_edition
def test_a_client_goes_on_after_a_timeout(engine, make_caller):
    caller = make_caller(timeout=TIMEOUT)
    engine.fault("delay", seconds=30, route="catalogs")
    with pytest.raises(AtScaleConnectionError):
        read(caller)
    assert len(caller.run(lambda edition: edition.models())) == 3


@pytest.fixture
def host(monkeypatch, serve):
    """Return the address of a host that has some silent addresses and, maybe, one that answers."""
    opened: list[socket.socket] = []

    def make(silent: int, answer=None) -> str:
        url = serve(answer).url if answer else ""
        port = int(url.rpartition(":")[2]) if url else 0
        addresses = [f"127.0.0.{number}" for number in range(2, 2 + silent)]
        for address in addresses:
            # From a full queue on, to connect is to wait.
            server = socket.create_server((address, port), backlog=0)
            port = server.getsockname()[1]
            opened.append(server)
            for _ in range(3):
                client = socket.socket()
                client.setblocking(False)
                client.connect_ex((address, port))
                opened.append(client)
        listed = [*addresses, *(["127.0.0.1"] if answer else [])]
        resolve = socket.getaddrinfo

        def getaddrinfo(name, *args, **kwargs):
            if name != "atscale.test":
                return resolve(name, *args, **kwargs)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in listed]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return f"http://atscale.test:{port}"

    yield make
    for each in opened:
        each.close()


@whatever_the_edition
def test_a_host_of_silent_addresses_takes_the_timeout_once(make_caller, ref, host):
    caller = make_caller(**at("container", host(3)), timeout=1.0)
    began = time.monotonic()
    with pytest.raises(AtScaleConnectionError) as caught:
        read(caller)
    assert time.monotonic() - began < 2.0
    assert caught.value.sent is False


@whatever_the_edition
def test_a_silent_address_does_not_take_the_time_of_the_next_one(make_caller, ref, host):
    caller = make_caller(**at("container", host(2, respond(ROWS))), timeout=4.0)
    assert [ref.model for ref in read(caller)] == ["Sales"]


# --- deadlines --------------------------------------------------------------------------------------------


class Clock:
    """A wall clock that only moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch, caller):
    clock = Clock()
    for module in (base, retries, aiohttp_client):
        frozen = SimpleNamespace(time=clock.time, monotonic=time.monotonic)
        monkeypatch.setattr(module, "time", frozen, raising=False)

    def on_nap():
        clock.now += caller.naps[-1]

    caller.on_nap = on_nap
    return clock


@pytest.mark.parametrize(
    ("seconds", "requests"),
    [(5, 1), (10, 1), (11, 2), (25, 3), (35, 4), (1000, 5)],
)
@whatever_the_edition
def test_reads_are_not_retried_beyond_a_deadline(engine, caller, clock, seconds, requests):
    engine.fault(503, route="catalogs", headers={"Retry-After": "10"}, times=None)
    with pytest.raises(AtScaleApiError, match="HTTP 503"):
        caller.run(lambda edition: edition.models(), until=clock.now + seconds)
    assert engine.stats.routes["catalogs"] == requests
    assert caller.naps == [10.0] * (requests - 1)


def test_no_request_is_sent_after_a_deadline(engine, caller, clock):
    with pytest.raises(AtScaleConnectionError, match="deadline") as caught:
        caller.run(lambda edition: edition.models(), until=clock.now)
    assert caught.value.sent is False
    assert engine.requests == []
    assert caller.naps == []


@pytest.mark.parametrize("held", ["catalogs", "a token"])
def test_no_request_outlasts_a_deadline(engine, edition, make_caller, ref, held):
    caller = make_caller(timeout=3600)
    hold = engine.hold("received", route=TOKEN_ROUTE[edition] if held == "a token" else held, times=None)
    call = caller.edition.models() if held == "catalogs" else caller.edition.history(ref)
    began = time.monotonic()
    with pytest.raises(AtScaleConnectionError):
        caller.run(lambda _: call, until=time.time() + TIMEOUT)
    assert time.monotonic() - began < SOON
    engine.release(hold)


# --- the size of an answer --------------------------------------------------------------------------------


def respond(body: bytes, *headers: bytes):
    head = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers]
    return lambda: [b"\r\n".join(head) + b"\r\n\r\n", body]


ROWS = b'[{"id": "c1", "name": "Sales", "models": [{"id": "m1", "name": "Sales"}]}]'
GZIP = b"Content-Encoding: gzip"
BLANKS = b" " * (MAX_BODY + 1)

GOOD = {
    "plain": respond(ROWS),
    "gzip": respond(gzip.compress(ROWS), GZIP),
    "gzip in two parts": respond(gzip.compress(ROWS[:30]) + gzip.compress(ROWS[30:]), GZIP),
    "gzip in capitals": respond(gzip.compress(ROWS), b"content-encoding: GZIP"),
    "x-gzip": respond(gzip.compress(ROWS), b"Content-Encoding: x-gzip"),
    "deflate": respond(zlib.compress(ROWS), b"Content-Encoding: deflate"),
    "identity": respond(ROWS, b"Content-Encoding: identity"),
    "an empty encoding": respond(ROWS, b"Content-Encoding: "),
    "identity and gzip": respond(gzip.compress(ROWS), b"Content-Encoding: identity, gzip"),
    "identity and gzip in two headers": respond(gzip.compress(ROWS), b"Content-Encoding: identity", GZIP),
    "as large as is allowed": respond(gzip.compress(ROWS + b" " * (MAX_BODY - len(ROWS)), 1), GZIP),
}
TOO_LARGE = {
    "plain": respond(BLANKS),
    "gzip": respond(gzip.compress(BLANKS * 4), GZIP),
    "gzip in many parts": respond(gzip.compress(BLANKS[: 2**20]) * 40, GZIP),
}
UNREADABLE = {
    "not gzip": respond(ROWS, GZIP),
    "half of the gzip": respond(gzip.compress(ROWS)[:-20], GZIP),
    "plain text that is called gzip": respond(ROWS, b"Content-Encoding: x-gzip"),
    "brotli": respond(b"\x0b\x01\x80[]\x03", b"Content-Encoding: br"),
    "zstd": respond(ROWS, b"Content-Encoding: zstd"),
    "compress": respond(ROWS, b"Content-Encoding: compress"),
    "an unknown encoding": respond(ROWS, b"Content-Encoding: rot13"),
    "gzip inside of gzip": respond(gzip.compress(gzip.compress(ROWS)), b"Content-Encoding: gzip, gzip"),
    "gzip twice in two headers": respond(gzip.compress(gzip.compress(ROWS)), GZIP, GZIP),
    "gzip and br": respond(gzip.compress(ROWS), b"Content-Encoding: gzip, br"),
    "a header without an end": respond(ROWS, b"Content-Encoding: " + b"gzip, " * 200),
}


@pytest.fixture
def caller_of(make_caller, serve):
    return lambda answer: make_caller(**at("container", serve(answer).url), timeout=20)


@whatever_the_edition
@pytest.mark.parametrize("answer", GOOD.values(), ids=GOOD)
def test_a_compressed_answer_is_read(caller_of, answer):
    assert [ref.model for ref in read(caller_of(answer))] == ["Sales"]


@whatever_the_edition
@pytest.mark.parametrize("answer", TOO_LARGE.values(), ids=TOO_LARGE)
def test_an_answer_that_is_too_large(caller_of, ref, answer):
    caller = caller_of(answer)
    with pytest.raises(AtScaleMalformedAnswerError, match="is larger than 16 MiB"):
        read(caller)
    outcome = caller.start(ref)
    assert isinstance(outcome, LostReply)
    assert "is larger than 16 MiB" in outcome.reason


@whatever_the_edition
@pytest.mark.parametrize("answer", UNREADABLE.values(), ids=UNREADABLE)
def test_an_answer_that_cannot_be_decompressed(caller_of, ref, answer):
    caller = caller_of(answer)
    with pytest.raises(AtScaleConnectionError, match="got an answer that cannot be decompressed") as caught:
        read(caller)
    assert caught.value.sent is True
    assert isinstance(caller.start(ref), LostReply)


@whatever_the_edition
@pytest.mark.parametrize("driver", ["aiohttp"], indirect=True)
def test_a_large_answer_does_not_block_the_event_loop(caller_of):
    """Other tasks run between the pieces, although all of them have arrived."""
    caller = caller_of(GOOD["as large as is allowed"])
    turns = 0

    async def count_turns():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def both():
        other = asyncio.ensure_future(count_turns())
        rows = await caller.client.run(caller.edition.models(), 1)
        other.cancel()
        return rows

    assert len(caller._loop.run_until_complete(both())) == 1
    assert turns > 10


def test_only_gzip_is_asked_for(engine, caller):
    caller.run(lambda edition: edition.models())
    assert {request.headers["Accept-Encoding"] for request in engine.requests} == {"gzip"}
    assert "catalogs" in routes(engine)
