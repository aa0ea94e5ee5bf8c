"""
What a batch has built, as OpenLineage facets.

Imported only when the OpenLineage provider asks. Everything comes from the report that the task has made
already, so lineage asks AtScale nothing; and whatever goes wrong here is logged, never raised.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.models import AggregateInstance, Phase
from airflow_provider_atscale.builds.steps import log_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.providers.openlineage.extractors import OperatorLineage

log = logging.getLogger(__name__)

JOB_FACET = "atscale_build"


def make_lineage(
    report: Mapping[str, Any] | None, instances: Sequence[AggregateInstance]
) -> OperatorLineage[Any, Any] | None:
    """
    Return what a task's batch has built: the aggregate tables, and which model they belong to.

    AtScale does not tell which warehouse it writes to, so the tables are in the namespace of its server.
    """
    if report is None:
        return None
    with log_errors(log.warning, "No lineage of batch %s: %s: %s", report.get("batch_id")):
        return _make_lineage(report, instances)
    return None


def _make_lineage(
    report: Mapping[str, Any], instances: Sequence[AggregateInstance]
) -> OperatorLineage[Any, Any]:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import external_query_run, output_statistics_output_dataset

    from airflow_provider_atscale.assets.atscale import namespace

    server = namespace(report["server"])
    built = {each.label: each for each in instances if each.table_name and each.phase is Phase.SUCCEEDED}
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet
    return OperatorLineage(
        outputs=[
            OutputDataset(
                namespace=server,
                name=name,
                outputFacets={} if each.rows is None else {"outputStatistics": statistics(rowCount=each.rows)},
            )
            for name, each in sorted(built.items())
        ],
        job_facets={
            JOB_FACET: _job_facet()(
                server=server,
                catalog=report["catalog"],
                model=report["model"],
                catalogId=report["catalog_id"],
                modelId=report["model_id"],
                kind=report["kind"],
            )
        },
        run_facets={
            "externalQuery": external_query_run.ExternalQueryRunFacet(
                externalQueryId=report["batch_id"], source=server
            )
        },
    )


@functools.cache
def _job_facet() -> Any:
    """Return the class of the job's facet; its base is there only where OpenLineage is."""
    import attr
    from openlineage.client.facet_v2 import JobFacet

    @attr.define
    class AtScaleBuildJobFacet(JobFacet):  # type: ignore[misc, unused-ignore]
        """Which model's aggregates a job builds, and in which way."""

        server: str
        catalog: str | None
        model: str | None
        catalogId: str | None
        modelId: str | None
        kind: str

    return AtScaleBuildJobFacet
