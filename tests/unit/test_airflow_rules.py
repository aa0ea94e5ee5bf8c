"""What Airflow's own checks demand of official providers."""

from __future__ import annotations

import ast
import functools
import inspect
import os
import subprocess
import sys
import textwrap
from datetime import datetime

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowOptionalProviderFeatureException

from airflow_provider_atscale.exceptions import AtScaleConfigurationError
from airflow_provider_atscale.hooks.atscale import AtScaleHook
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.operators.checks import AtScaleAggregateCheckOperator
from airflow_provider_atscale.sensors.atscale import AtScaleBatchSensor
from airflow_provider_atscale.triggers.atscale import AtScaleBatchTrigger

try:
    from airflow_provider_atscale.triggers.builds import AtScaleBuildEventTrigger
except AirflowOptionalProviderFeatureException:
    AtScaleBuildEventTrigger = None

WAITING = [AtScaleAggregateBuildOperator, AtScaleBatchSensor]
TASKS = [*WAITING, AtScaleAggregateCheckOperator]
ALL = [*TASKS, AtScaleBatchTrigger, *filter(None, [AtScaleBuildEventTrigger])]


def constructor(cls) -> ast.FunctionDef:
    """Return the constructor as it is written, not as Airflow wraps it."""
    source = textwrap.dedent(inspect.getsource(cls))
    [node] = ast.parse(source).body
    return next(each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__")


def kept(cls) -> set[str]:
    """Return the arguments that the constructor assigns plainly: ``self.name = name``."""
    return {
        each.value.id
        for each in constructor(cls).body
        if isinstance(each, ast.Assign)
        and isinstance(each.targets[0], ast.Attribute)
        and isinstance(each.value, ast.Name)
        and each.targets[0].attr == each.value.id
    }


@pytest.mark.parametrize("cls", TASKS)
def test_template_fields_are_kept_unconditionally(cls):
    assert set(cls.template_fields) <= kept(cls)


@pytest.mark.parametrize("cls", TASKS)
def test_arguments_are_kept_as_they_are_given(cls):
    """Whatever they are: nothing looks at them before they are rendered."""
    names = [each.arg for each in constructor(cls).args.kwonlyargs]
    assert set(cls.template_fields) <= set(names)
    given = {name: f"{{{{ params.{name} }}}}" for name in names}
    task = cls(task_id="task", **given)
    assert {name: getattr(task, name) for name in names} == given


@pytest.mark.parametrize("cls", TASKS)
def test_subclass_may_make_a_property_of_an_argument(cls):
    class OwnBatch(cls):
        @property
        def model(self):
            return self.kept

        @model.setter
        def model(self, value):
            self.kept = f"{value} of my own"

    task = OwnBatch(task_id="task", catalog="Sales Insights", model="Internet Sales")
    assert (task.catalog, task.model) == ("Sales Insights", "Internet Sales of my own")


@pytest.mark.parametrize("cls", TASKS)
def test_such_a_property_may_need_what_the_subclass_sets_later(cls):
    class OfStage(cls):
        def __init__(self, *, stage, **kwargs):
            super().__init__(**kwargs)
            self.stage = stage

        @property
        def atscale_conn_id(self):
            return f"atscale_{self.stage}"

        @atscale_conn_id.setter
        def atscale_conn_id(self, value):
            pass

    task = OfStage(task_id="task", catalog="Sales Insights", model="Internet Sales", stage="test")
    assert task.atscale_conn_id == "atscale_test"


@pytest.mark.parametrize("cls", ALL)
def test_arguments_are_given_by_name_only(cls):
    arguments = constructor(cls).args
    assert [each.arg for each in arguments.args] == ["self"]
    assert arguments.vararg is None


@pytest.mark.parametrize("cls", TASKS)
def test_connection_id_is_templated(cls):
    names = [each.arg for each in constructor(cls).args.kwonlyargs if each.arg.endswith("conn_id")]
    assert names == ["atscale_conn_id"]
    assert set(names) <= set(cls.template_fields)


@pytest.mark.parametrize("cls", TASKS)
def test_arguments_are_documented_in_the_constructors_order(cls):
    documented = [line.split(":")[1] for line in inspect.getdoc(cls).splitlines() if line.startswith(":param ")]
    own = [f"param {each.arg}" for each in constructor(cls).args.kwonlyargs]
    assert [each for each in documented if each in own] == own


@functools.cache
def defaults_of_deferrable(value: str | None) -> dict[str, str]:
    """Return what a DAG file sees that is imported by a process with that setting, by class."""
    imports = "; ".join(f"from {cls.__module__} import {cls.__name__}" for cls in WAITING)
    names = ", ".join(cls.__name__ for cls in WAITING)
    code = f"""
import inspect
{imports}
for cls in ({names}):
    print("default:", cls.__name__, inspect.signature(cls.__init__.__wrapped__).parameters["deferrable"].default)
"""
    environment = {k: v for k, v in os.environ.items() if k != "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE"}
    if value is not None:
        environment["AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE"] = value
    output = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout
    return dict(line.split()[1:] for line in output.splitlines() if line.startswith("default:"))


@pytest.mark.parametrize(
    ("value", "expected"), [(None, False), ("True", True), ("False", False)], ids=["unset", "True", "False"]
)
@pytest.mark.parametrize("cls", WAITING)
def test_deferrable_follows_airflows_setting(cls, value, expected):
    assert defaults_of_deferrable(value)[cls.__name__] == str(expected)


def test_constructors_do_nothing(monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a constructor must not ask anybody")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("airflow_provider_atscale.hooks.atscale.AtScaleHook.get_connection", refuse)
    AtScaleHook("atscale_default")
    with DAG("dag", schedule=None, start_date=datetime(2026, 1, 1)):
        AtScaleAggregateBuildOperator(
            task_id="a", catalog="{{ nonsense", model="m", on_running="{{ nonsense }}"
        )
        AtScaleBatchSensor(task_id="b", failed_aggregates="{{ nonsense }}")


BUILD = {"task_id": "build", "catalog": "Sales Insights", "model": "Internet Sales"}
WAIT = {"task_id": "wait"}


@pytest.mark.parametrize(
    ("cls", "given", "text"),
    [
        (
            AtScaleAggregateBuildOperator,
            {**BUILD, "on_running": "queue"},
            "on_running is 'queue'; it must be one of",
        ),
        (
            AtScaleAggregateBuildOperator,
            {**BUILD, "poll_interval": -1},
            "poll_interval is -1; it must be a timedelta",
        ),
        (AtScaleAggregateBuildOperator, {**BUILD, "timeout": "1h"}, "timeout is '1h'; it must be a timedelta"),
        (AtScaleAggregateBuildOperator, {**BUILD, "is_full_build": "maybe"}, "is_full_build is 'maybe'"),
        (AtScaleAggregateBuildOperator, {**BUILD, "model": 7}, "model is 7; give the id"),
        (AtScaleAggregateBuildOperator, {**BUILD, "catalog": ""}, "catalog is ''; give the id"),
        (
            AtScaleAggregateBuildOperator,
            {**BUILD, "skip_if_built_within": "soon"},
            "skip_if_built_within is 'soon'",
        ),
        (AtScaleAggregateBuildOperator, {**BUILD, "wait_for_completion": 2}, "wait_for_completion is 2"),
        (AtScaleBatchSensor, {**WAIT, "failed_aggregates": "forgive"}, "failed_aggregates is 'forgive'"),
        (AtScaleBatchSensor, {**WAIT, "batch_id": 7}, "batch_id is 7"),
        (AtScaleAggregateCheckOperator, {**BUILD, "max_failed": -1}, "max_failed is -1; it must be a whole"),
        (AtScaleAggregateCheckOperator, {**BUILD, "max_age": "a day"}, "max_age is 'a day'; it must be"),
    ],
)
def test_a_plain_value_that_is_wrong_fails_the_import_of_the_dag(cls, given, text):
    with (
        DAG("dag", schedule=None, start_date=datetime(2026, 1, 1)),
        pytest.raises(AtScaleConfigurationError, match=text),
    ):
        cls(**given)


@pytest.mark.parametrize(
    "value", ["{{ params.x }}", "{% if x %}skip{% endif %}", "{# why #}wait", "[[ params.x ]]", "wait.txt"]
)
def test_a_template_is_checked_when_the_task_runs(value):
    with DAG("dag", schedule=None, start_date=datetime(2026, 1, 1)):
        task = AtScaleAggregateBuildOperator(**BUILD, on_running=value, timeout=value, poll_interval=value)
    assert task.on_running == value
