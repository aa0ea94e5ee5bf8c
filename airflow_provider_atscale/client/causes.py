"""
Say in words why a request got no answer, alike for both clients.

The libraries wrap what happened in errors of their own, each in another way. So all errors that an error wraps are
looked at, by the names of their classes: neither library is imported here.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

_PORTS = {"https": 443, "http": 80}
#: How deep errors are wrapped in each other at most.
_MAX_DEPTH = 8
#: Where errors keep those that they wrap, beside their arguments.
_INNER = ("reason", "original_error", "os_error", "certificate_error", "__cause__")
_PROXY_ERRORS = ("ProxyError", "ClientProxyConnectionError", "ClientHttpProxyError")
_CONNECT_TIMEOUTS = ("ConnectTimeout", "ConnectTimeoutError", "ConnectionTimeoutError")
_DISCONNECTED = ("RemoteDisconnected", "ServerDisconnectedError", "IncompleteRead", "ClientPayloadError")
#: OpenSSL has a class of its own for a connection that ends during the handshake.
_CLOSED = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError, ssl.SSLEOFError)
#: What OpenSSL says if the other side answers a handshake with plain text, by version.
_PLAIN_TEXT = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
#: How errors about the CA bundle begin in requests, and what OpenSSL calls those about its content.
_NO_BUNDLE = "Could not find a suitable TLS CA certificate bundle"
_BAD_BUNDLE = ("NO_CERTIFICATE_OR_CRL_FOUND", "NO_START_LINE", "BAD_END_LINE")
#: A record of TLS instead of a line of HTTP, in the two ways in which the libraries write it.
_TLS_RECORD = ("\x15\x03", "\\x15\\x03", "\x16\x03", "\\x16\\x03")


class Cause(NamedTuple):
    """Why a request got no answer: what happened, and to which host; and what to do about it."""

    text: str
    advice: str


_CHECK_PROXY = (
    "Check the proxy's address and credentials in the environment (HTTPS_PROXY), or add AtScale's host to "
    "NO_PROXY"
)

#: By the kinds of errors, in the order in which they are looked for.
_CAUSES = {
    "proxy refuses": Cause("Connection refused by {who} (HTTP {error.status})", _CHECK_PROXY),
    "tunnel refused": Cause("Connection refused by {who} (HTTP {words[3]})", _CHECK_PROXY),
    "name": Cause(
        "The name {name} could not be resolved",
        "Check the connection's host, and the DNS of the machine that runs the task",
    ),
    "bundle": Cause(
        "The CA bundle cannot be read",
        "Check the connection's verify setting and the environment variable REQUESTS_CA_BUNDLE",
    ),
    "certificate": Cause(
        "The certificate of {who} is not trusted: {error.verify_message}",
        "Check the connection's verify setting: it can be the path of the CA bundle that signed it",
    ),
    "https to http": Cause(
        "The server at {who} speaks plain http, but the connection says https",
        "Begin the connection's host with http://, or give the port of https",
    ),
    "handshake": Cause(
        "The TLS handshake with {who} failed ({error.reason})",
        "Check the connection's host and port, and the TLS versions that the server accepts",
    ),
    "refused": Cause(
        "Connection refused by {who}",
        "Check the connection's host and port, and whether AtScale runs and a firewall lets the task connect",
    ),
    "no route": Cause(
        "No route to {who}",
        "Check the connection's host, and the network of the machine that runs the task",
    ),
    "http to https": Cause(
        "The server at {who} speaks https, but the connection says http",
        "Begin the connection's host with https://, or give the port of http",
    ),
    "no http": Cause(
        "The server at {who} does not speak HTTP",
        "Check the connection's host and port: another service may listen there",
    ),
    "closed": Cause(
        "Connection closed by {who} before the answer was complete",
        "Check the connection's host (https or http?) and port, and the logs of AtScale or of the proxy in "
        "front of it",
    ),
    "no connection": Cause(
        "No connection to {who} in time",
        "Check the connection's host and port: a firewall may drop the packets",
    ),
    "no answer": Cause(
        "No complete answer from {who} in time",
        "AtScale is slow, or the network is: raise the connection's timeout if it is only slow",
    ),
}


def cause_of(error: BaseException, url: str, proxy: str | None = None) -> Cause | None:
    """Return why a request got no answer; None if only the library's own text tells."""
    errors = list(_unwrap(error))
    by_proxy = proxy is not None and any(_is_of_proxy(each, proxy) for each in errors)
    place = _place(proxy) if proxy is not None and by_proxy else _place(url)
    host = place.rpartition(":")[0]
    who, name = (f"the proxy {place}", f"of the proxy {host}") if by_proxy else (place, host)
    # The outermost error of each kind.
    found = {_kind_of(each): each for each in reversed(errors)}
    for kind, (text, advice) in _CAUSES.items():
        if kind in found:
            words = str(found[kind]).split()
            return Cause(text.format(who=who, name=name, error=found[kind], words=words), advice)
    return None


def _kind_of(error: BaseException) -> str | None:
    """Return the key of an error in :data:`_CAUSES`."""
    name, text = type(error).__name__, str(error)
    # The errors of aiohttp derive from those of ssl, but have no reason.
    reason = getattr(error, "reason", None) if isinstance(error, ssl.SSLError) else None
    if name == "ClientHttpProxyError":
        return "proxy refuses"
    if type(error) is OSError and text.startswith("Tunnel connection failed: "):
        return "tunnel refused"
    if isinstance(error, socket.gaierror):
        return "name"
    if isinstance(error, FileNotFoundError) or text.startswith(_NO_BUNDLE) or reason in _BAD_BUNDLE:
        return "bundle"
    if isinstance(error, ssl.SSLCertVerificationError) and getattr(error, "verify_message", None):
        return "certificate"
    if isinstance(reason, str) and not isinstance(error, ssl.SSLEOFError):
        return "https to http" if reason in _PLAIN_TEXT else "handshake"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, OSError) and error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return "no route"
    # Older versions of aiohttp have no class of their own for a first line that is not HTTP's.
    if name == "BadStatusLine" or (name == "BadHttpMessage" and "Expected HTTP/" in text):
        return "http to https" if any(record in text for record in _TLS_RECORD) else "no http"
    if name in _DISCONNECTED or isinstance(error, _CLOSED):
        return "closed"
    if name in _CONNECT_TIMEOUTS:
        return "no connection"
    return "no answer" if isinstance(error, TimeoutError) else None


def _unwrap(error: object, depth: int = 0) -> Iterator[BaseException]:
    """Return an error and all that it wraps, outermost first."""
    if not isinstance(error, BaseException) or depth > _MAX_DEPTH:
        return
    yield error
    inside = [getattr(error, name, None) for name in _INNER]
    inside += error.args
    for number, each in enumerate(inside):
        if all(each is not other for other in inside[:number]):
            yield from _unwrap(each, depth + 1)


def _is_of_proxy(error: BaseException, proxy: str) -> bool:
    host = urlsplit(proxy).hostname
    return type(error).__name__ in _PROXY_ERRORS or (host is not None and getattr(error, "host", None) == host)


def _place(url: str) -> str:
    """Return host and port of an address, without anything else that it may hold."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or _PORTS.get(parts.scheme, '')}"
