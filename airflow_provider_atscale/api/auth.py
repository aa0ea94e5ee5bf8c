"""
How a request proves who sends it, as flows.

Every way of authentication answers the same two questions: which headers does a request to this part of the
server need, and what can be done after a 401. Tokens are fetched at most once at a time, however many
waiters need one, are hidden from logs on receipt and are renewed early where their end can be read.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from airflow_provider_atscale.api.errors import NEW_TOKEN, SAID, check, server_message
from airflow_provider_atscale.api.flow import (
    CHECK_ADDRESS,
    Flow,
    MaskSecret,
    Request,
    Response,
    SingleFlight,
    shorten,
)
from airflow_provider_atscale.api.values import is_number
from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleAuthenticationError,
    AtScaleConfigurationError,
    AtScaleMalformedAnswerError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Seconds before its end at which a token is renewed, at most a tenth of its life.
RENEW_EARLY = 60.0


class Area(Enum):
    """The parts of a server that ask for different credentials."""

    PUBLIC = "public"
    PRIVATE = "private"


class Auth(Protocol):
    """What a call needs to know about authentication."""

    def headers(self, area: Area) -> Flow[Mapping[str, str]]:
        """Return the headers for a request to that part of the server."""
        ...

    def renew(self, area: Area, refused: Mapping[str, str]) -> Flow[bool]:
        """Get other credentials after a refusal; return whether trying again makes sense."""
        ...


class JsonWebToken:
    """
    A short-lived token, and when it wants to be renewed.

    :param value: The token.
    :param received: Epoch seconds at which it came.
    :param lifetime: Seconds that the server says it lives, where it does.
    """

    def __init__(self, value: str, received: float, lifetime: float | None = None) -> None:
        self.value = value
        expires, issued = _times_of(value)
        if lifetime is None and expires is not None and issued is not None:
            lifetime = expires - issued
        if lifetime is not None and lifetime <= 0:
            # A token without a life is one whose life is not known: it is used until it is refused.
            lifetime = None
        # The server's lifetime counted on our clock: its clock may be minutes away from ours.
        self._renew_at = None if lifetime is None else received + lifetime - min(RENEW_EARLY, lifetime / 10)

    def is_fresh(self, now: float) -> bool:
        """Whether it can be used without being renewed first."""
        return self._renew_at is None or now < self._renew_at

    @property
    def header(self) -> dict[str, str]:
        """The header that carries it."""
        return {"Authorization": f"Bearer {self.value}"}


def _times_of(token: str) -> tuple[float | None, float | None]:
    """Return expiry and time of issue of a JSON web token, as far as they can be read."""
    parts = token.split(".")
    if len(parts) != 3:
        return None, None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return None, None
    if not isinstance(claims, dict):
        return None, None
    expires, issued = (claims.get(name) for name in ("exp", "iat"))
    return _number(expires), _number(issued)


def _number(value: object) -> float | None:
    return float(value) if is_number(value) else None


class TokenAuth:
    """
    Base of the ways that fetch a short-lived token and keep it.

    :param now: Tells the epoch seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._token: JsonWebToken | None = None

    def fetch(self) -> Flow[JsonWebToken]:
        """Get a token from the server."""
        raise NotImplementedError

    def bearer(self) -> Flow[Mapping[str, str]]:
        """Return the header with a fresh token."""
        if self._token is None or not self._token.is_fresh(self._now()):
            yield SingleFlight("token", self._fetch_and_keep)
        if self._token is None:  # pragma: no cover - the fetch raises where it gets none
            raise AtScaleAuthenticationError("No token was received.")
        return self._token.header

    def renew_bearer(self, refused: Mapping[str, str]) -> Flow[bool]:
        """Drop the refused token; return True: the next header carries a new one."""
        # Another waiter may have renewed it while this answer was under way.
        if self._token is not None and self._token.header == refused:
            self._token = None
        return True
        yield  # a flow that needs no request

    def _fetch_and_keep(self) -> Flow[None]:
        token = yield from self.fetch()
        yield MaskSecret(token.value)
        self._token = token


