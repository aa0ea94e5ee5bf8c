"""``@task.atscale_build``: a function chooses the operator's arguments; all else is as with the operator."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowSkipException,
    TaskDeferred,
    task,
)

from airflow_provider_atscale.decorators.atscale import BuildArguments, atscale_build_task
from airflow_provider_atscale.exceptions import AtScaleBatchFailedError, AtScaleConfigurationError
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator

from . import runs, stored
from .conftest import GIVEN_BACK, MODEL, QUICK, WAITS, new_dag

every_mode = pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)


def decorated(function, *args, conf=None, dag=None, named=None, **arguments):
    """Run a DAG whose one task is a decorated function; return what came of it."""
    with new_dag(**(dag or {})) as made:
        task.atscale_build(task_id="task", **{**MODEL, **QUICK, **arguments})(function)(*args, **(named or {}))
    return runs.run(made, **(conf or {}))["task"]


def full():
    return {"is_full_build": True}


# --- what the function returns ----------------------------------------------------------------------------

CHOICES = {
    "nothing": ({}, False, {}),
    "a full build": ({"is_full_build": True}, True, {}),
    "an incremental build": ({"is_full_build": "no"}, False, {}),
    "grace periods": ({"grace_period_overrides": {"factinternetsales": 7}}, False, {"factinternetsales": 7}),
}


@every_mode
@pytest.mark.parametrize(("returned", "is_full", "overrides"), CHOICES.values(), ids=CHOICES)
def test_what_the_function_returns_is_built(engine, mode, returned, is_full, overrides):
    done = decorated(lambda: returned, **mode)
    assert done.state == "success", done.errors
    [batch] = engine.batches
    assert (batch.is_full_build, batch.grace_period_overrides) == (is_full, overrides)
    assert done.value == batch.id
    assert done.xcoms["batch_result"]["batch_id"] == batch.id
    assert next(iter(done.links.values())).startswith("http")


@every_mode
def test_the_function_may_choose_the_model(engine, mode):
    done = decorated(lambda: MODEL, catalog=None, model=None, **mode)
    assert done.state == "success", done.errors
    assert [batch.model for batch in engine.batches] == ["internet_sales"]


def test_it_may_replace_what_the_decorator_was_given(engine):
    decorated(lambda: {"is_full_build": False, "catalog": "Finance", "model": "General Ledger"}, **full())
    assert [(batch.model, batch.is_full_build) for batch in engine.batches] == [("general_ledger", False)]


def test_the_decorators_arguments_are_templates(engine):
    done = decorated(lambda: {}, is_full_build="{{ dag_run.conf['full'] }}", conf={"full": "yes"})
    assert done.state == "success", done.errors
    assert engine.batches[0].is_full_build


def test_default_args_serve_it(engine):
    with new_dag(default_args=MODEL) as dag:
        task.atscale_build(**QUICK)(full)()
    assert runs.run(dag).states == {"full": "success"}


def test_it_is_called_as_every_task_of_a_dag(engine):
    """With results of other tasks, values by position and name, templates, and the run's context."""

    def choose(count, limit, *, name, params, dag_run):
        assert name == dag_run.run_id
        return {"is_full_build": count > limit and params["may_be_full"]}

    with new_dag(params={"may_be_full": True}) as dag:

        @task
        def count():
            return 8

        task.atscale_build(**MODEL, **QUICK)(choose)(count(), 7, name="{{ run_id }}")
    assert runs.run(dag).states == {"count": "success", "choose": "success"}
    assert [batch.is_full_build for batch in engine.batches] == [True]


def test_an_annotation_says_nothing_of_the_tasks_result(engine):
    """Airflow would take it for several outputs."""

    def choose() -> dict[str, Any]:
        return BuildArguments(is_full_build=True)

    done = decorated(choose)
    assert done.state == "success", done.errors
    assert done.value == engine.batches[0].id


@pytest.mark.skipif(runs.VERSION < (3, 1), reason="Airflow before 3.1 shows what the decorator was given")
@every_mode
def test_rendered_templates_shows_what_applied(engine, mode):
    with new_dag() as dag:
        task.atscale_build(task_id="task", **QUICK, **mode)(lambda: {**MODEL, "is_full_build": True})()
    runs.run(dag)
    shown = stored.rendered_fields(dag.dag_id, "task")
    assert {name: shown[name] for name in (*MODEL, "is_full_build")} == {**MODEL, "is_full_build": True}


# --- skipping ---------------------------------------------------------------------------------------------


def test_a_skip_asks_atscale_nothing(engine):
    def skip():
        raise AirflowSkipException("nothing was loaded")

    assert decorated(skip).state == "skipped"
    assert engine.requests == []


