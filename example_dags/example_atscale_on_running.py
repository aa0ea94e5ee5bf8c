"""
Choose what happens if a batch of the model already runs: join, wait, attach, skip or fail.

AtScale builds one batch of a model at a time. If the Design Center, AtScale's scheduler or another DAG has already
started one, the operator's ``on_running`` decides. The first task starts a batch as somebody else would; the four
tasks after it find that batch running:

- ``join``, the default: if the other batch began after this task did, take it, because it has this task's data;
  else wait for it to end, then check again. So all tasks that need the model share two builds.
- ``wait``: wait for the other batch to end, then build. Each task makes a separate build.
- ``attach``: wait for the other batch instead of building. For models whose batches are all alike, if data
  that was loaded since the other batch began can wait for the next one.
- ``skip``: skip the task. For frequent builds, if one more or less does not matter.

The last task shows ``fail``: nothing but this DAG should build the model, so a running batch is an error.
"""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator

with DAG(
    "example_atscale_on_running",
    schedule=None,
    catchup=False,
    default_args={
        "atscale_conn_id": "atscale_default",
        "catalog": "Sales Insights",
        "model": "Internet Sales",
        "deferrable": True,
    },
    tags=["atscale", "example"],
    doc_md=__doc__,
):
    somebody_else = AtScaleAggregateBuildOperator(task_id="somebody_else", wait_for_completion=False)

    skip = AtScaleAggregateBuildOperator(task_id="skip", on_running="skip")
    attach = AtScaleAggregateBuildOperator(task_id="attach", on_running="attach")
    join = AtScaleAggregateBuildOperator(task_id="join", on_running="join")
    wait = AtScaleAggregateBuildOperator(task_id="wait", on_running="wait")

    fail = AtScaleAggregateBuildOperator(
        task_id="fail",
        on_running="fail",
        # By default a skipped task skips the tasks after it.
        trigger_rule="none_failed",
    )

    somebody_else >> [skip, attach, join, wait] >> fail
