"""Read an Airflow connection of type ``atscale``: check its fields before any request is sent."""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_provider_atscale.api.auth import basic_credentials
from airflow_provider_atscale.api.flow import shorten
from airflow_provider_atscale.api.values import is_unicode
from airflow_provider_atscale.arguments import parse_bool
from airflow_provider_atscale.exceptions import AtScaleConfigurationError, AtScaleConnectionError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

log = logging.getLogger(__name__)

EDITIONS = ("container", "installer")
AUTH_TYPES = ("auto", "api_token", "password", "client_api_key")
#: The start may take as long as this: AtScale's own clients allow it a minute.
DEFAULT_TIMEOUT = 60.0
#: Where the installer edition listens by default.
DESIGN_CENTER_PORT, ENGINE_PORT = 10500, 10502
_SCHEME_PORTS = {"https": 443, "http": 80}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
#: Headers whose values are masked in logs; to mask all of them would mask words like "json" everywhere.
_SECRET_HEADER = re.compile(r"auth|key|token|secret|cookie|passw|credential", re.IGNORECASE)
#: Names that users may expect among the extras, and the fields that hold these values.
_ELSEWHERE = {"host": "host", "port": "port", "login": "login", "username": "login", "password": "password",
              "token": "password", "api_key": "password"}  # fmt: skip
_warned: set[tuple[str, str]] = set()


class _WrongValue(Exception):
    """A field cannot be used; the text goes on after the field's name."""

    def __init__(self, reason: str, name: str | None = None) -> None:
        super().__init__(reason)
        self.name = name


# --- readers of single fields: each takes a value that is not empty ---


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _WrongValue(f"must be a text, not {type(value).__name__}")
    return value.strip()


def _choice(*choices: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        text = _text(value).lower()
        if text not in choices:
            raise _WrongValue(f"is {value!r}; it must be one of {', '.join(choices)}")
        return text

    return read


def _flag(value: Any) -> bool:
    try:
        return parse_bool(value, "")
    except AtScaleConfigurationError:
        raise _WrongValue(f"is {value!r}; it must be true or false") from None


def _prefix(value: Any) -> str:
    path = _text(value).strip("/")
    return f"/{path}" if path else ""


def _verify(value: Any) -> bool | str:
    if not isinstance(value, (bool, str)):
        raise _WrongValue(f"must be true, false or a path, not {type(value).__name__}")
    try:
        return parse_bool(value, "")
    except AtScaleConfigurationError:
        # Not Path.exists: that raises for a text that cannot be a path at all.
        if isinstance(value, str) and os.path.exists(value):  # noqa: PTH110
            return value
        raise _WrongValue(
            f"is {value!r}; it must be true, false, or the path of an existing CA bundle"
        ) from None


def _timeout(value: Any) -> float:
    try:
        seconds = float(value) if not isinstance(value, bool) else -1.0
    except (TypeError, ValueError, OverflowError):
        seconds = -1.0
    if not 0 < seconds <= 86400:
        raise _WrongValue(f"is {value!r}; it must be a number of seconds greater than 0, at most 86400")
    return seconds


def _headers(value: Any) -> Mapping[str, str]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, Mapping):
        raise _WrongValue('must be a JSON object, as in {"X-Team": "data"}')
    headers = {}
    for name, content in value.items():
        if not isinstance(content, (str, int, float)) or isinstance(content, bool):
            raise _WrongValue(f"has a value for {name!r} that is not a text")
        text = str(content).strip()
        if not _HEADER_NAME.fullmatch(name) or not (text.isprintable() and text.isascii()):
            raise _WrongValue("has a name or value with characters that a header cannot have")
        headers[name] = text
    return headers


def _with_scheme(value: Any, example: str) -> str:
    text = _text(value)
    if "://" not in text:
        raise _WrongValue(f"must be a whole address with its scheme, as in {example!r}")
    return text


def _url(value: Any) -> str:
    return _checked_url(_with_scheme(value, "https://atscale.example.com:10502"))


def _page_url(value: Any) -> str:
    # No request is sent there: it is a link for browsers.
    text = _with_scheme(value, "https://atscale.example.com/history")
    if not text.lower().startswith(("http://", "https://")):
        raise _WrongValue("must begin with http:// or https://")
    return text