# --- what it must not return ------------------------------------------------------------------------------

BAD = {
    "nothing at all": (None, "returned None; it must return a mapping"),
    "a bare flag": (
        True,
        'returned True; it must return a mapping of arguments, such as {"is_full_build": True}',
    ),
    "a text": ("full", "returned 'full'; it must return a mapping"),
    "an unknown key": (
        {"is_full": True},
        "returned the key 'is_full', .*Allowed: catalog, model, is_full_build, ",
    ),
    "an argument that is not templated": ({"deferrable": True}, "returned the key 'deferrable'"),
    "an argument of every operator": ({"retries": 3}, "returned the key 'retries'"),
    "a key that is no text": ({7: True}, "returned the key 7"),
    "an invalid flag": ({"is_full_build": "maybe"}, "cannot be used: is_full_build is 'maybe'"),
    "a flag that is None": ({"is_full_build": None}, "cannot be used: is_full_build is None"),
    "a template": ({"on_running": "{{ x }}"}, "cannot be used: on_running is '{{ x }}'"),
    "no duration": ({"timeout": -1}, "cannot be used: timeout is -1"),
    "overrides of a full build": (
        {"is_full_build": True, "grace_period_overrides": {"a": 1}},
        "cannot be used: grace_period_overrides is {'a': 1}, but is_full_build is true",
    ),
    "no model": ({"model": None}, "model of @task.atscale_build must be given to the decorator or returned"),
}


@pytest.mark.parametrize(("returned", "error"), BAD.values(), ids=BAD)
def test_a_bad_return_value_fails_before_any_request(engine, returned, error):
    def choose():
        return returned

    done = decorated(choose, retries=3)
    assert (done.state, done.tries) == ("failed", 1)
    assert type(done.error) is AtScaleConfigurationError
    with pytest.raises(AtScaleConfigurationError, match=error):
        raise done.error
    assert "'choose'" in str(done.error)
    assert engine.requests == []


