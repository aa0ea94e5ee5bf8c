"""
Start a build, do other work while AtScale builds, and wait for it later.

With ``wait_for_completion=False`` the operator succeeds as soon as AtScale has started the batch, and returns
the batch's id. Tasks that do not need the aggregates run meanwhile. The sensor waits for exactly this
batch, found by its id: a batch that somebody else starts in the meantime is not taken for it.

The sensor can also be in another DAG. There it has no batch id: given only catalog and model it waits until the
model's newest batch has ended well, and returns at once if it has already ended.
"""

from __future__ import annotations

import logging

from airflow.sdk import dag, task

from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.sensors.atscale import AtScaleBatchSensor

log = logging.getLogger(__name__)


@dag(
    schedule=None,
    catchup=False,
    # Operator and sensor take the same three arguments.
    default_args={
        "atscale_conn_id": "atscale_default",
        "catalog": "Sales Insights",
        "model": "Internet Sales",
    },
    tags=["atscale", "example"],
    doc_md=__doc__,
)
def example_atscale_fire_and_wait():
    # [START howto_sensor_atscale]
    build = AtScaleAggregateBuildOperator(task_id="start_build", is_full_build=True, wait_for_completion=False)

    @task
    def archive_files() -> None:
        """Placeholder for work that does not need the aggregates."""
        log.info("The loaded files are archived while AtScale builds")

    wait = AtScaleBatchSensor(task_id="wait_for_build", batch_id=build.output, deferrable=True)

    @task
    def refresh_dashboards(batch_id: str) -> None:
        """Placeholder for work that needs the aggregates."""
        log.info("The dashboards are refreshed on the aggregates of batch %s", batch_id)

    build >> archive_files()
    refresh_dashboards(wait.output)
    # [END howto_sensor_atscale]


example_atscale_fire_and_wait()
