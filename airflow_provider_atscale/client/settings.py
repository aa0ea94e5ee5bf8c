"""
What an Airflow connection of type ``atscale`` says, checked field by field before any request.

Here, and in ``protocol/``, are the only places that know which edition a connection is for.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from airflow_provider_atscale.api.auth import basic_credentials
from airflow_provider_atscale.arguments import parse_bool
from airflow_provider_atscale.exceptions import AtScaleConfigurationError

EDITIONS = ("container", "installer")
AUTH_TYPES = ("auto", "api_token", "password", "client_api_key")
#: The longest that the start may take: AtScale's own clients allow it a minute.
DEFAULT_TIMEOUT = 60.0
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
#: Headers whose values are hidden from logs; hiding all would blacken words like "json" everywhere.
_SECRET_HEADER = re.compile(r"auth|key|token|secret|cookie|passw|credential", re.IGNORECASE)
#: Where the installer edition listens by default.
DESIGN_CENTER_PORT, ENGINE_PORT = 10500, 10502
_INSTALLER_PORTS = (DESIGN_CENTER_PORT, ENGINE_PORT)
_SCHEME_PORTS = {"https": 443, "http": 80}


class ConnectionLike(Protocol):
    """The fields of an Airflow connection that are read."""

    conn_id: str
    host: Any
    port: Any
    login: Any
    password: Any
    extra: Any


@dataclass(frozen=True, slots=True)
class Settings:
    """
    A connection's fields after checking. Nothing secret shows in its representation.

    :param conn_id: Id of the connection.
    :param edition: ``container`` or ``installer``.
    :param base_url: Scheme, host, port and base path, without a slash at the end.
    :param auth_type: ``api_token``, ``password`` or ``client_api_key``; ``auto`` is resolved.
    :param login: User name.
    :param password: Password, API token or client API key.
    :param organization: Organization of the installer edition.
    :param realm: Keycloak realm of the container edition.
    :param client_id: Keycloak client of the password grant.
    :param client_secret: Its secret, where it has one.
    :param api_prefix: Where the container's public API begins.
    :param engine_url: Address of the installer's engine.
    :param design_center_url: Address of the installer's Design Center.
    :param environment: Environment of the installer's old engines.
    :param engine_choice: Whether an engine that knows no ``isFullBuild`` may choose the kind of build itself.
    :param verify: Whether TLS certificates are checked, or the path of a CA bundle that they are checked with.
    :param timeout: Seconds that one request may take.
    :param headers: Further headers of every request.
    :param build_history_url: Address of the build history page, for the link in Airflow.
    """

    conn_id: str
    edition: str
    base_url: str
    auth_type: str
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    organization: str = "default"
    realm: str = "atscale"
    client_id: str = "atscale-ai-link"
    client_secret: str | None = field(default=None, repr=False)
    api_prefix: str = "/v1"
    engine_url: str | None = None
    design_center_url: str | None = None
    environment: str | None = None
    engine_choice: bool = False
    verify: bool | str = True
    timeout: float = DEFAULT_TIMEOUT
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    build_history_url: str | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that must never be seen."""
        headers = (value for name, value in self.headers.items() if _SECRET_HEADER.search(name))
        values = (self.password, self.client_secret, self._basic_credentials, *headers)
        return tuple(value for value in values if value)

    @property
    def _basic_credentials(self) -> str | None:
        """Login and password in the form in which the installer edition is sent them."""
        if self.edition != "installer" or self.auth_type != "password":
            return None
        return basic_credentials(self.login or "", self.password or "")

    @property
    def fingerprint(self) -> str:
        """A text that changes whenever any field does, without telling any of them."""
        fields = repr((self, self.password, self.client_secret, sorted(self.headers.items())))
        return hashlib.sha256(fields.encode()).hexdigest()


