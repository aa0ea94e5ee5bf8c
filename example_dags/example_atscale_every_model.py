"""
Build every model of a catalog, two at a time, without naming any of them.

A task asks AtScale which models are deployed in the catalog, and the operator is mapped over the answer: one
task for each model, named after it in the grid. A model that is deployed tomorrow is built tomorrow. The builds
wait in the triggerer, so none of them holds a worker.

The second DAG does the same with the waiting apart. Its operator only starts the batches, all at once, and
returns before they have ended; a sensor is mapped over the ids that it returns, and finds the models through
the batches. The other sensor gets the models, so it does not search: a ``@task`` collects the XCom
``batch`` of each start, which holds exactly the sensor's arguments, catalog and model by their ids. One of the
two sensors is enough.
"""

from __future__ import annotations

from collections.abc import Iterable

from airflow.sdk import dag, task

from airflow_provider_atscale.hooks.atscale import AtScaleHook
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.sensors.atscale import AtScaleBatchSensor

CONNECTION = "atscale_default"
CATALOG = "Sales Insights"


# [START howto_hook_atscale]
@task
def list_models() -> list[dict[str, str]]:
    """Return catalog and model of all that is deployed: the arguments of the operator."""
    return AtScaleHook(CONNECTION).list_models(CATALOG)


# [END howto_hook_atscale]


@dag(
    schedule=None,
    catchup=False,
    default_args={"atscale_conn_id": CONNECTION},
    tags=["atscale", "example"],
    doc_md=__doc__,
)
def example_atscale_every_model():
    # [START howto_operator_atscale_mapped]
    AtScaleAggregateBuildOperator.partial(
        task_id="build",
        deferrable=True,
        # Counts deferred tasks too on Airflow 3.2.2 and newer; before that, give the tasks a pool that does.
        max_active_tis_per_dagrun=2,
    ).expand_kwargs(list_models())
    # [END howto_operator_atscale_mapped]


@dag(
    schedule=None,
    catchup=False,
    default_args={"atscale_conn_id": CONNECTION},
    tags=["atscale", "example"],
    doc_md=__doc__,
)
def example_atscale_start_every_model():
    start = AtScaleAggregateBuildOperator.partial(task_id="start", wait_for_completion=False).expand_kwargs(
        list_models()
    )
    AtScaleBatchSensor.partial(task_id="wait_for_id", deferrable=True).expand(batch_id=start.output)

    @task
    def batches(started: Iterable[dict[str, str]]) -> list[dict[str, str]]:
        """Return batch id, catalog and model of all that was started: the arguments of the sensor."""
        return list(started)

    AtScaleBatchSensor.partial(task_id="wait_for_batch", deferrable=True).expand_kwargs(
        batches(start.output["batch"])
    )


example_atscale_every_model()
example_atscale_start_every_model()
