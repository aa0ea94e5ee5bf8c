"""Arguments: read strictly, before any request; rendered by templates; shared, mapped and configured."""

from __future__ import annotations

import importlib.util
from datetime import timedelta

import pytest
from airflow.providers.common.compat.sdk import task

from airflow_provider_atscale.exceptions import AtScaleConfigurationError
from airflow_provider_atscale.hooks.atscale import AtScaleHook
from airflow_provider_atscale.operators import atscale as operators
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.sensors import atscale as sensors
from airflow_provider_atscale.sensors.atscale import AtScaleBatchSensor

from . import runs
from .conftest import MODEL, QUICK, SENSORS, new_dag, run_task

# --- what stops the task before any request ---------------------------------------------------------------

BAD_OF_OPERATOR = {
    "a flag that is none": ({"is_full_build": "maybe"}, "is_full_build is 'maybe'"),
    "an empty flag": ({"is_full_build": ""}, "is_full_build is ''"),
    "a flag that rendered to None": ({"is_full_build": "None"}, "is_full_build is 'None'"),
    "overrides of a full build": (
        {"is_full_build": True, "grace_period_overrides": {"factinternetsales": 30}},
        "grace_period_overrides is {'factinternetsales': 30}, but is_full_build is true",
    ),
    "a negative grace period": (
        {"grace_period_overrides": {"factinternetsales": -1}},
        "grace_period_overrides['factinternetsales'] is -1",
    ),
    "a grace period that is no number": (
        {"grace_period_overrides": {"factinternetsales": "a week"}},
        "grace_period_overrides['factinternetsales'] is 'a week'",
    ),
    "overrides that are no mapping": ({"grace_period_overrides": ["a"]}, "grace_period_overrides is ['a']"),
    "an unknown choice": (
        {"on_running": "queue"},
        "on_running is 'queue'; it must be one of join, wait, attach",
    ),
    "another unknown choice": ({"failed_aggregates": "no"}, "failed_aggregates is 'no'"),
    "a catalog that rendered to None": ({"catalog": "None"}, "catalog is 'None'"),
    "an empty model": ({"model": " "}, "model is ' '"),
    "an empty connection id": ({"atscale_conn_id": ""}, "atscale_conn_id is ''"),
    "no time at all": ({"timeout": 0}, "timeout is 0"),
    "a timeout that is none": ({"timeout": "soon"}, "timeout is 'soon'"),
    "a negative interval": ({"poll_interval": -1}, "poll_interval is -1"),
    "an unreadable wait": ({"wait_for_completion": "perhaps"}, "wait_for_completion is 'perhaps'"),
}


@pytest.mark.parametrize(("arguments", "text"), BAD_OF_OPERATOR.values(), ids=BAD_OF_OPERATOR)
@pytest.mark.parametrize("deferrable", [False, True])
def test_bad_arguments_of_the_operator(engine, context, deferrable, arguments, text):
    wanted = {**MODEL, "deferrable": deferrable, **arguments}
    with pytest.raises(AtScaleConfigurationError) as caught:
        AtScaleAggregateBuildOperator(task_id="task", **wanted).execute(context)
    assert text in str(caught.value)
    assert engine.requests == []


BAD_OF_SENSOR = {
    "a batch that is the text None": ({"batch_id": "None"}, "batch_id is 'None'"),
    "an empty batch": ({"batch_id": ""}, "batch_id is ''"),
    "nothing to wait for": ({}, "there is nothing to wait for"),
    "a catalog alone": ({"batch_id": "b1", "catalog": "Sales Insights"}, "give both, or neither"),
    "a model alone": ({"batch_id": "b1", "model": "Internet Sales"}, "give both, or neither"),
    "an unknown choice": ({"batch_id": "b1", "failed_aggregates": "no"}, "failed_aggregates is 'no'"),
    "an empty connection id": ({"batch_id": "b1", "atscale_conn_id": ""}, "atscale_conn_id is ''"),
}


@pytest.mark.parametrize(("arguments", "text"), BAD_OF_SENSOR.values(), ids=BAD_OF_SENSOR)
@pytest.mark.parametrize("mode", SENSORS.values(), ids=SENSORS)
def test_bad_arguments_of_the_sensor(engine, context, mode, arguments, text):
    with pytest.raises(AtScaleConfigurationError) as caught:
        AtScaleBatchSensor(task_id="task", **mode, **arguments).execute(context)
    assert text in str(caught.value)
    assert engine.requests == []


def test_batch_that_rendered_to_nothing_is_not_the_newest(engine, context):
    """The task that should have started it was skipped; another batch's end must not be taken for its."""
    engine.start_batch("Sales Insights", "Internet Sales", build_seconds=0)
    sensor = AtScaleBatchSensor(task_id="task", batch_id="{{ none }}", **MODEL)
    sensor.batch_id = None  # as it is after rendering to a native object
    with pytest.raises(AtScaleConfigurationError, match="Was it skipped"):
        sensor.execute(context)


