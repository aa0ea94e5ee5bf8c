"""A warning of the package's own code fails the suite that comes to it, however deep in a DAG's run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TEST = """
import warnings
# Airflow shows warnings in its own way from its import on, until the next test begins.
import airflow_provider_atscale.triggers.atscale

def test_green():
    warnings.warn_explicit("old", DeprecationWarning, "/site-packages/{file}", 1)
"""

#: (whose code is warned, how the suite ends)
CASES = {
    "airflow_provider_atscale/hooks/atscale.py": pytest.ExitCode.TESTS_FAILED,
    "airflow/models/connection.py": pytest.ExitCode.OK,
}


@pytest.mark.parametrize(("file", "expected"), CASES.items(), ids=["ours", "Airflow's"])
def test_whose_warnings_fail_a_suite(tmp_path, file, expected):
    (tmp_path / "test_it.py").write_text(TEST.format(file=file))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == expected
    assert (f"{file}:1: DeprecationWarning: old" in done.stdout.partition("own code was warned")[2]) is bool(
        expected
    )
