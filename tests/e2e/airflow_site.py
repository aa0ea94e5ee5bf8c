"""A whole Airflow of real processes, and its REST API."""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from environments import inherited

from .processes import ask, free_port, kill, session_members, wait_for

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping

    from .processes import Stable

DAGS = Path(__file__).parent / "dags"
ENDED = ("success", "failed", "skipped", "upstream_failed", "removed")
#: After so many seconds without a sign of life a task counts as dead, so this is most of a killed task's time.
HEARTBEAT_TIMEOUT = 15
#: Read when nothing runs yet, for pytest changes the environment while the cases are played in threads.
INHERITED = inherited()


#: The DAGs of ``dags/``.
DAG_IDS = (
    *(
        f"{kind}_{mode}"
        for kind in ("one", "two", "three", "mapped", "decorated")
        for mode in ("sync", "deferrable")
    ),
    *(f"sensor_{mode}" for mode in ("poke", "reschedule", "deferrable")),
)


def settings(
    home: Path,
    ui_port: int,
    task_port: int,
    fernet_key: str,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, str]:
    """
    Return the configuration, as environment variables: short periods, and nothing but this machine.

    :param home: Airflow's home.
    :param ui_port: port of the API server for users.
    :param task_port: port of the API server for tasks.
    :param fernet_key: key that Airflow encrypts with.
    :param changes: options by section that differ; None for one that is left to Airflow's default.
    """
    sections: dict[str, dict[str, Any]] = {
        "core": {
            "executor": "LocalExecutor",
            "parallelism": 16,
            "dags_folder": DAGS,
            "load_examples": False,
            "dags_are_paused_at_creation": False,
            "max_active_tasks_per_dag": 200,
            "max_active_runs_per_dag": 200,
            "fernet_key": fernet_key,
            "simple_auth_manager_all_admins": True,
            "execution_api_server_url": f"http://127.0.0.1:{task_port}/execution/",
        },
        "database": {
            # Writers of SQLite wait for each other, as long as it takes on a busy machine.
            "sql_alchemy_conn": f"sqlite:///{home}/airflow.db?timeout=20",
        },
        "api": {"host": "127.0.0.1", "workers": 1, "base_url": f"http://127.0.0.1:{ui_port}"},
        "api_auth": {"jwt_secret": "e2e-of-this-machine-only-" + "x" * 40},
        "scheduler": {
            "task_instance_heartbeat_timeout": HEARTBEAT_TIMEOUT,
            "task_instance_heartbeat_timeout_detection_interval": 2,
            "scheduler_heartbeat_sec": 1,
            "job_heartbeat_sec": 1,
            "trigger_timeout_check_interval": 2,
            "orphaned_tasks_check_interval": 5,
            # A scheduler that a busy machine delays for longer takes itself for dead, and resets all tasks.
            "scheduler_health_check_threshold": 12,
            "scheduler_idle_sleep_time": 0.5,
        },
        "workers": {"min_heartbeat_interval": 2},
        "triggerer": {"job_heartbeat_sec": 1, "triggerer_health_check_threshold": 6},
        "dag_processor": {"min_file_process_interval": 30, "refresh_interval": 30, "parsing_processes": 1},
        "logging": {"base_log_folder": home / "logs", "colored_console_log": False},
        "usage_data_collection": {"enabled": False},
        # What the provider bears: short, so that cases are.
        "atscale": {"missing_tolerance": 60, "trouble_tolerance": 60, "lost_reply_window": 45},
    }
    for section, options in (changes or {}).items():
        sections.setdefault(section, {}).update(options)
    env = {
        f"AIRFLOW__{section.upper()}__{name.upper()}": str(value)
        for section, options in sections.items()
        for name, value in options.items()
        if value is not None
    }
    return {**INHERITED, **env, "AIRFLOW_HOME": str(home), "NO_PROXY": "*", "PYTHONUNBUFFERED": "1"}


