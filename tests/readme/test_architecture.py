"""The architecture page names files that are there, and draws the layers as the code has them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from . import page

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "airflow_provider_atscale"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
NAMED = sorted(set(re.findall(r"`((?:[\w.]+/)*[\w.]+\.py|(?:\w+/)+)`", PAGE)))


def test_it_names_files():
    assert len(NAMED) > 20


@pytest.mark.parametrize("name", NAMED)
def test_what_it_names_is_there(name):
    assert (ROOT / name).exists() or (PACKAGE / name).exists()


def test_it_says_of_every_module_where_its_tests_are():
    """A module, or the whole package that it is in, is in the table "To change something"."""
    opened = " ".join(cells[1] for cells in page.rows("To change something"))
    modules = [
        each.relative_to(PACKAGE).as_posix()
        for each in PACKAGE.rglob("*.py")
        if not each.name.startswith("__") and each.name != "version.py"
    ]
    packages = re.findall(r"`(\w+/)`", opened)
    assert [
        name for name in modules if f"`{name}`" not in opened and not name.startswith(tuple(packages))
    ] == []


def test_its_diagram_is_up_to_date():
    done = subprocess.run(
        [sys.executable, "scripts/layers.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
