"""The DAGs that the faults meet; everything that varies is in the run's conf."""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import DAG, task

from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.sensors.atscale import AtScaleBatchSensor

ARGUMENTS = {
    "catalog": "{{ dag_run.conf['catalog'] }}",
    "atscale_conn_id": "{{ dag_run.conf['conn_id'] }}",
    "on_running": "{{ dag_run.conf.get('on_running', 'wait') }}",
    "timeout": "{{ dag_run.conf.get('timeout', 600) }}",
    "warn_after": "{{ dag_run.conf.get('warn_after') }}",
    "poll_interval": 2,
    "retries": int(os.environ.get("E2E_RETRIES", "2")),
    "retry_delay": timedelta(seconds=float(os.environ.get("E2E_RETRY_DELAY", "1"))),
}
MANY = {"max_active_runs": 200, "max_active_tasks": 500}

for mode, deferrable in (("sync", False), ("deferrable", True)):
    # Several, for the cases in which different DAGs need one model.
    for number in ("one", "two", "three"):
        with DAG(f"{number}_{mode}", schedule=None, **MANY):
            AtScaleAggregateBuildOperator(
                task_id="build", model="{{ dag_run.conf['model'] }}", deferrable=deferrable, **ARGUMENTS
            )

    with DAG(f"mapped_{mode}", schedule=None, **MANY):

        @task
        def models(**context):
            return context["dag_run"].conf["models"]

        AtScaleAggregateBuildOperator.partial(task_id="build", deferrable=deferrable, **ARGUMENTS).expand(
            model=models()
        )

    with DAG(f"decorated_{mode}", schedule=None, **MANY):

        @task.atscale_build(task_id="build", deferrable=deferrable, **ARGUMENTS)
        def choose(model):
            return {"model": model, "is_full_build": False}

        choose("{{ dag_run.conf['model'] }}")

# The task has the operator's name, so the suite looks for one name only.
for name, how in (
    ("poke", {"mode": "poke", "poke_interval": 2}),
    ("reschedule", {"mode": "reschedule", "poke_interval": 3}),
    ("deferrable", {"deferrable": True, "poke_interval": 2}),
):
    with DAG(f"sensor_{name}", schedule=None, **MANY):
        AtScaleBatchSensor(
            task_id="build",
            batch_id="{{ dag_run.conf['batch_id'] }}",
            catalog=ARGUMENTS["catalog"],
            model="{{ dag_run.conf['model'] }}",
            atscale_conn_id=ARGUMENTS["atscale_conn_id"],
            timeout=600,
            retries=ARGUMENTS["retries"],
            retry_delay=ARGUMENTS["retry_delay"],
            **how,
        )
