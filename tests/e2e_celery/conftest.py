"""Start the stage on CeleryExecutor, print the table, leave nothing running."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from e2e import session
from e2e.processes import Stable
from e2e.stage import Stage

from .services import missing_packages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.stage import Outcome

#: So many cases at once for one injury.
EDITIONS = ("container",) * 12
_WHY_NOT = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    session.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    session.configure(config)


def why_not() -> str | None:
    """Say what is missing on this machine."""
    if find_spec("airflow.providers.celery") is None or find_spec("psycopg2") is None:
        return "the Celery provider is not in this environment: make e2e-celery makes one that has it"
    packages = missing_packages()
    if packages:
        return f"Debian packages are missing: apt-get install {' '.join(packages)}"
    return None


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest) -> list[Outcome]:
    """Collect what the table shows."""
    return request.config.stash[session.OUTCOMES]


@pytest.fixture(scope="session")
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Make a folder of our own."""
    with session.folder_of(request) as folder:
        yield folder


@pytest.fixture(scope="session")
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Start PostgreSQL, Redis, Airflow and the engines, and begin to play the selected cases."""
    reason = why_not()
    if reason:
        request.config.stash[_WHY_NOT] = reason
        pytest.skip(reason)
    from .celery_site import CelerySite

    folder: Path = request.getfixturevalue("folder")
    stable = Stable(folder)
    cases = session.selected_cases(request, __package__)

    def make() -> Stage:
        site = CelerySite(stable, folder / "airflow")
        return Stage(stable, folder / "airflow", cases, site=site, editions=EDITIONS)

    with session.running(stable, make, request.config.getoption("--e2e-minutes")) as stage:
        yield stage


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _WHY_NOT in config.stash:
        terminalreporter.section("NOT RUN: the end-to-end suite on CeleryExecutor")
        terminalreporter.write_line(config.stash[_WHY_NOT])
        return
    session.print_table(terminalreporter, config)