def parse_connection(conn: ConnectionLike) -> Settings:
    """
    Check a connection's fields; the error names the field.

    :param conn: The Airflow connection.
    :raises AtScaleConfigurationError: If a field is missing or cannot be used.
    """
    wrong = partial(wrong_field, conn.conn_id)
    extra = _extra(conn, wrong)
    edition = _choice(extra, "edition", EDITIONS, wrong)
    base_url = _without_usual_port(_base_url(conn.host, conn.port, wrong), edition)
    password = conn.password or None
    login = conn.login or None
    auth_type = _choice(extra, "auth_type", AUTH_TYPES, wrong)
    if auth_type == "auto":
        auth_type = "password" if login else "api_token"
    if password and auth_type != "password":
        password = _header_value(password, wrong)
    if not password:
        needed = {"password": "the password", "api_token": "the API token", "client_api_key": "the key"}
        raise wrong("password", f"is empty, and auth_type {auth_type!r} needs {needed[auth_type]} there")
    if auth_type == "password" and not login:
        raise wrong("login", "is empty, and auth_type 'password' needs the user's name there")
    if auth_type == "client_api_key" and edition == "container":
        raise wrong("auth_type", "'client_api_key' exists only on the installer edition")
    prefix = _text(extra, "api_prefix", "/v1", wrong)
    return Settings(
        conn_id=conn.conn_id,
        edition=edition,
        base_url=base_url,
        auth_type=auth_type,
        login=login,
        password=password,
        organization=_text(extra, "organization", "default", wrong),
        realm=_text(extra, "realm", "atscale", wrong),
        client_id=_text(extra, "client_id", "atscale-ai-link", wrong),
        client_secret=_text(extra, "client_secret", "", wrong) or None,
        api_prefix="/" + prefix.strip("/") if prefix.strip("/") else "",
        engine_url=_url(extra, "engine_url", wrong),
        design_center_url=_url(extra, "design_center_url", wrong),
        environment=_text(extra, "environment", "", wrong) or None,
        engine_choice=_flag(extra, "engine_choice", default=False, wrong=wrong),
        verify=_verify(extra.get("verify"), wrong),
        timeout=_timeout(extra.get("timeout"), wrong),
        headers=_headers(extra.get("headers"), wrong),
        build_history_url=_url(extra, "build_history_url", wrong),
    )


def wrong_field(conn_id: str, name: str, reason: str) -> AtScaleConfigurationError:
    """Return the error for a field of a connection that cannot be used."""
    return AtScaleConfigurationError(f"Connection {conn_id!r}: the field {name!r} {reason}.")


_Wrong = Callable[[str, str], AtScaleConfigurationError]


def _extra(conn: ConnectionLike, wrong: _Wrong) -> Mapping[str, Any]:
    # Not conn.extra_dejson: that masks its values with a blocking call, which must not happen in a triggerer.
    if not conn.extra:
        return {}
    try:
        extra = json.loads(conn.extra)
    except (ValueError, TypeError, RecursionError):
        raise wrong("extra", "is not JSON") from None
    if not isinstance(extra, Mapping):
        raise wrong("extra", "is not a JSON object")
    # Fields that older Airflow versions wrote carry the type of the connection in their names.
    return {name.removeprefix("extra__atscale__"): value for name, value in extra.items()}


def _text(extra: Mapping[str, Any], name: str, default: str, wrong: _Wrong) -> str:
    value = extra.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise wrong(name, f"must be a text, not {type(value).__name__}")
    return value.strip() or default


def _choice(extra: Mapping[str, Any], name: str, choices: tuple[str, ...], wrong: _Wrong) -> str:
    value = _text(extra, name, choices[0], wrong).lower()
    if value not in choices:
        raise wrong(name, f"is {value!r}; it must be one of {', '.join(choices)}")
    return value


def _flag(extra: Mapping[str, Any], name: str, *, default: bool, wrong: _Wrong) -> bool:
    value = extra.get(name)
    if value is None or value == "":
        return default
    try:
        return parse_bool(value, name)
    except AtScaleConfigurationError:
        raise wrong(name, f"is {value!r}; it must be true or false") from None


def _base_url(host: Any, port: Any, wrong: _Wrong) -> str:
    if not isinstance(host, str) or not host.strip():
        raise wrong("host", "is empty; give AtScale's name or address, as in 'atscale.example.com'")
    text = host.strip()
    if "://" not in text:
        # Of an IPv6 address in a URI, Airflow keeps no brackets.
        text = f"https://[{text}]" if text.count(":") > 1 and "[" not in text else f"https://{text}"
    return _checked_url("host", text, wrong, port)


def _without_usual_port(url: str, edition: str) -> str:
    """Return an address in its one spelling: with another one a server would be taken for another server."""
    parts = urlsplit(url)
    usual = _INSTALLER_PORTS if edition == "installer" else (_SCHEME_PORTS[parts.scheme],)
    return at_port(url, None) if parts.port in usual else url


