"""What the end-to-end suites share: options, the folder of a run, the stage, and the table at the end."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .processes import STOPPING, Stable, is_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .cases import Case
    from .stage import Outcome, Stage

OUTCOMES = pytest.StashKey[list[Any]]()
FOLDER = pytest.StashKey[Path]()
BEGAN = pytest.StashKey[float]()
KEEP = "--e2e-keep"


def add_options(parser: pytest.Parser) -> None:
    """Add the options of the suites, once where both are run."""
    group = parser.getgroup("e2e", "end-to-end suites")
    try:
        group.addoption("--e2e-folder", type=Path, help="where Airflow and the engines live (default: .e2e)")
    except ValueError:
        return
    group.addoption(KEEP, action="store_true", help="keep that folder also when all is well")
    group.addoption(
        "--e2e-minutes", type=float, default=30.0, help="end the suite on Celery after so many minutes"
    )


def configure(config: pytest.Config) -> None:
    """Begin to collect outcomes."""
    config.stash.setdefault(OUTCOMES, [])
    config.stash.setdefault(BEGAN, time.monotonic())


@contextmanager
def folder_of(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Make a folder for this run, and end and remove what runs that were killed have left."""
    basis = request.config.getoption("--e2e-folder") or request.config.rootpath / ".e2e"
    basis.mkdir(parents=True, exist_ok=True)
    for left in basis.glob("run-*"):
        if not is_alive(int(left.name.removeprefix("run-"))):
            Stable(left).sweep()
            shutil.rmtree(left, ignore_errors=True)
    mine = basis / f"run-{os.getpid()}"
    mine.mkdir(exist_ok=True)
    request.config.stash[FOLDER] = mine
    yield mine
    if not request.session.testsfailed and not request.config.getoption(KEEP):
        shutil.rmtree(mine, ignore_errors=True)


def selected_cases(request: pytest.FixtureRequest, module: str) -> list[Case]:
    """Return the cases that were selected on the command line, of one package of tests."""
    items = (item for item in request.session.items if hasattr(item, "callspec"))
    return [
        item.callspec.params["case"]
        for item in items
        if "case" in item.callspec.params and item.module.__name__.startswith(f"{module}.")
    ]


@contextmanager
def running(stable: Stable, make: Callable[[], Stage], minutes: float | None = None) -> Iterator[Stage]:
    """
    Run a stage, and end all its processes, also after an interrupt.

    :param stable: who starts processes.
    :param make: makes the stage.
    :param minutes: how long it may take; None: each case is bounded by itself.
    """
    # A terminated test run has to clean up as an interrupted one.
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    STOPPING.clear()
    alarm = threading.Timer(minutes * 60, STOPPING.set) if minutes else None
    if alarm is not None:
        alarm.daemon = True
        alarm.start()
    stage = make()
    try:
        stage.open()
        yield stage
    finally:
        # A second interrupt must not stop the cleaning.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        try:
            if alarm is not None:
                alarm.cancel()
            stage.close()
        finally:
            stable.close()
            for number, handler in before.items():
                signal.signal(number, handler)


def print_table(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what was expected of each case and what was seen."""
    outcomes: list[Outcome] = config.stash[OUTCOMES]
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
    seconds = time.monotonic() - config.stash[BEGAN]
    write("")
    write(f"{len(outcomes)} cases, {len(different)} with differences, {seconds / 60:.1f} minutes")
    if different or config.getoption(KEEP):
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
        _states(seen.states) if seen else "?",
        f"{outcome.seconds:.0f}",
        _verdict(outcome),
    )


def _states(states: tuple[str, ...]) -> str:
    """List the states; count those of many tasks."""
    if len(states) <= 3:
        return ", ".join(states)
    return ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))


def _verdict(outcome: Outcome) -> str:
    if outcome.differences():
        return "DIFFERENT"
    seen = outcome.observed
    if seen is None:
        return "as expected"
    tries = ", ".join(map(str, sorted(set(seen.tries))))
    retried = f"; tries: {tries}" if max(seen.tries, default=1) > 1 else ""
    taken = f"; tries that Airflow took: {seen.taken}" if seen.taken else ""
    return f"as expected{retried}{taken}"
