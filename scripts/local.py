"""What ``make demo`` and ``make airflow`` share: an Airflow home, a local AtScale engine, a connection."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from environments import ROOT, inherited

BIN = Path(sys.executable).parent
LOCAL_HOST = "127.0.0.1"


def say(text: str = "") -> None:
    """Print a text and flush it."""
    print(text, flush=True)


def step(text: str) -> None:
    """Print the heading of a step."""
    say(f"\n==> {text}")


def environment(home: Path) -> dict[str, str]:
    """
    Return the environment variables of a local Airflow.

    :param home: Its Airflow home.
    """
    kept = inherited()
    # A proxy of the network cannot reach the servers of this machine.
    not_by_proxy = ",".join(filter(None, (kept.get("no_proxy") or kept.get("NO_PROXY"), LOCAL_HOST)))
    return {
        **kept,
        "PATH": f"{BIN}{os.pathsep}{kept.get('PATH', '')}",
        "NO_PROXY": not_by_proxy,
        "no_proxy": not_by_proxy,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "example_dags"),
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "ATSCALE_EXAMPLE_FOLDER": str(home / "data"),
        "PYTHONUNBUFFERED": "1",
    }


def fresh_home(name: str) -> Path:
    """
    Make an empty Airflow home; git ignores it.

    :param name: Path of the folder, relative to the repository.
    """
    home = ROOT / name
    shutil.rmtree(home, ignore_errors=True)
    (home / "data").mkdir(parents=True)
    return home


def run(arguments: list[str], env: dict[str, str], log: Path) -> None:
    """
    Run a command to its end, and show its output only if it fails.

    :param arguments: The command.
    :param env: Its environment variables.
    :param log: The file that gets its output.
    """
    with log.open("a") as out:
        code = subprocess.run(arguments, env=env, stdout=out, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        say(log.read_text()[-4000:])
        sys.exit(f"{' '.join(arguments[:3])} ended with {code}; its whole output is in {log}")


@contextlib.contextmanager
def engine(edition: str, env: dict[str, str], home: Path, *options: str) -> Iterator[tuple[str, str]]:
    """
    Run a local AtScale engine in another process; yield its address and its connection as JSON.

    :param edition: ``container`` or ``installer``.
    :param env: Its environment variables.
    :param home: The folder that gets its output.
    :param options: Further options of its command.
    """
    command = [sys.executable, "-m", "airflow_provider_atscale.testing", "--edition", edition, *options]
    log = home / "engine.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield _wait_for_engine(process, log)
    finally:
        end(process)


def _wait_for_engine(process: subprocess.Popen[bytes], log: Path) -> tuple[str, str]:
    marker = "AIRFLOW_CONN_ATSCALE_DEFAULT="
    for _ in range(300):
        text = log.read_text()
        lines = text.splitlines()
        found = [line for line in lines if line.startswith(marker)]
        if found:
            url = next(line for line in lines if line.startswith("Build history: "))
            return url.removeprefix("Build history: ").rstrip("/"), found[0].removeprefix(marker).strip("'")
        if process.poll() is not None:
            break
        time.sleep(0.1)
    sys.exit(f"The local engine did not start:\n{log.read_text()}")


def end(*processes: subprocess.Popen[bytes]) -> None:
    """
    End processes and all their descendants, and wait until they have ended.

    :param processes: The processes.
    """
    left: list[psutil.Process] = []
    for process in processes:
        if process.poll() is None:
            leader = psutil.Process(process.pid)
            # List them before the first signal: an orphan has another parent.
            left += [*leader.children(recursive=True), leader]
    for number, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, 5)):
        for each in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(number)
        _, left = psutil.wait_procs(left, seconds)


def end_when_killed() -> None:
    """Make SIGTERM and SIGHUP end this process as Ctrl-C does: with all processes that it has started."""

    def leave(number: int, _: object) -> None:
        for each in ends:
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    # nohup ignores SIGHUP, so that a command outlives its terminal.
    ends = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]
    for each in ends:
        signal.signal(each, leave)


def configure(env: dict[str, str], connection: str, log: Path) -> None:
    """
    Make Airflow's database and the connection, as a user would on the command line.

    :param env: The environment variables of Airflow.
    :param connection: The connection as JSON.
    :param log: The file that gets the output.
    """
    run(["airflow", "db", "migrate"], env, log)
    run(["airflow", "connections", "add", "atscale_default", "--conn-json", _with_port(connection)], env, log)


def _with_port(connection: str) -> str:
    """Move the port from the field ``host`` to the field ``port``."""
    # Airflow 3.3's Test button sends an empty port as 0, which Airflow then refuses: it is not the saved port.
    fields = json.loads(connection)
    address = urlsplit(fields["host"])
    return json.dumps({**fields, "host": f"{address.scheme}://{address.hostname}", "port": address.port})
