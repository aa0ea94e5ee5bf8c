"""
Let a function choose what to build: full or incremental, how far back, or nothing.

The function of ``@task.atscale_build`` sees what was loaded and the parameters of the run. It returns the operator's
arguments that depend on them, or skips the build. All that the operator guarantees holds for this task too.

Trigger it with other parameters: with ``rows`` 0 nothing is built, with ``reloaded`` everything.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import AirflowSkipException
from airflow.sdk import DAG, Param, task

with DAG(
    "example_atscale_decorator",
    schedule=None,
    catchup=False,
    params={
        "rows": Param(7, type="integer", minimum=0),
        "days": Param(3, type="integer", minimum=0),
        "reloaded": Param(False, type="boolean"),
    },
    tags=["atscale", "example"],
    doc_md=__doc__,
):

    @task
    def load(params: dict[str, Any]) -> dict[str, Any]:
        """Placeholder for your data load; returns what it has loaded."""
        return dict(params)

    # [START howto_decorator_atscale_build]
    @task.atscale_build(catalog="Sales Insights", model="Internet Sales", deferrable=True)
    def build_aggregates(loaded):
        if not loaded["rows"]:
            raise AirflowSkipException("Nothing was loaded")
        if loaded["reloaded"]:
            return {"is_full_build": True}
        return {"grace_period_overrides": {"factinternetsales": loaded["days"]}}

    build_aggregates(load())
    # [END howto_decorator_atscale_build]
