"""
Let DAGs start when a model's aggregates have been built by Airflow.

The first DAG builds a model and names the model's asset as its outlet. Each successful build is an event of
that asset and carries the report of the batch. The second DAG is scheduled on the asset: it starts whenever the
first one has built, and reads the report from the event. A build that fails or is skipped starts nothing.

An asset is its URI, ``atscale://<host>/<catalog>/<model>``. Write the host as in your connection; it is not
looked up here, because a DAG file should send no request while it is parsed.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, task

from airflow_provider_atscale.assets.atscale import create_asset
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator

if TYPE_CHECKING:
    from airflow.sdk import Asset

log = logging.getLogger(__name__)

# [START howto_asset_atscale_outlet]
INTERNET_SALES: Asset = create_asset(
    host="atscale.example.com", catalog="Sales Insights", model="Internet Sales"
)

with DAG(
    "example_atscale_asset_producer",
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
        deferrable=True,
        outlets=[INTERNET_SALES],
    )
# [END howto_asset_atscale_outlet]

# [START howto_asset_atscale]
with DAG(
    "example_atscale_asset_consumer",
    schedule=[INTERNET_SALES],
    catchup=False,
    tags=["atscale", "example"],
    doc_md=__doc__,
):

    @task
    def refresh_dashboards(triggering_asset_events: Any = None) -> None:
        """Placeholder for work on the new aggregates; events close together share one run."""
        for events in (triggering_asset_events or {}).values():
            for event in events:
                # An event that was made by hand in the web UI has no report.
                batch = event.extra
                log.info(
                    "Batch %s built %s rows in %s s",
                    batch.get("batch_id"),
                    batch.get("rows"),
                    batch.get("seconds"),
                )

    refresh_dashboards()
# [END howto_asset_atscale]