def test_an_error_of_the_function_is_the_tasks(engine):
    tries = []

    def choose():
        tries.append(1)
        return {"is_full_build": 1 // (len(tries) - 1) == 1}

    done = decorated(choose, retries=1)
    assert (done.state, done.tries) == ("success", 2)
    assert isinstance(done.error, ZeroDivisionError)
    assert len(engine.batches) == 1


def test_a_plain_value_that_is_invalid_fails_the_import():
    with new_dag(), pytest.raises(AtScaleConfigurationError, match="on_running is 'queue'"):
        task.atscale_build(on_running="queue", **MODEL)(full)()


# --- mapped -----------------------------------------------------------------------------------------------

NAMES = ["Sales Insights / Internet Sales", "Finance / General Ledger"]


def run_mapped(make):
    with new_dag() as dag:
        make()
    return dag, runs.run(dag)


@every_mode
def test_it_is_mapped_over_the_functions_arguments(engine, mode):
    def build(catalog, model, is_full_build):
        return {"catalog": catalog, "model": model, "is_full_build": is_full_build}

    models = [MODEL, {"catalog": "Finance", "model": "General Ledger"}]
    dag, run = run_mapped(
        lambda: task.atscale_build(**QUICK, **mode)(build).partial(is_full_build=True).expand_kwargs(models)
    )
    assert run.state == "success", run.states
    built = {batch.model: batch.id for batch in engine.batches}
    assert [run[f"build[{number}]"].value for number in range(2)] == [
        built["internet_sales"],
        built["general_ledger"],
    ]
    assert all(batch.is_full_build for batch in engine.batches)
    assert stored.labels(dag.dag_id, "build") == NAMES


def test_a_mapped_task_may_be_called_otherwise_and_one_that_is_not_mapped_has_no_name(engine):
    def build(model):
        return {"model": model}

    def make():
        decorator = task.atscale_build(catalog="Finance", map_index_template="{{ task.model }}!", **QUICK)
        decorator(build).expand(model=["General Ledger"])
        task.atscale_build(task_id="one", **MODEL, **QUICK)(full)()

    dag, run = run_mapped(make)
    assert run.state == "success", run.states
    assert stored.labels(dag.dag_id, "build") == ["General Ledger!"]
    assert stored.labels(dag.dag_id, "one") == [None]


@every_mode
def test_a_mapped_task_whose_function_chose_no_model_keeps_its_number(engine, mode):
    """An empty name would leave nothing to click on in the web UI."""

    def build(model):
        if model == "fail":
            raise ValueError(model)
        if model == "skip":
            raise AirflowSkipException("nothing was loaded")
        return {"model": model}

    dag, run = run_mapped(
        lambda: task.atscale_build(catalog="Sales Insights", **QUICK, **mode)(build).expand(
            model=["Internet Sales", "skip", "fail"]
        )
    )
    assert [run[f"build[{number}]"].state for number in range(3)] == ["success", "skipped", "failed"]
    assert stored.labels(dag.dag_id, "build") == [NAMES[0], "1", "2"]


def test_its_result_feeds_other_tasks(engine):
    """It is the batch's id, also of a decorator that was imported instead of found by Airflow."""
    from airflow_provider_atscale.sensors.atscale import AtScaleBatchSensor

    with new_dag() as dag:
        started = atscale_build_task(wait_for_completion=False, **MODEL)(full)()
        AtScaleBatchSensor(task_id="wait", batch_id=started, poke_interval=0.1)
    assert runs.run(dag)["wait"].value == engine.batches[0].id


# --- tries ------------------------------------------------------------------------------------------------


def dies_after_the_start(monkeypatch):
    """Let the first try die as soon as the batch is known, as a worker does that is killed."""
    run_in = AtScaleAggregateBuildOperator._run_in

    def run_in_and_die(self, context):
        made = run_in(self, context)

        def die(*_):
            raise AirflowException("the worker was killed")

        if context["ti"].try_number == 1:
            made._publish_batch = die
        return made

    monkeypatch.setattr(AtScaleAggregateBuildOperator, "_run_in", run_in_and_die)


@every_mode
def test_a_retry_after_a_death_builds_nothing_twice(engine, mode, monkeypatch):
    dies_after_the_start(monkeypatch)
    tries = []

    def choose(ti):
        tries.append(ti.try_number)
        return full()

    done = decorated(choose, retries=1, **mode)
    assert (done.state, done.tries) == ("success", 2), done.errors
    assert tries == [1, 2]
    assert all(batch.overlapped_with == [] for batch in engine.batches)
    if runs.HAS_TASK_STATE:
        assert [batch.id for batch in engine.batches] == [done.value]


@every_mode
def test_a_lost_reply_is_adopted(engine, mode):
    engine.fault("drop_after", route="start")
    done = decorated(full, **mode)
    assert done.state == "success", done.errors
    assert done.xcoms["batch_result"]["start"] == "adopted"
    assert len(engine.batches) == 1


@every_mode
def test_a_failed_build_is_the_operators_error(engine, mode):
    engine.fail_next("Internet Sales")
    assert isinstance(decorated(full, **mode).error, AtScaleBatchFailedError)


@pytest.fixture
def deferred(engine, context):
    """Return a deferred task, how often its function was called, and its trigger's event."""
    calls = []

    def choose():
        calls.append(1)
        return full()

    engine.settings(build_seconds=60)
    operator = task.atscale_build(deferrable=True, **MODEL)(choose)().operator
    with pytest.raises(TaskDeferred) as raised:
        AtScaleAggregateBuildOperator.execute(operator, context)
    _, arguments = raised.value.trigger.serialize()
    batch_id = arguments["batch_id"]
    event = {
        "status": "ended",
        "batch_id": batch_id,
        "batch": {"id": batch_id, "status": "done", "isFullBuild": True},
        **{name: arguments[name] for name in GIVEN_BACK},
    }
    engine.end_batch(batch_id)
    return operator, calls, event


def test_a_resume_does_not_call_the_function(engine, context, deferred):
    operator, calls, event = deferred
    assert operator.resume_execution("execute_complete", {"event": event}, context) == event["batch_id"]
    assert calls == [1]
    assert len(engine.batches) == 1


def test_a_restart_calls_the_function(engine, context, deferred):
    """Airflow 3.0 resumes a retry with the event of the try before it; that starts work, so the function is asked."""
    operator, calls, event = deferred
    operator.is_full_build = False  # rendered anew
    operator.deferrable = False
    context["ti"].try_number = 2
    assert operator.resume_execution("execute_complete", {"event": event}, context) == event["batch_id"]
    assert calls == [1, 1]
    assert operator.is_full_build is True
    assert len(engine.batches) == 1


def test_a_task_that_is_stopped_while_its_function_runs_starts_nothing(engine, context, logged):
    def choose(ti):
        operator.on_kill()
        return full()

    operator = task.atscale_build(**MODEL)(choose)().operator
    with pytest.raises(AirflowException, match="was stopped"):
        AtScaleAggregateBuildOperator.execute(operator, context)
    assert "The task was stopped before a build was started; none will be started" in logged()
    assert engine.batches == []
