"""What ends red, how soon, and what its error says."""

from __future__ import annotations

import pytest

from airflow_provider_atscale.exceptions import (
    AtScaleAggregatesFailedError,
    AtScaleApiError,
    AtScaleAuthenticationError,
    AtScaleBatchFailedError,
    AtScaleConfigurationError,
    AtScaleNotFoundError,
    AtScalePermissionError,
)
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.sensors.atscale import AtScaleBatchSensor
from airflow_provider_atscale.tasks.base import RunningTask

from . import runs
from .conftest import MODEL, QUICK, SENSORS, WAITS, run_task, whatever_the_edition


def build(**arguments):
    return run_task(AtScaleAggregateBuildOperator, **{**MODEL, **QUICK, **arguments})


def wait(engine, **arguments):
    batch = engine.start_batch("Sales Insights", "Internet Sales")
    return run_task(AtScaleBatchSensor, **{**MODEL, "batch_id": batch.id, "poke_interval": 0.1, **arguments})


# --- a batch that fails -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_failed_batch(engine, mode, status):
    engine.fail_next("Internet Sales", status, failed_aggregates=2, message="disk quota exceeded")
    task = build(**mode)
    assert task.state == "failed"
    assert isinstance(task.error, AtScaleBatchFailedError)
    [batch] = engine.batches
    said = str(task.error)
    assert f"Batch {batch.id} of model 'Internet Sales' of catalog 'Sales Insights'" in said
    assert f"ended as '{status}'" in said
    assert "2 of 6 aggregates were not built" in said
    assert said.count("disk quota exceeded (failed") == 2
    assert batch.id in said.partition("See ")[2]
    assert "batch_result" not in task.xcoms
    assert task.xcoms["batch"]["batch_id"] == batch.id
    failure = task.xcoms["batch_failure"]
    assert (failure["batch_id"], failure["status"], failure["model"]) == (batch.id, status, "Internet Sales")
    assert [each["message"] for each in failure["failures"]] == ["disk quota exceeded"] * 2
    assert failure["error"] == said


@whatever_the_edition
@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
def test_a_failure_that_cannot_be_pushed_is_the_same_failure(engine, monkeypatch, logged, mode):
    push = RunningTask.push

    def refuse(self, key, value):
        if key == "batch_failure":
            raise OSError("no database")
        push(self, key, value)

    monkeypatch.setattr(RunningTask, "push", refuse)
    engine.fail_next("Internet Sales", "failed")
    task = build(**mode)
    assert isinstance(task.error, AtScaleBatchFailedError)
    assert "batch_failure" not in task.xcoms
    assert "The XCom batch_failure could not be written (OSError: no database)" in logged()


@pytest.mark.parametrize("mode", SENSORS.values(), ids=SENSORS)
def test_failed_batch_that_is_waited_for(engine, mode):
    engine.fail_next("Internet Sales", "failed", failed_aggregates=1, message="disk quota exceeded")
    task = wait(engine, **mode)
    assert task.state == "failed"
    assert task.xcoms["batch_failure"]["failures"][0]["message"] == "disk quota exceeded"
    assert isinstance(task.error, AtScaleBatchFailedError)
    assert "1 of 6 aggregates were not built" in str(task.error)
    assert "disk quota exceeded" in str(task.error)


@whatever_the_edition
@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
def test_failed_batch_is_built_again_by_a_retry(engine, mode):
    engine.fail_next("Internet Sales", "failed")
    task = build(retries=1, **mode)
    assert (task.state, task.tries, len(task.errors)) == ("success", 2, 1)
    assert [batch.status for batch in engine.batches] == ["failed", "done"]
    assert task.value == engine.batches[1].id
    assert task.xcoms["batch_result"]["batch_id"] == engine.batches[1].id
    if runs.VERSION != (3, 0) or not mode:
        # Airflow has cleared what the try before it pushed; 3.0 does not if the task was deferred.
        assert "batch_failure" not in task.xcoms


# --- a batch that is done, but not complete ---------------------------------------------------------------

PARTIAL = {"warn": "success", "ignore": "success", "fail": "failed"}


