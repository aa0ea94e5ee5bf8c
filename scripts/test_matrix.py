"""
Run the suites on every supported Airflow, with the package as it is built and installed.

One environment per Airflow version under ``.venvs/``, made from the constraints in ``requirements/`` and kept
for the next run. The suites run in a copy of the repository without the package's source, so that what is
imported is the installed wheel.

    python scripts/test_matrix.py                     # each Airflow on one Python, so that each Python is used
    python scripts/test_matrix.py --all               # each Airflow on each Python that it allows
    python scripts/test_matrix.py --smoke             # install, contract, one DAG per version and lineage
    python scripts/test_matrix.py --only 2.11 3.3-py3.11 --suite unit
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from environments import (
    ROOT,
    VENVS,
    CannotMakeError,
    Target,
    build_wheel,
    environment,
    find_python,
    make,
    targets,
)

#: Each Airflow once, each Python at least once.
DEFAULT = (
    Target("2.11", "3.10"),
    Target("3.0", "3.11"),
    Target("3.1", "3.12"),
    Target("3.2", "3.13"),
    Target("3.3", "3.13"),
)
#: In the order in which they run; each is a folder of ``tests/``.
SUITES = ("install", "unit", "contract", "dags")
Suites = Mapping[str, tuple[str, ...]]
#: With what pytest is given for each: one edition shows what differs between versions. Not all environments have
#: the OpenLineage provider, so real DAGs run beside it.
SMOKE: Suites = {
    "install": (),
    "contract": ("-k", "not installer"),
    "dags": ("-k", "openlineage or example_atscale_airflow2 or example_atscale_fire_and_wait"),
}
#: What the smoke leaves out, because ``make test`` runs it on the same Airflow.
SMOKE_LEAVES_OUT = {"3.3": ("contract",)}
#: What the suites read besides themselves.
COPIED = ("tests", "docs", "example_dags", "README.md", "CHANGELOG.md", "LICENSE", "Makefile", "pyproject.toml")
#: Seconds that one suite may take on one version, and one test until all threads' stacks are in the log.
LIMIT = 1500
STUCK = 240


@dataclass(frozen=True)
class Outcome:
    """
    How one suite ended on one version.

    :param ok: Whether it is green.
    :param text: What the table says.
    :param log: Where the whole output is.
    """

    ok: bool
    text: str
    log: Path | None = None


def say(text: str = "") -> None:
    """Print one line at once."""
    print(text, flush=True)


def main() -> int:
    """Run the matrix, print its table, and return 0 if all is green."""
    options = parse()
    chosen = choose(options)
    selected = SMOKE if options.smoke else dict.fromkeys(SUITES, ())
    suites = {name: selected.get(name, ()) for name in options.suite or selected}
    left_out = SMOKE_LEAVES_OUT if options.smoke and not options.suite else {}
    began = time.monotonic()
    try:
        wheel = build_wheel(VENVS / "dist")
    except CannotMakeError as error:
        say(str(error))
        return 1
    # At once, so that wheel and suites of all versions are of the same moment.
    source = copy(VENVS / "dist" / "suites")
    say(f"==> {wheel.name} on {len(chosen)} of {len(targets())} environments, {options.jobs} at a time")
    with ThreadPoolExecutor(options.jobs) as pool:
        work = {
            target: pool.submit(
                run_target, target, wheel, source, without(suites, left_out.get(target.airflow, ()))
            )
            for target in chosen
        }
        results = {target: future.result() for target, future in work.items()}
    failed = show(results, suites)
    say(f"{'FAILED' if failed else 'All green'} after {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


def without(suites: Suites, names: tuple[str, ...]) -> Suites:
    """
    Return the suites but some.

    :param suites: The suites.
    :param names: Those that are left out.
    """
    return {name: arguments for name, arguments in suites.items() if name not in names}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--all", action="store_true", help="every Python that each Airflow allows")
    add("--smoke", action="store_true", help="only what shows within minutes that a version works")
    add("--only", nargs="+", metavar="VERSION", help="Airflow versions, as in 3.3 or 3.3-py3.12")
    add("--suite", nargs="+", choices=SUITES, help="only these suites")
    add("--jobs", type=int, default=min(os.cpu_count() or 1, 2) + 1, help="at a time (%(default)s)")
    return parser.parse_args()


def choose(options: argparse.Namespace) -> list[Target]:
    """
    Return the targets that are asked for.

    :param options: The command line.
    """
    pool = targets() if options.all else [on_this_machine(target) for target in DEFAULT]
    if not options.only:
        return pool
    chosen: list[Target] = []
    for name in options.only:
        fitting = [each for each in targets() if f"{each.airflow}-py{each.python}" == name]
        fitting = fitting or [each for each in pool if each.airflow == name]
        if not fitting:
            sys.exit(f"There are no constraints for {name!r}; there are: {', '.join(map(str, targets()))}")
        chosen += [each for each in fitting if each not in chosen]
    return chosen


def on_this_machine(target: Target) -> Target:
    """
    Return a target; if its Python is missing, say so and return the same Airflow on another Python.

    :param target: The target.
    """
    for each in (target, *(other for other in targets() if other.airflow == target.airflow)):
        try:
            find_python(each.python)
        except CannotMakeError:
            continue
        if each != target:
            say(f"==> There is no Python {target.python} here: Airflow {target.airflow} runs on {each.python}")
        return each
    return target


def run_target(target: Target, wheel: Path, source: Path, suites: Suites) -> dict[str, Outcome]:
    """
    Run the suites on one version; an environment that cannot be made is a failure of all of them.

    :param target: The version.
    :param wheel: The built wheel.
    :param source: The copy of the suites.
    :param suites: The suites, and what pytest is given for each.
    """
    began = time.monotonic()
    work = target.folder / "work"
    try:
        make(target, wheel)
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(source, work)
    except (CannotMakeError, OSError) as error:
        say(f"    {target}: {error}")
        return {suite: Outcome(ok=False, text="no environment") for suite in suites}
    say(f"    {target}: Airflow {target.version} is ready after {time.monotonic() - began:.0f} s")
    outcomes = {}
    for suite, arguments in suites.items():
        outcomes[suite] = outcome = run_suite(target, work, suite, arguments)
        say(f"    {target}: {suite}: {outcome.text}")
    return outcomes


def copy(folder: Path) -> Path:
    """
    Copy what the suites need, and nothing that could be imported in the wheel's place.

    :param folder: Where to.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        elif source.exists():
            shutil.copy(source, folder / name)
    return folder