# --- templates --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("full", "expected"), [(False, False), (True, True), ("False", False), ("no", False), (0, False)]
)
def test_templated_flag(engine, full, expected):
    """``"False"``, which is what the template renders to, is a true text and must not become a full build."""
    done = run_task(
        AtScaleAggregateBuildOperator,
        conf={"full": full},
        params={"full": True},
        is_full_build="{{ params.full }}",
        **MODEL,
        **QUICK,
    )
    assert done.state == "success"
    assert engine.batches[0].is_full_build is expected
    [start] = [each for each in engine.requests if each.route == "start"]
    assert start.query["isFullBuild"] == ("true" if expected else "false")


@pytest.mark.parametrize("edition", ["container"], indirect=True)
def test_everything_that_varies_is_templated(engine, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", engine.connection_json())
    monkeypatch.delenv("AIRFLOW_CONN_ATSCALE_DEFAULT")
    params = {
        "catalog": "Sales Insights",
        "model": "Internet Sales",
        "days": 30,
        "conn": "other",
        "wait": False,
        "policy": "fail",
        "seconds": 5,
    }
    done = run_task(
        AtScaleAggregateBuildOperator,
        params=params,
        catalog="{{ params.catalog }}",
        model="{{ params.model }}",
        is_full_build="{{ false }}",
        grace_period_overrides={"factinternetsales": "{{ params.days }}"},
        on_running="{{ params.policy }}",
        failed_aggregates="{{ params.policy }}",
        wait_for_completion="{{ params.wait }}",
        poll_interval="{{ params.seconds }}",
        timeout="{{ params.seconds }}",
        atscale_conn_id="{{ params.conn }}",
    )
    assert done.state == "success"
    assert "batch_result" not in done.xcoms
    assert engine.batches[0].grace_period_overrides == {"factinternetsales": 30}


# --- shared and mapped ------------------------------------------------------------------------------------


def test_default_args_serve_operator_and_sensor(engine, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", engine.connection_json())
    monkeypatch.delenv("AIRFLOW_CONN_ATSCALE_DEFAULT")
    shared = {
        "atscale_conn_id": "other",
        "catalog": "Sales Insights",
        "model": "Internet Sales",
        "failed_aggregates": "fail",
        "deferrable": True,
        "timeout": timedelta(minutes=1),
    }
    with new_dag(default_args=shared) as dag:
        build = AtScaleAggregateBuildOperator(task_id="build", wait_for_completion=False)
        wait = AtScaleBatchSensor(task_id="wait", batch_id=build.output, poke_interval=0.1)
    assert build.timeout == timedelta(minutes=1)
    assert wait.timeout == 60
    assert (build.failed_aggregates, wait.failed_aggregates) == ("fail", "fail")
    assert runs.run(dag).states == {"build": "success", "wait": "success"}


def test_one_build_for_each_model(engine):
    """The operator's value is one id, so a mapped sensor gets one each."""
    with new_dag() as dag:
        build = AtScaleAggregateBuildOperator.partial(
            task_id="build", catalog="Sales Insights", wait_for_completion=False
        ).expand(model=["Internet Sales", "Reseller Sales"])
        AtScaleBatchSensor.partial(
            task_id="wait", catalog=None, model=None, poke_interval=0.1, deferrable=True
        ).expand(batch_id=build.output)
    done = runs.run(dag)
    assert done.state == "success", done.states
    assert set(done.tasks) == {"build[0]", "build[1]", "wait[0]", "wait[1]"}
    assert {batch.model for batch in engine.batches} == {"internet_sales", "reseller_sales"}
    for number in (0, 1):
        assert done[f"wait[{number}]"].value == done[f"build[{number}]"].value


def test_every_model_there_is(engine):
    """What a task collects from the hook are the operator's arguments, and what that pushes the sensor's."""
    with new_dag() as dag:

        @task
        def models():
            return AtScaleHook().list_models()

        @task
        def batches(ti=None, task_ids=None):
            return list(ti.xcom_pull(task_ids="build", key="batch", map_indexes=[0, 1, 2]))

        build = AtScaleAggregateBuildOperator.partial(task_id="build", wait_for_completion=False).expand_kwargs(
            models()
        )
        collected = batches()
        build >> collected
        AtScaleBatchSensor.partial(task_id="wait", poke_interval=0.1).expand_kwargs(collected)
    done = runs.run(dag)
    assert done.state == "success", done.states
    assert len(engine.batches) == 3
    assert {done[f"wait[{number}]"].value for number in range(3)} == {batch.id for batch in engine.batches}


# --- configured -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_default", [True, False])
@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [(operators, "AtScaleAggregateBuildOperator", MODEL), (sensors, "AtScaleBatchSensor", {"batch_id": "b1"})],
    ids=["operator", "sensor"],
)
def test_deferrable_by_default(monkeypatch, module, name, arguments, is_default):
    """Airflow's own setting decides, for whoever does not say it."""
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", str(is_default))
    spec = importlib.util.spec_from_file_location("read_anew", module.__file__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    cls = getattr(fresh, name)
    assert cls(task_id="task", **arguments).deferrable is is_default
    assert cls(task_id="task", deferrable=not is_default, **arguments).deferrable is not is_default


def test_batch_that_is_done_at_once_never_defers(engine, context):
    engine.settings(build_seconds=0)
    arguments = {**MODEL, "deferrable": True}
    batch_id = AtScaleAggregateBuildOperator(task_id="task", **arguments).execute(context)
    sensor = AtScaleBatchSensor(task_id="wait", batch_id=batch_id, **arguments)
    assert sensor.execute(context) == batch_id
