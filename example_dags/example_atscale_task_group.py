"""
Do something before a build and undo it after it, and keep that as a group to use again.

Setup and teardown belong together: while the aggregates of a model are rebuilt, its dashboards show a
notice. The teardown takes the notice away even if the build has failed, and the DAG is still red then. The task
group holds all three tasks, so that a second model costs one more line.
"""

from __future__ import annotations

import logging

from airflow.sdk import dag, setup, task_group, teardown

from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator

log = logging.getLogger(__name__)


@task_group
def build_with_notice(model: str) -> None:
    @setup
    def show_notice(model: str) -> str:
        """Placeholder: tell people that a model is being built."""
        log.info("Dashboards on %s: the aggregates are being built", model)
        return model

    @teardown
    def remove_notice(model: str) -> None:
        """Placeholder: tell people that the build is over."""
        log.info("Dashboards on %s: no notice any more", model)

    noticed = show_notice(model)
    build = AtScaleAggregateBuildOperator(
        task_id="build", catalog="Sales Insights", model=model, is_full_build=True, deferrable=True
    )
    noticed >> build >> remove_notice(noticed)


@dag(
    schedule=None,
    catchup=False,
    default_args={"atscale_conn_id": "atscale_default"},
    tags=["atscale", "example"],
    doc_md=__doc__,
)
def example_atscale_task_group():
    build_with_notice("Internet Sales")
    build_with_notice("Reseller Sales")


example_atscale_task_group()
