"""
Run a local Airflow (web UI, scheduler, DAG processor, triggerer) with a local AtScale engine.

Everything listens on 127.0.0.1 only, because there is no login and everybody is admin.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from local import (
    LOCAL_HOST,
    ROOT,
    configure,
    end,
    end_when_killed,
    engine,
    environment,
    fresh_home,
    say,
    step,
)

#: Not ``airflow standalone``: its log servers listen on all addresses, and no setting changes that. The web
#: server reads the log files itself.
COMPONENTS = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
EXAMPLE_DAGS = "example DAGs"
FIRST_DAG = "example_atscale_build_after_etl"
#: In seconds: how long Airflow may take to come up, and how often the screen says that it is still waiting.
STARTUP_TIMEOUT = 300
PROGRESS_INTERVAL = 5
#: Past any proxy: the address is on this machine.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def main() -> int:
    """Run until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edition", choices=["container", "installer"], default="container")
    parser.add_argument("--port", type=int, default=8080, help="port of the web UI (%(default)s)")
    parser.add_argument("--home", help="Airflow's home, which is emptied first (.airflow/PORT)")
    options = parser.parse_args()
    # Before the home is emptied: another local Airflow may be using it.
    check_port(options.port)
    end_when_killed()
    home = fresh_home(options.home or f".airflow/{options.port}")
    env = environment(home) | settings(options.port)
    ports = ["--port", "0"] + (["--engine-port", "0"] if options.edition == "installer" else [])
    step(f"A local AtScale engine, {options.edition} edition")
    with engine(options.edition, env, home, *ports, "--build-seconds", "20") as (url, connection):
        say(f"    {url}")
        step("An Airflow database and the connection atscale_default")
        configure(env, connection, home / "setup.log")
        step("Airflow: web UI, scheduler, DAG processor, triggerer")
        with contextlib.suppress(KeyboardInterrupt), LocalAirflow(env, home, options.port) as airflow:
            airflow.wait_until_up()
            show(airflow, url)
            airflow.wait()
    return 0


