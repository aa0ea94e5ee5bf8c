"""Make models and their builds of what Airflow's database knows; a value that makes no sense is left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from airflow_provider_atscale.api.models import Phase, batch_phase
from airflow_provider_atscale.api.values import flag_of, number_of, text_of, time_of
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
    """
    How a build ended, as the page tells it.

    Of two reports of one batch the first in this order tells more: a task's own end before an event, and both
    before a wait.
    """

    FAILED = "failed"
    INCOMPLETE = "incomplete"
    DONE = "done"
    RUNNING = "running"
    UNKNOWN = "unknown"
    STARTED = "started"


_RANK = {outcome: rank for rank, outcome in enumerate(Outcome)}


@dataclass(slots=True)
class Build:
    """
    A batch.

    :param values: The report, or the progress of a batch without report.
    :param began: When it began; the time of the report if that is not known.
    :param tasks: The task instances that have started or joined it, or waited for it.
    """

    batch_id: str
    outcome: Outcome
    values: Mapping[str, Any]
    began: datetime
    tasks: list[TaskRun] = field(default_factory=list)

    def text(self, name: str) -> str | None:
        """Return a text of the report, such as its status or its error; None if it has none."""
        return text_of(self.values, name)

    @property
    def seconds(self) -> float | None:
        """How long it took; of one that runs, how long it ran when the task looked at it last."""
        seconds = number_of(self.values, "seconds")
        return None if seconds is None else max(seconds, 0.0)

    def lasted(self, now: datetime) -> float | None:
        """Return how long it took, or how long it runs by now."""
        if self.outcome is Outcome.RUNNING and time_of(self.values, "since"):
            return max((now - self.began) / timedelta(seconds=1), 0.0)
        return self.seconds

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
    def aggregates(self) -> tuple[int, int] | None:
        """How many aggregates were built, of how many."""
        total = number_of(self.values, "aggregates")
        if total is not None:
            return int(total - (number_of(self.values, "failed_aggregates") or 0)), int(total)
        progress = _mapping(self.values.get("aggregates"))
        built, total = number_of(progress, "built"), number_of(progress, "total")
        return None if built is None or total is None else (int(built), int(total))

    @property
    def messages(self) -> list[str]:
        """Why aggregates failed, or what the task says."""
        failures = self.values.get("failures")
        failures = parse(failures) if isinstance(failures, str) else failures
        told = [text for each in failures if (text := _failure(each))] if isinstance(failures, list) else []
        if told or self.outcome is Outcome.DONE:
            return told
        reason = text_of(self.values, "error", "problem")
        if reason is None and self.outcome is Outcome.UNKNOWN and self.tasks:
            reason = "The task ended before it saw the end of the build. Its log says why."
        return [reason] if reason else []


def _failure(value: Any) -> str | None:
    failure = _mapping(value)
    parts = (text_of(failure, "aggregate"), text_of(failure, "message", "status"))
    return ": ".join(part for part in parts if part) or None


@dataclass(slots=True)
class Model:
    """A model with its last builds, the newest first; a text is empty if it is not known."""

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
        """Whether its server, and its name or id, are known."""
        return bool(self.server and (self.name or self.model_id))

    @property
    def ids(self) -> tuple[str, str]:
        """The ids of its catalog and its own."""
        return self.catalog_id, self.model_id

    @property
    def newest(self) -> Build:
        """Its newest build."""
        return self.builds[0]

    @property
    def key(self) -> str:
        """What tells it from other models, for an address."""
        return "\n".join((self.server, self.catalog_id or self.catalog, self.model_id or self.name))


def reported(pushed: Iterable[Pushed]) -> set[TaskRun]:
    """Return the task instances that have pushed a report with the model."""
    return {each.task for each in pushed if (told := _report(each)) and _model_of(told[0]).is_known}


def collect(pushed: Iterable[Pushed], events: Iterable[Event]) -> list[Model]:
    """Return models with their last builds."""
    found = _Found()
    nameless = []
    for each in pushed:
        told = _told_by(each)
        if told is not None and told[0].is_known:
            found.add(*told)
        elif told is not None:
            nameless.append(told)
    for event in events:
        extra = _extra(event)
        if text_of(extra, "batch_id"):
            build = _build(extra, _outcome(extra), event.timestamp, event.task)
            found.add(_model_of(extra, event.uri), build)
    # Those that know ids first: a sensor may wait for the same batch, and knows none.
    for model, build in sorted(nameless, key=lambda told: not any(told[0].ids)):
        found.add_nameless(model, build)
    for model in found.models.values():
        model.builds.sort(key=lambda build: build.began, reverse=True)
        del model.builds[PER_MODEL:]
    return list(found.models.values())


class _Found:
    """Models and builds that are found so far."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self._builds: dict[tuple[str, str], Build] = {}
        #: Models, by their keys, of which a hint tells.
        self._by_hint: defaultdict[Hashable, dict[str, Model]] = defaultdict(dict)

    def add(self, told: Model, build: Build) -> None:
        """Add a build to its model; a batch that several tasks or events tell of is one build."""
        model = self.models.setdefault(told.key, told)
        if model.name in ("", model.model_id) and told.name:
            model.catalog, model.name = told.catalog, told.name
        for hint in (*_hints(told, build), *map(_place, build.tasks)):
            self._by_hint[hint][model.key] = model
        known = self._builds.setdefault((model.key, build.batch_id), build)
        if known is build:
            model.builds.append(build)
            return
        known.tasks += [task for task in build.tasks if task not in known.tasks]
        rank, known_rank = _RANK[build.outcome], _RANK[known.outcome]
        if rank < known_rank or (rank == known_rank and len(build.values) > len(known.values)):
            known.outcome, known.values, known.began = build.outcome, build.values, build.began

    def add_nameless(self, told: Model, build: Build) -> None:
        """Add a task's build of which the model's ids or less are known; other builds know its server and names."""
        models = [model for hint in _hints(told, build) for model in self._by_hint[hint].values()]
        if not models and not any(told.ids):
            # A sensor does not push ids. A task that has waited for several models may wait for any of them.
            [task] = build.tasks
            models = list(self._by_hint[_place(task)].values())
            if len(models) != 1:
                models = [replace(told, name=_unknown(task))]
        self.add(models[0] if models else told, build)


