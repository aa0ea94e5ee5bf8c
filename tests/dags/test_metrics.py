"""What becomes of a build is counted, once and where it is known, and a broken back end fails no task."""

from __future__ import annotations

import pytest

from airflow_provider_atscale import metrics
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator

from .conftest import MODEL, QUICK, WAITS, run_task, whatever_the_edition
from .runs import HAS_TASK_STATE
from .test_retries import DiesAfterTheEnd, DiesAfterTheStart, LosesTheId

pytestmark = whatever_the_edition


class Recorder:
    """Keep what is emitted, as Airflow's ``Stats``."""

    def __init__(self) -> None:
        self.builds: list[tuple[str, dict[str, str]]] = []
        self.resumptions: list[str] = []
        self.operators: set[str] = set()
        self.durations: list[float] = []

    def incr(self, name, number, tags):
        if name.startswith("resumable_job."):
            self.operators.add(tags["operator"])
            self.resumptions.append(name.removeprefix("resumable_job."))
        if name.startswith("atscale.build."):
            self.builds.append((name.removeprefix("atscale.build."), tags))

    def timing(self, name, duration, tags):
        assert name == "atscale.build.duration"
        self.durations.append(duration.total_seconds())

    def gauge(self, name, value, tags=None):
        pass


class Broken:
    """A back end that is down."""

    def __getattr__(self, name):
        raise ConnectionError("StatsD is down")


def build(**arguments):
    return run_task(AtScaleAggregateBuildOperator, **{**MODEL, **QUICK, **arguments})


@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("status", ["done", "failed"])
def test_a_build_is_counted(engine, monkeypatch, mode, status):
    stats = Recorder()
    monkeypatch.setattr(metrics, "_stats", lambda in_triggerer: stats)
    if status == "failed":
        engine.fail_next("Internet Sales", "failed")
    assert build(**mode).state == ("success" if status == "done" else "failed")
    assert stats.builds == [("started", {"kind": "incremental"}), (status, {"kind": "incremental"})]
    assert len(stats.durations) == 1


def test_the_model_is_a_tag_only_by_configuration(engine, monkeypatch):
    stats = Recorder()
    monkeypatch.setattr(metrics, "_stats", lambda in_triggerer: stats)
    monkeypatch.setenv("AIRFLOW__ATSCALE__METRICS_MODEL_TAGS", "True")
    assert build(is_full_build=True).state == "success"
    tags = {"kind": "full", "catalog": "Sales Insights", "model": "Internet Sales"}
    assert stats.builds == [("started", tags), ("done", tags)]


@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
def test_a_metrics_back_end_that_is_down_fails_nothing(engine, monkeypatch, mode):
    monkeypatch.setattr(metrics, "_stats", lambda in_triggerer: Broken())
    assert build(**mode).state == "success"


RESUMPTIONS = {
    "nothing happens": (AtScaleAggregateBuildOperator, ["fresh_submit"]),
    "the worker dies after the start": (
        DiesAfterTheStart,
        ["fresh_submit", "reconnect_attempt", "reconnect_success"],
    ),
    "the worker dies before the id is stored": (LosesTheId, ["reconnect_attempt", "reconnect_success"]),
    "the worker dies after the end": (
        DiesAfterTheEnd,
        ["fresh_submit", "reconnect_attempt", "already_succeeded"],
    ),
    "the batch fails": (
        AtScaleAggregateBuildOperator,
        ["fresh_submit", "reconnect_attempt", "terminal_resubmit"],
    ),
}


@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize(("operator", "expected"), RESUMPTIONS.values(), ids=RESUMPTIONS)
def test_what_a_retry_did_is_counted_as_airflow_counts_it(engine, monkeypatch, mode, operator, expected):
    stats = Recorder()
    monkeypatch.setattr(metrics, "_stats", lambda in_triggerer: stats)
    if "terminal_resubmit" in expected:
        engine.fail_next("Internet Sales", "failed")
    task = run_task(operator, retries=1, **MODEL, **QUICK, **mode)
    assert task.state == "success", task.errors
    assert stats.resumptions == (expected if HAS_TASK_STATE else [])
    assert stats.operators == ({operator.__name__} if HAS_TASK_STATE else set())
