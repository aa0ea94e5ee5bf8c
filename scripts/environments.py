"""Virtual environments of the test matrix: one per Airflow version and Python, with the built wheel inside."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
VENVS = ROOT / ".venvs"
#: What the suites need besides the package; the constraints say which versions.
TEST_REQUIREMENTS = ("pytest", "hypothesis", "jsonschema", "cryptography")
#: What an Airflow version needs besides. On 3.0 a provider's connection form shows only beside FAB. 2.11 comes
#: with OpenLineage, so that lineage is tested on the oldest version and the newest.
VERSION_REQUIREMENTS = {
    "3.0": ("apache-airflow-providers-fab",),
    "3.3": ("apache-airflow-providers-openlineage",),
}
DISTRIBUTION = "airflow-provider-atscale"


class CannotMakeError(Exception):
    """An environment could not be made; the text says why."""


@dataclass(frozen=True, order=True)
class Target:
    """
    One Airflow version on one Python.

    :param airflow: The version's first two numbers, as in ``3.3``.
    :param python: The Python's first two numbers, as in ``3.13``.
    """

    airflow: str
    python: str

    def __str__(self) -> str:
        return f"airflow-{self.airflow}-py{self.python}"

    @property
    def constraints(self) -> Path:
        """The file of pinned versions."""
        return REQUIREMENTS / f"constraints-{self}.txt"

    @property
    def folder(self) -> Path:
        """The virtual environment."""
        return VENVS / str(self)

    @property
    def bin(self) -> Path:
        """Where its commands are."""
        return self.folder / "bin"

    @property
    def version(self) -> str:
        """The whole Airflow version that is pinned."""
        found = re.search(r"^apache-airflow==(\S+)", self.constraints.read_text(), re.MULTILINE)
        if found is None:
            raise CannotMakeError(f"{self.constraints.name} pins no apache-airflow")
        return found[1]


def targets() -> list[Target]:
    """Return all targets that have constraints, the oldest first."""
    found = []
    for path in REQUIREMENTS.glob("constraints-airflow-*-py*.txt"):
        airflow, python = path.stem.removeprefix("constraints-airflow-").split("-py")
        found.append(Target(airflow, python))
    return sorted(found, key=lambda target: _numbers(f"{target.airflow}.{target.python}"))


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


@cache
def find_uv() -> str:
    """Return the command ``uv``: the one beside this Python, else the one on the path."""
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise CannotMakeError("uv is needed: python -m pip install uv")
    return found


@cache
def find_python(version: str) -> str:
    """
    Return a Python interpreter of a version.

    :param version: Its first two numbers.
    :raises CannotMakeError: If there is none on this machine.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    installed = sorted(pyenv.glob(f"{version}.*/bin/python{version}"), reverse=True)
    named = os.environ.get(f"PYTHON{version.replace('.', '_')}")
    for each in (named, sys.executable, shutil.which(f"python{version}"), *map(str, installed)):
        if each and _version_of(each) == version:
            return each
    raise CannotMakeError(
        f"no Python {version} on this machine; install one, or name it in PYTHON{version.replace('.', '_')}"
    )


def _version_of(python: str) -> str | None:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        # A shim of pyenv exists for versions that it cannot run.
        answer = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def build_wheel(folder: Path) -> Path:
    """
    Build the package's wheel, and return it.

    :param folder: Where to put it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    _run([find_uv(), "build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT)], "build the wheel")
    return next(folder.glob("*.whl"))


def make(target: Target, wheel: Path) -> None:
    """
    Make a target's environment, or bring it up to date, and install the wheel into it.

    :param target: The target.
    :param wheel: The built wheel.
    """
    stamp, digest = target.folder / ".constraints", hashlib.sha256(target.constraints.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        shutil.rmtree(target.folder, ignore_errors=True)
        _run(
            [find_uv(), "venv", "--quiet", "--python", find_python(target.python), str(target.folder)],
            f"make {target}",
        )
    _run(
        [
            *(find_uv(), "pip", "install", "--quiet", "--python", str(target.bin / "python")),
            *("--constraints", str(target.constraints), "--reinstall-package", DISTRIBUTION),
            *(str(wheel), *TEST_REQUIREMENTS, *VERSION_REQUIREMENTS.get(target.airflow, ())),
        ],
        f"install the wheel into {target}",
    )
    stamp.write_text(digest)


def inherited(*prefixes: str) -> dict[str, str]:
    """
    Return this process's environment variables without the settings of its Airflow.

    :param prefixes: Leave out variables that begin with these, too.
    """
    dropped = ("AIRFLOW", *prefixes)
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


def environment(target: Target, home: Path) -> dict[str, str]:
    """
    Return the environment variables of a target's Airflow.

    :param target: The target.
    :param home: Its Airflow home.
    """
    kept = inherited("PYTHON", "VIRTUAL_ENV", "PYTEST_")
    return {
        **kept,
        "PATH": f"{target.bin}{os.pathsep}{kept.get('PATH', '')}",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "PYTHONUNBUFFERED": "1",
    }


def _run(command: list[str], purpose: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise CannotMakeError(f"Could not {purpose}:\n{done.stdout}{done.stderr}")
