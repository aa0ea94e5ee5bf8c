"""Lineage says which aggregate tables a batch has built, and never makes trouble."""

from __future__ import annotations

import logging

import pytest

from airflow_provider_atscale.api.models import AggregateInstance
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.sensors.atscale import AtScaleBatchSensor
from airflow_provider_atscale.tasks import lineage
from airflow_provider_atscale.tasks.lineage import make_lineage

REPORT = {
    "batch_id": "batch-1",
    "server": "https://atscale.example.com",
    "catalog": "Sales Insights",
    "model": "Internet Sales",
    "catalog_id": "catalog-1",
    "model_id": "model-1",
    "status": "done",
    "kind": "full",
}


def instance(table: str | None, status: str = "active", rows: int | None = 7, schema: str | None = "aggs"):
    return AggregateInstance(f"id of {table}", status, table_name=table, table_schema=schema, rows=rows)


@pytest.fixture
def _openlineage():
    pytest.importorskip("airflow.providers.openlineage", reason="the OpenLineage provider is not installed")


BUILT = {
    "none": ([], {}),
    "tables and their rows": ([instance("b", rows=2), instance("a", rows=1)], {"aggs.a": 1, "aggs.b": 2}),
    "an empty table": ([instance("a", rows=0)], {"aggs.a": 0}),
    "rows that are not told": ([instance("a", rows=None)], {"aggs.a": None}),
    "a schema that is not told": ([instance("a", schema=None)], {"a": 7}),
    "a failed one was not built": ([instance("a", "failed"), instance("b")], {"aggs.b": 7}),
    "a deleted one is no more": ([instance("a", "deleted")], {}),
    "one without a table": ([instance(None)], {}),
    "one that is listed twice": ([instance("a"), instance("a")], {"aggs.a": 7}),
}


@pytest.mark.usefixtures("_openlineage")
@pytest.mark.parametrize(("instances", "expected"), BUILT.values(), ids=BUILT)
def test_outputs_are_the_tables_that_were_built(instances, expected):
    made = make_lineage(REPORT, instances)
    rows = {}
    for dataset in made.outputs:
        assert dataset.namespace == "atscale://atscale.example.com"
        statistics = dataset.outputFacets.get("outputStatistics")
        rows[dataset.name] = statistics.rowCount if statistics else None
    assert rows == expected
    assert made.inputs == []


@pytest.mark.usefixtures("_openlineage")
def test_facets_name_model_kind_and_batch():
    made = make_lineage(REPORT, [])
    facet = made.job_facets["atscale_build"]
    assert (facet.server, facet.catalog, facet.model, facet.kind) == (
        "atscale://atscale.example.com",
        "Sales Insights",
        "Internet Sales",
        "full",
    )
    assert (facet.catalogId, facet.modelId) == ("catalog-1", "model-1")
    assert made.run_facets["externalQuery"].externalQueryId == "batch-1"


@pytest.mark.parametrize(
    "task",
    [
        AtScaleAggregateBuildOperator(task_id="build", catalog="c", model="m"),
        AtScaleBatchSensor(task_id="wait", batch_id="b"),
    ],
    ids=["operator", "sensor"],
)
def test_a_task_without_report_has_no_lineage(task):
    assert task.get_openlineage_facets_on_complete(None) is None


@pytest.mark.parametrize(
    "report",
    [{}, {**REPORT, "server": 7}, {"batch_id": "batch-1"}],
    ids=["empty", "a server that is none", "id only"],
)
def test_trouble_is_logged_and_not_raised(report, caplog):
    with caplog.at_level(logging.WARNING, logger=lineage.__name__):
        assert make_lineage(report, []) is None
    assert "No lineage of batch" in caplog.text
