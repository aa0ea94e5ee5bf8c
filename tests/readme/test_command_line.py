"""The page of the command line shows what the commands print."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "record_cli.py"


@pytest.mark.skipif(not SCRIPT.exists(), reason="the suites of the matrix have no scripts")
def test_the_page_shows_what_the_commands_print(tmp_path):
    run = subprocess.run(
        [sys.executable, SCRIPT, "--check"], capture_output=True, text=True, env={"AIRFLOW_HOME": str(tmp_path)}
    )
    assert run.returncode == 0, run.stderr
