"""
Let the kind of failure decide whether and when a build is tried again (Airflow 3.3 and newer).

A retry of the operator goes on with the batch that the try before it has started, so after trouble with the
network or a timeout it may come soon: it builds nothing twice. A batch that AtScale itself has ended as failed
would be rebuilt, which may take hours and fail in the same way; here a person looks first. Everything that
no rule names is retried as ``retries`` and ``retry_delay`` say.

Wrong settings, refused credentials, a missing role and a model that is not deployed need no rule: these errors
fail the task at once, and Airflow does not ask the policy about them.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, ExceptionRetryPolicy, RetryAction, RetryRule

from airflow_provider_atscale.exceptions import (
    AtScaleAlreadyRunningError,
    AtScaleBatchFailedError,
    AtScaleConnectionError,
    AtScaleStartUnknownError,
    AtScaleTimeoutError,
    AtScaleWaitError,
)
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator

POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception=[AtScaleStartUnknownError, AtScaleWaitError, AtScaleTimeoutError],
            retry_delay=timedelta(seconds=30),
            reason="The build goes on in AtScale; the retry attaches to it",
        ),
        RetryRule(
            exception=AtScaleConnectionError,
            retry_delay=timedelta(minutes=5),
            reason="AtScale cannot be reached",
        ),
        RetryRule(
            exception=AtScaleAlreadyRunningError,
            retry_delay=timedelta(minutes=20),
            reason="Somebody else builds the model",
        ),
        RetryRule(
            # Covers aggregates that are missing from a batch too: that error is a subclass.
            exception=AtScaleBatchFailedError,
            action=RetryAction.FAIL,
            reason="AtScale could not build; somebody should read its message first",
        ),
    ]
)

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
        on_running="fail",
        failed_aggregates="fail",
        deferrable=True,
        retries=5,
        retry_delay=timedelta(minutes=10),
        retry_policy=POLICY,
    )