def run_suite(target: Target, work: Path, suite: str, arguments: tuple[str, ...]) -> Outcome:
    """
    Run one suite on one version.

    :param target: The version.
    :param work: The copy to run in.
    :param suite: The suite.
    :param arguments: What pytest is given besides.
    """
    log = target.folder / f"{suite}.log"
    began = time.monotonic()
    if not (work / "tests" / suite).is_dir():
        return Outcome(ok=False, text="missing", log=log)
    # Not "python -m pytest", which would look for packages in the working folder first.
    command = [str(target.bin / "pytest"), "-q", "-rfEs", "--durations=10", "-p", "no:cacheprovider"]
    command += ["-o", f"faulthandler_timeout={STUCK}", *arguments, f"tests/{suite}"]
    env = environment(target, work / "airflow_home") | {"EXPECTED_AIRFLOW": target.version}
    with log.open("w") as out:
        try:
            code = subprocess.run(
                command, cwd=work, env=env, stdout=out, stderr=subprocess.STDOUT, timeout=LIMIT, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return Outcome(ok=False, text=f"no end in {LIMIT} s", log=log)
    return Outcome(code == 0, summarize(log.read_text(), code, time.monotonic() - began), log)


def summarize(output: str, code: int, seconds: float) -> str:
    """
    Return pytest's closing line in few words.

    :param output: What pytest printed.
    :param code: How it ended.
    :param seconds: How long it took.
    """
    found = {
        word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error|skipped)", output[-400:])
    }
    failed = found.get("failed", 0) + found.get("error", 0)
    if not found or (code and not failed):
        return f"exit {code} ({seconds:.0f} s)"
    parts = [f"{found.get('passed', 0)} passed"]
    parts += [f"{failed} FAILED"] if failed else []
    parts += [f"{found['skipped']} skipped"] if found.get("skipped") else []
    return f"{', '.join(parts)} ({seconds:.0f} s)"


def show(results: dict[Target, dict[str, Outcome]], suites: Suites) -> bool:
    """
    Print what failed, then the table; return whether anything failed.

    :param results: The outcomes.
    :param suites: The suites.
    """
    bad = [
        (target, suite, outcome)
        for target, outcomes in results.items()
        for suite, outcome in outcomes.items()
        if not outcome.ok
    ]
    for target, suite, outcome in bad:
        say(f"\n==> {target}, {suite}: {outcome.text}")
        if outcome.log is not None and outcome.log.exists():
            say("\n".join(outcome.log.read_text().splitlines()[-40:]))
            say(f"    The whole output: {outcome.log.relative_to(ROOT)}")
    rows = [["Airflow", "Python", *suites]]
    for target, outcomes in results.items():
        version = target.version if target.constraints.exists() else target.airflow
        texts = (outcomes[suite].text if suite in outcomes else "(make test)" for suite in suites)
        rows.append([version, target.python, *texts])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    say()
    for number, row in enumerate(rows):
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if number == 0:
            say("  ".join("-" * width for width in widths))
    say()
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
