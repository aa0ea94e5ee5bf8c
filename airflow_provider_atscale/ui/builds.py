"""Make models and their builds of what Airflow's database knows; a value that makes no sense is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from airflow_provider_atscale.api.models import Phase, batch_phase
from airflow_provider_atscale.api.values import EPOCH, flag_of, number_of, text_of, time_of
from airflow_provider_atscale.builds.report import BATCH_KEY, FAILURE_KEY, REPORT_KEY
from airflow_provider_atscale.ui.records import Event, Pushed, TaskRun, parse
from airflow_provider_atscale.waiting.progress_xcom import KEY as PROGRESS_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable

#: How many builds of a model are kept: the newest ones.
PER_MODEL = 30
#: States in which a task instance does nothing more by itself.
_ENDED = ("success", "failed", "skipped", "upstream_failed", "removed")


class Outcome(Enum):
    """How a build ended, as the page tells it."""

    DONE = "done"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    RUNNING = "running"
    STARTED = "started"
    UNKNOWN = "unknown"


#: Which of two reports of one batch tells more: a task's own end before an event, and both before a wait.
_RANK = {
    Outcome.FAILED: 0,
    Outcome.INCOMPLETE: 1,
    Outcome.DONE: 2,
    Outcome.RUNNING: 3,
    Outcome.UNKNOWN: 4,
    Outcome.STARTED: 5,
}


@dataclass(slots=True)
class Build:
    """
    A batch.

    :param batch_id: Its id.
    :param outcome: How it ended.
    :param values: The report, or the progress of a batch without report.
    :param began: When it began; the time of the report if that is not known.
    :param tasks: The task instances that have started or joined it, or waited for it.
    """

    batch_id: str
    outcome: Outcome
    values: Mapping[str, Any]
    began: datetime
    tasks: list[TaskRun] = field(default_factory=list)

    @property
    def status(self) -> str | None:
        """AtScale's status word."""
        return text_of(self.values, "status")

    @property
    def kind(self) -> str | None:
        """Full or incremental."""
        return text_of(self.values, "kind")

    @property
    def seconds(self) -> float | None:
        """How long it took; of one that runs, how long it ran when the task looked at it last."""
        seconds = number_of(self.values, "seconds")
        return None if seconds is None else max(seconds, 0.0)

    @property
    def usual_seconds(self) -> float | None:
        """How long such a build usually takes."""
        usual = number_of(self.values, "usual_seconds")
        return usual if usual and usual > 0 else None

    @property
    def late(self) -> bool:
        """Whether it took longer than it should."""
        return flag_of(self.values, "late") is True

    @property
    def aggregates(self) -> tuple[int | None, int | None]:
        """How many aggregates were built, of how many."""
        total, failed = number_of(self.values, "aggregates"), number_of(self.values, "failed_aggregates")
        if total is not None:
            return int(total - (failed or 0)), int(total)
        progress = self.values.get("aggregates")
        if isinstance(progress, Mapping):
            built, of = number_of(progress, "built"), number_of(progress, "total")
            return (None if built is None else int(built)), (None if of is None else int(of))
        return None, None

    @property
    def messages(self) -> list[str]:
        """Why aggregates failed, or what the task says."""
        failures = self.values.get("failures")
        failures = parse(failures) if isinstance(failures, str) else failures
        told = [text for each in failures if (text := _failure(each))] if isinstance(failures, list) else []
        if not told and self.outcome is not Outcome.DONE:
            told = [text for text in (text_of(self.values, "error", "problem"),) if text]
        if not told and self.outcome is Outcome.UNKNOWN and self.tasks:
            told = ["The task ended before it saw the end of the build. Its log says why."]
        return told

    @property
    def error(self) -> str | None:
        """The task's error."""
        return text_of(self.values, "error")


