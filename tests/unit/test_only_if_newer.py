"""``only_if_newer``: a build is skipped only if it is known that nothing new is there."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_atscale.api.models import AggregateInstance, Batch, History, HistoryUnavailable, Instances
from airflow_provider_atscale.builds.request import BuildRequest
from airflow_provider_atscale.builds.state import BuildStateStore
from airflow_provider_atscale.builds.steps import BuildContext
from airflow_provider_atscale.exceptions import AtScaleConfigurationError
from airflow_provider_atscale.tasks.plan import TaskPlan
from airflow_provider_atscale.tasks.skips import SkipCheck, check_only_if_newer

from .builds import BUILD_KEY, Log
from .flows import REF

NOW = datetime.now(timezone.utc)
SKIPPED, BUILDS = "skipped", "builds"


class Events(list[Any]):
    """Stand in for Airflow's accessor of an inlet's events, as it is since 3.1."""

    def ascending(self, ascending: bool) -> Events:
        return Events(sorted(self, key=lambda each: each.timestamp, reverse=not ascending))

    def limit(self, number: int) -> Events:
        return Events(self[:number])


class Broken:
    def __len__(self) -> int:
        raise RuntimeError("no such asset")


class Accessors(dict[str, Any]):
    def __missing__(self, key: str) -> Any:
        raise TypeError("`key` is of unknown type (str)")


def events(*minutes: float) -> Events:
    return Events(SimpleNamespace(timestamp=NOW - timedelta(minutes=each)) for each in minutes)


def batch(minutes: float, status: str = "done", full: bool | None = False) -> Batch:
    return Batch("b", status, full, created=NOW - timedelta(minutes=minutes))


CASES = {
    "older than the build": ({"a": events(30, 20)}, [batch(10)], SKIPPED, ""),
    "newer than the build": ({"a": events(30, 5)}, [batch(10)], BUILDS, "the newest asset event"),
    "newer, and listed in another order": ({"a": events(5, 30)}, [batch(10)], BUILDS, "the newest asset event"),
    "one of two is newer": ({"a": events(30), "b": events(5)}, [batch(10)], BUILDS, "the newest asset event"),
    "in the second of the build's start": ({"a": events(10)}, [batch(10)], BUILDS, "the newest asset event"),
    "less than two seconds before it": (
        {"a": events(10 + 1.5 / 60)},
        [batch(10)],
        BUILDS,
        "the newest asset event",
    ),
    "no event": ({"a": events()}, [batch(10)], BUILDS, "found no asset event"),
    "no inlet": ({}, [batch(10)], BUILDS, "found no asset event"),
    "an inlet that is no asset": ({"a": events(20), "table": None}, [batch(10)], SKIPPED, ""),
    "an inlet that cannot be read": ({"a": events(20), "b": Broken()}, [batch(10)], BUILDS, "could not read"),
    "no build": ({"a": events(20)}, [], BUILDS, "no successful build"),
    "a build that failed": ({"a": events(20)}, [batch(10, "failed")], BUILDS, "no successful build"),
    "a build that runs": ({"a": events(20)}, [batch(10, "running")], BUILDS, "no successful build"),
    "an older good build": ({"a": events(20)}, [batch(10, "failed"), batch(15)], SKIPPED, ""),
}


class Hook:
    def __init__(self, history: Any, instances: Instances | None = None) -> None:
        self.history = history
        self.instances = instances or Instances()
        self.edition = SimpleNamespace(view_right="a role")

    def get_history(self, ref: Any) -> Any:
        return self.history

    def get_instances(self, batch_id: str) -> Instances:
        return self.instances


def check(hook: Hook, inlets: dict[str, Any], log: Log, *, failed_aggregates: str = "warn") -> str:
    plan = TaskPlan("c", REF, 0.0, 60.0, failed_aggregates=failed_aggregates)
    context: Any = {
        "inlet_events": Accessors({name: each for name, each in inlets.items() if each is not None})
    }
    state = BuildStateStore(None, BUILD_KEY)
    skip = SkipCheck(BuildContext(hook, REF, BuildRequest(is_full_build=False), state, log), plan)
    try:
        skip.skip_if_nothing_is_newer(context, list(inlets))
    except AirflowSkipException as skipped:
        log.info("%s", skipped)
        return SKIPPED
    return BUILDS


@pytest.mark.parametrize(("inlets", "batches", "expected", "said"), CASES.values(), ids=CASES)
def test_what_is_new(inlets, batches, expected, said):
    log = Log()
    history = History(tuple(batches), datetime.now(timezone.utc))
    assert check(Hook(history), inlets, log) == expected
    if expected == SKIPPED:
        [(_, text)] = log.lines
        assert len(re.findall(r"20\d\d-\d\d-\d\dT", text)) == 2, "both times are named"
        assert text.endswith("which is older, and only_if_newer is true.")
    else:
        assert any(said in text for _, text in log.lines)


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [(-3600, SKIPPED), (0, SKIPPED), (3600, SKIPPED)],
    ids=["AtScale's clock is behind", "in step", "AtScale's clock is ahead"],
)
@pytest.mark.parametrize("newer", [False, True])
def test_the_two_clocks_are_compared(ahead, expected, newer):
    """The batch began ten minutes ago, whatever AtScale's clock calls that."""
    theirs = timedelta(seconds=ahead)
    began = Batch("b", "done", False, created=NOW - timedelta(minutes=10) + theirs)
    history = History((began,), datetime.now(timezone.utc) + theirs)
    came = check(Hook(history), {"a": events(9 if newer else 11)}, Log())
    assert came == (BUILDS if newer else expected)


@pytest.mark.parametrize(
    "history",
    [HistoryUnavailable("HTTP 403", 403), History((batch(10),), None)],
    ids=["not readable", "no time"],
)
def test_a_history_that_does_not_tell_means_build(history):
    log = Log()
    assert check(Hook(history), {"a": events(20)}, log) == BUILDS
    assert log.has("warning", "only_if_newer has no effect") or log.has("info", "no time in AtScale's answer")


@pytest.mark.parametrize(("policy", "expected"), [("warn", SKIPPED), ("fail", BUILDS)])
def test_a_build_that_lacks_aggregates(policy, expected):
    hook = Hook(
        History((batch(10),), datetime.now(timezone.utc)),
        Instances.of([AggregateInstance("1", "failed")], is_truncated=False),
    )
    assert check(hook, {"a": events(20)}, Log(), failed_aggregates=policy) == expected


@pytest.mark.parametrize(("version", "fits"), [("2.11.0", False), ("3.0.0", True), ("3.3.2", True)])
def test_airflow_2_says_what_to_do_instead(monkeypatch, version, fits):
    monkeypatch.setattr("airflow.__version__", version)
    if fits:
        check_only_if_newer()
        return
    with pytest.raises(AtScaleConfigurationError, match=r"needs Airflow 3.0 or newer, and this is 2\.11\.0"):
        check_only_if_newer()
