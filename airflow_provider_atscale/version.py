"""The package's version, as its metadata says."""

from __future__ import annotations

from functools import cache

DISTRIBUTION = "airflow-provider-atscale"


@cache
def version() -> str:
    """Return the version of the installed distribution."""
    from importlib import metadata

    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"


@cache
def user_agent() -> str:
    """Return the name under which requests are sent."""
    return f"{DISTRIBUTION}/{version()}"
