"""What a task weighs in the serialized DAG, which every scheduler and web server reads again and again."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator, BaseOperatorLink, BaseSensorOperator

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
    ("make", "base", "at_most"),
    [
        pytest.param(build, BaseOperator, 450, id="operator"),
        pytest.param(
            lambda: AtScaleBatchSensor(task_id="build", batch_id="b", catalog="c", model="m"),
            BaseSensorOperator,
            350,
            id="sensor",
        ),
    ],
)
def test_task_stays_small(make, base, at_most):
    """Beside what Airflow itself writes of every task, which differs from version to version."""
    assert weight(make) - weight(lambda: base(task_id="build")) <= at_most


# --- beside dbt Cloud's -----------------------------------------------------------------------------------

#: What somebody must give to run dbt Cloud's job by name, as ours must be given catalog and model.
JOB = {"project_name": "Sales Insights", "environment_name": "Production", "job_name": "Internet Sales"}


class DbtCloudRunJobOperatorLink(BaseOperatorLink):
    name = "Monitor Job Run"
    xcom_key = "_link_DbtCloudRunJobOperatorLink"

    def get_link(self, operator, *, ti_key):
        raise AssertionError("Nobody follows it")


class DbtCloudRunJobOperator(BaseOperator):
    """What dbt Cloud's operator (4.11.1) tells Airflow of itself, for where that provider is not installed."""

    template_fields = (
        "dbt_cloud_conn_id",
        "job_id",
        "project_name",
        "environment_name",
        "job_name",
        "account_id",
        "trigger_reason",
        "steps_override",
        "schema_override",
        "additional_run_config",
    )
    operator_extra_links = (DbtCloudRunJobOperatorLink(),)

    def __init__(self, *, project_name, environment_name, job_name, **kwargs):
        super().__init__(**kwargs)
        self.dbt_cloud_conn_id = "dbt_cloud_default"
        self.job_id = self.account_id = self.trigger_reason = None
        self.project_name = project_name
        self.environment_name = environment_name
        self.job_name = job_name
        self.steps_override = self.schema_override = None
        self.additional_run_config = {}


for each in (DbtCloudRunJobOperator, DbtCloudRunJobOperatorLink):
    each.__module__ = "airflow.providers.dbt.cloud.operators.dbt"


def test_operator_is_lighter_than_dbt_clouds():
    assert weight(build) < weight(lambda: DbtCloudRunJobOperator(task_id="build", **JOB))


def test_the_stand_in_weighs_what_dbt_clouds_operator_does():
    """Otherwise the comparison above would be with nobody."""
    real = pytest.importorskip("airflow.providers.dbt.cloud.operators.dbt").DbtCloudRunJobOperator
    assert weight(lambda: DbtCloudRunJobOperator(task_id="build", **JOB)) == weight(
        lambda: real(task_id="build", **JOB)
    )
