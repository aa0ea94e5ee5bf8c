"""What becomes of a build is counted, once and where it is known, and a broken back end fails no task."""

from __future__ import annotations

import pytest

from airflow_provider_atscale import metrics
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator

from .conftest import MODEL, QUICK, WAITS, run_task, whatever_the_edition

pytestmark = whatever_the_edition


class Recorder:
    """Keep what is emitted, as Airflow's ``Stats``."""

    def __init__(self) -> None:
        self.builds: list[tuple[str, dict[str, str]]] = []
        self.durations: list[float] = []

    def incr(self, name, number, tags):
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
