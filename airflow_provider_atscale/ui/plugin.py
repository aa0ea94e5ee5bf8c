"""
Add the page "AtScale builds" to Airflow's UI.

Every Airflow process that loads plugins imports this module: schedulers, workers, the command line. So it imports
nothing but what that process has loaded already, and the API server loads the page at the first request for it.
"""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import urlsplit

from airflow import __version__
from airflow.configuration import conf
from airflow.exceptions import AirflowConfigException
from airflow.plugins_manager import AirflowPlugin

from airflow_provider_atscale.ui import PAGE, PREFIX

log = logging.getLogger(__name__)


async def serve(scope: Any, receive: Any, send: Any) -> None:
    """Load the page's application at the first request, and answer it, as ASGI defines it."""
    from airflow_provider_atscale.ui.app import app

    await app(scope, receive, send)


def _has_page() -> bool:
    """Return whether this Airflow has external views, and the page is not switched off."""
    if tuple(int(part) for part in __version__.split(".")[:2]) < (3, 1):
        return False
    try:
        return bool(conf.getboolean("atscale", "builds_page", fallback=True))
    except AirflowConfigException:
        # An error here would fail the import of the plugin in every process of Airflow.
        log.error(  # noqa: TRY400
            "The page AtScale builds is not shown: the option [atscale] builds_page is %r; it must be True or False",
            conf.get("atscale", "builds_page", fallback=None),
        )
        return False


class AtScaleBuildsPlugin(AirflowPlugin):
    """The page, and its place in the navigation."""

    name = "atscale_builds"

    if _has_page():
        fastapi_apps = [{"app": serve, "url_prefix": PREFIX, "name": "AtScale builds"}]
        external_views = [
            {
                "name": "AtScale builds",
                # Airflow does not add the path of its own address.
                "href": urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/") + PREFIX + PAGE,
                "url_route": "atscale_builds",
                "destination": "nav",
                "category": "browse",
            }
        ]
