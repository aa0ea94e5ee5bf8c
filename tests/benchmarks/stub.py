"""
A server that answers every contestant's poll with "still running", as cheaply as asyncio allows.

All answers have the same length, so that nobody parses less than the others. It runs in a process of its own
and counts: requests, TCP connections, requests under way at once, token exchanges, reads per model. ``/_stats``
tells the counts and ``/_reset`` begins anew.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import ssl
import sys
import time
from collections import Counter
from typing import Any
from urllib.parse import parse_qs

ROWS = 20


def _row(number: int, batch_id: str) -> dict[str, Any]:
    running = number == 0
    return {
        "id": batch_id,
        "status": "inprogress" if running else "done",
        "isFullBuild": False,
        "batchType": "aggregate_batch",
        "createDate": f"2026-01-{28 - number:02d}T04:00:00.123Z",
        "startTime": f"2026-01-{28 - number:02d}T04:00:02.456Z",
        **({} if running else {"endTime": f"2026-01-{28 - number:02d}T05:00:00.789Z"}),
        "estimateTime": 3600000,
    }


def history(model_id: str) -> bytes:
    """Write the newest page of a model's build history; its batch is called like the model."""
    rows = [_row(0, f"batch-of-{model_id}")]
    rows += [_row(number, f"{number:08d}-0000-4000-8000-000000000000") for number in range(1, ROWS)]
    return json.dumps({"data": rows, "total": ROWS}).encode()


LENGTH = len(history("model-00000"))


def _padded(value: dict[str, Any]) -> bytes:
    """Write an answer that is as long, and takes about as long to parse, as a build history."""
    rows = json.loads(history("model-00000"))["data"]
    room = LENGTH - len(json.dumps({**value, "related": []}))
    related: list[dict[str, Any]] = []
    for row in rows:
        if len(json.dumps([*related, row])) > room:
            break
        related.append(row)
    body = json.dumps({**value, "related": related}).encode()
    return body + b" " * (LENGTH - len(body))


DBT = _padded({"data": {"id": 1, "status": 3, "status_humanized": "Running", "is_complete": False}})
DATABRICKS = _padded(
    {"run_id": 1, "state": {"life_cycle_state": "RUNNING", "result_state": "", "state_message": "In run"}}
)
PLAIN = history("model-00000")


def _token(lifetime: float) -> bytes:
    now = int(time.time())
    claims = json.dumps({"iat": now, "exp": now + int(lifetime)}).encode()
    parts = (b'{"alg":"none"}', claims, b"signature of the stub")
    token = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    return json.dumps({"accessToken": token.decode()}).encode()


class Counts:
    """What a table asks for."""

    def __init__(self) -> None:
        self.open = 0
        self.changes = 1_000_000
        self.clear()

    def clear(self) -> None:
        self.requests = 0
        self.connections = 0
        self.most_open = self.open
        self.under_way = 0
        self.most_under_way = 0
        self.exchanges = 0
        self.models: Counter[str] = Counter()

    def to_json(self) -> bytes:
        return json.dumps(
            {
                "requests": self.requests,
                "connections": self.connections,
                "most_open": self.most_open,
                "open": self.open,
                "most_under_way": self.most_under_way,
                "exchanges": self.exchanges,
                "models": len(self.models),
                "most_of_a_model": max(self.models.values(), default=0),
            }
        ).encode()


class Connection(asyncio.Protocol):
    """One TCP connection of HTTP/1.1 with keep-alive."""

    def __init__(self, counts: Counts, latency: float, lifetime: float) -> None:
        self._counts = counts
        self._latency = latency
        self._lifetime = lifetime
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._is_counted = False
        self._counts.open += 1
        self._counts.most_open = max(self._counts.most_open, self._counts.open)

    def connection_lost(self, exc: Exception | None) -> None:
        self._counts.open -= 1

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            head, separator, rest = self._buffer.partition(b"\r\n\r\n")
            if not separator:
                return
            length = 0
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            method, target, _ = head.split(b"\r\n", 1)[0].split(b" ")
            self._take(method.decode(), target.decode())

    def _take(self, method: str, target: str) -> None:
        del method
        counts = self._counts
        if target == "/_stats":
            self._answer(200, counts.to_json())
            return
        if target == "/_reset":
            counts.clear()
            self._answer(200, b"{}")
            return
        if not self._is_counted:
            self._is_counted = True
            counts.connections += 1
        counts.requests += 1
        counts.under_way += 1
        counts.most_under_way = max(counts.most_under_way, counts.under_way)
        if self._latency:
            asyncio.get_running_loop().call_later(self._latency, self._serve, target)
        else:
            self._serve(target)

    def _serve(self, target: str) -> None:
        self._counts.under_way -= 1
        path, _, query = target.partition("?")
        status, body = 200, PLAIN
        if path.endswith("/batch-history"):
            model_id = parse_qs(query)["modelId"][0]
            self._counts.models[model_id] += 1
            body = PLAIN.replace(b"model-00000", model_id.encode())
            if b"catalogId=changing" in query.encode():
                self._counts.changes += 1
                body = body.replace(b"3600000", b"%07d" % (self._counts.changes % 10_000_000), 1)
        elif path.startswith("/api/v2/accounts"):
            body = DBT
        elif path.startswith("/api/2."):
            body = DATABRICKS
        elif path.endswith("/token"):
            self._counts.exchanges += 1
            body = _token(self._lifetime)
        elif path == "/not-yet":
            status = 404
        self._answer(status, body)

    def _answer(self, status: int, body: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % (status, len(body))
            + body
        )


async def _main(options: argparse.Namespace) -> None:
    context = None
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate)
    counts = Counts()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(counts, options.latency, options.token_lifetime),
        "127.0.0.1",
        0,
        ssl=context,
        backlog=4096,
    )
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    # Whoever started this process ends it by closing its standard input.
    await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--certificate", help="PEM file with key and certificate; without it no TLS")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds until an answer")
    parser.add_argument("--token-lifetime", type=float, default=3600.0)
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
