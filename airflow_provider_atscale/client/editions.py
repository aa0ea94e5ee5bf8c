"""Make the calls of a connection's edition: addresses and authentication from the connection's settings."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_provider_atscale.api import calls
from airflow_provider_atscale.api.auth import ApiTokenAuth, Auth, BasicAuth, FixedAuth, PasswordAuth
from airflow_provider_atscale.api.container import ContainerEdition
from airflow_provider_atscale.api.installer import InstallerEdition
from airflow_provider_atscale.client.settings import DESIGN_CENTER_PORT, ENGINE_PORT, at_port, wrong_field

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_atscale.api.edition import Edition
    from airflow_provider_atscale.client.settings import Settings


def make_edition(settings: Settings, now: Callable[[], float] = time.time) -> Edition:
    """Return the calls of a connection's edition."""
    return _container(settings, now) if settings.edition == "container" else _installer(settings, now)


def _container(settings: Settings, now: Callable[[], float]) -> Edition:
    auth: Auth
    if settings.auth_type == "api_token":
        url = calls.TOKEN.url(settings.base_url, settings.api_prefix)
        auth = ApiTokenAuth(settings.password or "", url, now)
    else:
        form = {
            "grant_type": "password",
            "client_id": settings.client_id,
            "username": settings.login or "",
            "password": settings.password or "",
            "scope": "openid",
        }
        if settings.client_secret:
            form["client_secret"] = settings.client_secret
        url = calls.KEYCLOAK_LOGIN.url(settings.base_url, realm=settings.realm)
        auth = PasswordAuth(url, form, now)
    return ContainerEdition(settings.base_url, auth, settings.api_prefix, settings.build_history_url)


def _installer(settings: Settings, now: Callable[[], float]) -> Edition:
    engine_url, design_center_url = _installer_urls(settings)
    password = settings.password or ""
    auth: Auth
    if settings.auth_type == "client_api_key":
        advice = (
            "Check the key in the connection's password: the sample script in Design Center > project > cube "
            "> Build > Triggers shows it, in the header client-api-key."
        )
        auth = FixedAuth({"client-api-key": password}, advice)
    elif settings.auth_type == "api_token":
        advice = (
            "The token in the connection's password is wrong or has expired: open "
            f"{design_center_url}/jwt/get in a browser for a new one. A login and password, or a client API "
            "key, do not expire."
        )
        auth = FixedAuth({"Authorization": f"Bearer {password}"}, advice)
    else:
        login_url = calls.INSTALLER_LOGIN.url(design_center_url, organization=settings.organization)
        auth = BasicAuth(login_url, settings.login or "", password, now)
    return InstallerEdition(
        engine_url,
        design_center_url,
        auth,
        settings.organization,
        settings.environment,
        engine_choice=settings.engine_choice,
        build_history_url=settings.build_history_url,
    )


def _installer_urls(settings: Settings) -> tuple[str, str]:
    """Return the addresses of engine and Design Center: their fields, else the host at the usual ports."""
    host = settings.base_url
    port = urlsplit(host).port
    if port is None:
        engine, design_center = at_port(host, ENGINE_PORT), at_port(host, DESIGN_CENTER_PORT)
        return settings.engine_url or engine, settings.design_center_url or design_center
    if settings.engine_url is None:
        raise wrong_field(
            settings.conn_id,
            "engine_url",
            f"is empty, and the host's port {port} may be the engine's or the Design Center's: the "
            f"installer edition has two addresses. Give the host without a port (the engine is then at "
            f"port {ENGINE_PORT}, the Design Center at {DESIGN_CENTER_PORT}), or set engine_url, and "
            "design_center_url if that is not the host",
        )
    # With an address for the engine, the host and its port are the Design Center's.
    return settings.engine_url, settings.design_center_url or host
