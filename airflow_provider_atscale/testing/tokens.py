"""Authentication: the API token, and the JWTs that are issued for it or for a password."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import secrets
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

EXCHANGED = "local-engine-exchange"
_CACHE_SIZE = 10_000


class Tokens:
    """
    Issue and check tokens.

    A JWT is valid by its signature, so only the secret has to survive a restart, not the tokens.

    :param api_token: the one API token that is valid; ``None`` when it was revoked.
    :param now: the server's clock.
    """

    def __init__(self, api_token: str | None, now: Callable[[], float]) -> None:
        self.api_token = api_token
        self._now = now
        self._secret = secrets.token_hex(32)
        self._session = str(uuid.uuid4())
        self._read: dict[str, dict[str, Any] | None] = {}

    def is_api_token(self, token: str | None) -> bool:
        """Return whether a string is the valid API token."""
        return token is not None and token == self.api_token

    def issue(self, subject: str, client_id: str, ttl: float, kind: str = "Bearer") -> str:
        """Return a new JWT."""
        now = self._now()
        expiry = now + ttl
        claims = {
            # Whole seconds as real tokens have them, unless a shorter life was asked for.
            "exp": math.ceil(expiry) if float(ttl).is_integer() else expiry,
            "iat": int(now),
            "jti": str(uuid.uuid4()),
            "sub": str(uuid.uuid5(uuid.NAMESPACE_DNS, subject)),
            "typ": kind,
            "azp": client_id,
            "sid": self._session,
            "preferred_username": subject,
        }
        signed = f"{_encode_json({'alg': 'HS256', 'typ': 'JWT'})}.{_encode_json(claims)}"
        return f"{signed}.{self._signature(signed)}"

    def claims(self, token: str | None, kind: str = "Bearer") -> dict[str, Any] | None:
        """Return the claims of a JWT; ``None`` if it was not issued here or is no longer valid."""
        if not token:
            return None
        if token not in self._read:
            if len(self._read) >= _CACHE_SIZE:
                self._read.clear()
            self._read[token] = self._parsed(token)
        claims = self._read[token]
        if claims is None or claims["typ"] != kind or claims["sid"] != self._session:
            return None
        return claims if self._now() < claims["exp"] else None

    def rotate(self, new: str | None = None) -> str:
        """Replace the API token and return the new one."""
        self.api_token = new or secrets.token_urlsafe(24)
        return self.api_token

    def expire_all(self) -> None:
        """Make all JWTs issued so far invalid."""
        self._session = str(uuid.uuid4())

    def dump(self) -> dict[str, Any]:
        """Return what keeps issued tokens valid after a restart."""
        return {"api_token": self.api_token, "secret": self._secret, "session": self._session}

    def load(self, state: dict[str, Any]) -> None:
        """Restore what ``dump`` returned."""
        self.api_token = state["api_token"]
        self._secret = state["secret"]
        self._session = state["session"]
        self._read.clear()

    def _parsed(self, token: str) -> dict[str, Any] | None:
        signed, _, signature = token.rpartition(".")
        if signed.count(".") != 1 or not hmac.compare_digest(
            self._signature(signed).encode(), signature.encode()
        ):
            return None
        payload = signed.split(".")[1]
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return claims

    def _signature(self, signed: str) -> str:
        return _encode(hmac.new(self._secret.encode(), signed.encode(), hashlib.sha256).digest())


def _encode_json(value: dict[str, Any]) -> str:
    return _encode(json.dumps(value, separators=(",", ":")).encode())


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