def _checked_url(text: str, port: Any = None) -> str:
    """Return an address in its usual form. No error shows any of it: a mistyped one may hold a password."""
    if "@" in text:
        raise _WrongValue("must not contain login or password; they have fields of their own")
    try:
        parts = urlsplit(text)
        own_port, hostname = parts.port, parts.hostname or ""
        hostname.encode("idna")
    except ValueError:
        raise _WrongValue("is not an address: its host name or port cannot exist") from None
    if parts.scheme not in _SCHEME_PORTS:
        raise _WrongValue("must begin with http:// or https://")
    # "https//host" and "https:/host" are mistyped too, and would have a host called "https".
    if hostname in ("", *_SCHEME_PORTS) or any(character.isspace() for character in text):
        raise _WrongValue("is not an address")
    if parts.query or parts.fragment:
        raise _WrongValue("must not have a query or fragment")
    if port not in (None, ""):
        number = _port(port)
        if own_port not in (None, number):
            raise _WrongValue(f"is {number}, but the host has another port; set it in one place", "port")
        own_port = number
    return _build_url(parts.scheme, hostname, own_port, parts.path.rstrip("/"))


def _port(port: Any) -> int:
    try:
        number = int(port)
    except (TypeError, ValueError):
        raise _WrongValue("must be a number", "port") from None
    if not 0 < number < 65536:
        raise _WrongValue(f"is {number}; it must be from 1 to 65535", "port")
    return number


def _build_url(scheme: str, hostname: str, port: int | None, path: str) -> str:
    host = f"[{hostname}]" if ":" in hostname else hostname
    return f"{scheme}://{host}{'' if port is None else f':{port}'}{path}"


def at_port(url: str, port: int | None) -> str:
    """Return an address with another port; None: without a port."""
    parts = urlsplit(url)
    return _build_url(parts.scheme, parts.hostname or "", port, parts.path)


# --- the connection ---


def _extra(read: Callable[[Any], Any], default: Any, *, is_secret: bool = False) -> Any:
    return field(default=default, repr=not is_secret, metadata={"read": read})


