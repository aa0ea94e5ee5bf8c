"""``skip_if_built_within``: what was built a moment ago is not built again, and the skip says why."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from airflow_provider_atscale.exceptions import AtScaleConfigurationError
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator

from . import runs
from .conftest import MODEL, QUICK, new_dag, run_task

HOUR = timedelta(hours=1)


def build(**arguments):
    return run_task(AtScaleAggregateBuildOperator, **{**MODEL, **QUICK, **arguments})


def batch(engine, minutes: float, *, full: bool = False, **end):
    """Let somebody else's batch end so many minutes ago."""
    made = engine.start_batch(None, "Internet Sales", is_full_build=full, build_seconds=3600)
    ended = engine.end_batch(made.id, **end)
    engine.advance(minutes * 60)
    return ended


SKIPPED, BUILT = "skipped", "success"

CASES = {
    "nothing was built": ([], {}, BUILT),
    "built a moment ago": ([{"minutes": 5}], {}, SKIPPED),
    "built too long ago": ([{"minutes": 61}], {}, BUILT),
    "the one before was too long ago": ([{"minutes": 70}, {"minutes": 5}], {}, SKIPPED),
    "it failed": ([{"minutes": 5, "status": "failed"}], {}, BUILT),
    "it was cancelled": ([{"minutes": 5, "status": "cancelled"}], {}, BUILT),
    "a success before a failure": ([{"minutes": 5}, {"minutes": 5, "status": "failed"}], {}, SKIPPED),
    "full wanted, incremental built": ([{"minutes": 5}], {"is_full_build": True}, BUILT),
    "full wanted, full built": ([{"minutes": 5, "full": True}], {"is_full_build": True}, SKIPPED),
    "incremental wanted, full built": ([{"minutes": 5, "full": True}], {}, SKIPPED),
    "overrides wanted, incremental built": (
        [{"minutes": 5}],
        {"grace_period_overrides": {"sales": 30}},
        BUILT,
    ),
    "overrides wanted, full built": (
        [{"minutes": 5, "full": True}],
        {"grace_period_overrides": {"sales": 30}},
        SKIPPED,
    ),
    "aggregates are missing, which is fine": ([{"minutes": 5, "failed_aggregates": 1}], {}, SKIPPED),
    "aggregates are missing, which is an error": (
        [{"minutes": 5, "failed_aggregates": 1}],
        {"failed_aggregates": "fail"},
        BUILT,
    ),
    "complete, where missing ones are an error": (
        [{"minutes": 5}],
        {"failed_aggregates": "fail"},
        SKIPPED,
    ),
    "deferrable": ([{"minutes": 5}], {"deferrable": True}, SKIPPED),
    "seconds": ([{"minutes": 5}], {"skip_if_built_within": 240}, BUILT),
    "a template": (
        [{"minutes": 5}],
        {"params": {"within": 600}, "skip_if_built_within": "{{ params.within }}"},
        SKIPPED,
    ),
    "a template that comes to nothing": (
        [{"minutes": 5}],
        {"params": {"within": None}, "skip_if_built_within": "{{ params.within }}"},
        BUILT,
    ),
    "not asked for": ([{"minutes": 5}], {"skip_if_built_within": None}, BUILT),
}


@pytest.mark.parametrize(("batches", "arguments", "expected"), CASES.values(), ids=CASES)
def test_what_is_built_and_what_is_skipped(engine, batches, arguments, expected):
    for each in batches:
        batch(engine, **each)
    task = build(**{"skip_if_built_within": HOUR, **arguments})
    assert task.state == expected
    assert len(engine.batches) == len(batches) + (expected is BUILT)


def test_the_skip_names_the_batch(engine, logged):
    made = batch(engine, 12)
    assert build(skip_if_built_within=HOUR).state == SKIPPED
    message = next(line for line in logged().splitlines() if made.id in line)
    for part in ("Internet Sales", "incremental", "done", "skip_if_built_within is 1:00:00"):
        assert part in message
    # The DAG's own start takes its time.
    assert re.search(r"0:1[1-3]:\d\d ago", message)


def test_it_is_asked_before_on_running(engine):
    batch(engine, 5)
    engine.start_batch(None, "Internet Sales", build_seconds=3600)
    assert build(skip_if_built_within=HOUR, on_running="fail").state == SKIPPED


def test_it_is_not_asked_again_after_waiting_for_somebody_elses_batch(running, engine):
    """That batch may lack what was loaded since it began, which is why the task waits and builds."""
    other = running()
    task = build(skip_if_built_within=HOUR, on_running="wait", deferrable=True)
    assert task.state == BUILT
    assert task.value != other.id
    assert len(engine.batches) == 2


def test_a_history_that_may_not_be_read_skips_nothing(engine, logged):
    batch(engine, 5)
    engine.settings(history_mode="forbidden")
    task = build(skip_if_built_within=HOUR, wait_for_completion=False)
    assert task.state == BUILT
    assert "skip_if_built_within has no effect" in logged()


def test_it_costs_one_read(engine):
    batch(engine, 5)
    engine.clear_requests()
    build(skip_if_built_within=HOUR)
    assert [request.route for request in engine.requests if request.route == "history"] == ["history"]


@pytest.mark.parametrize("wrong", [0, -1, "soon", True, timedelta(0)], ids=repr)
def test_nonsense_fails_before_any_request(engine, wrong):
    with pytest.raises(AtScaleConfigurationError, match="skip_if_built_within"):
        build(skip_if_built_within=wrong)
    assert engine.requests == []


@pytest.mark.skipif(not runs.HAS_TASK_STATE, reason="this Airflow keeps nothing from try to try")
def test_a_retry_goes_on_with_its_own_batch_however_fresh_that_is(engine):
    """The batch of the try before it is done, and would be reason enough to skip."""
    # The try before it sees the batch done, and not whether it is complete.
    engine.fault(500, route="instances")
    with new_dag() as dag:
        AtScaleAggregateBuildOperator(
            task_id="task", skip_if_built_within=HOUR, failed_aggregates="fail", retries=1, **MODEL, **QUICK
        )
    task = runs.run(dag)["task"]
    assert task.tries == 2
    assert task.state == "success"
    assert len(engine.batches) == 1
    assert task.value == engine.batches[0].id


@pytest.mark.skipif(not runs.HAS_TASK_STATE, reason="before Airflow 3.3 no try knows of the one before it")
def test_a_retry_is_not_asked_again(engine):
    """What the try before it waited for may lack what was loaded; it had decided to build."""
    engine.start_batch(None, "Internet Sales", build_seconds=1.0)
    engine.fault(400, route="start", times=1)
    task = build(skip_if_built_within=HOUR, retries=1)
    assert (task.state, task.tries, len(engine.batches)) == ("success", 2, 2)
