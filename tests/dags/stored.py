"""Read back what Airflow has stored beside the tasks' XComs: asset events, and the names of mapped tasks."""

from __future__ import annotations

import json
from typing import Any

from airflow.utils.session import create_session

from . import runs


def know(dag: Any) -> None:
    """Make a DAG and its assets known to the database; on Airflow 3 its first run does that."""
    if runs.VERSION < (3, 0):
        dag.sync_to_db()


def asset_events(dag_id: str) -> dict[str, list[dict[str, Any]]]:
    """Return the extras of the events that the tasks of a DAG gave to assets, by the assets' URIs."""
    if runs.VERSION >= (3, 0):
        from airflow.models.asset import AssetEvent as Event
        from airflow.models.asset import AssetModel as Model

        key = "asset_id"
    else:
        from airflow.models.dataset import DatasetEvent as Event
        from airflow.models.dataset import DatasetModel as Model

        key = "dataset_id"
    events: dict[str, list[dict[str, Any]]] = {}
    with create_session() as session:
        uris = {asset.id: asset.uri for asset in session.query(Model)}
        for event in session.query(Event).filter(Event.source_dag_id == dag_id).order_by(Event.id):
            extra = json.loads(event.extra) if isinstance(event.extra, str) else dict(event.extra)
            events.setdefault(uris[getattr(event, key)], []).append(extra)
    return events


def labels(dag_id: str, task_id: str) -> list[str | None]:
    """Return what the grid calls the instances of a task in the last run, in the order of their map indexes."""
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance

    column = getattr(TaskInstance, "_rendered_map_index", TaskInstance.rendered_map_index)
    with create_session() as session:
        last = session.query(DagRun).filter(DagRun.dag_id == dag_id).order_by(DagRun.id.desc()).first()
        rows = session.query(TaskInstance.map_index, column).filter(
            TaskInstance.dag_id == dag_id, TaskInstance.task_id == task_id, TaskInstance.run_id == last.run_id
        )
        return [label for _, label in rows.order_by(TaskInstance.map_index)]


def retry_decisions(dag_id: str, task_id: str) -> list[tuple[float | None, str | None]]:
    """Return the delay and the reason that a retry policy gave each retry of a task (Airflow 3.3+)."""
    from airflow.models.taskinstancehistory import TaskInstanceHistory as History

    with create_session() as session:
        rows = session.query(History.retry_delay_override, History.retry_reason).filter(
            History.dag_id == dag_id, History.task_id == task_id
        )
        return [(delay, reason) for delay, reason in rows.order_by(History.try_number)]


def rendered_fields(dag_id: str, task_id: str) -> dict[str, Any]:
    """Return what the tab Rendered Templates shows of a task's last try."""
    from airflow.models.renderedtifields import RenderedTaskInstanceFields as Fields

    with create_session() as session:
        [row] = session.query(Fields.rendered_fields).filter(Fields.dag_id == dag_id, Fields.task_id == task_id)
        return dict(row[0])


class Api:
    """Airflow's public API, without a server, if every user may do all (Airflow 3.3+)."""

    def __init__(self) -> None:
        from airflow.api_fastapi.app import create_app
        from fastapi.testclient import TestClient

        self._client = TestClient(create_app(apps="core"))

    def _ask(self, method: str, dag_id: str, task_id: str, rest: str = "") -> Any:
        runs_of = f"/api/v2/dags/{dag_id}/dagRuns"
        [run] = self._client.get(runs_of).raise_for_status().json()["dag_runs"]
        path = f"{runs_of}/{run['dag_run_id']}/taskInstances/{task_id}/state-store{rest}"
        answer = self._client.request(method, path).raise_for_status()
        return answer.json() if answer.content else None

    def state_store(self, dag_id: str, task_id: str) -> dict[str, Any]:
        """Return what the task state store of a DAG's only run has for a task, by key."""
        return {each["key"]: each["value"] for each in self._ask("GET", dag_id, task_id)["task_state_store"]}

    def clear_state_store(self, dag_id: str, task_id: str) -> None:
        """Delete all of it."""
        self._ask("DELETE", dag_id, task_id)
