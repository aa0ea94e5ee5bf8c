"""The sdist has all that the repository keeps, so that `make lint` and `make test` work in an unpacked one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What the build adds by itself.
ADDED = {"pyproject.toml", ".gitignore"}
#: Where `make lint` and the hooks before a commit find their settings.
SETTINGS = (
    ".importlinter",
    ".codespellrc",
    ".pre-commit-config.yaml",
    "pyproject.toml",
    "requirements/dev.txt",
    "scripts/vocabulary.txt",
)

if not (ROOT / "scripts").exists():
    pytest.skip("the suites of the matrix have only a part of the repository", allow_module_level=True)


def included() -> set[str]:
    """Return what pyproject.toml puts into the sdist, as paths below the root."""
    tomllib = pytest.importorskip("tomllib")
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    return {pattern.removeprefix("/") for pattern in build["targets"]["sdist"]["include"]}


def test_the_sdist_has_all_that_the_repository_keeps():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("this is no clone of the repository")
    kept = {file.partition("/")[0] for file in done.stdout.splitlines()}
    assert kept - ADDED == included()


@pytest.mark.parametrize("file", SETTINGS)
def test_what_make_lint_reads_is_there(file):
    """Also in an unpacked sdist."""
    assert (ROOT / file).exists()
    assert file.partition("/")[0] in included() | ADDED
