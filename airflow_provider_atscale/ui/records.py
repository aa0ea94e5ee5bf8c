"""What Airflow's database knows of builds, before anything is made of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class TaskRun:
    """
    A task instance.

    :param dag_id: Its DAG.
    :param run_id: Its DAG run.
    :param task_id: Its task.
    :param map_index: Its place if it is mapped, else -1.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1


@dataclass(slots=True)
class Pushed:
    """
    What a task instance has pushed.

    :param task: The task instance.
    :param state: Its state.
    :param pushed_at: When it pushed the last of it.
    :param values: The values by their XCom keys.
    """

    task: TaskRun
    state: str | None
    pushed_at: datetime | None
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """
    An event of a model's asset.

    :param uri: The asset's URI.
    :param timestamp: When it happened.
    :param extra: What the task or the trigger has added.
    :param task: The task instance that has emitted it; None for a trigger or Airflow's API.
    """

    uri: str
    timestamp: datetime | None
    extra: Any
    task: TaskRun | None


def parse(text: Any) -> Any:
    """
    Return the value of a JSON text; None if it is no JSON.

    :param text: The text.
    """
    try:
        value = json.loads(text)
        # Airflow's own encoding of an XCom is a JSON text inside a JSON text.
        return json.loads(value) if isinstance(value, str) and value[:1] in ("{", '"') else value
    except (TypeError, ValueError, RecursionError):
        return None
