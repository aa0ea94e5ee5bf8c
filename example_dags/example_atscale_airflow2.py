"""
Load, build and report in a DAG file written for Airflow 2.11.

Only the imports differ: Airflow 2 has no ``airflow.sdk``, and calls assets datasets. Operator, sensor and
their arguments are those of Airflow 3, and this file runs there too. What Airflow 2 lacks is a place to keep
the id of a batch from try to try: there a retry does not find its own batch, and ``on_running`` is what avoids
a second build at the same time.
"""

# This file is about the names of Airflow 2, which Airflow 3 has moved.
# ruff: noqa: AIR301, AIR311

from __future__ import annotations

import json
import logging
from typing import Any

import pendulum
from airflow import DAG
from airflow.decorators import task

from airflow_provider_atscale.assets.atscale import create_asset
from airflow_provider_atscale.hooks.atscale import AtScaleHook
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.sensors.atscale import AtScaleBatchSensor

log = logging.getLogger(__name__)

INTERNET_SALES = create_asset(host="atscale.example.com", catalog="Sales Insights", model="Internet Sales")

with DAG(
    dag_id="example_atscale_airflow2",
    schedule=None,
    start_date=pendulum.datetime(2025, 1, 1, tz="UTC"),
    catchup=False,
    default_args={"atscale_conn_id": "atscale_default"},
    tags=["atscale", "example"],
    doc_md=__doc__,
):

    @task
    def load() -> None:
        """Placeholder for your data load."""
        log.info("The new data is loaded")

    build = AtScaleAggregateBuildOperator(
        task_id="build_aggregates",
        catalog="Sales Insights",
        model="Internet Sales",
        on_running="attach",
        deferrable=True,
        outlets=[INTERNET_SALES],
    )

    @task
    def report(batch_result: dict[str, Any]) -> None:
        """Print what AtScale has built."""
        log.info("The batch:\n%s", json.dumps(batch_result, indent=2))

    @task
    def list_models() -> list[dict[str, str]]:
        """Return catalog and model of all that is deployed in a catalog."""
        return AtScaleHook("atscale_default").list_models("Finance")

    start = AtScaleAggregateBuildOperator.partial(task_id="start", wait_for_completion=False).expand_kwargs(
        list_models()
    )
    wait = AtScaleBatchSensor.partial(task_id="wait", mode="reschedule", poke_interval=5).expand(
        batch_id=start.output
    )

    load() >> build >> start
    report(build.output["batch_result"])

with DAG(
    dag_id="example_atscale_airflow2_consumer",
    schedule=[INTERNET_SALES],
    start_date=pendulum.datetime(2025, 1, 1, tz="UTC"),
    catchup=False,
    tags=["atscale", "example"],
    doc_md=__doc__,
):

    @task
    def refresh_dashboards(**context: Any) -> None:
        """Placeholder for work on the new aggregates."""
        # What Airflow 2 calls them, then what Airflow 3 does.
        triggering = context.get("triggering_dataset_events") or context.get("triggering_asset_events") or {}
        for events in triggering.values():
            for event in events:
                # An event that was made by hand in the web UI has no report.
                log.info("Batch %s built %s rows", event.extra.get("batch_id"), event.extra.get("rows"))

    refresh_dashboards()