def _hints(model: Model, build: Build) -> list[Hashable]:
    """Return what tells of which model a build is, the surest first."""
    hints: list[Hashable] = [build.batch_id]
    if any(model.ids):
        hints += [(task.dag_id, task.task_id, model.ids) for task in build.tasks]
    if all(model.ids):
        hints.append(model.ids)
    return hints


def _place(task: TaskRun) -> tuple[str, str, int]:
    return task.dag_id, task.task_id, task.map_index


def _unknown(task: TaskRun) -> str:
    index = f"[{task.map_index}]" if task.map_index >= 0 else ""
    return f"Unknown model of {task.dag_id}.{task.task_id}{index}"


def _report(pushed: Pushed) -> tuple[Mapping[str, Any], bool] | None:
    """Return the report of a task instance, and whether its batch failed the task."""
    keys = [FAILURE_KEY, REPORT_KEY]
    if pushed.state == "success":
        # The failure would be an earlier try's.
        keys.reverse()
    for key in keys:
        report = _mapping(pushed.values.get(key))
        # Another package may push a batch of its own under the same key.
        if text_of(report, "batch_id") and text_of(report, "server"):
            return report, key == FAILURE_KEY
    return None


def _told_by(pushed: Pushed) -> tuple[Model, Build] | None:
    """Return what a task instance knows of its model, and the build that it has seen, waits for or has left."""
    told = _report(pushed)
    if told is not None:
        values, has_failed = told
        outcome = Outcome.FAILED if has_failed else _outcome(values)
        return _model_of(values), _build(values, outcome, pushed.pushed_at, pushed.task)
    batch, progress = (_mapping(pushed.values.get(key)) for key in (BATCH_KEY, PROGRESS_KEY))
    # As in reports: others may push such keys.
    batch = batch if {"catalog", "model"} <= batch.keys() else {}
    progress = progress if "updated" in progress else {}
    values = {"batch_id": batch.get("batch_id"), **{k: v for k, v in progress.items() if v is not None}}
    if not text_of(values, "batch_id"):
        return None
    outcome = _outcome(values) if pushed.state in _ENDED else Outcome.RUNNING
    if outcome is Outcome.UNKNOWN and pushed.state == "success":
        outcome = Outcome.STARTED
    model = Model(catalog_id=text_of(batch, "catalog") or "", model_id=text_of(batch, "model") or "")
    return model, _build(values, outcome, pushed.pushed_at, pushed.task)


def _extra(event: Event) -> Mapping[str, Any]:
    extra = _mapping(event.extra)
    if extra.get("from_trigger"):
        payload = extra.get("payload")
        return _mapping(parse(payload) if isinstance(payload, str) else payload)
    return extra


def _outcome(report: Mapping[str, Any]) -> Outcome:
    phase = batch_phase(text_of(report, "status") or "")
    if phase is Phase.SUCCEEDED:
        return Outcome.INCOMPLETE if (number_of(report, "failed_aggregates") or 0) > 0 else Outcome.DONE
    return Outcome.FAILED if phase is Phase.FAILED else Outcome.UNKNOWN


def _build(values: Mapping[str, Any], outcome: Outcome, seen: datetime, task: TaskRun | None) -> Build:
    began = time_of(values, "started", "created", "since", "ended") or seen
    return Build(text_of(values, "batch_id") or "", outcome, values, began, [task] if task else [])


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _model_of(report: Mapping[str, Any], uri: str = "") -> Model:
    catalog, name = text_of(report, "catalog") or "", text_of(report, "model") or ""
    if not name and uri.count("/") == 4:
        catalog, name = map(unquote, uri.split("/")[3:])
    server, catalog_id, model_id = (text_of(report, key) or "" for key in ("server", "catalog_id", "model_id"))
    return Model(server, catalog_id, model_id, catalog, name)
