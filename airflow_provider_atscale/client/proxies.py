"""Find the proxy for an address: one reading of the environment for both clients."""

from __future__ import annotations

from urllib.parse import quote, unquote, urlsplit

from requests.utils import get_environ_proxies, select_proxy

from airflow_provider_atscale.exceptions import AtScaleConfigurationError

_SCHEMES = ("http", "https")


def find_proxy(url: str) -> str | None:
    """
    Return the address of the proxy for a request; None if there is none.

    ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` count, in lower case too. The result has a
    scheme, and its credentials are quoted, so that both HTTP libraries read it alike.

    :raises AtScaleConfigurationError: If the proxy is not an HTTP proxy, or its address cannot be read.
    """
    named = (select_proxy(url, get_environ_proxies(url)) or "").strip()
    if not named:
        return None
    scheme, separator, address = named.rpartition("://")
    scheme = scheme.lower() if separator else "http"
    if scheme not in _SCHEMES:
        shown = f"{scheme} proxy" if scheme.startswith("socks") else "proxy of another kind"
        raise _unusable(url, f"a {shown}; only http and https proxies are supported")
    credentials, at, host = address.rpartition("@")
    host = host.split("/")[0]
    try:
        parts = urlsplit(f"{scheme}://{host}")
        is_usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_usable = False
    if not is_usable or any(character.isspace() for character in host):
        raise _unusable(url, "a proxy whose address cannot be read")
    if not at:
        return f"{scheme}://{host}"
    login, colon, password = credentials.partition(":")
    login, password = unquote(login), unquote(password)
    try:
        f"{login}{password}".encode("latin-1")
    except UnicodeEncodeError:
        raise _unusable(url, "a proxy whose login or password has characters that cannot be sent") from None
    return f"{scheme}://{quote(login, safe='')}{colon}{quote(password, safe='')}@{host}"


def _unusable(url: str, what: str) -> AtScaleConfigurationError:
    parts = urlsplit(url)
    return AtScaleConfigurationError(
        f"For {parts.scheme}://{parts.hostname}, the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) names "
        f"{what}. Set {parts.scheme.upper()}_PROXY to an address such as http://proxy.example.com:3128, or add "
        "the host to NO_PROXY."
    )


def credentials_of(proxy: str) -> tuple[str, str]:
    """Return login and password of an address that ``find_proxy`` returned."""
    parts = urlsplit(proxy)
    return unquote(parts.username or ""), unquote(parts.password or "")
