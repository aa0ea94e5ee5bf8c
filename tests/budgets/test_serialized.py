"""What a task weighs in the serialized DAG, which every scheduler and web server reads again and again."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.sensors.atscale import AtScaleBatchSensor


def weight(make):
    """Return the bytes of a task that a function makes."""
    try:
        from airflow.serialization.serialized_objects import DagSerialization as Serialized
    except ImportError:
        from airflow.serialization.serialized_objects import SerializedDAG as Serialized
    with DAG("dag", schedule=None, start_date=datetime(2026, 1, 1)) as dag:
        make()
    (task,) = Serialized.to_dict(dag)["dag"]["tasks"]
    return len(json.dumps(task))


def build():
    return AtScaleAggregateBuildOperator(task_id="build", catalog="Sales Insights", model="Internet Sales")


@pytest.mark.parametrize(
    ("make", "at_most"),
    [
        pytest.param(build, 1_200, id="operator"),
        pytest.param(
            lambda: AtScaleBatchSensor(task_id="wait", batch_id="b", catalog="c", model="m"), 1_000, id="sensor"
        ),
    ],
)
def test_task_stays_small(make, at_most):
    assert weight(make) <= at_most


@pytest.mark.xfail(
    reason="Every argument is a template field, and Airflow serializes these even where they have defaults"
)
def test_operator_is_lighter_than_dbt_clouds():
    dbt = pytest.importorskip("airflow.providers.dbt.cloud.operators.dbt")
    peer = weight(
        lambda: dbt.DbtCloudRunJobOperator(
            task_id="build",
            project_name="Sales Insights",
            environment_name="Production",
            job_name="Internet Sales",
        )
    )
    assert weight(build) < peer
