"""A batch of the model runs already: join it, wait for it, attach to it, skip, or fail; alike in both modes."""

from __future__ import annotations

import time

import pytest

from airflow_provider_atscale.exceptions import (
    AtScaleAlreadyRunningError,
    AtScaleBatchFailedError,
    AtScaleTimeoutError,
)
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator

from .conftest import MODEL, QUICK, WAITS, listing, run_task, whatever_the_edition


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


@pytest.fixture
def newer(engine, when):
    """Let an older batch run; as soon as the task waits for it, end it, and let somebody else start a newer one."""

    def newer(**options):
        engine.settings(build_seconds=600)
        older = engine.start_batch("Sales Insights", "Internet Sales")
        engine.settings(build_seconds=0.6)

        def replace() -> None:
            # What begins less than two seconds after the task is not newer.
            time.sleep(2.1)
            engine.end_batch(older.id)
            engine.start_batch("Sales Insights", "Internet Sales", **options)

        when(lambda: engine.stats.routes.get("history", 0) >= 2, replace)
        return older

    return newer


def test_join_is_what_is_done_by_default(engine, newer, mode):
    """The older batch lacks the data, so it is waited for; the one that began after the task has it."""
    older = newer()
    task = build(**mode)
    assert task.state == "success", task.errors
    assert len(engine.batches) == 2
    assert task.value == engine.batches[1].id != older.id
    report = task.xcoms["batch_result"]
    assert report["start"] == "joined"
    assert report["joined_at"] >= report["created"][:19]
    assert task.xcoms["batch"]["batch_id"] == task.value


def test_join_builds_if_nobody_else_does(engine, running, mode):
    running()
    task = build(on_running="join", **mode)
    assert task.value == engine.batches[1].id
    assert engine.batches[1].overlapped_with == []
    assert task.xcoms["batch_result"]["start"] == "started"
    assert task.xcoms["batch_result"]["joined_at"] is None


def test_join_does_not_take_less_than_was_asked_for(engine, newer, mode):
    newer(is_full_build=False)
    task = build(is_full_build=True, **mode)
    assert task.state == "success", task.errors
    assert task.value == engine.batches[2].id
    assert engine.batches[2].is_full_build


def test_join_without_waiting_for_the_end(engine, newer, mode):
    newer()
    task = build(wait_for_completion=False, **mode)
    assert task.value == engine.batches[1].id
    assert len(engine.batches) == 2


@whatever_the_edition
def test_a_joined_batch_that_fails_fails_the_task_and_a_retry_builds(engine, newer, when, mode):
    newer(build_seconds=60)

    def fail_later() -> None:
        # By then the task has joined it.
        read = engine.stats.routes["history"]
        while engine.stats.routes["history"] < read + 8:
            time.sleep(0.02)
        engine.end_batch(engine.batches[1].id, "failed")

    when(lambda: len(engine.batches) == 2, fail_later)
    task = build(retries=1, **mode)
    assert isinstance(task.errors[0], AtScaleBatchFailedError)
    assert "a retry of the task joins a newer build, or starts one" in str(task.errors[0])
    assert task.state == "success", task.errors
    assert task.value == engine.batches[2].id


def test_wait_does_not_mind_how_the_other_ends(engine, running, mode):
    running("failed")
    task = build(on_running="wait", **mode)
    assert task.state == "success", task.errors
    assert [batch.status for batch in engine.batches] == ["failed", "done"]


def test_wait_is_bounded(engine, running, mode):
    other = running(looks=1000)
    task = build(on_running="wait", timeout=2.0, **mode)
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


@pytest.mark.parametrize("choice", ["join", "wait", "attach", "skip", "fail"])
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
