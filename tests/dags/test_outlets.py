"""The event of an outlet asset carries the report of the batch, on success and only then."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from airflow.providers.common.compat.sdk import Asset, AssetAlias

from airflow_provider_atscale.assets.atscale import create_asset, model_asset
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.sensors.atscale import AtScaleBatchSensor

from . import runs, stored
from .conftest import MODEL, QUICK, new_dag

ASSET = create_asset(host="atscale.example.com", **MODEL)
OTHER = Asset("s3://bucket/key")


def _wait_for(engine) -> dict:
    return {"batch_id": engine.start_batch(None, "Internet Sales").id, "poke_interval": 0.1}


WAYS = {
    "operator": (AtScaleAggregateBuildOperator, lambda _: {**MODEL, **QUICK}),
    "operator, deferrable": (AtScaleAggregateBuildOperator, lambda _: {**MODEL, **QUICK, "deferrable": True}),
    "sensor": (AtScaleBatchSensor, _wait_for),
    "sensor, deferrable": (AtScaleBatchSensor, lambda engine: {**_wait_for(engine), "deferrable": True}),
}


def _run(operator, **arguments):
    with new_dag() as dag:
        operator(task_id="task", **arguments)
    stored.know(dag)
    return dag, runs.run(dag)["task"]


@pytest.mark.parametrize(("operator", "arguments"), WAYS.values(), ids=WAYS)
def test_each_event_carries_the_report(engine, operator, arguments):
    dag, task = _run(operator, outlets=[ASSET, OTHER], **arguments(engine))
    assert task.state == "success"
    report = task.xcoms["batch_result"]
    assert report["status"] == "done"
    assert report["instances"] == {"active": 6}
    assert stored.asset_events(dag.dag_id) == {ASSET.uri: [report], OTHER.uri: [report]}


@pytest.mark.parametrize(("operator", "arguments"), WAYS.values(), ids=WAYS)
def test_a_failed_batch_is_no_event(engine, operator, arguments):
    engine.fail_next("Internet Sales")
    dag, task = _run(operator, outlets=[ASSET], **arguments(engine))
    assert task.state == "failed"
    assert stored.asset_events(dag.dag_id) == {}


def test_aggregates_that_are_missing_are_no_event_where_they_are_an_error(engine):
    engine.fail_next("Internet Sales", status="done", failed_aggregates=1)
    dag, task = _run(AtScaleAggregateBuildOperator, outlets=[ASSET], failed_aggregates="fail", **MODEL, **QUICK)
    assert task.state == "failed"
    assert stored.asset_events(dag.dag_id) == {}


def test_a_skipped_task_is_no_event(engine):
    engine.end_batch(engine.start_batch(None, "Internet Sales").id)
    dag, task = _run(
        AtScaleAggregateBuildOperator,
        outlets=[ASSET],
        skip_if_built_within=timedelta(hours=1),
        **MODEL,
        **QUICK,
    )
    assert task.state == "skipped"
    assert stored.asset_events(dag.dag_id) == {}


def test_who_does_not_wait_has_no_report_to_give(engine):
    dag, task = _run(
        AtScaleAggregateBuildOperator, outlets=[ASSET], wait_for_completion=False, **MODEL, **QUICK
    )
    assert task.state == "success"
    assert stored.asset_events(dag.dag_id) == {ASSET.uri: [{}]}


@pytest.mark.parametrize(("operator", "arguments"), WAYS.values(), ids=WAYS)
def test_an_alias_becomes_the_models_own_asset(engine, operator, arguments):
    arguments = arguments(engine)
    dag, task = _run(operator, outlets=[AssetAlias("sales")], **arguments)
    report = task.xcoms["batch_result"]
    flat = {name: json.dumps(each) if isinstance(each, (dict, list)) else each for name, each in report.items()}
    # Who knows the model through its batch alone knows it by its ids.
    expected = create_asset(host=engine.url, catalog=report["catalog"], model=report["model"])
    assert stored.asset_events(dag.dag_id) == {expected.uri: [flat]}
    if "catalog" in arguments:
        assert expected.uri == model_asset(**MODEL).uri


@pytest.mark.skipif(runs.VERSION < (3, 0), reason="Airflow 2 knows assets by their URIs alone")
@pytest.mark.parametrize("way", ["name", "uri"])
def test_an_asset_that_is_only_referred_to(engine, way):
    reference = Asset.ref(**{way: ASSET.uri})
    with new_dag() as dag:
        first = AtScaleAggregateBuildOperator(task_id="first", outlets=[ASSET], **MODEL, **QUICK)
        first >> AtScaleAggregateBuildOperator(task_id="second", outlets=[reference], **MODEL, **QUICK)
    run = runs.run(dag)
    reports = [run[name].xcoms["batch_result"] for name in ("first", "second")]
    assert stored.asset_events(dag.dag_id) == {ASSET.uri: reports}


def test_an_outlet_of_another_kind_is_left_alone(engine):
    table = {"what": "lineage tools put into outlets"}
    dag, task = _run(AtScaleAggregateBuildOperator, outlets=[table, ASSET], **MODEL, **QUICK)
    assert task.state == "success"
    assert stored.asset_events(dag.dag_id) == {ASSET.uri: [task.xcoms["batch_result"]]}
