"""
How a request proves who sends it, as flows.

Every way of authentication answers two questions: which headers does a request to this part of the server
need, and what can be done after a 401. Concurrent callers share one token request. Tokens are masked in logs
on receipt, and renewed before they expire if their lifetime can be read.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TypeAlias

from airflow_provider_atscale.api.errors import (
    CHECK_CREDENTIALS,
    MAX_SERVER_MESSAGE,
    NEW_TOKEN,
    check,
    server_message,
)
from airflow_provider_atscale.api.flow import (
    CHECK_ADDRESS,
    FetchToken,
    Flow,
    Request,
    Response,
    immediate,
    shorten,
)
from airflow_provider_atscale.api.values import is_number, number_of, text_of, value_at
from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleAuthenticationError,
    AtScaleConfigurationError,
    AtScaleMalformedAnswerError,
)

#: Renew a token so many seconds before it expires, but at most a tenth of its lifetime.
RENEW_EARLY = 60.0

#: Many change from a password to an API token and leave the login behind.
_MAYBE_TOKEN = "If the password is an API token, empty the connection's login."  # noqa: S105

#: What a bearer header can carry (RFC 6750); pages and JSON bodies do not match it.
_BEARER_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class Area(Enum):
    """The parts of a server that need different credentials."""

    PUBLIC = "public"
    PRIVATE = "private"


def call(auth: Auth, area: Area, request: Request) -> Flow[Response]:
    """Send a request with credentials; after a 401 renew them once and repeat it, if it may be repeated."""
    used = yield from auth.headers(area)
    response: Response = yield request.with_headers(used)
    if response.status == 401 and request.repeatable and (yield from auth.renew(area, used)):
        used = yield from auth.headers(area)
        response = yield request.with_headers(used)
    return response


class JsonWebToken:
    """
    A short-lived token.

    :param received: Epoch seconds of its receipt.
    :param lifetime: Its lifetime in seconds, if the server says it; else the token's own claims tell.
    """

    def __init__(self, value: str, received: float, lifetime: float | None = None) -> None:
        self.value = value
        lifetime = _lifetime_of(value) if lifetime is None else lifetime
        if lifetime is None or lifetime <= 0:
            # Its lifetime is not known: it is used until it is refused.
            self._renew_at = None
        else:
            # The server's lifetime counts on our clock: the server's clock may differ from ours by minutes.
            self._renew_at = received + lifetime - min(RENEW_EARLY, lifetime / 10)

    def is_fresh(self, now: float) -> bool:
        """Whether it can be used without being renewed first."""
        return self._renew_at is None or now < self._renew_at

    @property
    def header(self) -> dict[str, str]:
        """The header that carries it."""
        return {"Authorization": f"Bearer {self.value}"}


def _lifetime_of(token: str) -> float | None:
    """Return the seconds between issue and expiry of a JSON web token, if they can be read."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return None
    if not isinstance(claims, dict):
        return None
    expires, issued = claims.get("exp"), claims.get("iat")
    return float(expires - issued) if is_number(expires) and is_number(issued) else None


class TokenAuth:
    """
    Base of the ways that fetch a short-lived token and keep it.

    :param now: Returns epoch seconds.
    """

    advice = CHECK_CREDENTIALS

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._token: JsonWebToken | None = None

    def headers(self, area: Area) -> Flow[Mapping[str, str]]:
        """Return the header with a fresh token, which is good for all parts of the server."""
        del area
        token = self._token
        if token is None or not token.is_fresh(self._now()):
            token = yield FetchToken(self.fetch, self._keep)
        return token.header

    def renew(self, area: Area, refused: Mapping[str, str]) -> Flow[bool]:
        """
        Drop the refused token, so that the next header carries a new one.

        Return whether trying again makes sense.
        """
        del area
        # Another caller may have renewed it while this answer was on its way.
        if self._token is not None and self._token.header == refused:
            self._token = None
        return immediate(True)

    def fetch(self) -> Flow[JsonWebToken]:
        """Get a token from the server."""
        raise NotImplementedError

    def _keep(self, token: JsonWebToken) -> None:
        self._token = token


class ApiTokenAuth(TokenAuth):
    """An API token: sent as it is to the public API, exchanged for a short-lived token for the private API."""

    def __init__(self, api_token: str, exchange_url: str, now: Callable[[], float]) -> None:
        super().__init__(now)
        self._api_token = {"Authorization": f"Bearer {api_token}"}
        self._exchange_url = exchange_url
        self._no_exchange = False

    def headers(self, area: Area) -> Flow[Mapping[str, str]]:
        """Return the API token for the public API, an exchanged one for the private API."""
        if area is Area.PUBLIC:
            return self._api_token
        if not self._no_exchange:
            try:
                return (yield from super().headers(area))
            except AtScaleApiError as error:
                # Older builds have no exchange: then only the API token itself is left to try.
                if error.http_status_code != 404:
                    raise
                self._no_exchange = True
        return self._api_token

    def renew(self, area: Area, refused: Mapping[str, str]) -> Flow[bool]:
        """Exchange the API token again; the API token itself cannot be renewed."""
        if area is Area.PUBLIC or self._no_exchange:
            self._no_exchange = False
            return immediate(False)
        return super().renew(area, refused)

    def fetch(self) -> Flow[JsonWebToken]:
        """Exchange the API token."""
        response: Response = yield Request(
            "POST",
            self._exchange_url,
            headers={**self._api_token, "Content-Type": "application/json", "Accept": "application/json"},
            json={},
        )
        if response.status in (401, 403):
            raise AtScaleAuthenticationError(
                f"AtScale refuses the API token (HTTP {response.status}: {server_message(response)}; "
                f"{response.url}): it is wrong, older than 90 days, or replaced by a newer one of the same user. "
                f"{NEW_TOKEN} and put it into the connection's password.",
                response.status,
            )
        return JsonWebToken(_token_in(response, "accessToken"), self._now())


