"""Airflow on CeleryExecutor: two schedulers, two workers, two triggerers, one API server."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2e.airflow_site import Site
from e2e.processes import STOPPING, TookTooLongError, kill, session_members, wait_for

from .services import Postgres, Redis

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping

    from e2e.processes import Stable

NAMES = Path(__file__).parent / "names"
#: After so many seconds without a heartbeat a task counts as dead (Airflow's default: 300).
HEARTBEAT_TIMEOUT = 30
#: Shorter than that, as with the defaults (120 and 300): the retry comes when the window has passed.
LOST_REPLY_WINDOW = 8
#: Together longer than any outage: a task that cannot be queued while Redis is away spends a try at once.
RETRIES, RETRY_DELAY = 4, 7
#: Tasks that one worker runs at a time.
CONCURRENCY = 8
JOBS = {"scheduler": "SchedulerJob", "triggerer": "TriggererJob"}


@dataclass
class Component:
    """
    One process of Airflow with what it starts.

    :param name: its name, unique for each start; Airflow takes it for the machine's.
    :param kind: which command of Airflow it is.
    :param child: the process.
    :param is_wanted: whether it is to be started again when it ends by itself.
    """

    name: str
    kind: str
    child: subprocess.Popen[bytes]
    is_wanted: bool = True

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self.child.poll() is None


class CelerySite(Site):
    """
    Run Airflow on CeleryExecutor, and start again what ends by itself, as a process manager does.

    :param stable: who starts processes.
    :param home: Airflow's home.
    """

    supervisor_title = "airflow supervisor:"

    def __init__(self, stable: Stable, home: Path) -> None:
        self.postgres = Postgres(stable)
        self.redis = Redis(stable)
        self.components: dict[str, Component] = {}
        #: Components that ended by themselves, with the code that they returned.
        self.ended: list[tuple[str, int]] = []
        self._lock = threading.RLock()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        super().__init__(stable, home)
        # One API server for users and tasks.
        self.task_port = self.ui_port

    def changes(self) -> Mapping[str, Mapping[str, Any]]:
        return {
            "core": {
                "executor": "CeleryExecutor",
                "parallelism": 64,
                "execution_api_server_url": f"http://127.0.0.1:{self.ui_port}/execution/",
                "hostname_callable": "e2e_names.component",
            },
            "database": {"sql_alchemy_conn": self.postgres.url},
            "celery": {
                "broker_url": self.redis.url,
                "result_backend": f"db+{self.postgres.url}",
                "worker_concurrency": CONCURRENCY,
            },
            "scheduler": {
                "task_instance_heartbeat_timeout": HEARTBEAT_TIMEOUT,
                "scheduler_health_check_threshold": 15,
            },
            # As Airflow has it: it decides how long tasks bear an API server that is away.
            "workers": {"min_heartbeat_interval": None},
            "triggerer": {"triggerer_health_check_threshold": 8},
            "atscale": {"lost_reply_window": LOST_REPLY_WINDOW},
        }

    def _start_all(self) -> None:
        self.env |= {
            "PYTHONPATH": str(NAMES),
            "E2E_RETRIES": str(RETRIES),
            "E2E_RETRY_DELAY": str(RETRY_DELAY),
        }
        self.postgres.create()
        self.postgres.start()
        self.postgres.create_database()
        self.redis.start()
        self.stable.run("db-migrate", self._command("db", "migrate"), self.env, 180)
        for kind in ("api-server", "dag-processor", *("scheduler", "triggerer", "worker") * 2):
            self.start_component(kind)
        self._keeper.start()
        for name in self.names("worker"):
            self.wait_ready(name, 180)

    def close(self) -> None:
        """End what is not ended by a signal to a session."""
        with self._lock:
            for component in self.components.values():
                component.is_wanted = False
        if self._keeper.is_alive():
            self._keeper.join(10)
        # The other processes first: nobody may still be writing.
        kill(*session_members(each.child.pid for each in self.components.values()))
        self.redis.close()
        self.postgres.close()

    # --- the components ---

    def start_component(self, kind: str, **env: str) -> str:
        """Start a component, and return its name."""
        options = {
            "api-server": ("--port", str(self.ui_port)),
            "scheduler": ("--skip-serve-logs",),
            "triggerer": ("--skip-serve-logs",),
        }
        with self._lock:
            self._started += 1
            name = f"{kind}-{self._started}"
            if kind == "worker":
                words = ["celery", "worker", "--skip-serve-logs", "--celery-hostname", name]
            else:
                words = [kind, *options.get(kind, ())]
            environment = {**self.env, "E2E_COMPONENT": name, **env}
            child = self.stable.start(name, self._command(*words), environment)
            self.components[name] = Component(name, kind, child)
        return name

    def names(self, kind: str) -> list[str]:
        """List the components of a kind that run, the oldest first."""
        with self._lock:
            return [each.name for each in self.components.values() if each.kind == kind and each.is_running]

    def wait_ready(self, name: str, timeout: float = 120) -> None:
        """Wait until a component does its work."""
        component = self.components[name]
        if component.kind == "worker":
            wait_for(lambda: f"{name} ready" in self.stable.output(name), f"{name} to be ready", timeout)
        elif component.kind == "api-server":
            wait_for(self.api.is_up, "the API server", timeout, 0.3)
        else:
            wait_for(lambda: self.beats(name), f"a heartbeat of {name}", timeout, 0.3)

    def beats(self, name: str) -> bool:
        """Tell whether a component has sent a heartbeat in the last seconds."""
        rows = self.query("select state, latest_heartbeat from job where hostname = ?", name)
        now = datetime.now(timezone.utc)
        return any(state == "running" and now - beat < timedelta(seconds=4) for state, beat in rows)

    def crash(self, name: str) -> None:
        """Kill a component with all that it has started, as a machine that loses its power does."""
        self.dismiss(name)
        kill(*session_members([self.components[name].child.pid]))

    def dismiss(self, name: str) -> None:
        """Do not start a component again when it ends."""
        with self._lock:
            self.components[name].is_wanted = False

    def replace(self, *names: str) -> list[str]:
        """Start another component for each, and wait until they work."""
        started = [self.start_component(self.components[name].kind) for name in names]
        for name in started:
            self.wait_ready(name)
        return started

    def settle(self, timeout: float = 150) -> None:
        """Wait until all components work, after something that concerned them all."""
        deadline = time.monotonic() + timeout
        for kind, count in (("api-server", 1), ("scheduler", 2), ("triggerer", 2), ("worker", 2)):
            wait_for(lambda kind=kind, count=count: len(self.names(kind)) >= count, f"{count} {kind}", timeout)
            for name in self.names(kind):
                # One that ends after all is started again under another name.
                with suppress(TookTooLongError):
                    self.wait_ready(name, max(deadline - time.monotonic(), 1))

    def _keep(self) -> None:
        """Start again what ends by itself."""
        while not STOPPING.wait(1):
            with self._lock:
                for component in list(self.components.values()):
                    if component.is_wanted and not component.is_running:
                        component.is_wanted = False
                        self.ended.append((component.name, component.child.returncode))
                        # What it leaves behind would be a second one.
                        kill(*session_members([component.child.pid]))
                        with suppress(TookTooLongError):
                            self.start_component(component.kind)

    # --- where things run ---

    def triggerer_named(self, trigger_id: int) -> str:
        """Return the name of the triggerer that runs a trigger."""
        statement = "select j.hostname from trigger t join job j on j.id = t.triggerer_id where t.id = ?"
        return str(self.query(statement, trigger_id)[0][0])

    def scheduler_named(self, task_id: str) -> str:
        """Return the name of the scheduler that has queued a task instance."""
        statement = (
            "select j.hostname from task_instance t join job j on j.id = t.queued_by_job_id where t.id = ?"
        )
        return str(self.query(statement, task_id)[0][0])

    def worker_of(self, pid: int) -> str:
        """Return the name of the worker that runs a task's process."""
        session = os.getsid(pid)
        return next(each.name for each in self.components.values() if each.child.pid == session)

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the metadata database."""
        return self.postgres.query(statement, *values)