@pytest.mark.parametrize(("choice", "state"), PARTIAL.items())
@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
def test_failed_aggregates(engine, logged, mode, choice, state):
    engine.fail_next("Internet Sales", "done", failed_aggregates=2, message="disk quota exceeded")
    task = build(failed_aggregates=choice, **mode)
    assert task.xcoms["progress"]["aggregates"] == {"built": 4, "total": 6}
    assert task.state == state
    warned = "Done, but not complete" in logged()
    assert warned is (choice == "warn")
    if state == "failed":
        assert isinstance(task.error, AtScaleAggregatesFailedError)
        assert "disk quota exceeded" in str(task.error)
        assert "batch_result" not in task.xcoms
        assert task.xcoms["batch_failure"]["failed_aggregates"] == 2
    else:
        report = task.xcoms["batch_result"]
        assert (report["failed_aggregates"], report["instances"]) == (2, {"active": 4, "failed": 2})
        assert {each["message"] for each in report["failures"]} == {"disk quota exceeded"}


@whatever_the_edition
@pytest.mark.parametrize(("choice", "state"), PARTIAL.items())
@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
def test_one_repaired_and_one_finally_failed_aggregate(engine, logged, mode, choice, state):
    """AtScale retries an aggregate inside a batch; only one that failed in every attempt is missing."""
    engine.settings(retry_rows="new", max_failures=None)
    engine.fail_next("Internet Sales", "done", failed_aggregates=1, repaired_aggregates=1, message="disk quota")
    task = build(failed_aggregates=choice, **mode)
    assert task.xcoms["progress"]["aggregates"] == {"built": 5, "total": 6}
    assert task.state == state
    assert ("Done, but not complete: 1 of 6 aggregates" in logged()) is (choice == "warn")
    if state == "failed":
        assert isinstance(task.error, AtScaleAggregatesFailedError)
        assert "1 of 6 aggregates were not built" in str(task.error)
    else:
        report = task.xcoms["batch_result"]
        assert (report["aggregates"], report["failed_aggregates"]) == (6, 1)
        assert report["repaired_attempts"] >= 1
        assert all(each["query_id"] for each in report["failures"])


@whatever_the_edition
@pytest.mark.parametrize(("choice", "state"), PARTIAL.items())
@pytest.mark.parametrize("mode", SENSORS.values(), ids=SENSORS)
def test_failed_aggregates_of_a_batch_that_is_waited_for(engine, mode, choice, state):
    engine.fail_next("Internet Sales", "done", failed_aggregates=2)
    assert wait(engine, failed_aggregates=choice, **mode).state == state


@whatever_the_edition
@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
def test_incomplete_batch_is_built_again_by_a_retry(engine, mode):
    engine.fail_next("Internet Sales", "done", failed_aggregates=1)
    task = build(failed_aggregates="fail", retries=1, **mode)
    assert (task.state, task.tries) == ("success", 2)
    assert len(engine.batches) == 2


# --- settings of AtScale that are off by default ----------------------------------------------------------


@whatever_the_edition
def test_a_refused_incremental_start_names_the_settings(engine):
    engine.settings(incremental_by_api="refused")
    task = build()
    assert task.state == "failed"
    said = str(task.error)
    assert "aggregate.batch.gracePeriodOverrides.enabled" in said
    assert "aggregate.batch.cube.gracePeriodOverrides.enabled" in said
    assert engine.batches == []


@whatever_the_edition
def test_a_full_batch_for_an_incremental_request_is_reported(engine, logged):
    engine.settings(incremental_by_api="ignored")
    task = build()
    assert task.state == "success"
    report = task.xcoms["batch_result"]
    assert (report["kind"], report["requested_kind"]) == ("full", "incremental")
    assert logged().count("AtScale reports the batch as full, but the task asked for incremental") == 1


# --- what no retry can cure -------------------------------------------------------------------------------


def wrong_token(engine, env):
    env.setenv("AIRFLOW_CONN_ATSCALE_DEFAULT", engine.connection_json("api_token"))
    engine.rotate_api_token()