def _url(extra: Mapping[str, Any], name: str, wrong: _Wrong) -> str | None:
    text = _text(extra, name, "", wrong)
    if not text:
        return None
    if "://" not in text:
        raise wrong(name, "must be a whole address with its scheme, as in 'https://atscale.example.com:10502'")
    if name == "build_history_url":
        # Nothing asks this address but the browser of whoever follows the link.
        if not text.lower().startswith(("http://", "https://")):
            raise wrong(name, "must begin with http:// or https://")
        return text
    return _checked_url(name, text, wrong)


def _header_value(secret: str, wrong: _Wrong) -> str:
    """Return a token or key without the line end that files and clipboards add to it."""
    secret = secret.strip()
    if not (secret.isprintable() and secret.isascii()):
        raise wrong("password", "has characters that no token or key has, such as the end of a line inside it")
    return secret


def _checked_url(name: str, text: str, wrong: _Wrong, port: Any = None) -> str:
    try:
        parts = urlsplit(text)
        own_port, hostname = parts.port, parts.hostname
    except ValueError as error:
        raise wrong(name, f"is not an address ({error})") from None
    if parts.scheme not in ("http", "https"):
        raise wrong(name, f"has the scheme {parts.scheme!r}; it must be http or https")
    try:
        (hostname or "").encode("idna")
    except UnicodeError:
        raise wrong(name, "has a host name that cannot exist") from None
    if not hostname or any(character.isspace() for character in text):
        raise wrong(name, "is not an address")
    if parts.username is not None or parts.password is not None:
        raise wrong(name, "must not contain login or password; they have fields of their own")
    if parts.query or parts.fragment:
        raise wrong(name, "must not have a query or fragment")
    if port not in (None, ""):
        try:
            number = int(port)
        except (TypeError, ValueError):
            raise wrong("port", f"is {port!r}; it must be a number") from None
        if not 0 < number < 65536:
            raise wrong("port", f"is {number}; it must be from 1 to 65535")
        if own_port is not None and own_port != number:
            raise wrong("port", f"is {number}, but the host already says {own_port}; give it in one place")
        own_port = number
    shown = f"[{hostname}]" if ":" in hostname else hostname
    at_port = f":{own_port}" if own_port is not None else ""
    return f"{parts.scheme}://{shown}{at_port}{parts.path.rstrip('/')}"


def _verify(value: Any, wrong: _Wrong) -> bool | str:
    if value is None or value == "":
        return True
    if isinstance(value, str):
        try:
            return parse_bool(value, "verify")
        except AtScaleConfigurationError:
            if _exists(value):
                return value
            raise wrong(
                "verify", f"is {value!r}; it must be true, false, or the path of an existing CA bundle"
            ) from None
    if isinstance(value, bool):
        return value
    raise wrong("verify", f"must be true, false or a path, not {type(value).__name__}")


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        # A text that cannot be a path at all.
        return False


def _timeout(value: Any, wrong: _Wrong) -> float:
    if value is None or value == "":
        return DEFAULT_TIMEOUT
    try:
        seconds = float(value) if not isinstance(value, bool) else -1.0
    except (TypeError, ValueError, OverflowError):
        seconds = -1.0
    if not 0 < seconds <= 86400:
        raise wrong("timeout", f"is {value!r}; it must be a number of seconds greater than 0, at most 86400")
    return seconds


def _headers(value: Any, wrong: _Wrong) -> Mapping[str, str]:
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise wrong("headers", 'must be a JSON object, as in {"X-Team": "data"}') from None
    if not isinstance(value, Mapping):
        raise wrong("headers", 'must be a JSON object, as in {"X-Team": "data"}')
    headers = {}
    for name, text in value.items():
        if not isinstance(text, (str, int, float)) or isinstance(text, bool):
            raise wrong("headers", f"has a value for {name!r} that is not a text")
        value_text = str(text).strip()
        if not _HEADER_NAME.fullmatch(name) or not (value_text.isprintable() and value_text.isascii()):
            raise wrong("headers", "has a name or value with characters that a header cannot have")
        headers[name] = value_text
    return headers


def at_port(url: str, port: int | None) -> str:
    """Return the same address at another port; None: at none that is said."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path}"
