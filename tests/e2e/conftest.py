"""Start the stage for the cases that were selected, print the table, leave nothing running."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from . import session
from .processes import Stable
from .stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .stage import Outcome

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    session.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    session.configure(config)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests of the local Airflow come first: while they wait, the cases are played."""
    here = [item for item in items if item.path.parent == HERE]
    here.sort(key=lambda item: item.path.name != "test_local_airflow.py")
    items[:] = [item for item in items if item.path.parent != HERE] + here


@pytest.fixture(scope="session", autouse=True)
def _play(request: pytest.FixtureRequest) -> None:
    """Begin to play before the first test, if any case was selected."""
    if session.selected_cases(request, __package__):
        request.getfixturevalue("stage")


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
def stage(request: pytest.FixtureRequest, folder: Path) -> Iterator[Stage]:
    """Start Airflow and the engines, and begin to play the selected cases."""
    if tuple(int(part) for part in version("apache-airflow").split(".")[:2]) < (3, 3):
        pytest.skip("needs Airflow 3.3: before it nothing survives a crash of the worker")
    stable = Stable(folder)
    cases = session.selected_cases(request, __package__)
    with session.running(stable, lambda: Stage(stable, folder / "airflow", cases)) as stage:
        yield stage


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    session.print_table(terminalreporter, config)
