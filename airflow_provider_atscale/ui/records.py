"""What Airflow's database knows of builds, before anything is made of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class TaskRun:
    """A task instance; its map index is -1 if it is not mapped."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1


@dataclass(slots=True)
class Pushed:
    """What a task instance has pushed, the last of it at a time: values by their XCom keys."""

    task: TaskRun
    state: str | None
    pushed_at: datetime
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a model's asset; no task has emitted that of a trigger or of Airflow's API."""

    uri: str
    timestamp: datetime
    extra: Any
    task: TaskRun | None


def parse(text: Any) -> Any:
    """Return the value of a JSON text; None if it is no JSON."""
    try:
        value = json.loads(text)
        # Airflow's own encoding of an XCom is a JSON text inside a JSON text.
        return json.loads(value) if isinstance(value, str) and value[:1] in ("{", '"') else value
    except (TypeError, ValueError, RecursionError):
        return None
