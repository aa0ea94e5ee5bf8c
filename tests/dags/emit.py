"""
Build and wait in real Airflow, in a process of its own: OpenLineage reads its settings once per process.

Prints the states of the tasks in a line of its own.
"""

from __future__ import annotations

import json

from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.sensors.atscale import AtScaleBatchSensor

from . import runs
from .conftest import MODEL, QUICK, new_dag


def main() -> None:
    """Run a DAG that builds and waits in each way."""
    runs.prepare()
    with new_dag(default_args=MODEL) as dag:
        sync = AtScaleAggregateBuildOperator(task_id="sync", is_full_build=True, **QUICK)
        deferrable = AtScaleAggregateBuildOperator(task_id="deferrable", deferrable=True, **QUICK)
        start = AtScaleAggregateBuildOperator(task_id="start", wait_for_completion=False)
        wait = AtScaleBatchSensor(task_id="wait", batch_id=start.output, poke_interval=0.1)
        failing = AtScaleAggregateBuildOperator(
            task_id="failing", catalog="Finance", model="General Ledger", **QUICK
        )
        sync >> deferrable >> start >> wait >> failing
    print(json.dumps(runs.run(dag).states, sort_keys=True))


if __name__ == "__main__":
    main()