INCURABLE = {
    "a wrong token": (wrong_token, {}, AtScaleAuthenticationError, "credentials were not accepted"),
    "a field that cannot be used": (
        lambda engine, env: env.setenv("AIRFLOW_CONN_ATSCALE_DEFAULT", engine.connection_json(timeout="soon")),
        {},
        AtScaleConfigurationError,
        "the field 'timeout' is 'soon'",
    ),
    "an unknown catalog": (
        lambda engine, env: None,
        {"catalog": "Sales"},
        AtScaleNotFoundError,
        "Deployed there: 'Finance', 'Sales Insights'",
    ),
    "an unknown model": (
        lambda engine, env: None,
        {"model": "Sales"},
        AtScaleNotFoundError,
        "Deployed there: 'Internet Sales', 'Reseller Sales'",
    ),
}


@pytest.mark.parametrize(("spoil", "arguments", "error", "text"), INCURABLE.values(), ids=INCURABLE)
@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
def test_what_no_retry_can_cure_uses_none(engine, monkeypatch, mode, spoil, arguments, error, text):
    spoil(engine, monkeypatch)
    task = build(retries=3, **mode, **arguments)
    assert (task.state, task.tries) == ("failed", 1)
    assert type(task.error) is error
    assert text in str(task.error)
    assert engine.batches == []
    assert len(engine.requests) <= 2


@pytest.mark.parametrize(("spoil", "arguments", "error", "text"), INCURABLE.values(), ids=INCURABLE)
@pytest.mark.parametrize("mode", SENSORS.values(), ids=SENSORS)
def test_what_no_retry_can_cure_ends_a_sensor_too(engine, monkeypatch, mode, spoil, arguments, error, text):
    batch = engine.start_batch("Sales Insights", "Internet Sales")
    spoil(engine, monkeypatch)
    waited = {**MODEL, "batch_id": batch.id, "poke_interval": 0.1, **mode, **arguments}
    task = run_task(AtScaleBatchSensor, retries=3, **waited)
    assert (task.state, task.tries) == ("failed", 1)
    assert type(task.error) is error
    assert text in str(task.error)


#: What each edition calls the rights to start builds and to see them.
RIGHTS = {
    "container": ("the role aggregates_manage", "the role aggregates_view"),
    "installer": ('a role with the permission "Manage Aggregates"', 'the permission "View Aggregates"'),
}


def test_missing_right_to_build(engine, edition):
    engine.settings(can_manage=False)
    task = build(retries=3)
    assert (task.state, task.tries) == ("failed", 1)
    assert isinstance(task.error, AtScalePermissionError)
    assert RIGHTS[edition][0] in str(task.error)


@pytest.mark.parametrize("mode", SENSORS.values(), ids=SENSORS)
def test_newest_batch_needs_the_history(engine, edition, mode):
    """No other call tells which batch is the newest, so there is nothing to wait for."""
    engine.settings(history_mode="forbidden")
    task = run_task(AtScaleBatchSensor, **MODEL, **mode)
    assert task.state == "failed"
    assert isinstance(task.error, AtScalePermissionError)
    assert f"{RIGHTS[edition][1]}, or the sensor a batch_id" in str(task.error)


# --- what a retry can cure --------------------------------------------------------------------------------


def test_trouble_before_the_start_uses_a_retry(engine):
    engine.fault(500, route="catalogs")
    task = build(retries=1)
    assert (task.state, task.tries) == ("success", 2)
    assert type(task.error) is AtScaleApiError
    assert len(engine.batches) == 1


@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
def test_a_task_that_fails_before_its_link_is_known_logs_no_error_about_it(engine, capsys, mode):
    """Airflow reads the link of each task that ends, and logs an error for an XCom that is not there."""
    task = run_task(AtScaleAggregateBuildOperator, catalog="Sales Insights", model="No such model", **mode)
    assert task.state == "failed"
    captured = capsys.readouterr()
    assert "XCom not found" not in captured.out + captured.err


@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
def test_the_link_stays_after_a_failed_build(engine, mode):
    engine.fail_next("Internet Sales", "failed")
    task = build(**mode)
    assert task.state == "failed"
    assert engine.batches[0].id in next(iter(task.links.values())) or "http" in next(iter(task.links.values()))
