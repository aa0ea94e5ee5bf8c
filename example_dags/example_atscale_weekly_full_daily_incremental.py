"""
Build incrementally each day, and fully once a week.

The kind of the build is a template, rendered for each run: full on Sundays, incremental on all other days,
and full if you say so in the form that Airflow shows before a manual run. The operator reads the
rendered text strictly, so "False" means false. Give your DAG ``schedule="@daily"``; the example has no
schedule, so that it runs only when you ask.

Incremental builds alone can take grace periods: how far back AtScale looks for rows of a dataset that have
changed. They are left out of the full build, where AtScale knows none.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param

from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator

IS_FULL_BUILD = "params.full or dag_run.run_after.isoweekday() == 7"

with DAG(
    "example_atscale_weekly_full_daily_incremental",
    schedule=None,
    catchup=False,
    params={"full": Param(False, type="boolean", title="Build everything")},
    tags=["atscale", "example"],
    doc_md=__doc__,
):
    # [START howto_operator_atscale_weekly]
    AtScaleAggregateBuildOperator(
        task_id="build_aggregates",
        atscale_conn_id="atscale_default",
        catalog="Sales Insights",
        model="Internet Sales",
        is_full_build="{{ " + IS_FULL_BUILD + " }}",
        grace_period_overrides="{{ {} if " + IS_FULL_BUILD + " else {'factinternetsales': 30} | tojson }}",
        deferrable=True,
    )
    # [END howto_operator_atscale_weekly]
