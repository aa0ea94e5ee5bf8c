"""A retry goes on with the batch of the try before it, whatever ended that try; it never builds beside it."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import AirflowException

from airflow_provider_atscale.exceptions import (
    AtScaleStartUnknownError,
    AtScaleTimeoutError,
    AtScaleWaitError,
)
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator

from .conftest import MODEL, QUICK, WAITS, run_task
from .runs import HAS_TASK_STATE


def build(operator=AtScaleAggregateBuildOperator, **arguments):
    return run_task(operator, retries=arguments.pop("retries", 1), **{**MODEL, **QUICK, **arguments})


def assert_one_build_or_one_after_the_other(engine, task):
    """Before Airflow 3.3 a retry cannot know its own batch: it meets it as any running one, and waits."""
    assert (task.state, task.tries) == ("success", 2), task.errors
    assert all(batch.overlapped_with == [] for batch in engine.batches)
    if HAS_TASK_STATE:
        assert len(engine.batches) == 1
        assert task.value == engine.batches[0].id


@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
def test_after_a_timeout(engine, when, mode):
    """Each try looks the model up, so the second look-up is the retry's."""
    engine.settings(build_seconds=600)

    def end():
        engine.settings(build_seconds=0.1)
        engine.end_batch(engine.batches[0].id)

    when(lambda: engine.stats.routes.get("catalogs", 0) == 2, end)
    task = build(timeout=2.0, **mode)
    assert isinstance(task.error, AtScaleTimeoutError)
    assert_one_build_or_one_after_the_other(engine, task)


def raising(error):
    """Return a method that raises an error."""

    def method(*_):
        raise error

    return method


class DiesAfterTheStart(AtScaleAggregateBuildOperator):
    """Die in the first try as soon as the batch is known, as a worker does that is killed."""

    def _run_in(self, context):
        task = super()._run_in(context)
        if context["ti"].try_number == 1:
            task._publish_batch = raising(AirflowException("the worker was killed"))
        return task


class DiesAfterTheEnd(AtScaleAggregateBuildOperator):
    """Die in the first try though the batch was judged good: Airflow can still fail after that."""

    def _run_in(self, context):
        task = super()._run_in(context)
        if context["ti"].try_number == 1:
            task.publish_report = raising(AirflowException("the database was away"))
        return task


class LosesTheId(AtScaleAggregateBuildOperator):
    """Die in the first try between the reply to the start and storing the batch's id."""

    def _run_in(self, context):
        task = super()._run_in(context)
        if context["ti"].try_number == 1:
            make = task._state_store

            def state_store(*arguments):
                store = make(*arguments)
                store.store_batch = raising(SystemExit("killed"))
                return store

            task._state_store = state_store
        return task


@pytest.mark.parametrize("operator", [DiesAfterTheStart, DiesAfterTheEnd])
@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
def test_after_a_death(engine, mode, operator):
    task = build(operator, **mode)
    assert_one_build_or_one_after_the_other(engine, task)


@pytest.mark.parametrize("edition", ["container"], indirect=True)
@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
def test_after_the_overrides_were_changed(engine, mode):
    """The batch of the first try lacks the new ones, so the retry waits for it and builds."""
    task = build(DiesAfterTheStart, grace_period_overrides={"sales": "{{ ti.try_number }}"}, **mode)
    assert (task.state, task.tries) == ("success", 2), task.errors
    assert [batch.grace_period_overrides for batch in engine.batches] == [{"sales": 1}, {"sales": 2}]
    assert [batch.overlapped_with for batch in engine.batches] == [[], []]
    assert task.value == engine.batches[1].id


@pytest.mark.skipif(not HAS_TASK_STATE, reason="Airflow before 3.3 has no task state store")
@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
def test_after_a_death_before_the_id_was_stored(engine, logged, mode):
    """The intent was stored, so the retry looks for the batch and adopts it."""
    task = build(LosesTheId, **mode)
    assert_one_build_or_one_after_the_other(engine, task)
    assert task.xcoms["batch_result"]["start"] == "adopted"
    assert "its id is not known: searching the build history" in logged()


@pytest.mark.skipif(not HAS_TASK_STATE, reason="Airflow before 3.3 has no task state store")
def test_a_batch_that_was_judged_good_is_reported_again(engine):
    task = build(DiesAfterTheEnd)
    assert task.xcoms["batch_result"]["batch_id"] == task.value
    assert task.xcoms["batch"]["batch_id"] == task.value
    assert task.xcoms["batch_result"]["instances"] == {"active": 6}


@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
def test_after_trouble_that_lasted_too_long(engine, monkeypatch, mode):
    monkeypatch.setenv("AIRFLOW__ATSCALE__TROUBLE_TOLERANCE", "0.2")
    engine.settings(build_seconds=1.0)
    engine.fault(500, route="history", query="limit=20", times=3 if mode == {} else 4)
    task = build(**mode)
    assert isinstance(task.error, AtScaleWaitError)
    assert "HTTP 500" in str(task.error)
    assert_one_build_or_one_after_the_other(engine, task)


@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("fault", ["drop_after", "cut"])
def test_lost_reply_is_adopted_without_a_retry(engine, mode, fault):
    engine.fault(fault, route="start")
    task = build(retries=0, **mode)
    assert task.state == "success", task.errors
    assert len(engine.batches) == 1
    assert task.value == engine.batches[0].id
    assert task.xcoms["batch_result"]["start"] == "adopted"


def test_lost_start_is_looked_for_again_by_a_retry(engine, monkeypatch):
    monkeypatch.setenv("AIRFLOW__ATSCALE__LOST_REPLY_WINDOW", "0.2")
    engine.fault("drop", route="start")
    task = build()
    assert isinstance(task.error, AtScaleStartUnknownError)
    assert (task.state, task.tries) == ("success", 2)
    assert len(engine.batches) == 1