class ApiTokenAuth(TokenAuth):
    """
    An API token: itself for the public API, exchanged for a short-lived one for the private API.

    :param api_token: The token from Design Center.
    :param exchange_url: Address of ``POST /v1/token``.
    :param now: Tells the epoch seconds.
    """

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
                return (yield from self.bearer())
            except AtScaleApiError as error:
                # Older builds know no exchange: the raw token is then all there is to try.
                if error.http_status_code != 404:
                    raise
                self._no_exchange = True
        return self._api_token

    def renew(self, area: Area, refused: Mapping[str, str]) -> Flow[bool]:
        """Exchange the API token anew; the API token itself cannot be renewed."""
        if area is Area.PUBLIC or self._no_exchange:
            self._no_exchange = False
            return False
        return (yield from self.renew_bearer(refused))

    def fetch(self) -> Flow[JsonWebToken]:
        """Exchange the API token (``POST /v1/token``)."""
        response: Response = yield Request(
            "POST",
            self._exchange_url,
            headers={**self._api_token, "Content-Type": "application/json", "Accept": "application/json"},
            json={},
        )
        if response.status in (401, 403):
            raise AtScaleAuthenticationError(
                f"{response.url} refuses the API token (HTTP {response.status}: "
                f"{server_message(response)}): it is wrong, older than 90 days, or replaced by a newer one "
                f"of the same user. {NEW_TOKEN} and put it into the connection's password.",
                response.status,
            )
        token = _token_in(response, "accessToken")
        return JsonWebToken(token, self._now())


class PasswordAuth(TokenAuth):
    """
    Login and password, exchanged for a token by the identity broker (Keycloak password grant).

    :param token_url: Address of the realm's token endpoint.
    :param form: The grant's fields, login and password among them.
    :param now: Tells the epoch seconds.
    """

    def __init__(self, token_url: str, form: Mapping[str, str], now: Callable[[], float]) -> None:
        super().__init__(now)
        self._token_url = token_url
        self._form = form

    def headers(self, area: Area) -> Flow[Mapping[str, str]]:
        """Return the user's token: it opens both parts of the server."""
        del area
        return (yield from self.bearer())

    def renew(self, area: Area, refused: Mapping[str, str]) -> Flow[bool]:
        """Log in anew."""
        del area
        return (yield from self.renew_bearer(refused))

    def fetch(self) -> Flow[JsonWebToken]:
        """Log in (``POST /auth/realms/<realm>/protocol/openid-connect/token``)."""
        response: Response = yield Request(
            "POST", self._token_url, headers={"Accept": "application/json"}, form=self._form
        )
        if response.status in (400, 401, 403):
            raise AtScaleAuthenticationError(
                f"{response.url} refuses the login (HTTP {response.status}: {_keycloak_error(response)}). "
                "Check login, password, realm, client_id and client_secret of the connection; the client "
                "must allow direct access grants, and users of single sign-on need an API token instead.",
                response.status,
            )
        token = _token_in(response, "access_token")
        lifetime = _number(response.json().get("expires_in"))
        return JsonWebToken(token, self._now(), lifetime)


def _token_in(response: Response, name: str) -> str:
    """Return the token that an answer carries."""
    check(response, "get a token")
    try:
        body = response.json()
    except AtScaleMalformedAnswerError:
        body = None
    token = body.get(name) if isinstance(body, dict) else None
    if not isinstance(token, str) or not token.strip() or not (token.isprintable() and token.isascii()):
        # The body may hold secrets under another name, so unlike everywhere else none of it is shown.
        raise AtScaleMalformedAnswerError(
            f"The answer of {response.url} (HTTP {response.status}) carries no {name!r}. {CHECK_ADDRESS}.",
            response.status,
        )
    return token.strip()


def _keycloak_error(response: Response) -> str:
    try:
        body = response.json()
    except AtScaleMalformedAnswerError:
        return response.excerpt
    if not isinstance(body, dict):
        return response.excerpt
    said = ", ".join(str(body[name]) for name in ("error", "error_description") if body.get(name))
    return shorten(said, SAID) or "no text"


