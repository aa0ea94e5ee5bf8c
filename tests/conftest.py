"""What all tests share: an Airflow of their own, made new for each run, and a local AtScale engine."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

# Airflow reads its configuration when it is imported, so this comes before any test module.
AIRFLOW_HOME = Path(tempfile.mkdtemp(prefix="atscale-airflow-"))
DAGS_FOLDER = AIRFLOW_HOME / "dags"
PACKAGE = "airflow_provider_atscale"
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


@pytest.fixture(autouse=True)
def _no_old_configuration() -> None:
    """Let triggers read the configuration of this test: in a triggerer they read it once."""
    from airflow_provider_atscale.triggers import atscale

    atscale._tolerance.cache_clear()


@pytest.fixture(autouse=True)
def _no_old_secrets() -> None:
    """Let Airflow forget the secrets of other tests: each new one makes it compile the pattern of all anew."""
    for name in ("airflow._shared.secrets_masker", "airflow.sdk._shared.secrets_masker"):
        # Airflow before 3.2 or so has no such function: its tests are only slower.
        getattr(sys.modules.get(name), "reset_secrets_masker", lambda: None)()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return what was logged so far; Airflow's own loggers pass by those that pytest listens to."""
    caplog.set_level(logging.INFO)

    def logged() -> str:
        captured = capsys.readouterr()
        # Those of older versions do not, and print besides what pytest has heard.
        heard = tuple({line for record in caplog.records for line in record.getMessage().splitlines() if line})
        printed = [line for line in (captured.out + captured.err).splitlines() if not line.endswith(heard)]
        return "\n".join([*printed, caplog.text])

    return logged


_warnings_of_ours: list[str] = []


def pytest_warning_recorded(warning_message: warnings.WarningMessage, nodeid: str) -> None:
    """Note what the package's own code is warned of, in whatever test: that it uses what Airflow is to drop."""
    if PACKAGE in Path(warning_message.filename).parts:
        place = f"{warning_message.filename}:{warning_message.lineno}"
        text = f"{place}: {warning_message.category.__name__}: {warning_message.message} ({nodeid})"
        _warnings_of_ours.append(text)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where the package's own code was warned, also of what only real runs of DAGs come to."""
    if _warnings_of_ours and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _warnings_of_ours:
        terminalreporter.section("FAILED: the package's own code was warned")
        terminalreporter.write_line("\n".join(_warnings_of_ours))


def pytest_unconfigure() -> None:
    shutil.rmtree(AIRFLOW_HOME, ignore_errors=True)
