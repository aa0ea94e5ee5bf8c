"""
Run a DAG in real Airflow and tell what came of it.

Everything that differs between Airflow's versions is here; the tests only see :class:`Run`.
"""

from __future__ import annotations

import functools
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import airflow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.providers.common.compat.sdk import DAG

VERSION = tuple(int(part) for part in airflow.__version__.split(".")[:2])
#: Whether a retry knows what the try before it has stored.
HAS_TASK_STATE = VERSION >= (3, 3)

_BUNDLE = "dags-folder"


def prepare() -> None:
    """Make the database, of which each run of the tests has its own."""
    from airflow.utils.db import initdb

    _let_nothing_reach_the_disk()
    initdb()
    _keep_the_api_server()
    _let_dates_be_dates()
    if VERSION >= (3, 0):
        from airflow.dag_processing.bundles.manager import DagBundlesManager

        DagBundlesManager().sync_bundles_to_db()


def _let_nothing_reach_the_disk() -> None:
    """Let SQLite not wait for the disk at each of a run's many commits: the database is thrown away."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA synchronous = OFF")
        cursor.close()


def _keep_the_api_server() -> None:
    """Let all tasks ask one API server, as since Airflow 3.3; to make a new one for each takes long."""
    if not (3, 0) <= VERSION < (3, 3):
        return
    from airflow.sdk.execution_time import supervisor

    supervisor.in_process_api_server = functools.lru_cache(maxsize=1)(supervisor.in_process_api_server)


def _let_dates_be_dates() -> None:
    """Tell a rescheduled sensor when it poked first; ``dag.test()`` of 3.0 alone gives it the bare text."""
    if VERSION != (3, 0):
        return
    from airflow.sdk.api.client import TaskInstanceOperations
    from airflow.sdk.execution_time.comms import TaskRescheduleStartDate

    ask = TaskInstanceOperations.get_reschedule_start_date

    def get(self: Any, *arguments: Any, **named: Any) -> TaskRescheduleStartDate:
        return TaskRescheduleStartDate(start_date=ask(self, *arguments, **named).start_date)

    TaskInstanceOperations.get_reschedule_start_date = get


def _register(dag: DAG) -> None:
    """Make a DAG known to the database; before Airflow 3 the run does that itself."""
    if VERSION < (3, 0):
        return
    if VERSION >= (3, 2):
        from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    elif VERSION >= (3, 1):
        from airflow.models.dagbag import DagBag, sync_bag_to_db
    else:
        from airflow.models.dagbag import DagBag

        sync_bag_to_db = DagBag.sync_to_db
        # Asked for, and given only to DAGs that come from a file.
        dag.relative_fileloc = dag.fileloc
    bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    bag.bag_dag(dag)
    sync_bag_to_db(bag, _BUNDLE, None)


@dataclass
class Task:
    """
    What came of one task.

    :param state: Its state.
    :param tries: How often it was tried.
    :param errors: The error of each try that failed.
    :param xcoms: What it pushed, without its links.
    :param links: The links that it pushed.
    """

    state: str | None
    tries: int
    errors: list[BaseException] = field(default_factory=list)
    xcoms: dict[str, Any] = field(default_factory=dict)
    links: dict[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> Any:
        """What it returned."""
        return self.xcoms.get("return_value")

    @property
    def error(self) -> BaseException:
        """The error of its only try that failed."""
        [error] = self.errors
        return error


@dataclass
class Run:
    """
    What came of a run.

    :param state: Its state.
    :param tasks: By their ids; those that are mapped with ``[0]``, ``[1]`` ... added.
    """

    state: str
    tasks: dict[str, Task]

    def __getitem__(self, task_id: str) -> Task:
        return self.tasks[task_id]

    @property
    def states(self) -> dict[str, str | None]:
        """The states of the tasks."""
        return {task_id: task.state for task_id, task in self.tasks.items()}


def run(dag: DAG, **conf: Any) -> Run:
    """
    Run a DAG once, from its first task to its last.

    :param dag: The DAG.
    :param conf: What the run was triggered with, which also sets its params.
    """
    errors: dict[str, list[BaseException]] = {}

    def note(context: Any) -> None:
        ti = context["ti"]
        errors.setdefault(_name(ti), []).append(context["exception"])

    for task in dag.tasks:
        # A mapped task is made of these only when it runs.
        arguments = getattr(task, "partial_kwargs", None)
        for name in ("on_failure_callback", "on_retry_callback"):
            if arguments is None:
                setattr(task, name, [note])
            else:
                arguments[name] = [note]
    _register(dag)
    with _one_second_at_most(), _callbacks_hear_of_errors():
        done = dag.test(run_conf=conf or None)
    tasks = {}
    for ti in done.get_task_instances():
        state = None if ti.state is None else str(getattr(ti.state, "value", ti.state))
        tasks[_name(ti)] = Task(state, ti.try_number, errors.get(_name(ti), []))
    for name, key, value in _xcoms(done):
        into = tasks[name].links if key.startswith("_link_") else tasks[name].xcoms
        into[key] = value
    return Run(str(getattr(done.state, "value", done.state)), tasks)


def _name(ti: Any) -> str:
    return ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"


@contextmanager
def _one_second_at_most() -> Iterator[None]:
    """Airflow looks each second whether a task that waits for its next try may begin; a hundredth will do."""
    import time
    from unittest import mock

    sleep = time.sleep
    with mock.patch("time.sleep", lambda seconds: sleep(0.01 if seconds == 1 else seconds)):
        yield


@contextmanager
def _callbacks_hear_of_errors() -> Iterator[None]:
    """Tell callbacks what went wrong, as Airflow does; only ``dag.test()`` of 3.0 to 3.2 forgets it."""
    if not (3, 0) <= VERSION < (3, 3):
        yield
        return
    from unittest import mock

    from airflow.sdk.execution_time import task_runner

    finalize = task_runner.finalize

    def tell(ti: Any, state: Any, context: Any, log: Any, error: BaseException | None = None) -> None:
        if error is not None:
            context["exception"] = error
        finalize(ti, state, context, log, error)

    with mock.patch.object(task_runner, "finalize", tell):
        yield


def _xcoms(done: Any) -> Iterator[tuple[str, str, Any]]:
    from airflow.utils.session import create_session

    if VERSION >= (3, 0):
        from airflow.models.xcom import XComModel as XCom
    else:
        from airflow.models.xcom import BaseXCom as XCom
    with create_session() as session:
        rows = session.query(XCom).filter(XCom.dag_id == done.dag_id, XCom.run_id == done.run_id).all()
        for row in rows:
            # Before Airflow 3 a value is deserialized as soon as its row is read.
            value = XCom.deserialize_value(row) if VERSION >= (3, 0) else row.value
            if VERSION >= (3, 0) and isinstance(value, str) and row.key not in ("return_value",):
                value = _loads(value)
            yield _name(row), row.key, value


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