def _failure(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return None
    parts = (text_of(value, "aggregate"), text_of(value, "message") or text_of(value, "status"))
    return ": ".join(part for part in parts if part) or None


@dataclass(slots=True)
class Model:
    """
    A model with its last builds.

    :param server: Address of its AtScale server; empty if that is not known.
    :param catalog_id: Id of its catalog.
    :param model_id: Its id.
    :param catalog: Name of the catalog.
    :param name: Its name.
    :param builds: Its builds, the newest first.
    """

    server: str = ""
    catalog_id: str = ""
    model_id: str = ""
    catalog: str = ""
    name: str = ""
    builds: list[Build] = field(default_factory=list)

    @property
    def label(self) -> str:
        """What people call it."""
        return self.name or self.model_id or "Unknown model"

    @property
    def is_known(self) -> bool:
        """Whether its name or id is known."""
        return bool(self.name or self.model_id)

    @property
    def newest(self) -> Build:
        """Its newest build."""
        return self.builds[0]

    @property
    def key(self) -> str:
        """What tells it from other models, for an address."""
        return "\n".join((self.server, self.catalog_id or self.catalog, self.model_id or self.name))


def reported(pushed: Iterable[Pushed]) -> set[TaskRun]:
    """
    Return the task instances that have pushed a report with the model.

    :param pushed: What task instances have pushed.
    """
    return {each.task for each in pushed if (told := _report(each)) and _model_of(told[0]).is_known}


def _report(pushed: Pushed) -> tuple[Mapping[str, Any], bool] | None:
    """Return the report of a task instance, and whether its batch failed the task."""
    keys = [FAILURE_KEY, REPORT_KEY]
    if pushed.state == "success":
        # The failure would be an earlier try's.
        keys.reverse()
    for key in keys:
        report = pushed.values.get(key)
        # Another package may push a batch of its own under the same key.
        if isinstance(report, Mapping) and text_of(report, "batch_id") and text_of(report, "server"):
            return report, key == FAILURE_KEY
    return None


def collect(pushed: Iterable[Pushed], events: Iterable[Event]) -> list[Model]:
    """
    Return models with their last builds.

    :param pushed: What task instances have pushed.
    :param events: Events of models' assets.
    """
    found = _Found()
    nameless: list[tuple[Pushed, Build]] = []
    for each in pushed:
        told = _report(each)
        if told is None:
            waited_for = _build_without_report(each)
            if waited_for is not None:
                nameless.append((each, waited_for))
            continue
        report, has_failed = told
        outcome = Outcome.FAILED if has_failed else _outcome(report)
        model, build = _model_of(report), _build(report, outcome, each.pushed_at, each.task)
        if model.is_known:
            found.add(model, build)
        else:
            nameless.append((each, build))
    for event in events:
        extra = _extra(event)
        if extra is not None:
            build = _build(extra, _outcome(extra), event.timestamp, event.task)
            found.add(_model_of(extra, event.uri), build)
    # Those that know ids first: a sensor may wait for the same batch, and knows none.
    for each, build in sorted(nameless, key=lambda pair: BATCH_KEY not in pair[0].values):
        found.add_nameless(each, build)
    for model in found.models.values():
        model.builds.sort(key=lambda build: build.began, reverse=True)
        del model.builds[PER_MODEL:]
    return list(found.models.values())


class _Found:
    """Models and builds that are found so far."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self._builds: dict[tuple[str, str], Build] = {}
        self._by_batch: dict[str, Model] = {}
        self._by_ids: dict[tuple[str, str], list[Model]] = {}
        self._by_task: dict[tuple[str, str, str, str], Model] = {}
        self._of_task: dict[tuple[str, str, int], dict[str, Model]] = {}

    def add(self, model: Model, build: Build) -> None:
        """Add a build to its model; a batch that several tasks or events tell of is one build."""
        ids = (model.catalog_id, model.model_id)
        if model.key not in self.models:
            self.models[model.key] = model
            self._by_ids.setdefault(ids, []).append(model)
        told, model = model, self.models[model.key]
        if model.name in ("", model.model_id) and told.name:
            model.catalog, model.name = told.catalog, told.name
        self._by_batch[build.batch_id] = model
        for task in build.tasks:
            self._by_task[(task.dag_id, task.task_id, *ids)] = model
            self._of_task.setdefault(_place(task), {})[model.key] = model
        known = self._builds.get((model.key, build.batch_id))
        if known is None:
            self._builds[(model.key, build.batch_id)] = build
            model.builds.append(build)
            return
        known.tasks += [task for task in build.tasks if task not in known.tasks]
        rank, known_rank = _RANK[build.outcome], _RANK[known.outcome]
        if rank < known_rank or (rank == known_rank and len(build.values) > len(known.values)):
            known.outcome, known.values, known.began = build.outcome, build.values, build.began

    def add_nameless(self, pushed: Pushed, build: Build) -> None:
        """Add a build of which the model's ids or less are known; other builds know its server and names."""
        batch = _mapping(pushed.values.get(BATCH_KEY))
        ids = (text_of(batch, "catalog") or "", text_of(batch, "model") or "")
        task = pushed.task
        known = self._by_batch.get(build.batch_id) or self._by_task.get((task.dag_id, task.task_id, *ids))
        if known is None and any(ids):
            same_ids = self._by_ids.get(ids) if all(ids) else None
            known = same_ids[0] if same_ids else Model(catalog_id=ids[0], model_id=ids[1])
        elif known is None:
            # A sensor does not push ids. A task that has waited for several models may wait for any of them.
            of_task = list(self._of_task.get(_place(task), {}).values())
            known = of_task[0] if len(of_task) == 1 else None
            known = known or Model(text_of(build.values, "server") or "", name=_unknown(task))
        self.add(known, build)


def _place(task: TaskRun) -> tuple[str, str, int]:
    return task.dag_id, task.task_id, task.map_index


def _unknown(task: TaskRun) -> str:
    index = f"[{task.map_index}]" if task.map_index >= 0 else ""
    return f"Unknown model of {task.dag_id}.{task.task_id}{index}"


def _extra(event: Event) -> Mapping[str, Any] | None:
    extra = event.extra
    if isinstance(extra, Mapping) and extra.get("from_trigger"):
        extra = extra.get("payload")
        extra = parse(extra) if isinstance(extra, str) else extra
    return extra if isinstance(extra, Mapping) and text_of(extra, "batch_id") else None


def _outcome(report: Mapping[str, Any]) -> Outcome:
    phase = batch_phase(text_of(report, "status") or "")
    if phase is Phase.SUCCEEDED:
        return Outcome.INCOMPLETE if (number_of(report, "failed_aggregates") or 0) > 0 else Outcome.DONE
    return Outcome.FAILED if phase is Phase.FAILED else Outcome.UNKNOWN


def _build(values: Mapping[str, Any], outcome: Outcome, seen: datetime | None, task: TaskRun | None) -> Build:
    began = time_of(values, "started", "created", "since", "ended") or seen or EPOCH
    if began.tzinfo is None:
        began = began.replace(tzinfo=timezone.utc)
    batch_id = text_of(values, "batch_id") or ""
    return Build(batch_id, outcome, values, began, [task] if task else [])


def _build_without_report(pushed: Pushed) -> Build | None:
    """Return the build that a task waits for, or that it has left."""
    progress, batch = (_mapping(pushed.values.get(key)) for key in (PROGRESS_KEY, BATCH_KEY))
    # As above.
    batch = batch if {"catalog", "model"} <= batch.keys() else {}
    progress = progress if "updated" in progress else {}
    values = {"batch_id": text_of(batch, "batch_id"), **{k: v for k, v in progress.items() if v is not None}}
    if not text_of(values, "batch_id"):
        return None
    outcome = Outcome.RUNNING
    if pushed.state in _ENDED:
        outcome = _outcome(values)
        if pushed.state == "success" and outcome is Outcome.UNKNOWN:
            outcome = Outcome.STARTED
    return _build(values, outcome, pushed.pushed_at, pushed.task)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _model_of(report: Mapping[str, Any], uri: str = "") -> Model:
    catalog, name = text_of(report, "catalog") or "", text_of(report, "model") or ""
    if not name and uri.count("/") == 4:
        catalog, name = map(unquote, uri.split("/")[3:])
    server, catalog_id, model_id = (text_of(report, key) or "" for key in ("server", "catalog_id", "model_id"))
    return Model(server, catalog_id, model_id, catalog, name)


def running_for(build: Build, now: datetime) -> float | None:
    """
    Return how long a build took, or how long it runs by now.

    :param build: The build.
    :param now: The time.
    """
    if build.outcome is Outcome.RUNNING and time_of(build.values, "since"):
        return max((now - build.began) / timedelta(seconds=1), 0.0)
    return build.seconds
