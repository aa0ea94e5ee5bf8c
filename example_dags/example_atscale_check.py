"""
Check a model's aggregates after a build: failed, too few, too old or empty ones fail the task.

A build can end well although some aggregates could not be built, or are empty. The check reads the model's aggregates
once and fails with their names. It starts no build.

The same task also works alone, in a DAG with a schedule: it tells you that nobody has built the model in time.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag

from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.operators.checks import AtScaleAggregateCheckOperator


@dag(
    schedule=None,
    catchup=False,
    # Both operators take the same three arguments.
    default_args={
        "atscale_conn_id": "atscale_default",
        "catalog": "Sales Insights",
        "model": "Internet Sales",
    },
    tags=["atscale", "example"],
    doc_md=__doc__,
)
def example_atscale_check():
    build = AtScaleAggregateBuildOperator(task_id="build_aggregates", is_full_build=True)

    # [START howto_operator_atscale_check]
    check = AtScaleAggregateCheckOperator(
        task_id="check_aggregates",
        max_failed=0,
        min_active=5,
        max_age=timedelta(hours=26),
        min_rows=1,
    )
    # [END howto_operator_atscale_check]

    build >> check


example_atscale_check()