class Site:
    """
    Run Airflow: api-server, scheduler with LocalExecutor, triggerer, dag-processor.

    :param stable: who starts processes.
    :param home: Airflow's home.
    """

    #: What the title of the process above a task's process holds.
    supervisor_title = "LocalExecutor"

    def __init__(self, stable: Stable, home: Path) -> None:
        from cryptography.fernet import Fernet

        self.stable = stable
        self.home = home
        self.ui_port, self.task_port = free_port(), free_port()
        self.fernet_key = Fernet.generate_key().decode()
        self.env = settings(home, self.ui_port, self.task_port, self.fernet_key, self.changes())
        self.api = Api(f"http://127.0.0.1:{self.ui_port}")
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.triggerers: dict[int, subprocess.Popen[bytes]] = {}
        self._triggerers_started = 0
        self._started = 0

    def changes(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the options that differ from the usual ones."""
        return {}

    def start(self) -> None:
        """Start everything, and wait until it works."""
        self.home.mkdir(parents=True, exist_ok=True)
        self._start_all()
        wait_for(self.api.is_up, "the api-server", 180, 0.5)
        wait_for(lambda: self.api.healthy("scheduler", "triggerer"), "scheduler and triggerer", 180, 0.5)
        for dag_id in DAG_IDS:
            wait_for(lambda dag_id=dag_id: self.api.has_dag(dag_id), f"the DAG {dag_id}", 90, 0.5)

    def close(self) -> None:
        """Do nothing more by itself; the processes are ended by who has started them."""

    def _start_all(self) -> None:
        self.stable.run("db-migrate", self._command("db", "migrate"), self.env, 120)
        with closing(sqlite3.connect(self.home / "airflow.db")) as db:
            db.execute("PRAGMA journal_mode=WAL")
        # Two, for the one that serves users blocks its event loop while it writes its audit log; on SQLite that
        # is a deadlock with whatever task has the database locked and needs the same loop to commit.
        self._start("api-server", "--apps", "core", "--port", str(self.ui_port))
        self._start("api-server", "--apps", "execution", "--port", str(self.task_port))
        self._start("dag-processor")
        self.start_scheduler()
        self.start_triggerer()

    def start_scheduler(self) -> None:
        """Start a scheduler, with its executor."""
        self.scheduler = self._start("scheduler", "--skip-serve-logs")

    def start_triggerer(self) -> None:
        """Start a triggerer."""
        self.triggerers[self._triggerers_started] = self._start("triggerer", "--skip-serve-logs")
        self._triggerers_started += 1

    def wait_scheduler(self) -> None:
        """Wait until the scheduler that was started last sends heartbeats."""
        # The heartbeats of the one before it count for a while, so its own job is asked for.
        wait_for(lambda: self._jobs("SchedulerJob") == 1, "the scheduler", 60, 0.5)

    def wait_triggerers(self, count: int) -> None:
        """Wait until so many triggerers send heartbeats."""
        wait_for(lambda: self._jobs("TriggererJob") == count, f"{count} triggerers", 60, 0.5)

    def _jobs(self, kind: str) -> int:
        """Count the jobs of a kind that have sent a heartbeat in the last seconds."""
        rows = self.query("select state, latest_heartbeat from job where job_type = ?", kind)
        now = datetime.now(timezone.utc)
        return sum(
            state == "running"
            and now - datetime.fromisoformat(beat).replace(tzinfo=timezone.utc) < timedelta(seconds=4)
            for state, beat in rows
        )

    def triggerer_of(self, trigger_id: int) -> int:
        """Return the number of the triggerer that runs a trigger."""
        jobs = [job for (job,) in self.query("select id from job where job_type = 'TriggererJob' order by id")]
        return jobs.index(self.query("select triggerer_id from trigger where id = ?", trigger_id)[0][0])

    def crash_triggerer(self, number: int, victims: str = "both") -> None:
        """
        Kill a triggerer.

        :param number: which one, counted from 0 as they were started.
        :param victims: ``supervisor``, the process that talks to the database; ``runner``, its child, in whose
            event loop the triggers are; ``both``.
        """
        child = self.triggerers.pop(number)
        runners = [pid for pid in session_members([child.pid]) if pid != child.pid]
        kill(*{"supervisor": [child.pid], "runner": runners, "both": [child.pid, *runners]}[victims])
        if victims == "runner":
            wait_for(lambda: child.poll() is not None, "the triggerer to end without its runner", 60)

    def crash_scheduler(self) -> None:
        """Kill the scheduler alone; the processes of its executor live on."""
        assert self.scheduler is not None
        kill(self.scheduler.pid)

    def _start(self, what: str, *options: str) -> subprocess.Popen[bytes]:
        self._started += 1
        return self.stable.start(f"{self._started}-{what}", self._command(what, *options), self.env)

    @staticmethod
    def _command(*words: str) -> list[str]:
        return [sys.executable, "-m", "airflow", *words]

    # --- what was written down ---

    def logs(self, dag_id: str, run_id: str, pattern: str = "**/*.log*") -> dict[Path, str]:
        """Return the task logs of a run; the triggerer's among them."""
        folder = self.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}"
        return {
            path: path.read_text(errors="replace") for path in sorted(folder.glob(pattern)) if path.is_file()
        }

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the metadata database."""
        with closing(sqlite3.connect(f"file:{self.home}/airflow.db?mode=ro", uri=True, timeout=60)) as db:
            return db.execute(statement, values).fetchall()


class Api:
    """
    Do what a user does in the web UI.

    :param url: address of the api-server.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._token: str | None = None
        self._one_at_a_time = threading.Lock()

    def call(self, method: str, path: str, **options: Any) -> Any:
        """Call the public API, as one user at a time."""
        with self._one_at_a_time:
            return self._call(method, path, **options)

    def _call(self, method: str, path: str, **options: Any) -> Any:
        if self._token is None:
            answer = ask("GET", f"{self._url}/auth/token", timeout=30)
            answer.raise_for_status()
            self._token = answer.json()["access_token"]
        headers = {"Authorization": f"Bearer {self._token}"}
        for tries_left in (2, 1, 0):
            answer = ask(method, f"{self._url}/api/v2{path}", headers=headers, timeout=60, **options)
            # SQLite under load; a user would click again.
            if answer.status_code not in (500, 503) or not tries_left:
                break
            time.sleep(1)
        if not answer.ok:
            raise RuntimeError(f"{method} {path} answered {answer.status_code}: {answer.text[:500]}")
        return answer.json() if answer.content else None

    def is_up(self) -> bool:
        """Tell whether the api-server answers."""
        try:
            return ask("GET", f"{self._url}/api/v2/monitor/health", timeout=5).ok
        except requests.RequestException:
            return False

    def healthy(self, *components: str) -> bool:
        """Tell whether components send heartbeats."""
        health = ask("GET", f"{self._url}/api/v2/monitor/health", timeout=30).json()
        return all((health.get(name) or {}).get("status") == "healthy" for name in components)

    def has_dag(self, dag_id: str) -> bool:
        """Tell whether a DAG is there."""
        return any(dag["dag_id"] == dag_id for dag in self.call("GET", "/dags")["dags"])

    def keep_connection(self, conn_id: str, connection: dict[str, Any]) -> None:
        """Write a connection into the metadata database, or change the one that is there."""
        import json

        body = {**connection, "connection_id": conn_id, "extra": json.dumps(connection.get("extra", {}))}
        known = {each["connection_id"] for each in self.call("GET", "/connections?limit=1000")["connections"]}
        if conn_id in known:
            self.call("PATCH", f"/connections/{conn_id}", json=body)
        else:
            self.call("POST", "/connections", json=body)

    def trigger(self, dag_id: str, run_id: str, conf: dict[str, Any]) -> None:
        """Start a run of a DAG."""
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        self.call("POST", f"/dags/{dag_id}/dagRuns", json=body)

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return a run's state."""
        return str(self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def tasks(self, dag_id: str, run_id: str, task_id: str = "build") -> list[dict[str, Any]]:
        """Return the task instances of a run, by map index."""
        found = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return sorted((ti for ti in found if ti["task_id"] == task_id), key=lambda ti: ti["map_index"])

    def mark(self, dag_id: str, run_id: str, state: str, task_id: str = "build") -> None:
        """Mark a task."""
        self.call(
            "PATCH", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}", json={"new_state": state}
        )

    def clear(self, dag_id: str, run_id: str, task_id: str = "build") -> None:
        """Clear a task, with all that were mapped from it."""
        body = {
            "dry_run": False,
            "only_failed": False,
            "reset_dag_runs": True,
            "dag_run_id": run_id,
            "task_ids": [task_id],
        }
        self.call("POST", f"/dags/{dag_id}/clearTaskInstances", json=body)

    def xcom(self, dag_id: str, run_id: str, key: str, map_index: int = -1, task_id: str = "build") -> Any:
        """Return an XCom, None where there is none."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        try:
            return self.call("GET", f"{path}?map_index={map_index}&deserialize=true")["value"]
        except RuntimeError as error:
            if " answered 404" in str(error):
                return None
            raise