def call(auth: Auth, area: Area, request: Request) -> Flow[Response]:
    """
    Send a request with credentials; after a 401 renew them once and repeat it, if it may be repeated.

    :param auth: The way of authentication.
    :param area: The part of the server that is asked.
    :param request: The request, without credentials.
    """
    used = yield from auth.headers(area)
    response: Response = yield request.with_headers(used)
    if response.status == 401 and request.repeatable and (yield from auth.renew(area, used)):
        used = yield from auth.headers(area)
        response = yield request.with_headers(used)
    return response


#: What a bearer header can carry (RFC 6750); pages and error bodies are none of it.
_BEARER_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class AdvisingAuth(Auth, Protocol):
    """
    A way of authentication that knows what its user can do about a refusal.

    :param advice: What to do where the credentials are refused, a sentence.
    """

    advice: str


class FixedAuth:
    """
    Credentials that are sent as they are: a client API key, or a token that somebody else has fetched.

    :param header: The header that carries them.
    :param advice: What to do where they are refused.
    """

    def __init__(self, header: Mapping[str, str], advice: str) -> None:
        self._header = header
        self.advice = advice

    def headers(self, area: Area) -> Flow[Mapping[str, str]]:
        """Return the header."""
        del area
        return self._header
        yield  # a flow that needs no request

    def renew(self, area: Area, refused: Mapping[str, str]) -> Flow[bool]:
        """Return False: there is nothing to renew them with."""
        del area, refused
        return False
        yield  # a flow that needs no request


def basic_credentials(login: str, password: str) -> str:
    """Return login and password as basic authentication writes them."""
    return base64.b64encode(f"{login}:{password}".encode()).decode()


class BasicAuth(TokenAuth):
    """
    Login and password, exchanged for a token by the Design Center (``GET /<organization>/auth``).

    :param login_url: Address of that call.
    :param login: The user's name.
    :param password: The user's password.
    :param now: Tells the epoch seconds.
    """

    advice = "Check login and password of the connection."

    def __init__(self, login_url: str, login: str, password: str, now: Callable[[], float]) -> None:
        super().__init__(now)
        self._login_url = login_url
        self._credentials = {"Authorization": f"Basic {basic_credentials(login, password)}"}

    def headers(self, area: Area) -> Flow[Mapping[str, str]]:
        """Return the user's token: it opens the engine and the Design Center."""
        del area
        return (yield from self.bearer())

    def renew(self, area: Area, refused: Mapping[str, str]) -> Flow[bool]:
        """Log in anew."""
        del area
        return (yield from self.renew_bearer(refused))

    def fetch(self) -> Flow[JsonWebToken]:
        """Log in; the body of the answer is the token."""
        # The answer is plain text, which "application/json" would not ask for.
        headers = {"Accept": "*/*", **self._credentials}
        response: Response = yield Request("GET", self._login_url, headers=headers)
        said = f"HTTP {response.status}: {server_message(response)}"
        if response.status in (401, 403):
            raise AtScaleAuthenticationError(
                f"{response.url} refuses the login ({said}). {self.advice} Users of single sign-on have no "
                "password there: open /jwt/get of the Design Center in a browser and put the token into the "
                "connection's password, with auth_type api_token.",
                response.status,
            )
        if response.status == 404:
            raise AtScaleConfigurationError(
                f"{response.url} is not there ({said}). Check the connection's organization, its host and its "
                "design_center_url, which is the Design Center's address (port 10500)."
            )
        check(response, "log in")
        token = response.text.strip().strip('"')
        if not _BEARER_TOKEN.fullmatch(token):
            # What else came may hold secrets, so unlike everywhere else none of it is shown.
            raise AtScaleMalformedAnswerError(
                f"The answer of {response.url} (HTTP {response.status}) is no token. Check that the "
                "connection's design_center_url is the Design Center itself and not a proxy or a login page.",
                response.status,
            )
        return JsonWebToken(token, self._now())
