"""Under which name requests are sent."""

from __future__ import annotations

import re
from importlib import metadata

from airflow_provider_atscale.version import DISTRIBUTION, user_agent, version


def test_the_version_is_the_installed_distributions():
    assert version() == metadata.version("airflow-provider-atscale")
    assert user_agent() == f"airflow-provider-atscale/{version()}"
    assert re.fullmatch(r"[\w.-]+/[\w.+!-]+", user_agent())


def test_without_metadata_there_is_still_a_name(monkeypatch):
    def missing(_name):
        raise metadata.PackageNotFoundError(DISTRIBUTION)

    monkeypatch.setattr(metadata, "version", missing)
    assert version.__wrapped__() == "unknown"
