"""Why a request got no answer is said in words, before the library's own text, in the same words by both clients."""

from __future__ import annotations

import re
import socket
import ssl
import struct

import pytest

from airflow_provider_atscale.exceptions import AtScaleConnectionError

from .conftest import at, server_context, whatever_the_edition
from .raw_server import RawServer

pytestmark = [whatever_the_edition, pytest.mark.filterwarnings("ignore:Unverified HTTPS request")]


class Server(RawServer):
    """Answer each connection with the same bytes, or reset it; count the connections."""

    def __init__(self, answer: bytes | None, context: ssl.SSLContext | None = None) -> None:
        self._answer = answer
        super().__init__(context)

    def _talk(self, peer: socket.socket) -> None:
        peer.settimeout(5)
        peer.recv(65536)
        if self._answer is None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
        else:
            peer.sendall(self._answer)


@pytest.fixture
def serve():
    servers = []

    def serve(answer, context=None):
        servers.append(Server(answer, context))
        return servers[-1].place

    yield serve
    for server in servers:
        server.close()


@pytest.fixture
def closed():
    """Return a place where nobody listens; the port stays taken, so nobody else gets it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def error_of(make_caller, url, **more) -> str:
    """Return the text of the error of one read there."""
    caller = make_caller(**{**at("container", url), "timeout": 2, **more})
    with pytest.raises(AtScaleConnectionError) as caught:
        caller.run(lambda edition: edition.models(), tries=1)
    return str(caught.value)


HTTP, ALERT, PAGE, NOTHING, RESET = (
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\x15\x03\x03\x00\x02\x02\x46",
    b"SSH-2.0\r\n",
    b"",
    None,
)
CASES = {
    "https to http": ("https", HTTP, "The server at {place} speaks plain http, but the connection says https."),
    "http to https": ("http", ALERT, "The server at {place} speaks https, but the connection says http."),
    "another service": ("http", PAGE, "The server at {place} does not speak HTTP."),
    "closed": ("http", NOTHING, "Connection closed by {place} before the answer was complete."),
    "closed during the handshake": ("https", NOTHING, "Connection closed by {place} before the answer was complete."),
    "reset": ("http", RESET, "Connection closed by {place} before the answer was complete."),
}  # fmt: skip


@pytest.mark.parametrize(("scheme", "answer", "said"), CASES.values(), ids=CASES)
def test_the_cause_comes_first(make_caller, serve, scheme, answer, said):
    place = serve(answer)
    text = error_of(make_caller, f"{scheme}://{place}", verify=False)
    said = said.format(place=place)
    assert text.startswith(f"{said} GET {scheme}://{place}/")
    assert "got no answer (" in text
    assert len(said) <= 90


def test_a_refused_port(make_caller, closed):
    text = error_of(make_caller, f"http://{closed}")
    assert text.startswith(f"Connection refused by {closed}. GET ")
    assert "a firewall" in text


def test_a_name_that_does_not_resolve(make_caller):
    text = error_of(make_caller, "https://atscale.invalid")
    assert text.startswith("The name atscale.invalid could not be resolved. GET https://atscale.invalid/")


def test_a_certificate_of_an_unknown_authority(make_caller, serve, authority):
    place = serve(NOTHING, server_context(authority))
    text = error_of(make_caller, f"https://{place}")
    assert text.startswith(
        f"The certificate of {place} is not trusted: unable to get local issuer certificate."
    )


def test_no_answer_in_time(make_caller):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        text = error_of(make_caller, f"http://{place}", timeout=0.3)
    assert text.startswith(f"No complete answer from {place} in time. GET ")
    assert "after 0.3 s" in text


def test_a_missing_ca_bundle(make_caller, serve, tmp_path, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    text = error_of(make_caller, f"https://{serve(NOTHING)}")
    assert text.startswith("The CA bundle cannot be read. GET ")


@pytest.mark.parametrize(
    ("proxy", "scheme", "said"),
    [
        ("http://u:geheim@proxy.invalid:3128", "http", "The name of the proxy proxy.invalid could not be resolved."),
        ("http://u:geheim@{closed}", "http", "Connection refused by the proxy {closed}."),
        ("http://u:geheim@{refusing}", "https", "Connection refused by the proxy {refusing} (HTTP 407)."),
    ],
    ids=["its name does not resolve", "its port is refused", "it refuses"],
)  # fmt: skip
def test_a_proxy_is_named_without_its_credentials(make_caller, serve, closed, monkeypatch, proxy, scheme, said):
    refusing = serve(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, proxy.format(closed=closed, refusing=refusing))
    text = error_of(make_caller, f"{scheme}://atscale.example.com", verify=False)
    assert text.startswith(said.format(closed=closed, refusing=refusing))
    assert not re.search("geheim|u:", text)
