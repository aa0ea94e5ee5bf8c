"""DAGs in real Airflow, against the local engine, with a connection as users enter it."""

from __future__ import annotations

import itertools
import threading
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator

from airflow_provider_atscale.api import installer_start
from airflow_provider_atscale.builds import join
from airflow_provider_atscale.testing import AtScaleEngine

from . import runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_numbers = itertools.count(1)

#: Short, so that tests are; a user's tasks would take a minute and more.
QUICK = {"poll_interval": 0.1}
#: The arguments of a trigger that its event gives back.
GIVEN_BACK = (
    "atscale_conn_id", "catalog_id", "model_id", "catalog", "model", "poll_interval", "deadline", "payload",
)  # fmt: skip
MODEL = {"catalog": "Sales Insights", "model": "Internet Sales"}

EDITIONS = ["container", "installer"]
#: Modules in which no edition has a part: what they are about is done with what its calls have returned.
WHATEVER_THE_EDITION = (
    "test_builds_page",
    "test_arguments",
    "test_deadlines",
    "test_decorator",
    "test_events",
    "test_mapping",
    "test_policies",
    "test_sensor",
    "test_skip_if_built_within",
    "test_state_store",
    "test_watcher",
)
#: For tests in such a module in which the edition has a part all the same, and the other way round.
of_both_editions = pytest.mark.parametrize("edition", EDITIONS, indirect=True)
whatever_the_edition = pytest.mark.parametrize("edition", EDITIONS[:1], indirect=True)
#: The two ways in which an operator waits.
WAITS = {"sync": {}, "deferrable": {"deferrable": True}}
#: The three in which a sensor does.
SENSORS = {
    "poke": {"mode": "poke"},
    "reschedule": {"mode": "reschedule"},
    "deferrable": {"deferrable": True},
}


@pytest.fixture(scope="session", autouse=True)
def _airflow() -> None:
    """Make the database, and let the first run, which loads half of Airflow, be nobody's."""
    runs.prepare()
    with new_dag() as dag:
        BaseOperator(task_id="nothing")
    runs.run(dag)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that has an engine once for each edition, unless it or its module says otherwise."""
    marks = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "edition" in metafunc.fixturenames and "edition" not in marks:
        module = metafunc.module.__name__.rpartition(".")[2]
        metafunc.parametrize(
            "edition", EDITIONS[:1] if module in WHATEVER_THE_EDITION else EDITIONS, indirect=True
        )


@pytest.fixture
def edition(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def _new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what other tests of this process have found out about an engine at the same port."""
    installer_start.known_variants.clear()
    # Nobody else starts builds here, so the pause before a start would only make the tests slow.
    monkeypatch.setattr(join, "_PAUSE", 0.0)
    monkeypatch.setattr(join, "_PAUSE_AFTER_WAIT", 0.0)


@pytest.fixture
def engine(edition: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[AtScaleEngine]:
    """Run a local engine as the connection ``atscale_default``; batches take a tenth of a second."""
    with AtScaleEngine(edition, build_seconds=0.1) as engine:
        monkeypatch.setenv("AIRFLOW_CONN_ATSCALE_DEFAULT", engine.connection_json())
        yield engine


@pytest.fixture
def when() -> Iterator[Callable[[Callable[[], bool], Callable[[], Any]], None]]:
    """Do something as soon as something has happened, while a DAG runs."""
    over = threading.Event()
    watchers = []

    def when(condition: Callable[[], bool], action: Callable[[], Any]) -> None:
        def watch() -> None:
            while not over.wait(0.02):
                if condition():
                    action()
                    return

        watchers.append(threading.Thread(target=watch))
        watchers[-1].start()

    yield when
    over.set()
    for watcher in watchers:
        watcher.join()


@pytest.fixture
def running(engine: AtScaleEngine, when: Any) -> Callable[..., Any]:
    """Let a batch of somebody else run until it was looked at a few times."""

    def running(status: str = "done", looks: int = 3, **options: Any) -> Any:
        engine.settings(build_seconds=600)
        batch = engine.start_batch("Sales Insights", "Internet Sales", **options)
        engine.settings(build_seconds=0.1)
        when(
            lambda: engine.stats.routes.get("history", 0) >= looks,
            lambda: engine.end_batch(batch.id, status),
        )
        return batch

    return running


def listing(edition: str, rows: list[Any]) -> dict[str, Any]:
    """Return a list answer as an edition words it."""
    return {"data": rows, "total": len(rows)} if edition == "container" else {"response": {"data": rows}}


def new_dag(**arguments: Any) -> DAG:
    """Make an empty DAG to fill."""
    default_args = {"retry_delay": timedelta(0), **arguments.pop("default_args", {})}
    start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    return DAG(f"dag_{next(_numbers)}", schedule=None, start_date=start, default_args=default_args, **arguments)


def run_task(operator: type, conf: dict[str, Any] | None = None, **arguments: Any) -> runs.Task:
    """Run a DAG of one task."""
    with new_dag(params=arguments.pop("params", None)) as dag:
        operator(task_id="task", **arguments)
    return runs.run(dag, **(conf or {}))["task"]


class TaskInstance:
    """Stand in for Airflow's task instance, as far as our tasks use it."""

    def __init__(self) -> None:
        self.dag_id, self.task_id, self.run_id = "dag", "task", "run"
        self.start_date = datetime.now(timezone.utc)
        self.map_index = -1
        self.try_number, self.max_tries = 1, 0
        self.xcoms: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value

    def get_first_reschedule_date(self, context: Any) -> None:
        return None


class Store(dict[str, Any]):
    """Stand in for Airflow's task state store."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value


@pytest.fixture
def context() -> Iterator[dict[str, Any]]:
    """Make a context for tasks that are called without Airflow around them."""
    return {"ti": TaskInstance(), "task_state_store": Store(), "dag_run": None}
