"""Start the stage for the cases that were selected, print the table, leave nothing running."""

from __future__ import annotations

import os
import shutil
import signal
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .processes import Stable, is_alive
from .stage import Outcome, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

OUTCOMES = pytest.StashKey[list[Outcome]]()
FOLDER = pytest.StashKey[Path]()
_KEEP = "--e2e-keep"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("e2e", "end-to-end suite")
    group.addoption("--e2e-folder", type=Path, help="where Airflow and the engines live (default: .e2e)")
    group.addoption(_KEEP, action="store_true", help="keep that folder also when all is well")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OUTCOMES] = []


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest) -> list[Outcome]:
    """Collect what the table shows."""
    return request.config.stash[OUTCOMES]


@pytest.fixture(scope="session")
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Make a folder of our own, and end and remove what runs that were killed have left."""
    basis = request.config.getoption("--e2e-folder") or request.config.rootpath / ".e2e"
    basis.mkdir(parents=True, exist_ok=True)
    for left in basis.glob("run-*"):
        if not is_alive(int(left.name.removeprefix("run-"))):
            Stable(left).sweep()
            shutil.rmtree(left, ignore_errors=True)
    mine = basis / f"run-{os.getpid()}"
    mine.mkdir()
    request.config.stash[FOLDER] = mine
    yield mine
    if not request.session.testsfailed and not request.config.getoption(_KEEP):
        shutil.rmtree(mine, ignore_errors=True)


@pytest.fixture(scope="session")
def stage(request: pytest.FixtureRequest, folder: Path) -> Iterator[Stage]:
    """Start Airflow and the engines, and begin to play the selected cases."""
    if tuple(int(part) for part in version("apache-airflow").split(".")[:2]) < (3, 3):
        pytest.skip("needs Airflow 3.3: before it nothing survives a crash of the worker")
    items = (item for item in request.session.items if hasattr(item, "callspec"))
    cases = [item.callspec.params["case"] for item in items if "case" in item.callspec.params]
    stable = Stable(folder)
    # A terminated test run has to clean up as an interrupted one.
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stage = Stage(stable, folder / "airflow", cases)
    try:
        stage.open()
        yield stage
    finally:
        # A second interrupt, of somebody who is impatient, must not stop the cleaning.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        try:
            stage.close()
        finally:
            stable.close()
            for number, handler in before.items():
                signal.signal(number, handler)


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[_BEGAN] = time.monotonic()


_BEGAN = pytest.StashKey[float]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    outcomes = config.stash[OUTCOMES]
    if not outcomes:
        return
    rows = [_row(outcome) for outcome in outcomes]
    head = (
        "case",
        "mode",
        "builds expected",
        "started",
        "overlapping",
        "posted",
        "final state",
        "s",
        "verdict",
    )
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head) - 1)]
    write = terminalreporter.write_line
    terminalreporter.section("end to end: builds in AtScale's own count")
    for row in [head, (*("-" * width for width in widths), "-------"), *rows]:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        write("  ".join([*cells, row[-1]]))
    different = [outcome for outcome in outcomes if outcome.differences()]
    seconds = time.monotonic() - config.stash[_BEGAN]
    write("")
    write(f"{len(outcomes)} cases, {len(different)} with differences, {seconds / 60:.1f} minutes")
    if different or config.getoption(_KEEP):
        write(f"logs and databases: {config.stash[FOLDER]}")


def _row(outcome: Outcome) -> tuple[str, ...]:
    case, seen = outcome.case, outcome.observed
    return (
        case.full_title,
        case.mode,
        str(case.builds),
        str(seen.builds) if seen else "?",
        str(seen.overlaps) if seen else "?",
        str(seen.posts) if seen else "?",
        ", ".join(seen.states) if seen else "?",
        f"{outcome.seconds:.0f}",
        _verdict(outcome),
    )


def _verdict(outcome: Outcome) -> str:
    if outcome.differences():
        return "DIFFERENT"
    taken = outcome.observed.taken if outcome.observed else 0
    return f"as expected; tries that Airflow took: {taken}" if taken else "as expected"
