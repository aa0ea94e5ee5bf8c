"""One case on the stage: its models, its runs, its engine, and what can be done to them."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from math import inf
from typing import TYPE_CHECKING, Any

from .engines import CATALOG
from .processes import TookTooLongError, is_alive, kill, parent, title, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_atscale.testing import BatchRecord, EngineControl, Model, RequestRecord

    from .airflow_site import Site
    from .engines import Engine

#: Where a task looks for a lost batch as long as it may, and then a retry of it comes.
AFTER_THE_WINDOW = 150.0
#: Until a request comes, a batch is there, a retry begins: on a busy machine, with a killed worker on the way.
SOON = 75.0
RUNS_OVER = ("success", "failed")
#: Seconds for which runs must be over until nothing more is expected of them.
OVER_FOR = 4.0
#: The operator's two modes are called ``sync`` and ``deferrable``; these are the sensor's.
SENSOR_MODES = ("sensor poke", "sensor reschedule", "sensor deferrable")
#: Of so many mapped tasks the report is read; one request each.
FEW = 10
#: What a rescheduled task is in between its pokes.
BETWEEN_POKES = ("running", "up_for_reschedule", "scheduled", "queued")


@dataclass(frozen=True)
class Worker:
    """
    The two processes that run a task.

    :param supervisor: pid of the executor's process, which talks to the API server.
    :param task: pid of the process that it has forked, which runs the operator.
    """

    supervisor: int
    task: int


@dataclass(frozen=True)
class Observed:
    """
    What was seen of a case when it was over; each may be compared with what the case expects.

    :param builds: batches that the case's tasks have started, as the engine's own list says.
    :param overlaps: how many of them began while another batch of the model ran.
    :param posts: start calls that reached the engine, refused ones included.
    :param states: final states of the tasks.
    :param tries: number of the last try of each, less those that Airflow took.
    :param early: tasks that were green before any batch of the case had ended.
    :param taken: tries that Airflow's scheduler took from tasks that came back from a deferral too soon for it.
    :param came: how each task came to its batch, as its report says; None without a report.
    :param orphans: processes that outlived their supervisor and had not ended by themselves.
    :param logs: all task and trigger logs of the runs.
    """

    builds: int
    overlaps: int
    posts: int
    states: tuple[str, ...]
    tries: tuple[int, ...]
    early: int
    taken: int
    came: tuple[str | None, ...]
    orphans: int
    logs: str = field(repr=False)


class Scene:
    """
    Act in one case.

    :param site: Airflow.
    :param engine: the engine that the case's runs talk to.
    :param name: unique, used in names of runs and models.
    :param mode: ``sync`` or ``deferrable``, or one of the sensor's.
    :param conn_id: the connection to the engine.
    :param connection: what that connection is when the case begins.
    """

    def __init__(
        self, site: Site, engine: Engine, name: str, mode: str, conn_id: str, connection: dict[str, Any]
    ) -> None:
        self.site = site
        self.engine = engine
        self.control: EngineControl = engine.control
        self.name = name
        self.mode = mode
        self.conn_id = conn_id
        self.connection = connection
        self.models: list[Model] = [self.add_model(0)]
        self.runs: list[tuple[str, str]] = []
        #: The first word of the DAG's id, for runs of one task.
        self.kind = "one"
        self.trigger_rows: list[str] = []
        #: What an injury does while the component that it concerns is away.
        self.meanwhile: Callable[[], None] | None = None
        self._holds: list[str] = []
        self._workers: list[Worker] = []

    # --- the runs ---

    @property
    def model(self) -> Model:
        """The case's first model, mostly its only one."""
        return self.models[0]

    @property
    def is_sensor(self) -> bool:
        """Whether the task is the sensor, which waits for a batch that somebody else has started."""
        return self.mode in SENSOR_MODES

    @property
    def defers(self) -> bool:
        """Whether the task waits in the triggerer."""
        return self.mode.endswith("deferrable")

    def add_model(self, number: int) -> Model:
        """Deploy a model that no other case uses."""
        return self.control.add_model(CATALOG, f"{self.name}_{number}")

    def start_run(self, dag: str | None = None, **conf: Any) -> None:
        """
        Start a run that builds the case's model; or several mapped tasks, if ``models`` are given.

        A sensor's run waits for a batch that was started just before.

        :param dag: which of the DAGs that build one model: ``one``, ``two`` or ``three``; None for the scene's kind.
        :param conf: the run's conf, beside what all runs of the case have.
        """
        if self.is_sensor:
            dag_id = self.mode.replace(" ", "_")
            conf = {"batch_id": self.control.start_batch(None, self.model.id).id, **conf}
        else:
            dag_id = f"{'mapped' if 'models' in conf else dag or self.kind}_{self.mode}"
        run_id = f"{self.name}_{len(self.runs)}"
        self.runs.append((dag_id, run_id))
        basis = {"catalog": CATALOG, "model": self.model.name, "conn_id": self.conn_id}
        self.site.api.trigger(dag_id, run_id, {**basis, **conf})

    def tasks(self) -> list[dict[str, Any]]:
        """Return what the metadata database says about the build tasks of all runs."""
        names = ("id", "run_id", "map_index", "state", "try_number", "pid", "trigger_id", "end_date")
        rows = []
        for dag_id, run_id in self.runs:
            # Read past the API server: a test that looks often must not be the load.
            rows += self.site.query(
                f"select {', '.join(names)} from task_instance "
                "where dag_id = ? and run_id = ? and task_id = 'build' order by map_index",
                dag_id,
                run_id,
            )
        return [{**dict(zip(names, row, strict=True)), "id": str(row[0])} for row in rows]

    def states(self) -> list[str]:
        """Return the states of all build tasks."""
        return [str(task["state"]) for task in self.tasks()]

    def wait_state(self, *states: str, tries: int | None = None, timeout: float = SOON) -> None:
        """Wait until all build tasks are in one of some states."""

        def reached() -> bool:
            tasks = self.tasks()
            return bool(tasks) and all(
                task["state"] in states and tries in (None, task["try_number"]) for task in tasks
            )

        try:
            wait_for(reached, f"tasks that are {' or '.join(states)}", timeout)
        except TookTooLongError as error:
            raise TookTooLongError(f"{error}; they are {self.tasks()}") from None

    def wait_waiting(self, batches: int = 1) -> None:
        """Wait until the tasks wait for their batches, on a worker or in the triggerer."""
        self.wait_batches(batches)
        self.wait_state(*self._waits_in())
        if self.defers:
            self.wait_triggered()
        else:
            self.let_it_look()

    def _waits_in(self) -> tuple[str, ...]:
        """Return the states of a task that waits."""
        if self.defers:
            return ("deferred",)
        return BETWEEN_POKES if self.mode == "sensor reschedule" else ("running",)

    def wait_try(self, number: int) -> None:
        """Wait until the tasks wait in this try, on a worker or in the triggerer."""
        self.wait_state(*self._waits_in(), tries=number)
        if self.defers:
            self.wait_triggered()
        else:
            # An orphan of the try before may look, too.
            self.let_it_look(4)

    def wait_triggered(self) -> None:
        """Wait until the triggers are in a triggerer, and have looked at their batches."""
        ids = [task["trigger_id"] for task in self.tasks()]
        marks = ", ".join("?" * len(ids))

        def assigned() -> bool:
            rows = self.site.query(f"select kwargs, triggerer_id from trigger where id in ({marks})", *ids)
            self.trigger_rows += [row[0] for row in rows]
            return len(rows) == len(ids) and all(row[1] for row in rows)

        wait_for(assigned, "the triggers to be taken", SOON)
        self.let_it_look()

    def let_it_look(self, times: int = 1) -> None:
        """Wait until the history of each model was read some times more."""
        for model in self.models:
            before = self.reads(model)
            self._wait_while_running(
                lambda model=model, before=before: self.reads(model) >= before + times, "looks", SOON
            )

    def _wait_while_running(self, look: Callable[[], bool], what: str, timeout: float) -> None:
        """Wait for what only a run brings about, and not on when all runs are over."""
        asked = time.monotonic()
        was_over = False

        def seen() -> bool:
            nonlocal asked, was_over
            if look():
                return True
            if time.monotonic() - asked > OVER_FOR:
                # Twice in a row: a run that is over may be about to be cleared.
                is_over, asked = self.is_over(), time.monotonic()
                if is_over and was_over and not look():
                    raise TookTooLongError(f"all runs are over, without {what}")
                was_over = is_over
            return False

        wait_for(seen, what, timeout)

    def reads(self, model: Model) -> int:
        """Count the reads of a model's history that were answered."""
        return sum(
            each.route == "history" and model.id in each.query_string and each.status is not None
            for each in self.control.requests
        )

    def is_over(self) -> bool:
        """Tell whether all runs have ended."""
        return all(self.run_state(*run) in RUNS_OVER for run in self.runs)

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return a run's state."""
        rows = self.site.query("select state from dag_run where dag_id = ? and run_id = ?", dag_id, run_id)
        return str(rows[0][0]) if rows else "absent"

    # --- the batches ---

    def batches(self, by: str | None = None) -> list[BatchRecord]:
        """Return the batches of the case's models, oldest first: those that the tasks wait for, or by whom."""
        ids = {model.id for model in self.models}
        by = by or ("design center" if self.is_sensor else "api")
        return [batch for batch in self.control.batches if batch.model_id in ids and batch.by == by]

    def wait_posts(self, count: int) -> None:
        """Wait until so many starts were answered."""
        wait_for(lambda: len([each for each in self.posts() if each.status]) >= count, f"{count} starts", SOON)

    def posts(self) -> list[RequestRecord]:
        """Return the start calls for the case's models."""
        return [
            each
            for each in self.control.requests
            if each.route == "start"
            and any(model.id in each.path or model.id in each.query_string for model in self.models)
        ]

    def wait_batches(self, count: int, timeout: float = SOON) -> None:
        """Wait until there are so many batches of those that the tasks wait for."""
        self._wait_while_running(lambda: len(self.batches()) >= count, f"batch {count}", timeout)

    def end_builds(self, count: int = 1, timeout: float = SOON) -> None:
        """End all batches that the tasks wait for, as soon as there are so many."""
        self.wait_batches(count, timeout)
        for batch in self.batches():
            if batch.ended is None:
                self.control.end_batch(batch.id)

    # --- requests that wait for us ---

    @property
    def in_start(self) -> dict[str, str]:
        """Where the address of a start names the model."""
        return {"query" if self.engine.edition == "installer" else "path": self.model.id}

    def hold(self, at: str, times: int = 1) -> str:
        """Have the next starts (``start.*``) or reads (``history``, ``instances``) wait for us."""
        if at == "history":
            hold = self.control.hold("received", route="history", query=self.model.id, times=times)
        elif at == "instances":
            hold = self.control.hold("received", route="instances", query=self.batches()[-1].id, times=times)
        else:
            hold = self.control.hold(at, **self.in_start, times=times)
        self._holds.append(hold)
        return hold

    def wait_held(self, hold: str, count: int = 1) -> None:
        """Wait until the requests have come, and wait."""
        wait_for(lambda: self.control.hold_status(hold)["held"] >= count, f"{count} requests to be held", SOON)

    def release(self, hold: str, then: str = "continue") -> None:
        """Let the request go on, or drop its connection."""
        self._holds.remove(hold)
        self.control.release(hold, then)

    # --- the workers ---

    def worker(self) -> Worker:
        """Find the processes of the one running task."""

        def find() -> Worker | None:
            running = [task for task in self.tasks() if task["state"] == "running" and task["pid"]]
            if len(running) != 1:
                return None
            task = running[0]
            pid = int(task["pid"])
            if task["id"].replace("-", "") not in title(pid).replace("-", ""):
                return None
            supervisor = parent(pid)
            return Worker(supervisor, pid) if self.site.supervisor_title in title(supervisor) else None

        found: Worker = wait_for(find, "the worker's processes", SOON)
        self._workers.append(found)
        return found

    def kill_worker(self, victims: str) -> Worker:
        """Kill the ``supervisor`` alone, the ``task`` alone, or ``both``."""
        worker = self.worker()
        kill(*self.pids(worker, victims))
        assert is_alive(worker.task) == (victims == "supervisor")
        return worker

    @staticmethod
    def pids(worker: Worker, victims: str) -> list[int]:
        """Return whom to kill; the supervisor first, else it would report the other's death."""
        return {
            "supervisor": [worker.supervisor],
            "task": [worker.task],
            "both": [worker.supervisor, worker.task],
        }[victims]

    # --- the end ---

    def observe(self) -> Observed:
        """Say what has become of the case."""
        orphans = self._orphans()
        batches = self.batches("api")
        ended = [batch.ended for batch in self.batches() if batch.ended is not None]
        tasks = self.tasks()
        early = [
            task
            for task in tasks
            if task["state"] == "success" and _epoch(task["end_date"]) < min(ended, default=inf)
        ]
        taken = [self._taken(task) for task in tasks]
        texts = [text for run in self.runs for text in self.site.logs(*run).values()]
        return Observed(
            builds=len(batches),
            overlaps=sum(bool(batch.overlapped_with) for batch in batches),
            posts=len(self.posts()),
            states=tuple(str(task["state"]) for task in tasks),
            tries=tuple(int(task["try_number"]) - lost for task, lost in zip(tasks, taken, strict=True)),
            early=len(early),
            taken=sum(taken),
            came=tuple(self._came(task) for task in tasks),
            orphans=orphans,
            logs="\n".join(texts),
        )

    def _taken(self, task: dict[str, Any]) -> int:
        """
        Count the tries that the scheduler took from a task without any fault of the task's.

        It handles the end of the deferring process after it has queued the task again, finds it queued, and
        concludes that somebody has killed it.
        """
        dag_id = next(dag_id for dag_id, run_id in self.runs if run_id == task["run_id"])
        rows = self.site.query(
            "select extra from log where event = 'state mismatch' and task_id = 'build' "
            "and dag_id = ? and run_id = ? and map_index = ?",
            dag_id,
            task["run_id"],
            task["map_index"],
        )
        return sum("[queued]" in extra and "finished with state success" in extra for (extra,) in rows)

    def _came(self, task: dict[str, Any]) -> str | None:
        if task["map_index"] >= FEW:
            return None
        dag_id = next(dag_id for dag_id, run_id in self.runs if run_id == task["run_id"])
        report = self.site.api.xcom(dag_id, task["run_id"], "batch_result", task["map_index"])
        return report["start"] if report and not self.is_sensor else None

    def _orphans(self) -> int:
        """Count the tasks' processes whose supervisor was killed and that do not end by themselves."""
        tasks = [worker.task for worker in self._workers]
        with suppress(TookTooLongError):
            wait_for(lambda: not any(is_alive(pid) for pid in tasks), "the end of the orphans", 20, 0.3)
        return sum(is_alive(pid) for pid in tasks)

    def leave(self) -> None:
        """Let nothing of the case go on, however it went."""
        for hold in list(self._holds):
            self.release(hold)
        for dag_id, run_id in self.runs:
            if self.run_state(dag_id, run_id) not in RUNS_OVER:
                self.site.api.call("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"})
        for worker in self._workers:
            if is_alive(worker.task) and "airflow worker" in title(worker.task):
                kill(worker.task)


def _epoch(value: Any) -> float:
    """Return the seconds since the epoch of what a database gives as a time."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
