"""The command ``make airflow``: it comes up on 127.0.0.1 only, says what it does, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import pytest

from .processes import ask, free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SCRIPT = "scripts/local_airflow.py"
#: Seconds; usually a tenth of it.
PATIENCE = 400.0
#: Seconds in which a port that is in use must be noticed; usually one, and longer beside the other cases.
SOON = 60.0
#: A proxy that nobody runs: the local Airflow must not use it for its own addresses.
PROXIES = dict.fromkeys(("HTTP_PROXY", "http_proxy"), "http://127.0.0.1:9")

#: Other programs that listen on an address, and print a line when they do. The second answers as Airflow does.
SILENT = """
import socket, sys, time
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
time.sleep(600)
"""
ANOTHER_AIRFLOW = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        up = {name: {"status": "healthy"} for name in ("scheduler", "triggerer", "dag_processor")}
        body = json.dumps({"version": "3.3.2", **up}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

server = ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler)
print("ready", flush=True)
server.serve_forever()
"""


@dataclass
class Run:
    """
    One run of the command.

    :param process: Its process.
    :param output: The file with what it has printed.
    """

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text()

    def wait_for(self, text: str, timeout: float) -> None:
        wait_for(lambda: text in self.said or self.process.poll() is not None, text, timeout)

    def processes(self) -> list[psutil.Process]:
        # By their parents: Airflow's components rename themselves, and with that lose their environment.
        leader = psutil.Process(self.process.pid)
        return [leader, *leader.children(recursive=True)]


@pytest.fixture
def start(folder: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[int], Run]]:
    """Start the command, and end it after the test."""
    runs: list[Run] = []

    def start(port: int) -> Run:
        output = folder / f"local-airflow-{port}.out"
        with output.open("w") as out:
            process = subprocess.Popen(
                [sys.executable, SCRIPT, "--home", str(home(folder)), "--port", str(port)],
                cwd=request.config.rootpath,
                env={**os.environ, **PROXIES},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # If the suite was started in the background, Ctrl-C is ignored, and by its children too.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        runs.append(Run(process, output))
        return runs[-1]

    yield start
    for each in runs:
        with suppress(psutil.NoSuchProcess):
            left = each.processes()
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        each.process.wait(10)


def home(folder: Path) -> Path:
    return folder / "local-airflow"


@contextmanager
def program(code: str, address: str, port: int) -> Iterator[int]:
    """Run another program that listens on a port; yield its process id."""
    command = [sys.executable, "-c", code, address, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            process.kill()


def addresses(processes: list[psutil.Process]) -> set[str]:
    """Return the addresses on which processes listen."""
    found = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add(connection.laddr.ip)
    return found


# --- it comes up, and ends ---

#: How it is ended, and what it returns then.
ENDS = {
    # A terminal sends it to the whole group.
    "Ctrl-C": (os.killpg, signal.SIGINT, 0),
    "kill": (os.kill, signal.SIGTERM, 128 + signal.SIGTERM),
}


@pytest.mark.parametrize(("send", "number", "code"), ENDS.values(), ids=ENDS)
def test_it_comes_up_as_it_says_and_leaves_nothing_behind(start, send, number, code) -> None:
    run = start(free_port())
    run.wait_for("Ctrl-C ends everything", PATIENCE)
    assert run.process.poll() is None, run.said
    started = run.processes()
    try:
        assert len(started) > 5
        [web] = re.findall(r"Airflow is up: (http://127\.0\.0\.1:\d+)$", run.said, re.MULTILINE)
        [engine] = re.findall(r"AtScale's build history: (\S+)", run.said)
        assert ask("GET", f"{web}/api/v2/version", timeout=30).json()["version"].startswith("3.")
        assert "<title>Build history<" in ask("GET", engine, timeout=30).text
        # Everybody is admin.
        assert addresses(started) == {"127.0.0.1"}
        assert "It listens on 127.0.0.1 only" in run.said
        for component in ("api-server", "scheduler", "dag-processor", "triggerer", "example DAGs"):
            assert re.search(rf"^    {component}: up after \d+ s$", run.said, re.MULTILINE), run.said
        assert press_test_button(web) == (200, True)
        send(run.process.pid, number)
        assert run.process.wait(PATIENCE) == code
        _, left = psutil.wait_procs(started, 1)
        assert left == []
    finally:
        for each in started:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def press_test_button(web: str) -> tuple[int, bool | None]:
    """Send what the web UI sends for the Test button of the stored connection."""
    stored = ask("GET", f"{web}/api/v2/connections/atscale_default", timeout=30).json()
    fields = ("connection_id", "conn_type", "host", "password", "extra")
    shown = {name: stored[name] for name in fields}
    # The form shows empty fields as empty texts, and an empty port as 0.
    shown |= {name: stored[name] or "" for name in ("description", "login", "schema")}
    shown |= {"port": stored["port"] or 0}
    answer = ask("POST", f"{web}/api/v2/connections/test", json=shown, timeout=60)
    return answer.status_code, answer.json().get("status")


# --- the port is in use ---

HOLDERS = {
    "another Airflow": (ANOTHER_AIRFLOW, "127.0.0.1"),
    "another Airflow, on all addresses": (ANOTHER_AIRFLOW, "0.0.0.0"),
    "a program that does not answer": (SILENT, "127.0.0.1"),
    "a program that does not answer, on all addresses": (SILENT, "0.0.0.0"),
}


@pytest.mark.parametrize(("code", "address"), HOLDERS.values(), ids=HOLDERS)
def test_a_port_that_is_in_use_is_an_error_at_once(start, folder: Path, code, address) -> None:
    port = free_port()
    kept = home(folder) / "kept"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("The files of an Airflow that runs.")
    with program(code, address, port) as pid:
        run = start(port)
        assert run.process.wait(SOON) == 1
    assert f"cannot listen on port {port} of 127.0.0.1: Address already in use" in run.said
    assert f"process {pid})" in run.said
    assert "make airflow PORT=8080" in run.said
    assert "is up" not in run.said
    assert kept.exists()


@pytest.mark.parametrize("code", [ANOTHER_AIRFLOW, SILENT], ids=["another Airflow", "a program that is silent"])
def test_a_port_that_is_taken_during_the_start_is_an_error(start, code) -> None:
    port = free_port()
    run = start(port)
    run.wait_for("==> An Airflow database", SOON)
    with program(code, "127.0.0.1", port) as pid:
        assert run.process.wait(PATIENCE) == 1
    assert f"process {pid}) took port {port} while Airflow was starting" in run.said
    assert "==> Airflow is up" not in run.said


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_cannot_exist_is_an_error(start, port) -> None:
    run = start(port)
    assert run.process.wait(SOON) == 1
    assert f"PORT is {port}; it must be from 1 to 65535" in run.said
