"""Tell a component of Airflow its name; it is what Airflow takes for the name of the machine."""

from __future__ import annotations

import os


def component() -> str:
    """Return the name that the suite gave this process."""
    return os.environ.get("E2E_COMPONENT", "localhost")
