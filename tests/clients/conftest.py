from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
#: The Pythons for which both versions of the client have wheels, the one of this environment first.
PYTHONS = sorted(("3.12", "3.11", "3.10"), key=lambda version: version != f"3.{sys.version_info.minor}")
LIMIT = 600


def uv(*arguments: str) -> subprocess.CompletedProcess[str]:
    beside = Path(sys.executable).parent / "uv"
    command = str(beside) if beside.exists() else shutil.which("uv")
    assert command, "uv is needed: python -m pip install uv"
    return subprocess.run([command, *arguments], capture_output=True, text=True, timeout=LIMIT, check=False)


def find_python() -> str:
    for version in PYTHONS:
        found = uv("python", "find", "--no-python-downloads", version)
        if found.returncode == 0:
            return found.stdout.strip()
    pytest.fail(f"AI-Link needs one of Python {', '.join(PYTHONS)}, and uv finds none on this machine")


@pytest.fixture(scope="session")
def python_with():
    """Return the Python of an environment that has a version of the client; it is made once and kept."""

    def make(version: str) -> str:
        pins = ROOT / "requirements" / f"constraints-atscale-{version}.txt"
        folder = ROOT / ".venvs" / f"atscale-{version}"
        python = folder / "bin" / "python"
        stamp = folder / ".made-from"
        wanted = hashlib.sha256(pins.read_bytes()).hexdigest()
        if not (python.exists() and stamp.exists() and stamp.read_text() == wanted):
            shutil.rmtree(folder, ignore_errors=True)
            for step in (
                ("venv", "--quiet", "--python", find_python(), str(folder)),
                ("pip", "install", "--quiet", "--python", str(python), "-r", str(pins)),
            ):
                done = uv(*step)
                assert done.returncode == 0, f"uv {' '.join(step)}:\n{done.stderr[-3000:]}"
            stamp.write_text(wanted)
        return str(python)

    return make


@pytest.fixture
def told_by(python_with, tmp_path):
    """Run a script of this folder with a version of the client, and return what it tells as JSON."""

    def run(version: str, script: str, **arguments: str):
        # The client reads its configuration from the home folder and the working folder.
        env = {"PATH": os.defpath, "HOME": str(tmp_path), "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            [python_with(version), str(HERE / script), json.dumps(arguments)],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
            cwd=tmp_path,
            env=env,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture
def host_with_default_ports():
    """
    Return a loopback address on which the installer edition's ports are free.

    The client asks for the version at port 10502 and nowhere else; another engine may listen there.
    """
    for host in ("127.0.0.1", *(f"127.0.0.{number}" for number in range(2, 10))):
        if all(is_free(host, port) for port in (10500, 10502)):
            return host
    pytest.fail("the ports 10500 and 10502 are taken on all loopback addresses that were tried")


def is_free(host: str, port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
