"""The architecture page names files that are there, and draws the layers as the code has them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
NAMED = sorted(set(re.findall(r"`((?:[\w.]+/)*[\w.]+\.py|(?:\w+/)+)`", PAGE)))


def test_it_names_files():
    assert len(NAMED) > 20


@pytest.mark.parametrize("name", NAMED)
def test_what_it_names_is_there(name):
    assert (ROOT / name).exists() or (ROOT / "airflow_provider_atscale" / name).exists()


def test_its_diagram_is_up_to_date():
    done = subprocess.run(
        [sys.executable, "scripts/layers.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
