"""
Pin what the test matrix installs: one file of constraints per Airflow version and Python.

The pins are the versions of the weeks after the Airflow version came out: what its constraints had, and what
people run. For the Pythons named in ``lowest``, the package's requirements are pinned at the lower bounds of
``pyproject.toml``, so that the bounds stay true. The newest Airflow has today's versions, and ``dev.txt`` is
pinned with it.

    python scripts/constraints.py               # all files
    python scripts/constraints.py --only 3.3    # those of one Airflow version
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass

from environments import (
    REQUIREMENTS,
    ROOT,
    TEST_REQUIREMENTS,
    VERSION_REQUIREMENTS,
    Target,
    find_python,
    find_uv,
)

#: Pinned although no environment must have it: some suites use it if it is installed.
OPTIONAL_REQUIREMENTS = ("apache-airflow-providers-openlineage",)
DEVELOPMENT = ("ruff", "mypy", "types-requests", "types-jsonschema", "uv", *TEST_REQUIREMENTS)
COMMON_COMPAT = "apache-airflow-providers-common-compat"


@dataclass(frozen=True)
class Row:
    """
    Constraints of one Airflow version.

    :param airflow: The version.
    :param pythons: The Pythons that it allows.
    :param before: Nothing newer than this day is pinned.
    :param lowest: The Pythons for which the package's requirements are pinned at their lower bounds.
    """

    airflow: str
    pythons: tuple[str, ...]
    before: str
    lowest: tuple[str, ...] = ()


ROWS = (
    Row("2.11", ("3.10", "3.11", "3.12"), "2026-04-01", lowest=("3.10",)),
    Row("3.0", ("3.10", "3.11", "3.12"), "2025-09-15"),
    Row("3.1", ("3.10", "3.11", "3.12", "3.13"), "2026-04-01"),
    Row("3.2", ("3.10", "3.11", "3.12", "3.13"), "2026-06-15"),
    Row("3.3", ("3.10", "3.11", "3.12", "3.13"), "2026-11-15"),
)


def requirements() -> list[str]:
    """Return the package's requirements, as ``pyproject.toml`` says them."""
    text = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    return re.findall(r'"([^"]+)"', block[1]) if block else []


def wanted(row: Row, python: str) -> list[str]:
    """
    Return what is to be pinned.

    :param row: The Airflow version.
    :param python: The Python.
    """
    lines = requirements()
    if python in row.lowest:
        return [each.replace(">=", "==") for each in lines]
    return [f"apache-airflow=={row.airflow}.*", *lines]


def compile_pins(lines: list[str], python: str, before: str, *options: str) -> str:
    """
    Return the pinned lines, without the address of the package index.

    :param lines: What is asked for.
    :param python: For which Python.
    :param before: Nothing newer than this day.
    :param options: Further options of uv.
    """
    quiet = ("--quiet", "--no-annotate", "--no-header", "--no-emit-index-url", "--no-emit-find-links")
    done = subprocess.run(
        [
            *(find_uv(), "pip", "compile", *quiet, "--exclude-newer", before, *options),
            *("--python", find_python(python), "-"),
        ],
        input="\n".join(lines),
        text=True,
        capture_output=True,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        sys.exit(f"Python {python}, {lines[0]}: {done.stderr}")
    return "".join(f"{line}\n" for line in done.stdout.splitlines() if not line.startswith("-"))


def main() -> int:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="an Airflow version, as in 3.3")
    only = parser.parse_args().only
    REQUIREMENTS.mkdir(exist_ok=True)
    newest = ROWS[-1]
    development = REQUIREMENTS / "dev.txt"
    if only in (None, newest.airflow):
        # Only what is asked for by name: the rest is pinned by the constraints of the Python that is used.
        pins = compile_pins([*wanted(newest, "3.10"), *DEVELOPMENT], "3.10", newest.before).splitlines()
        named = [line for line in pins if line.split("==")[0] in DEVELOPMENT]
        development.write_text("# What developing and testing needs.\n" + "\n".join(named) + "\n")
    for row in ROWS:
        if only not in (None, row.airflow):
            continue
        for python in row.pythons:
            target = Target(row.airflow, python)
            lines = [*wanted(row, python), *TEST_REQUIREMENTS, *OPTIONAL_REQUIREMENTS]
            lines += VERSION_REQUIREMENTS.get(row.airflow, ())
            options = ["--constraints", str(development)] if row is newest else []
            # This package needs a newer compatibility layer than an older Airflow came with.
            options += ["--exclude-newer-package", f"{COMMON_COMPAT}={max(row.before, '2026-04-01')}"]
            # Test tools need not be of Airflow's time.
            for tool in ("pytest", "hypothesis"):
                options += ["--exclude-newer-package", f"{tool}={newest.before}"]
            pins = compile_pins(lines, python, row.before, *options)
            note = "everything this package needs at its lower bound" if python in row.lowest else ""
            head = f"# Airflow {row.airflow} on Python {python}" + (f": {note}" if note else "") + "\n"
            target.constraints.write_text(head + pins)
            print(f"{target.constraints.name}: {len(pins.splitlines())} pins", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
