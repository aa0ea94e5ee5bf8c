"""Local AtScale engines in processes of their own."""

from __future__ import annotations

import secrets
import sys
from typing import TYPE_CHECKING, Any

import requests

from airflow_provider_atscale.testing import EngineControl

from .processes import ask, free_port, wait_for

if TYPE_CHECKING:
    import subprocess

    from .processes import Stable

CATALOG = "Sales Insights"
#: Builds end when the test says so.
NEVER = 100_000


class Engine:
    """
    Run a local AtScale engine that keeps its state over a restart.

    :param stable: who starts processes.
    :param name: what to call it.
    :param edition: which edition it is.
    """

    def __init__(self, stable: Stable, name: str, edition: str) -> None:
        self.name = name
        self.edition = edition
        self.api_token = f"e2e-api-token-{secrets.token_hex(16)}"
        self.password = f"e2e-password-{secrets.token_hex(16)}"
        self.client_api_key = f"e2e-client-api-key-{secrets.token_hex(16)}"
        self._stable = stable
        self._child: subprocess.Popen[bytes] | None = None
        self._take_ports()

    def _take_ports(self) -> None:
        self.port, self._engine_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.control = EngineControl(self.url, timeout=30)

    def start(self) -> None:
        """Start, and wait until it answers; at the first start any ports will do."""
        is_first = self._child is None
        for _ in range(3):
            self._child = self._start_child()
            wait_for(lambda: self._has_ended or self._answers(), f"the engine {self.name}", 30)
            if not self._has_ended:
                return
            if not is_first:
                break
            # Another process of this machine has taken one of the ports that were free a moment ago.
            self._take_ports()
        raise RuntimeError(f"the engine {self.name} ends as soon as it is started: see {self.name}.out")

    def _start_child(self) -> subprocess.Popen[bytes]:
        options: dict[str, Any] = {
            "--edition": self.edition,
            "--port": self.port,
            "--engine-port": self._engine_port,
            "--state-file": self._stable.folder / f"{self.name}.state",
            "--build-seconds": NEVER,
            # A second start while a batch runs is let through, so that it would be seen as an overlap.
            "--on-second-start": "allow",
            "--api-token": self.api_token,
            "--password": self.password,
            "--client-api-key": self.client_api_key,
        }
        words = [str(word) for option in options.items() for word in option]
        command = [sys.executable, "-m", "airflow_provider_atscale.testing", *words]
        env = {"PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1"}
        return self._stable.start(self.name, command, env)

    @property
    def _has_ended(self) -> bool:
        return self._child is not None and self._child.poll() is not None

    def _answers(self) -> bool:
        try:
            return ask("GET", f"{self.url}/_engine/history", timeout=5).ok
        except requests.RequestException:
            return False

    def crash(self) -> None:
        """Kill it."""
        assert self._child is not None
        self._stable.crash(self._child)

    def connection(self, auth: str) -> dict[str, Any]:
        """Return the Airflow connection that leads here."""
        connection: dict[str, Any] = {"conn_type": "atscale", "host": self.url, "extra": {"timeout": 60}}
        if self.edition == "installer":
            engine_url = f"http://127.0.0.1:{self._engine_port}"
            connection["extra"] |= {
                "edition": self.edition,
                "design_center_url": self.url,
                "engine_url": engine_url,
            }
            if auth == "api_token":
                connection["extra"]["auth_type"] = "client_api_key"
                return {**connection, "login": None, "password": self.client_api_key}
        if auth == "password":
            return {**connection, "login": "etl", "password": self.password}
        # Said, and not left out: a change of a connection keeps what it does not name.
        return {**connection, "login": None, "password": self.api_token}
