"""Three ways to wait, one result: whoever waits, and where, sees the same batch judged alike."""

from __future__ import annotations

import pytest

from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.sensors.atscale import AtScaleBatchSensor
from airflow_provider_atscale.testing import AtScaleEngine

from . import runs
from .conftest import EDITIONS, MODEL, QUICK, SENSORS, new_dag

LINK = "_link_AtScaleBuildHistoryLink"

#: Whatever differs from batch to batch, and how the task came to it.
PARTICULAR = ("batch_id", "created", "started", "ended", "seconds", "start")
#: What only the task knows that asked for the build.
ASKED = "requested_kind"


@pytest.fixture(scope="module", params=EDITIONS)
def done(request):
    """Build in every way, one after the other, in one run."""
    with AtScaleEngine(request.param, build_seconds=0.6) as engine, pytest.MonkeyPatch.context() as env:
        env.setenv("AIRFLOW_CONN_ATSCALE_DEFAULT", engine.connection_json())
        with new_dag(default_args=MODEL) as dag:
            sync = AtScaleAggregateBuildOperator(task_id="sync", **QUICK)
            deferred = AtScaleAggregateBuildOperator(task_id="deferrable", deferrable=True, **QUICK)
            last = sync >> deferred
            for name, mode in SENSORS.items():
                fire = AtScaleAggregateBuildOperator(task_id=f"fire_{name}", wait_for_completion=False)
                wait = AtScaleBatchSensor(
                    task_id=f"wait_{name}", batch_id=fire.output, poke_interval=0.1, **mode
                )
                last >> fire >> wait
                last = wait
        return runs.run(dag), engine.batches, engine.urls


WAYS = ["sync", "deferrable", *(f"wait_{name}" for name in SENSORS)]


def test_all_are_green(done):
    result, batches, _ = done
    assert result.state == "success", result.states
    assert set(result.states.values()) == {"success"}
    assert [batch.status for batch in batches] == ["done"] * 5
    assert all(batch.overlapped_with == [] for batch in batches)


@pytest.mark.parametrize("way", WAYS)
def test_return_value_is_the_batch_id(done, way):
    result, batches, _ = done
    assert result[way].value == batches[WAYS.index(way)].id


@pytest.mark.parametrize("name", SENSORS)
def test_sensor_returns_what_the_operator_returned(done, name):
    result, *_ = done
    assert result[f"wait_{name}"].value == result[f"fire_{name}"].value


@pytest.mark.parametrize("way", WAYS[1:])
def test_reports_are_equal(done, way):
    result, *_ = done
    first, other = (dict(result[each].xcoms["batch_result"]) for each in ("sync", way))
    for report in (first, other):
        for name in PARTICULAR:
            assert report.pop(name) is not None
        report.pop(ASKED)
    # The sensor was given names, which are what the operator has found.
    assert other == first


def test_report(done):
    result, batches, urls = done
    report = result["sync"].xcoms["batch_result"]
    assert {name: report[name] for name in ("status", "kind", "start", "catalog", "model", "server")} == {
        "status": "done",
        "kind": "incremental",
        "start": "started",
        "catalog": "Sales Insights",
        "model": "Internet Sales",
        # As the connection has it, which is where assets and lineage take it from.
        "server": urls.get("design_center", urls.get("main")),
    }
    assert report["instances"] == {"active": 6}
    assert report["rows"] > 0
    assert report["failed_aggregates"] == 0
    assert 0 < report["seconds"] <= 0.6
    assert report["batch_id"] == batches[0].id


@pytest.mark.parametrize("way", WAYS)
def test_how_the_task_came_to_the_batch(done, way):
    result, *_ = done
    expected = "watched" if way.startswith("wait") else "started"
    assert result[way].xcoms["batch_result"]["start"] == expected


@pytest.mark.parametrize("way", ["sync", "deferrable", "fire_poke"])
def test_xcom_batch_is_the_sensors_arguments(done, way):
    result, batches, _ = done
    batch = result[way].xcoms["batch"]
    assert batch == {
        "batch_id": result[way].value,
        "catalog": batches[0].catalog_id,
        "model": batches[0].model_id,
    }


@pytest.mark.parametrize("way", [*WAYS, "fire_poke"])
def test_link_is_the_same_in_all_of_them(done, way):
    result, _, urls = done
    url = next(iter(urls.values()))
    assert result[way].links == {LINK: f"{url}/_engine/history?batchId={result[way].value}"}


def test_who_does_not_wait_has_no_report(done):
    result, *_ = done
    assert "batch_result" not in result["fire_poke"].xcoms
