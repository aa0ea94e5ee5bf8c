"""The DAGs that the faults meet; everything that varies is in the run's conf."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, task

from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator

ARGUMENTS = {
    "catalog": "{{ dag_run.conf['catalog'] }}",
    "atscale_conn_id": "{{ dag_run.conf['conn_id'] }}",
    "on_running": "{{ dag_run.conf.get('on_running', 'wait') }}",
    "timeout": "{{ dag_run.conf.get('timeout', 600) }}",
    "poll_interval": 2,
    "retries": 2,
    "retry_delay": timedelta(seconds=1),
}
MANY = {"max_active_runs": 200, "max_active_tasks": 200}

for mode, deferrable in (("sync", False), ("deferrable", True)):
    with DAG(f"one_{mode}", schedule=None, **MANY):
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
