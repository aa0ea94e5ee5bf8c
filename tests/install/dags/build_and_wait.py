"""Build and wait in a DAG, with every warning that the package causes as an error; print what came of it."""

import datetime
import json
import sys
import warnings

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.sensors.atscale import AtScaleBatchSensor

MODEL = {"catalog": "Sales Insights", "model": "Internet Sales"}

with DAG("build_and_wait", schedule=None, start_date=datetime.datetime(2026, 1, 1), default_args=MODEL) as dag:
    deferrable = sys.argv[1:] == ["waits_in_the_triggerer"]
    build = AtScaleAggregateBuildOperator(
        task_id="build",
        is_full_build="{{ params.full }}",
        params={"full": True},
        timeout=datetime.timedelta(minutes=2),
        deferrable=deferrable,
    )
    wait = AtScaleBatchSensor(task_id="wait", batch_id=build.output, deferrable=deferrable, poke_interval=5)

if __name__ == "__main__":
    warnings.filterwarnings("error", module=r"airflow_provider_atscale(\.|$)")
    run = dag.test()
    states = {each.task_id: str(each.state) for each in run.get_task_instances()}
    link = build.operator_extra_links[0]
    told = {"state": str(run.state), "tasks": states}
    (ti,) = [each for each in run.get_task_instances() if each.task_id == "build"]
    told["batch_id"] = ti.xcom_pull(task_ids="build")
    told["link"] = ti.xcom_pull(task_ids="build", key=link.xcom_key)
    sys.stdout.write("\n" + json.dumps(told) + "\n")
