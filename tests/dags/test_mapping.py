"""Mapped tasks are called by what they work on, unless the user says how."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import task

from airflow_provider_atscale.hooks.atscale import AtScaleHook
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.sensors.atscale import AtScaleBatchSensor

from . import runs, stored
from .conftest import MODEL, QUICK, new_dag

MODELS = [
    {"catalog": "Sales Insights", "model": "Internet Sales"},
    {"catalog": "Finance", "model": "{{ 'General' }} Ledger"},
]
LONG = "x" * 300


def _run(fill, **arguments):
    with new_dag(**arguments) as dag:
        fill()
    return dag, runs.run(dag)


@pytest.mark.parametrize("waits", [{}, {"deferrable": True}, {"wait_for_completion": False}], ids=str)
def test_builds_are_called_by_catalog_and_model(engine, waits):
    dag, run = _run(
        lambda: AtScaleAggregateBuildOperator.partial(task_id="task", **QUICK, **waits).expand_kwargs(MODELS)
    )
    assert run.state == "success"
    assert stored.labels(dag.dag_id, "task") == ["Sales Insights / Internet Sales", "Finance / General Ledger"]


def test_a_build_that_fails_is_called_so_too(engine):
    dag, run = _run(
        lambda: AtScaleAggregateBuildOperator.partial(task_id="task", catalog="Sales Insights").expand(
            model=["No such model"]
        )
    )
    assert run["task[0]"].state == "failed"
    assert stored.labels(dag.dag_id, "task") == ["Sales Insights / No such model"]


CHOICES = {
    "in partial": ({"map_index_template": "{{ task.model }}!"}, {}),
    "in default_args": ({}, {"map_index_template": "{{ task.model }}!"}),
}


@pytest.mark.parametrize(("partial", "defaults"), CHOICES.values(), ids=CHOICES)
def test_the_users_own_name_stays(engine, partial, defaults):
    dag, _ = _run(
        lambda: AtScaleAggregateBuildOperator.partial(
            task_id="task", catalog="Sales Insights", **QUICK, **partial
        ).expand(model=["Internet Sales"]),
        default_args=defaults,
    )
    assert stored.labels(dag.dag_id, "task") == ["Internet Sales!"]


def test_a_task_that_is_not_mapped_has_no_such_name(engine):
    dag, _ = _run(lambda: AtScaleAggregateBuildOperator(task_id="task", **MODEL, **QUICK))
    assert stored.labels(dag.dag_id, "task") == [None]


def test_a_name_fits_into_the_database(engine):
    dag, _ = _run(
        lambda: AtScaleAggregateBuildOperator.partial(task_id="task", catalog="Finance").expand(model=[LONG])
    )
    [label] = stored.labels(dag.dag_id, "task")
    assert label == f"Finance / {LONG}"[:250]


@pytest.mark.parametrize(
    ("partial", "expected"),
    [({}, "{batch_id}"), (MODEL, "Sales Insights / Internet Sales")],
    ids=["batch alone", "model too"],
)
@pytest.mark.parametrize("mode", [{"mode": "poke"}, {"mode": "reschedule"}, {"deferrable": True}], ids=str)
def test_waits_are_called_by_what_they_know(engine, partial, expected, mode):
    batch = engine.start_batch(None, "Internet Sales")
    dag, run = _run(
        lambda: AtScaleBatchSensor.partial(task_id="task", poke_interval=0.1, **mode, **partial).expand(
            batch_id=[batch.id]
        )
    )
    assert run.state == "success"
    assert stored.labels(dag.dag_id, "task") == [expected.format(batch_id=batch.id)]


def test_a_wait_for_nothing_keeps_its_number(engine):
    """An empty name would leave nothing to click on in the web UI."""
    dag, _ = _run(lambda: AtScaleBatchSensor.partial(task_id="task").expand(batch_id=[None]))
    assert stored.labels(dag.dag_id, "task") == ["0"]


def test_every_model_of_a_catalog_then_every_batch(engine):
    """What ``list_models`` returns feeds the operator, and both what that returns and pushes the sensor."""

    def fill():
        @task
        def models():
            return AtScaleHook().list_models("Sales Insights")

        @task
        def batches(started):
            return list(started)

        start = AtScaleAggregateBuildOperator.partial(
            task_id="start", wait_for_completion=False, max_active_tis_per_dagrun=1
        ).expand_kwargs(models())
        AtScaleBatchSensor.partial(task_id="ids", poke_interval=0.1).expand(batch_id=start.output)
        AtScaleBatchSensor.partial(task_id="batches_", poke_interval=0.1).expand_kwargs(
            batches(start.output["batch"])
        )

    _, run = _run(fill)
    assert run.state == "success", run.states
    started = {batch.model: batch.id for batch in engine.batches}
    expected = [started["internet_sales"], started["reseller_sales"]]
    for name in ("start", "ids", "batches_"):
        assert [run[f"{name}[{number}]"].value for number in range(2)] == expected


@pytest.mark.parametrize("operator", [AtScaleAggregateBuildOperator, AtScaleBatchSensor])
def test_a_task_itself_cannot_be_mapped(operator):
    made = operator(task_id="task", **MODEL)
    with pytest.raises(TypeError, match="Operator classes"):
        made.partial(task_id="other")


@pytest.mark.parametrize("mode", [{}, {"mode": "reschedule"}, {"deferrable": True}], ids=str)
def test_a_mapped_batch_id_that_is_none_is_an_error(engine, mode):
    """It must not mean the newest batch, which may be another task's."""
    engine.start_batch("Sales Insights", "Internet Sales", build_seconds=0)
    _, run = _run(lambda: AtScaleBatchSensor.partial(task_id="task", **MODEL, **mode).expand(batch_id=[None]))
    assert run["task[0]"].state == "failed"
    assert "leave batch_id out" in str(run["task[0]"].error)
