"""The environment that the benchmarks run in: this provider, its peers, and nothing of the caller's."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
HOME = REPOSITORY / ".bench"
REQUIREMENTS = (
    "apache-airflow>=3.3,<3.4",
    "apache-airflow-providers-dbt-cloud",
    "apache-airflow-providers-databricks",
    "apache-airflow-providers-airbyte",
    "apache-airflow-providers-http",
    "statsd",
)


def python() -> Path:
    """Return the interpreter of the benchmarks, making its environment if need be."""
    venv = HOME / "venv"
    interpreter = venv / "bin" / "python"
    stamp = venv / ".ready"
    wanted = hashlib.sha256(
        "\n".join([*REQUIREMENTS, (REPOSITORY / "pyproject.toml").read_text()]).encode()
    ).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return interpreter
    print("==> An environment with the peers: a minute or two, once", flush=True)
    HOME.mkdir(exist_ok=True)
    packages = [*REQUIREMENTS, "-e", str(REPOSITORY)]
    uv = _uv()
    if uv:
        subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, venv], check=True)
        subprocess.run([*uv, "pip", "install", "--quiet", "--python", interpreter, *packages], check=True)
    else:
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        subprocess.run([interpreter, "-m", "pip", "install", "--quiet", *packages], check=True)
    stamp.write_text(wanted)
    return interpreter


def _uv() -> list[str] | None:
    if importlib.util.find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    found = shutil.which("uv")
    return [found] if found else None


def variables(**more: str) -> dict[str, str]:
    """Return the environment variables of a measured process."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIRFLOW", "PYTHON")) and not name.lower().endswith("_proxy")
    }
    return {
        **kept,
        "AIRFLOW_HOME": str(HOME / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # Each file is compiled once, as in an installed Airflow.
        "PYTHONPYCACHEPREFIX": str(HOME / "pycache"),
        **more,
    }
