"""
Let the kind of failure decide whether and when a build is tried again (Airflow 3.3 and newer).

A retry of the operator goes on with the batch that the try before it has started, so after a timeout or a wait that
could not read AtScale it comes at once: it builds nothing twice. If AtScale says when to come back (Retry-After),
the retry comes then. A batch that AtScale itself has ended as failed would be rebuilt, which may take hours and fail
in the same way; here a person looks first. All other errors are retried as ``retries`` and ``retry_delay`` say.

Wrong settings, refused credentials, a missing role and a model that is not deployed fail the task at once; Airflow
does not ask the policy about them.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.policies import AtScaleRetryPolicy

with DAG(
    "example_atscale_retry_policy",
    schedule=None,
    catchup=False,
    tags=["atscale", "example"],
    doc_md=__doc__,
):
    AtScaleAggregateBuildOperator(
        task_id="build_aggregates",
        atscale_conn_id="atscale_default",
        catalog="Sales Insights",
        model="Internet Sales",
        failed_aggregates="fail",
        deferrable=True,
        retries=5,
        retry_delay=timedelta(minutes=10),
        retry_policy=AtScaleRetryPolicy(max_retry_after=timedelta(minutes=30)),
    )
