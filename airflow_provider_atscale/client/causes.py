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
from dataclasses import dataclass
from urllib.parse import urlsplit

_PORTS = {"https": 443, "http": 80}
#: How deep errors are wrapped in each other at most.
_MAX_DEPTH = 8
#: Where errors keep those that they wrap, beside their arguments.
_INNER = ("reason", "original_error", "os_error", "certificate_error", "__cause__")
_PROXY_ERRORS = ("ProxyError", "ClientProxyConnectionError", "ClientHttpProxyError")
_CONNECT_TIMEOUTS = ("ConnectTimeout", "ConnectTimeoutError", "ConnectionTimeoutError")
_DISCONNECTED = ("RemoteDisconnected", "ServerDisconnectedError", "IncompleteRead", "ClientPayloadError")
#: What OpenSSL says if the other side answers a handshake with plain text, by version.
_PLAIN_TEXT = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
#: How errors about the CA bundle begin in requests, and what OpenSSL calls those about its content.
_NO_BUNDLE = "Could not find a suitable TLS CA certificate bundle"
_BAD_BUNDLE = ("NO_CERTIFICATE_OR_CRL_FOUND", "NO_START_LINE", "BAD_END_LINE")
_NO_STATUS_LINE = "Expected HTTP/"
#: A record of TLS instead of a line of HTTP, in the two ways in which the libraries write it.
_TLS_RECORD = ("\x15\x03", "\\x15\\x03", "\x16\x03", "\\x16\\x03")


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a request got no answer."""

    text: str
    advice: str


def cause_of(error: BaseException, url: str, proxy: str | None = None) -> Cause | None:
    """Return why a request got no answer; None if only the library's own text tells."""
    errors = list(_unwrap(error))
    by_proxy = proxy is not None and any(_is_of_proxy(each, proxy) for each in errors)
    place = _place(proxy) if proxy is not None and by_proxy else _place(url)
    who = f"the proxy {place}" if by_proxy else place
    for find in (
        _of_tunnel,
        _of_name,
        _of_bundle,
        _of_certificate,
        _of_tls,
        _of_socket,
        _of_protocol,
        _of_time,
    ):
        for each in errors:
            cause = find(each, who)
            if cause is not None:
                return cause
    return None


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


def _tls_reason(error: BaseException) -> str | None:
    # The errors of aiohttp derive from those of ssl, but have no reason.
    reason = getattr(error, "reason", None) if isinstance(error, ssl.SSLError) else None
    return reason if isinstance(reason, str) else None


def _is_of_proxy(error: BaseException, proxy: str) -> bool:
    host = urlsplit(proxy).hostname
    return type(error).__name__ in _PROXY_ERRORS or (host is not None and getattr(error, "host", None) == host)


def _place(url: str) -> str:
    """Return host and port of an address, without anything else that it may hold."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or _PORTS.get(parts.scheme, '')}"


def _of_tunnel(error: BaseException, who: str) -> Cause | None:
    text = str(error)
    status = getattr(error, "status", None) if type(error).__name__ == "ClientHttpProxyError" else None
    if type(error) is OSError and text.startswith("Tunnel connection failed: "):
        status = text.split()[3]
    if status is None:
        return None
    return Cause(
        f"Connection refused by {who} (HTTP {status})",
        "Check the proxy's address and credentials in the environment (HTTPS_PROXY), or add AtScale's host to "
        "NO_PROXY",
    )


def _of_name(error: BaseException, who: str) -> Cause | None:
    if not isinstance(error, socket.gaierror):
        return None
    return Cause(
        f"The name {'of ' if ' ' in who else ''}{who.rpartition(':')[0]} could not be resolved",
        "Check the connection's host, and the DNS of the machine that runs the task",
    )


def _of_bundle(error: BaseException, who: str) -> Cause | None:
    del who
    is_missing = isinstance(error, FileNotFoundError) or str(error).startswith(_NO_BUNDLE)
    if not is_missing and _tls_reason(error) not in _BAD_BUNDLE:
        return None
    return Cause(
        "The CA bundle cannot be read",
        "Check the connection's verify setting and the environment variable REQUESTS_CA_BUNDLE",
    )


def _of_certificate(error: BaseException, who: str) -> Cause | None:
    reason = getattr(error, "verify_message", None)
    if not isinstance(error, ssl.SSLCertVerificationError) or not reason:
        return None
    return Cause(
        f"The certificate of {who} is not trusted: {reason}",
        "Check the connection's verify setting: it can be the path of the CA bundle that signed it",
    )


def _of_tls(error: BaseException, who: str) -> Cause | None:
    reason = _tls_reason(error)
    if reason is None or isinstance(error, ssl.SSLEOFError):
        return None
    if reason in _PLAIN_TEXT:
        return Cause(
            f"The server at {who} speaks plain http, but the connection says https",
            "Begin the connection's host with http://, or give the port of https",
        )
    return Cause(
        f"The TLS handshake with {who} failed ({reason})",
        "Check the connection's host and port, and the TLS versions that the server accepts",
    )


def _of_socket(error: BaseException, who: str) -> Cause | None:
    if isinstance(error, ConnectionRefusedError):
        return Cause(
            f"Connection refused by {who}",
            "Check the connection's host and port, and whether AtScale runs and a firewall lets the task connect",
        )
    if isinstance(error, OSError) and error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return Cause(
            f"No route to {who}",
            "Check the connection's host, and the network of the machine that runs the task",
        )
    return None


def _of_protocol(error: BaseException, who: str) -> Cause | None:
    name = type(error).__name__
    # Older versions of aiohttp have no class of their own for a first line that is not HTTP's.
    if name == "BadStatusLine" or (name == "BadHttpMessage" and _NO_STATUS_LINE in str(error)):
        if any(record in str(error) for record in _TLS_RECORD):
            return Cause(
                f"The server at {who} speaks https, but the connection says http",
                "Begin the connection's host with https://, or give the port of http",
            )
        return Cause(
            f"The server at {who} does not speak HTTP",
            "Check the connection's host and port: another service may listen there",
        )
    # OpenSSL has a class of its own for a connection that ends during the handshake.
    closed = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError, ssl.SSLEOFError)
    if name in _DISCONNECTED or isinstance(error, closed):
        return Cause(
            f"Connection closed by {who} before the answer was complete",
            "Check the connection's host (https or http?) and port, and the logs of AtScale or of the proxy in "
            "front of it",
        )
    return None


def _of_time(error: BaseException, who: str) -> Cause | None:
    if type(error).__name__ in _CONNECT_TIMEOUTS:
        return Cause(
            f"No connection to {who} in time",
            "Check the connection's host and port: a firewall may drop the packets",
        )
    if isinstance(error, TimeoutError):
        return Cause(
            f"No complete answer from {who} in time",
            "AtScale is slow, or the network is: raise the connection's timeout if it is only slow",
        )
    return None