@dataclass(frozen=True, slots=True)
class Settings:
    """
    The checked fields of a connection. Its representation shows no secret.

    Those declared with ``_extra`` come from the connection's extras; the form in ``get_provider_info.py``
    describes them.

    :param base_url: Scheme, host, port and base path, without a slash at the end.
    :param password: Password, API token or client API key.
    """

    conn_id: str
    base_url: str
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    edition: str = _extra(_choice(*EDITIONS), "container")
    auth_type: str = _extra(_choice(*AUTH_TYPES), "auto")
    organization: str = _extra(_text, "default")
    realm: str = _extra(_text, "atscale")
    client_id: str = _extra(_text, "atscale-ai-link")
    client_secret: str | None = _extra(_text, None, is_secret=True)
    api_prefix: str = _extra(_prefix, "/v1")
    engine_url: str | None = _extra(_url, None)
    design_center_url: str | None = _extra(_url, None)
    environment: str | None = _extra(_text, None)
    engine_choice: bool = _extra(_flag, False)
    verify: bool | str = _extra(_verify, True)
    timeout: float = _extra(_timeout, DEFAULT_TIMEOUT)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, metadata={"read": _headers})
    build_history_url: str | None = _extra(_page_url, None)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that must never be shown."""
        values = [value for name, value in self.headers.items() if _SECRET_HEADER.search(name)]
        values += [self.password or "", self.client_secret or ""]
        if self.edition == "installer" and self.auth_type == "password":
            values.append(basic_credentials(self.login or "", self.password or ""))
        return tuple(value for value in values if value)


_READERS = {each.name: each.metadata["read"] for each in fields(Settings) if "read" in each.metadata}


def parse_connection(conn: Connection) -> Settings:
    """
    Check a connection's fields; the error names the field.

    :raises AtScaleConfigurationError: If a field is missing or cannot be used.
    """
    name = "extra"
    try:
        extra = _parse_extra(conn)
        values: dict[str, Any] = {}
        for name, read in _READERS.items():
            value = extra.get(name)
            if value is not None and (not isinstance(value, str) or _sendable(value).strip()):
                values[name] = read(value)
        for name in ("login", "password"):
            values[name] = _sendable(getattr(conn, name) or "") or None
        name = "host"
        url = _base_url(conn.host, conn.port)
    except _WrongValue as wrong:
        raise wrong_field(conn.conn_id, wrong.name or name, str(wrong)) from None
    _warn_of_what_is_ignored(conn, extra)
    edition = values.get("edition", EDITIONS[0])
    if values.get("auth_type", "auto") == "auto":
        values["auth_type"] = "password" if values["login"] else "api_token"
    values["password"] = _credentials(conn.conn_id, edition, values)
    return Settings(conn_id=conn.conn_id, base_url=_without_usual_port(url, edition), **values)


def wrong_field(conn_id: str, name: str, reason: str) -> AtScaleConfigurationError:
    """Return the error for a field of a connection that cannot be used."""
    return AtScaleConfigurationError(f"Connection {conn_id!r}: the field {name!r} {reason}.")


def unreadable(conn_id: str, error: Exception) -> AtScaleConnectionError:
    """Return the error for a connection that Airflow cannot read now."""
    return AtScaleConnectionError(
        f"The Airflow connection {conn_id!r} could not be read ({type(error).__name__}: {error}).", sent=False
    )


def _parse_extra(conn: Connection) -> Mapping[str, Any]:
    # Not conn.extra_dejson: it masks its values with a blocking call, which must not happen in a triggerer.
    if not conn.extra:
        return {}
    try:
        extra = json.loads(conn.extra)
    except (ValueError, TypeError, RecursionError):
        raise _WrongValue("is not JSON") from None
    if not isinstance(extra, Mapping):
        raise _WrongValue("is not a JSON object")
    # Older Airflow versions put the type of the connection before the names.
    return {name.removeprefix("extra__atscale__"): value for name, value in extra.items()}


def _sendable(text: str) -> str:
    if not is_unicode(text):
        raise _WrongValue("has a character that cannot be sent")
    return text


def _base_url(host: Any, port: Any) -> str:
    if not isinstance(host, str) or not host.strip():
        raise _WrongValue("is empty; give AtScale's name or address, as in 'atscale.example.com'")
    text = host.strip()
    if "://" not in text:
        # Airflow removes the brackets of an IPv6 address in a URI.
        text = f"https://[{text}]" if text.count(":") > 1 and "[" not in text else f"https://{text}"
    return _checked_url(text, port)


def _without_usual_port(url: str, edition: str) -> str:
    """Return an address in its one form: in another one, a server would be taken for another server."""
    parts = urlsplit(url)
    usual = (DESIGN_CENTER_PORT, ENGINE_PORT) if edition == "installer" else (_SCHEME_PORTS[parts.scheme],)
    return at_port(url, None) if parts.port in usual else url


def _credentials(conn_id: str, edition: str, values: Mapping[str, Any]) -> str:
    """Return the password, token or key, checked."""
    auth_type, secret = values["auth_type"], values["password"] or ""
    if auth_type != "password":
        # Files and clipboards add a line end.
        secret = secret.strip()
    if not secret:
        needed = {"password": "the password", "api_token": "the API token", "client_api_key": "the key"}
        reason = f"is empty, and auth_type {auth_type!r} needs {needed[auth_type]} there"
        raise wrong_field(conn_id, "password", reason)
    if auth_type != "password" and not (secret.isprintable() and secret.isascii()):
        reason = "has characters that no token or key has, such as the end of a line inside it"
        raise wrong_field(conn_id, "password", reason)
    if auth_type == "password" and not values["login"]:
        raise wrong_field(conn_id, "login", "is empty, and auth_type 'password' needs the user's name there")
    if auth_type == "client_api_key" and edition == "container":
        raise wrong_field(conn_id, "auth_type", "'client_api_key' exists only on the installer edition")
    return secret


def _warn_of_what_is_ignored(conn: Connection, extra: Mapping[str, Any]) -> None:
    """Log once per process what a connection holds that has no effect."""
    texts = []
    conn_type = getattr(conn, "conn_type", None) or "atscale"
    if conn_type != "atscale":
        texts.append(
            f"it has the type {conn_type!r} and is used nevertheless; change the type to 'atscale' to get the "
            "right form and the Test button"
        )
    for name in extra.keys() - _READERS.keys():
        near = difflib.get_close_matches(name.lower(), [*_READERS, *_ELSEWHERE], n=1)
        known = _ELSEWHERE.get(near[0], near[0]) if near else None
        hint = f"did you mean {known!r}?" if known else f"known are {', '.join(_READERS)}"
        texts.append(f"the extra field {shorten(name, 40)!r} is not known and is ignored; {hint}")
    for text in texts:
        if (conn.conn_id, text) not in _warned:
            _warned.add((conn.conn_id, text))
            log.warning("Connection %r: %s", conn.conn_id, text)