def settings(port: int) -> dict[str, str]:
    """
    Return Airflow's settings.

    :param port: Port of the web UI.
    """
    return {
        "AIRFLOW__API__HOST": LOCAL_HOST,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://{LOCAL_HOST}:{port}",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{LOCAL_HOST}:{port}/execution/",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    }


def show(airflow: LocalAirflow, engine_url: str) -> None:
    """
    Tell what runs where, and what to do next.

    :param airflow: Airflow.
    :param engine_url: Address of the local AtScale engine.
    """
    step(f"Airflow is up: {airflow.address}")
    say(f"    It listens on {LOCAL_HOST} only: other machines cannot reach it.")
    say("    There is no login: everybody on this machine is admin.")
    say(f"    AtScale's build history: {engine_url}")
    say("    A short walk through the web UI: docs/local-airflow.md")
    say(f"    Logs: {shown(airflow.home)}/*.log")
    say("    Ctrl-C ends everything.")


def check_port(port: int) -> None:
    """
    Exit with an error unless the web server can listen on a port.

    :param port: The port.
    """
    if not 0 < port < 65536:
        sys.exit(f"PORT is {port}; it must be from 1 to 65535.")
    with socket.socket() as listener:
        # As the web server does: connections that were closed a moment ago do not keep the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOCAL_HOST, port))
            listener.listen()
        except OSError as error:
            sys.exit(
                f"Airflow cannot listen on port {port} of {LOCAL_HOST}: {error.strerror}{holder(port)}. "
                f"End the program that uses it, or choose another port: make airflow PORT={other_port(port)}"
            )


def other_port(port: int) -> int:
    """
    Return a port to try instead of another one.

    :param port: The port that cannot be used.
    """
    return 8081 if port == 8080 else 8080


def holder(port: int) -> str:
    """
    Return the name of the program that listens on a port, in brackets; an empty text if it cannot be found.

    :param port: The port.
    """
    with contextlib.suppress(psutil.Error):
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr.port == port and each.pid:
                return f" ({psutil.Process(each.pid).name()}, process {each.pid})"
    return ""


def shown(path: Path) -> Path:
    """
    Return a path as short as it can be written in the repository.

    :param path: The path.
    """
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


class LocalAirflow:
    """
    The processes of a local Airflow; they end when the ``with`` block ends.

    :param env: Their environment variables.
    :param home: Airflow's home, which gets their output.
    :param port: Port of the web UI.
    """

    def __init__(self, env: Mapping[str, str], home: Path, port: int) -> None:
        self.home = home
        self.port = port
        self.address = f"http://{LOCAL_HOST}:{port}"
        self._env = env
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> LocalAirflow:
        """Start the components."""
        try:
            for name, arguments in COMPONENTS.items():
                with self._log(name).open("w") as out:
                    # In a session of its own, so that Ctrl-C in the terminal reaches only this script.
                    self._processes[name] = subprocess.Popen(
                        ["airflow", *arguments],
                        env=self._env,
                        stdout=out,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the components."""
        end(*self._processes.values())

    def wait_until_up(self) -> None:
        """Wait until all components and the example DAGs are there, and print the progress."""
        began = told = time.monotonic()
        missing = [*COMPONENTS, EXAMPLE_DAGS]
        while missing:
            self.check()
            seconds = time.monotonic() - began
            for name in [each for each in self._find_up() if each in missing]:
                say(f"    {name}: up after {seconds:.0f} s")
                missing.remove(name)
                told = time.monotonic()
            if missing and seconds > STARTUP_TIMEOUT:
                sys.exit(
                    f"Airflow did not come up within {STARTUP_TIMEOUT} s: {', '.join(missing)} missing. "
                    f"Read the logs in {shown(self.home)}/*.log"
                )
            if missing and time.monotonic() - told > PROGRESS_INTERVAL:
                say(f"    waiting for: {', '.join(missing)} ({seconds:.0f} s)")
                told = time.monotonic()
            time.sleep(0.5)

    def wait(self) -> None:
        """Wait for ever; exit with an error if a component ends."""
        while True:
            self.check()
            time.sleep(1)

    def check(self) -> None:
        """Exit with an error if a component has ended."""
        for name, process in self._processes.items():
            if process.poll() is None:
                continue
            log = self._log(name)
            say("\n".join(log.read_text(errors="replace").splitlines()[-15:]))
            sys.exit(f"Airflow's {name} ended with {process.returncode}; its output is in {shown(log)}")

    def _log(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def _find_up(self) -> Iterator[str]:
        """Yield the names of what is up."""
        # In this order: between the two questions the web server may begin to listen.
        is_taken = accepts(self.port)
        if not listens(self._processes["api-server"], self.port):
            if is_taken:
                sys.exit(
                    f"Another program{holder(self.port)} took port {self.port} while Airflow was starting. "
                    f"Choose another port: make airflow PORT={other_port(self.port)}"
                )
            return
        health = self._get("/api/v2/monitor/health")
        if health is None:
            return
        yield "api-server"
        for name in COMPONENTS:
            if (health.get(name.replace("-", "_")) or {}).get("status") == "healthy":
                yield name
        if self._get(f"/api/v2/dags/{FIRST_DAG}") is not None:
            yield EXAMPLE_DAGS

    def _get(self, path: str) -> Any:
        try:
            with OPENER.open(f"{self.address}{path}", timeout=5) as answer:
                return json.load(answer)
        except (OSError, ValueError, http.client.HTTPException):
            return None


def accepts(port: int) -> bool:
    """
    Tell whether any program accepts connections on a port.

    :param port: The port.
    """
    try:
        with socket.create_connection((LOCAL_HOST, port), timeout=1):
            return True
    except OSError:
        return False


def listens(process: subprocess.Popen[bytes], port: int) -> bool:
    """
    Tell whether a process or one of its descendants listens on a port.

    :param process: The process.
    :param port: The port.
    """
    with contextlib.suppress(psutil.Error):
        leader = psutil.Process(process.pid)
        found: Iterable[psutil.Process] = [leader, *leader.children(recursive=True)]
        for each in found:
            with contextlib.suppress(psutil.Error):
                for connection in each.net_connections("tcp"):
                    if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
