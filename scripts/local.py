"""What the demo and the local Airflow share: an Airflow home, an engine process, a connection."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def say(text: str = "") -> None:
    """Print one line at once."""
    print(text, flush=True)


def step(text: str) -> None:
    """Print the heading of a step."""
    say(f"\n==> {text}")


def environment(home: Path) -> dict[str, str]:
    """Return the environment of an Airflow of its own, whatever the caller's Airflow settings are."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    return {
        **kept,
        "PATH": f"{BIN}{os.pathsep}{kept.get('PATH', '')}",
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
    """Return a new, empty folder of the repository, which git ignores."""
    home = ROOT / name
    shutil.rmtree(home, ignore_errors=True)
    (home / "data").mkdir(parents=True)
    return home


def run(arguments: list[str], env: dict[str, str], log: Path) -> None:
    """Run a command to its end; show its output only where it fails."""
    with log.open("a") as out:
        code = subprocess.run(arguments, env=env, stdout=out, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        say(log.read_text()[-4000:])
        sys.exit(f"{' '.join(arguments[:3])} ended with {code}; its whole output is in {log}")


@contextlib.contextmanager
def engine(edition: str, env: dict[str, str], home: Path, *options: str) -> Iterator[tuple[str, str]]:
    """Run a local AtScale engine as a process of its own; yield its address and its connection as JSON."""
    command = [sys.executable, "-m", "airflow_provider_atscale.testing", "--edition", edition, *options]
    log = home / "engine.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield _ready(process, log)
    finally:
        end(process)


def _ready(process: subprocess.Popen[bytes], log: Path) -> tuple[str, str]:
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


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started, and wait for them."""
    if process.poll() is not None:
        return
    leader = psutil.Process(process.pid)
    # Before the first signal, for orphans do not know whose they were.
    left = [*leader.children(recursive=True), leader]
    for number, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, 5)):
        for each in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(number)
        _, left = psutil.wait_procs(left, seconds)


def end_when_killed() -> None:
    """Let a signal that would end this process at once end it as Ctrl-C does: with all that it has started."""

    def leave(number: int, _: object) -> None:
        for each in ends:
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    # A command that is to outlive its terminal ignores that one is closed.
    ends = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]
    for each in ends:
        signal.signal(each, leave)


def configure(env: dict[str, str], connection: str, log: Path) -> None:
    """Make the database and the connection, as a user would from the command line."""
    run(["airflow", "db", "migrate"], env, log)
    run(["airflow", "connections", "add", "atscale_default", "--conn-json", connection], env, log)
