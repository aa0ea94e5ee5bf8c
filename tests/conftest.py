"""What all tests share: an Airflow of their own, made new for each run, and a local AtScale engine."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

# Airflow reads its configuration when it is imported, so this comes before any test module.
AIRFLOW_HOME = Path(tempfile.mkdtemp(prefix="atscale-airflow-"))
DAGS_FOLDER = AIRFLOW_HOME / "dags"
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_TLS = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC")


def _isolate() -> None:
    """Let nothing of the developer's own Airflow and network settings decide how a test ends."""
    for name in list(os.environ):
        if name.startswith("AIRFLOW_") or name.upper() in _PROXIES or name in _TLS:
            del os.environ[name]
    DAGS_FOLDER.mkdir()
    os.environ["AIRFLOW_HOME"] = str(AIRFLOW_HOME)
    os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(DAGS_FOLDER)
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{AIRFLOW_HOME}/airflow.db"


_isolate()

pytest_plugins = ["airflow_provider_atscale.testing.plugin"]


@pytest.fixture(scope="session", autouse=True)
def _quick_triggers() -> None:
    """Let a wait be as short as its batch: the tests' own Airflow has no scheduler that could lag behind."""
    from airflow_provider_atscale.triggers import atscale

    atscale.LEAST_SECONDS = 0.0


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return what was logged so far; Airflow's own loggers pass by those that pytest listens to."""
    caplog.set_level(logging.INFO)

    def logged() -> str:
        captured = capsys.readouterr()
        return captured.out + captured.err + caplog.text

    return logged


def pytest_unconfigure() -> None:
    shutil.rmtree(AIRFLOW_HOME, ignore_errors=True)
