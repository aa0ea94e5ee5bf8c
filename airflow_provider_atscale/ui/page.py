"""Choose, order and draw what the page shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from jinja2 import Environment, PackageLoader

from airflow_provider_atscale.api.values import is_unicode
from airflow_provider_atscale.builds.report import format_duration
from airflow_provider_atscale.ui.builds import Build, Model, Outcome
from airflow_provider_atscale.version import version

if TYPE_CHECKING:
    from airflow_provider_atscale.ui.records import TaskRun

#: How many models a page shows.
PER_PAGE = 50
#: How many builds a time line shows.
BARS = 20
#: Characters of a message: in the list of models, and of one model.
SHORT, LONG = 200, 1500
#: Bars of a time line, in pixels.
_STEP, _WIDTH, _HEIGHT, _MARK = 12, 9, 30, 9
_MARKS = {Outcome.FAILED: "x", Outcome.UNKNOWN: "?", Outcome.INCOMPLETE: "~", Outcome.RUNNING: "…"}

STATES: dict[str, tuple[str, Callable[[Model], bool]]] = {
    "": ("All", lambda model: True),
    "failed": ("Failed", lambda model: model.newest.outcome in (Outcome.FAILED, Outcome.UNKNOWN)),
    "late": ("Late", lambda model: model.newest.late),
    "incomplete": ("Incomplete", lambda model: model.newest.outcome is Outcome.INCOMPLETE),
    "running": ("Running", lambda model: model.newest.outcome is Outcome.RUNNING),
}


@dataclass(frozen=True, slots=True)
class Shown:
    """
    What the list of models shows.

    :param models: The models of this page.
    :param counts: How many models are in each state.
    :param found: How many models match.
    :param shared: Names of catalog and model that several models have, for example on two servers.
    """

    models: Sequence[Model]
    counts: Mapping[str, int]
    found: int
    search: str
    state: str
    number: int
    pages: int
    shared: Collection[tuple[str, str]] = ()

    def query(self, **changes: Any) -> str:
        """Return the address of this list with changes, relative to the page."""
        values = {"q": self.search, "show": self.state, "p": self.number, **changes}
        return "?" + urlencode({name: value for name, value in values.items() if value not in ("", 1)})


def select(models: Sequence[Model], *, search: str = "", state: str = "", number: int = 1) -> Shown:
    """Choose the models that a page shows; those that need somebody come first."""
    state = state if state in STATES else ""
    words = search.casefold().split()
    matching = [each for each in models if all(word in _searched(each) for word in words)]
    counts = {name: sum(map(is_in, matching)) for name, (_, is_in) in STATES.items()}
    found = sorted(filter(STATES[state][1], matching), key=_order)
    pages = max(-(-len(found) // PER_PAGE), 1)
    number = min(max(number, 1), pages)
    shown = found[(number - 1) * PER_PAGE : number * PER_PAGE]
    names = Counter((each.catalog, each.label) for each in models)
    shared = {name for name, count in names.items() if count > 1}
    return Shown(shown, counts, len(found), search.strip(), state, number, pages, shared)


def _searched(model: Model) -> str:
    return f"{model.catalog} {model.label}".casefold()


def _order(model: Model) -> tuple[Any, ...]:
    newest = model.newest
    if newest.outcome in (Outcome.FAILED, Outcome.UNKNOWN):
        urgency = 0
    elif newest.outcome is Outcome.RUNNING:
        urgency = 1 if newest.late else 2
    else:
        urgency = 3 if newest.late or newest.outcome is Outcome.INCOMPLETE else 4
    return urgency, model.catalog.casefold(), model.label.casefold(), model.key


# --- the time line ---


def timeline(model: Model, now: datetime) -> dict[str, Any]:
    """Return the bars of a model's last builds, the newest at the right; their heights are durations."""
    builds = model.builds[:BARS][::-1]
    lasted = [build.lasted(now) for build in builds]
    longest = max([each for each in lasted if each] + [each.usual_seconds or 0 for each in builds] + [1.0])
    bars = []
    for place, (build, seconds) in enumerate(zip(builds, lasted, strict=True)):
        height = max(round(_HEIGHT * (seconds or 0) / longest, 1), 2)
        usual = build.usual_seconds
        bars.append(
            {
                "x": place * _STEP,
                "y": round(_HEIGHT - height, 1),
                "height": height,
                "usual": None if usual is None else round(_HEIGHT * (1 - usual / longest), 1),
                "outcome": build.outcome.value,
                "late": build.late,
                "mark": _MARKS.get(build.outcome) or ("!" if build.late else ""),
                "title": describe(build, now),
            }
        )
    return {"bars": bars, "width": len(builds) * _STEP, "bar": _WIDTH, "whole": _HEIGHT + _MARK}


def describe(build: Build, now: datetime) -> str:
    """Return a build in one line."""
    seconds = build.lasted(now)
    parts = [moment(build.began), build.outcome.value + (", late" if build.late else "")]
    if seconds is not None:
        parts.append(format_duration(seconds))
    if build.usual_seconds is not None:
        parts.append(f"usually {format_duration(build.usual_seconds)}")
    return " · ".join(parts)


# --- texts ---


def moment(when: datetime) -> str:
    """Return a time as people read it."""
    return when.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def ago(when: datetime, now: datetime) -> str:
    """Return how long ago something was."""
    seconds = (now - when).total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return "just now" if seconds < 60 else "1 min ago"


def share(seconds: float | None, usual: float | None) -> str:
    """Return how a duration compares with the usual one; nothing if it is about the same."""
    times = seconds / usual if seconds and usual else 1.0
    if 0.75 < times < 1.25:
        return ""
    return f"{times:.1f} times the usual" if times < 1000 else "over 1000 times the usual"


# --- addresses ---


def task_path(task: TaskRun) -> str:
    """Return the path of a task instance in Airflow's UI."""
    path = f"{run_path(task)}/tasks/{quote(task.task_id, safe='')}"
    return path if task.map_index < 0 else f"{path}/mapped/{task.map_index}"


def run_path(task: TaskRun) -> str:
    """Return the path of a task instance's DAG run in Airflow's UI."""
    return f"/dags/{quote(task.dag_id, safe='')}/runs/{quote(task.run_id, safe='')}"


def safe_links(links: Mapping[TaskRun, str]) -> dict[TaskRun, str]:
    """Return the links that lead to web pages; one that would run a script, or that cannot be sent, is left out."""

    def is_safe(link: str) -> bool:
        try:
            parts = urlsplit(link)
        except ValueError:
            return False
        return parts.scheme in ("http", "https") and bool(parts.netloc) and is_unicode(link)

    return {task: link for task, link in links.items() if is_safe(link)}


# --- templates ---


_TEMPLATES = Environment(
    loader=PackageLoader("airflow_provider_atscale.ui"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
_TEMPLATES.globals.update(
    timeline=timeline,
    moment=moment,
    ago=ago,
    share=share,
    duration=format_duration,
    task_path=task_path,
    run_path=run_path,
    states=STATES,
    short=SHORT,
    long=LONG,
    bars=BARS,
    # A browser keeps the style and the script; those of another version have another address.
    version=version(),
)


def render(template: str, **values: Any) -> str:
    """Return a page as HTML."""
    return _TEMPLATES.get_template(template).render(**values)
