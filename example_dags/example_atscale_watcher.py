"""
Start a DAG when a build ends that Airflow did not start.

Builds also come from AtScale's scheduler, from people in the Design Center, from another Airflow. An asset
watcher polls the model's build history from the triggerer, and emits an event of the asset for each batch that
ends; this DAG is scheduled on that asset. It builds nothing itself.

Do not also name this asset as an outlet of a task that builds the model: that batch would be two events. On
Airflow 3.3 and newer no build is missed while the triggerer is down.
"""

from __future__ import annotations

import logging
from typing import Any

from airflow.sdk import Asset, AssetWatcher, dag, task

from airflow_provider_atscale.triggers.builds import AtScaleBuildEventTrigger

log = logging.getLogger(__name__)

# [START howto_trigger_atscale_watcher]
BUILDS = Asset(
    "internet_sales_builds",
    watchers=[
        AssetWatcher(
            name="internet_sales_watcher",
            trigger=AtScaleBuildEventTrigger(
                atscale_conn_id="atscale_default",
                catalog="Sales Insights",
                model="Internet Sales",
                outcome="succeeded",
            ),
        )
    ],
)


@dag(schedule=[BUILDS], catchup=False, tags=["atscale", "example"], doc_md=__doc__)
def example_atscale_watcher():
    @task
    def refresh_dashboards(triggering_asset_events: Any = None) -> None:
        """Placeholder for work on the new aggregates; events close together share one run."""
        for events in (triggering_asset_events or {}).values():
            for event in events:
                batch = event.extra["payload"]
                log.info("Batch %s (%s) ended at %s", batch["batch_id"], batch["kind"], batch["ended"])

    refresh_dashboards()


# [END howto_trigger_atscale_watcher]

example_atscale_watcher()
