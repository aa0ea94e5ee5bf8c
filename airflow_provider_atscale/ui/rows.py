"""Read what Airflow's database knows of builds: the XComs of tasks, and the events of assets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.exceptions import AirflowOptionalProviderFeatureException

try:
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
except ImportError as error:
    raise AirflowOptionalProviderFeatureException("The page AtScale builds needs Airflow 3.1+") from error
from sqlalchemy import Text, and_, case, cast, func, or_, select

from airflow_provider_atscale.assets.atscale import SCHEME
from airflow_provider_atscale.builds.report import BATCH_KEY, FAILURE_KEY, REPORT_KEY
from airflow_provider_atscale.links.atscale import XCOM_KEY as LINK_KEY
from airflow_provider_atscale.ui.records import Event, Pushed, TaskRun, parse
from airflow_provider_atscale.waiting.progress_xcom import KEY as PROGRESS_KEY

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sqlalchemy.orm import Session

#: The XComs that tell of a build.
REPORTS = (REPORT_KEY, FAILURE_KEY)
KEYS = (BATCH_KEY, PROGRESS_KEY, *REPORTS)
#: How many runs of a task, and events of an asset, are read: the newest ones.
PER_TASK = 30
#: How many rows of a kind are read at most.
MAX_ROWS = 50_000
#: Characters of an XCom of a build, more than one ever has: other tasks may push much more under the same keys.
MAX_VALUE = 200_000
#: The columns that tell which task instance has pushed an XCom.
_TASK = (XComModel.dag_id, XComModel.run_id, XComModel.task_id, XComModel.map_index)
#: What a database can compare with in one statement.
_CHUNK = 500


def read_dag_ids(session: Session, dag_ids: Collection[str]) -> set[str]:
    """Return those of some DAGs whose tasks have pushed XComs of builds."""
    query = select(XComModel.dag_id).where(XComModel.key.in_(KEYS), XComModel.dag_id.in_(dag_ids)).distinct()
    return set(session.scalars(query))


def read_pushed(session: Session, dag_ids: Collection[str]) -> list[Pushed]:
    """Return what task instances of some DAGs have pushed, the newest first."""
    found: dict[TaskRun, Pushed] = {}
    for row in session.execute(_pushed_query(dag_ids)):
        task = _task_of(row)
        found.setdefault(task, Pushed(task, row.state, row.timestamp)).values[row.key] = parse(row.value)
    return list(found.values())


def _pushed_query(dag_ids: Collection[str]) -> Any:
    task = (XComModel.dag_id, XComModel.task_id, XComModel.map_index)
    runs = (
        select(
            XComModel.dag_run_id,
            *task,
            func.count(case((XComModel.key.in_(REPORTS), 1))).label("reports"),
            # The newest are those that have pushed last: a DAG run that was cleared is older than its newest build.
            func.row_number()
            .over(partition_by=task, order_by=func.max(XComModel.timestamp).desc())
            .label("place"),
        )
        .where(XComModel.key.in_(KEYS), XComModel.dag_id.in_(dag_ids))
        .group_by(XComModel.dag_run_id, *task)
        .subquery()
    )
    # As text: a value that is not JSON must not fail the query.
    value = cast(XComModel.value, Text)
    return (
        select(
            *_TASK,
            XComModel.key,
            case((func.length(value) <= MAX_VALUE, value)).label("value"),
            XComModel.timestamp,
            TaskInstance.state,
        )
        .join(runs, _same(runs.c, "dag_run_id", "task_id", "map_index"))
        .outerjoin(TaskInstance, _same(TaskInstance, "dag_id", "run_id", "task_id", "map_index"))
        .where(
            runs.c.place <= PER_TASK,
            # A report tells all that the others would.
            or_(XComModel.key.in_(REPORTS), and_(XComModel.key.in_(KEYS), runs.c.reports == 0)),
        )
        .order_by(XComModel.timestamp.desc())
        .limit(MAX_ROWS)
    )


def _same(other: Any, *columns: str) -> Any:
    """Return the condition that columns of an XCom equal those of the same name elsewhere."""
    return and_(*(getattr(XComModel, name) == getattr(other, name) for name in columns))


def read_events(session: Session, dag_ids: Collection[str], reported: Collection[TaskRun] = ()) -> list[Event]:
    """
    Return the events of models' assets, the newest first: those of some DAGs, and those of no DAG.

    :param reported: Task instances whose XComs have told all that their events would tell.
    """
    wanted: dict[int, tuple[str, TaskRun | None]] = {}
    for row in session.execute(_events_query(dag_ids)):
        task = _task_of(row) if row.dag_id and row.run_id and row.task_id else None
        if task not in reported:
            wanted[row.id] = (row.uri, task)
    events = []
    for ids in _chunks(list(wanted)):
        # As text: an extra that is not JSON must not fail the query.
        columns = (AssetEvent.id, AssetEvent.timestamp, cast(AssetEvent.extra, Text).label("extra"))
        for row in session.execute(select(*columns).where(AssetEvent.id.in_(ids))):
            uri, task = wanted[row.id]
            events.append(Event(uri, row.timestamp, parse(row.extra), task))
    return events


def _events_query(dag_ids: Collection[str]) -> Any:
    newest_first = (AssetEvent.timestamp.desc(), AssetEvent.id.desc())
    ranked = (
        select(
            AssetEvent.id,
            AssetModel.uri,
            AssetEvent.source_dag_id.label("dag_id"),
            AssetEvent.source_run_id.label("run_id"),
            AssetEvent.source_task_id.label("task_id"),
            func.coalesce(AssetEvent.source_map_index, -1).label("map_index"),
            func.row_number().over(partition_by=AssetEvent.asset_id, order_by=newest_first).label("place"),
        )
        .join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        .where(
            AssetModel.uri.like(f"{SCHEME}://%"),
            # Triggers and Airflow's API emit events of no DAG. Airflow shows them to all who can read assets.
            or_(AssetEvent.source_dag_id.in_(dag_ids), AssetEvent.source_dag_id.is_(None)),
        )
        .subquery()
    )
    return select(ranked).where(ranked.c.place <= PER_TASK).order_by(ranked.c.id.desc()).limit(MAX_ROWS)


def _task_of(row: Any) -> TaskRun:
    return TaskRun(row.dag_id, row.run_id, row.task_id, row.map_index)


def read_links(session: Session, tasks: Collection[TaskRun]) -> dict[TaskRun, str]:
    """Return the addresses of AtScale's build history that task instances have pushed."""
    links: dict[TaskRun, str] = {}
    for run_ids in _chunks(sorted({task.run_id for task in tasks})):
        query = select(*_TASK, cast(XComModel.value, Text).label("value")).where(
            XComModel.key == LINK_KEY,
            XComModel.run_id.in_(run_ids),
            XComModel.dag_id.in_({task.dag_id for task in tasks}),
            XComModel.task_id.in_({task.task_id for task in tasks}),
        )
        for row in session.execute(query):
            value = parse(row.value)
            if isinstance(value, str):
                links[_task_of(row)] = value
    return links


def _chunks(values: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]