class PasswordAuth(TokenAuth):
    """Login and password, exchanged for a token by the identity broker (Keycloak password grant)."""

    def __init__(self, token_url: str, form: Mapping[str, str], now: Callable[[], float]) -> None:
        super().__init__(now)
        self._token_url = token_url
        self._form = form

    def fetch(self) -> Flow[JsonWebToken]:
        """Log in."""
        response: Response = yield Request(
            "POST", self._token_url, headers={"Accept": "application/json"}, form=self._form
        )
        if response.status in (400, 401, 403):
            raise AtScaleAuthenticationError(
                f"AtScale refuses the login (HTTP {response.status}: {_keycloak_error(response)}; {response.url}). "
                f"{_MAYBE_TOKEN} Check login, password, realm, client_id and client_secret of the connection; "
                "the client must allow direct access grants, and SSO users must use an API token.",
                response.status,
            )
        token = _token_in(response, "access_token")
        return JsonWebToken(token, self._now(), number_of(response.json(), "expires_in"))


def _token_in(response: Response, name: str) -> str:
    """Return the token that an answer carries."""
    check(response, "get a token")
    token = value_at(response.json_or_none(), name)
    if not isinstance(token, str) or not token.strip() or not (token.isprintable() and token.isascii()):
        # The body may hold secrets under another name, so none of it is shown.
        raise AtScaleMalformedAnswerError(
            f"The answer of {response.url} (HTTP {response.status}) carries no {name!r}. {CHECK_ADDRESS}.",
            response.status,
        )
    return token.strip()


def _keycloak_error(response: Response) -> str:
    body = response.json_or_none()
    if not isinstance(body, Mapping):
        return response.excerpt
    said = ", ".join(filter(None, (text_of(body, name) for name in ("error", "error_description"))))
    return shorten(said, MAX_SERVER_MESSAGE) or "no text"


class FixedAuth:
    """
    Credentials that are sent as they are: a client API key, or a token that the user has fetched.

    :param advice: What to do if they are refused, a sentence.
    """

    def __init__(self, header: Mapping[str, str], advice: str) -> None:
        self._header = header
        self.advice = advice

    def headers(self, area: Area) -> Flow[Mapping[str, str]]:
        """Return the header."""
        del area
        return immediate(self._header)

    def renew(self, area: Area, refused: Mapping[str, str]) -> Flow[bool]:
        """Return False: there are no other credentials."""
        del area, refused
        return immediate(False)


#: A way of authentication.
Auth: TypeAlias = TokenAuth | FixedAuth


def basic_credentials(login: str, password: str) -> str:
    """Return login and password in the form of HTTP basic authentication."""
    return base64.b64encode(f"{login}:{password}".encode(errors="replace")).decode()


class BasicAuth(TokenAuth):
    """Login and password, exchanged for a token by the Design Center."""

    advice = "Check login and password of the connection."

    def __init__(self, login_url: str, login: str, password: str, now: Callable[[], float]) -> None:
        super().__init__(now)
        self._login_url = login_url
        self._credentials = {"Authorization": f"Basic {basic_credentials(login, password)}"}

    def fetch(self) -> Flow[JsonWebToken]:
        """Log in; the body of the answer is the token."""
        # The answer is plain text, not JSON.
        headers = {"Accept": "*/*", **self._credentials}
        response: Response = yield Request("GET", self._login_url, headers=headers)
        said = f"HTTP {response.status}: {server_message(response)}"
        if response.status in (401, 403):
            raise AtScaleAuthenticationError(
                f"AtScale refuses the login ({said}; {response.url}). {_MAYBE_TOKEN} {self.advice} SSO users have no "
                "password there: open /jwt/get of the Design Center in a browser and put the token into the "
                "connection's password, with auth_type api_token.",
                response.status,
            )
        if response.status == 404:
            raise AtScaleConfigurationError(
                f"{response.url} was not found ({said}). Check the connection's organization, its host and its "
                "design_center_url, which is the Design Center's address (port 10500)."
            )
        check(response, "log in")
        token = response.text.strip().strip('"')
        if not _BEARER_TOKEN.fullmatch(token):
            # The body may hold secrets, so none of it is shown.
            raise AtScaleMalformedAnswerError(
                f"The answer of {response.url} (HTTP {response.status}) is not a token. Check that the "
                "connection's design_center_url is the Design Center itself and not a proxy or a login page.",
                response.status,
            )
        return JsonWebToken(token, self._now())
