"""
Wait for a build in an operator of your own, and decide yourself what a failed build means.

The sensor fails if the batch fails. Here a failed build is no error: the DAG goes on with the old aggregates and
tells somebody. So an operator of a few lines defers to ``AtScaleBatchTrigger`` itself, and returns how the batch
ended; a branch decides by that.

For most DAGs the sensor is enough. Use the trigger if you need something else after the wait, in the same task.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator, dag, task

from airflow_provider_atscale.exceptions import AtScaleWaitError
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.triggers.atscale import AtScaleBatchTrigger

log = logging.getLogger(__name__)

MODEL = {"catalog": "Sales Insights", "model": "Internet Sales"}


# [START howto_trigger_atscale_batch]
class BuildStatusOperator(BaseOperator):
    """Wait in the triggerer until a batch has ended, and return AtScale's status of it."""

    template_fields: Sequence[str] = ("batch_id",)

    def __init__(self, *, batch_id: str, catalog: str, model: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch_id = batch_id
        self.catalog = catalog
        self.model = model

    def execute(self, context: Any) -> None:
        self.defer(
            trigger=AtScaleBatchTrigger(
                atscale_conn_id="atscale_default",
                # Without ids the trigger finds the model by its names.
                catalog_id="",
                model_id="",
                catalog=self.catalog,
                model=self.model,
                batch_id=self.batch_id,
                since=time.time(),
                poll_interval=60,
            ),
            method_name="execute_complete",
            timeout=timedelta(hours=6),
        )

    def execute_complete(self, context: Any, event: dict[str, Any]) -> str:
        if event["status"] != "ended":
            raise AtScaleWaitError(event["reason"])
        return event["batch"]["status"].lower()


# [END howto_trigger_atscale_batch]


@dag(schedule=None, catchup=False, tags=["atscale", "example"], doc_md=__doc__)
def example_atscale_custom_operator():
    start = AtScaleAggregateBuildOperator(task_id="start_build", wait_for_completion=False, **MODEL)
    status = BuildStatusOperator(task_id="build_status", batch_id=start.output, **MODEL)

    @task.branch
    def choose(status: str) -> str:
        """Only these two statuses are a success."""
        return "refresh_dashboards" if status in ("done", "success") else "tell_somebody"

    @task
    def refresh_dashboards() -> None:
        """Placeholder for work on the new aggregates."""
        log.info("The dashboards are refreshed")

    @task
    def tell_somebody() -> None:
        """Placeholder for a message to people."""
        log.info("The build did not end well; the dashboards keep the old aggregates")

    choose(status.output) >> [refresh_dashboards(), tell_somebody()]


example_atscale_custom_operator()
