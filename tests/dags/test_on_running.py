"""A batch of the model runs already: wait for it, attach to it, skip, or fail; alike in both modes."""

from __future__ import annotations

import pytest

from airflow_provider_atscale.exceptions import AtScaleAlreadyRunningError, AtScaleTimeoutError
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator

from .conftest import MODEL, QUICK, WAITS, listing, run_task


def build(**arguments):
    return run_task(AtScaleAggregateBuildOperator, **{**MODEL, **QUICK, **arguments})


pytestmark = pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)


def test_wait_builds_after_the_other_has_ended(engine, running, mode):
    running()
    task = build(on_running="wait", **mode)
    other, own = engine.batches
    assert task.state == "success", task.errors
    assert task.value == own.id != other.id
    assert own.overlapped_with == []
    assert own.created >= other.ended
    assert task.xcoms["batch_result"]["start"] == "started"
    assert task.xcoms["batch"]["batch_id"] == own.id


def test_wait_is_what_is_done_by_default(engine, running, mode):
    running()
    task = build(**mode)
    assert task.value == engine.batches[1].id
    assert engine.batches[1].overlapped_with == []


def test_wait_does_not_mind_how_the_other_ends(engine, running, mode):
    running("failed")
    task = build(on_running="wait", **mode)
    assert task.state == "success", task.errors
    assert [batch.status for batch in engine.batches] == ["failed", "done"]


def test_wait_is_bounded(engine, running, mode):
    other = running(looks=1000)
    task = build(on_running="wait", timeout=0.3, **mode)
    assert isinstance(task.error, AtScaleTimeoutError)
    said = str(task.error)
    assert other.id in said
    assert "Another task or user started this batch, and this task waited for it (on_running='wait')" in said
    assert "this task has started nothing" in said
    assert len(engine.batches) == 1


def test_wait_without_waiting_for_the_own(engine, running, mode):
    running()
    task = build(on_running="wait", wait_for_completion=False, **mode)
    assert task.state == "success", task.errors
    assert task.value == engine.batches[1].id
    assert "batch_result" not in task.xcoms


def test_attach(engine, running, logged, mode):
    other = running()
    task = build(on_running="attach", **mode)
    assert task.state == "success", task.errors
    assert len(engine.batches) == 1
    assert task.value == other.id
    assert task.xcoms["batch_result"]["start"] == "attached"
    assert "another task or user started at" in logged()


def test_attach_to_less_than_was_asked_for_waits(engine, running, logged, mode):
    """An incremental batch does not do the work of a full one."""
    other = running(is_full_build=False)
    task = build(on_running="attach", is_full_build=True, **mode)
    assert task.state == "success", task.errors
    assert task.value == engine.batches[1].id != other.id
    assert engine.batches[1].is_full_build
    assert "it is not a full build" in logged()


def test_skip(engine, running, logged, mode):
    other = running(looks=1000, is_full_build=True)
    task = build(on_running="skip", **mode)
    assert task.state == "skipped"
    assert len(engine.batches) == 1
    assert f"batch {other.id} (full, " in logged()
    assert task.value is None


def test_fail(engine, running, mode):
    other = running(looks=1000, is_full_build=True)
    task = build(on_running="fail", **mode)
    assert task.state == "failed"
    assert isinstance(task.error, AtScaleAlreadyRunningError)
    assert f"batch {other.id} (full, " in str(task.error)
    assert len(engine.batches) == 1


@pytest.mark.parametrize("choice", ["wait", "attach", "skip", "fail"])
def test_nothing_runs(engine, mode, choice):
    engine.start_batch("Sales Insights", "Reseller Sales", build_seconds=60)
    engine.start_batch("Sales Insights", "Internet Sales", build_seconds=0)
    task = build(on_running=choice, **mode)
    assert task.state == "success", task.errors
    assert task.xcoms["batch_result"]["start"] == "started"


@pytest.mark.parametrize("second", ["500", "409"])
def test_batch_that_begins_just_before_ours(engine, edition, running, mode, second):
    """The server refuses the start, and only then the history shows why: the question is asked again."""
    engine.settings(on_second_start=second)
    engine.fault(200, route="history", body=listing(edition, []))
    other = running()
    task = build(on_running="wait", **mode)
    assert task.state == "success", task.errors
    assert task.value != other.id
    assert [batch.overlapped_with for batch in engine.batches] == [[], []]
