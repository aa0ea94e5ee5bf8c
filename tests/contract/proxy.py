"""
A small HTTP proxy, run as a process: ``python proxy.py UPSTREAM_PORT [LOGIN:PASSWORD]``.

It passes everything on to one port of this machine, whatever the host that is asked for. It prints its port,
and then a line of JSON for each request: the first line and ``Proxy-Authorization``. With credentials it
answers 407 to requests without them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: int, credentials: str
) -> None:
    head = b""
    with contextlib.suppress(asyncio.IncompleteReadError):
        head = await reader.readuntil(b"\r\n\r\n")
    if not head:
        writer.close()
        return
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    authorization = headers.get("proxy-authorization")
    print(json.dumps({"request": first, "authorization": authorization}), flush=True)
    expected = f"Basic {base64.b64encode(credentials.encode('latin-1')).decode()}"
    if credentials and authorization != expected:
        writer.write(b"HTTP/1.1 407 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        # The body is read too: closing before would reset the connection, and the answer could be lost.
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return
    to_reader, to_writer = await asyncio.open_connection("127.0.0.1", upstream)
    if first.startswith("CONNECT "):
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    else:
        method, url, version = first.split(" ")
        path = "/" + url.split("/", 3)[3]
        to_writer.write(f"{method} {path} {version}\r\n".encode("latin-1") + head.split(b"\r\n", 1)[1])
    await asyncio.gather(copy(reader, to_writer), copy(to_reader, writer))


async def main(upstream: int, credentials: str = "") -> None:
    server = await asyncio.start_server(
        lambda reader, writer: serve(reader, writer, upstream, credentials), "127.0.0.1", 0
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), *sys.argv[2:]))
