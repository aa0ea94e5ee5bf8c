"""The real OpenLineage provider, writing to a file what our tasks tell it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_atscale.testing import AtScaleEngine

pytest.importorskip("airflow.providers.openlineage", reason="the OpenLineage provider is not installed")

ROOT = Path(__file__).parents[2]
STATES = {
    "sync": "success",
    "deferrable": "success",
    "start": "success",
    "wait": "success",
    "failing": "failed",
}


def emit(file: Path, **environment: str) -> tuple[list[dict], AtScaleEngine]:
    """Run the DAG against an engine of its own, and return the events, and the engine for its counters."""
    home = file.parent / "airflow"
    (home / "dags").mkdir(parents=True)
    with AtScaleEngine(build_seconds=0.3, failing_models={"General Ledger": "failed"}) as engine:
        result = subprocess.run(
            [sys.executable, "-m", "tests.dags.emit"],
            cwd=ROOT,
            env={
                **os.environ,
                # The database of this process knows another DAG by the same name.
                "AIRFLOW_HOME": str(home),
                "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
                "AIRFLOW_CONN_ATSCALE_DEFAULT": engine.connection_json(),
                "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                    {"type": "file", "log_file_path": str(file), "append": True}
                ),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-3000:]
        # Airflow may log something after it.
        assert json.dumps(STATES, sort_keys=True) in result.stdout.splitlines()
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines], engine


@pytest.fixture(scope="module")
def emitted(tmp_path_factory):
    return emit(tmp_path_factory.mktemp("lineage") / "events.json")


@pytest.fixture(scope="module")
def ends(emitted):
    """Give the last event of each task."""
    events, _ = emitted
    tasks = [event for event in events if "." in event["job"]["name"] and event["eventType"] != "START"]
    return {event["job"]["name"].split(".", 1)[1]: event for event in tasks}


@pytest.mark.parametrize("task", ["sync", "deferrable", "wait"])
def test_outputs_are_the_aggregate_tables(emitted, ends, task):
    _, engine = emitted
    outputs = ends[task]["outputs"]
    assert len(outputs) == 6
    for output in outputs:
        assert output["namespace"] == engine.url.replace("http", "atscale")
        assert output["name"].startswith("atscale_aggregates.as_agg_")
        assert output["outputFacets"]["outputStatistics"]["rowCount"] > 0


@pytest.mark.parametrize(
    ("task", "kind"), [("sync", "full"), ("deferrable", "incremental"), ("wait", "incremental")]
)
def test_the_job_names_model_and_kind(emitted, ends, task, kind):
    _, engine = emitted
    event = ends[task]
    facet = event["job"]["facets"]["atscale_build"]
    assert (facet["catalog"], facet["model"], facet["kind"]) == ("Sales Insights", "Internet Sales", kind)
    built = [batch.id for batch in engine.batches]
    order = ["sync", "deferrable", "wait"]
    assert event["run"]["facets"]["externalQuery"]["externalQueryId"] == built[order.index(task)]


@pytest.mark.parametrize(
    ("task", "how"), [("start", "COMPLETE"), ("failing", "FAIL")], ids=["not waited for", "failed"]
)
def test_nothing_is_claimed_of_a_batch_that_was_not_seen_done(ends, task, how):
    assert ends[task]["eventType"] == how
    assert ends[task]["outputs"] == []
    assert "atscale_build" not in ends[task]["job"]["facets"]


def test_lineage_costs_no_request(emitted, tmp_path):
    _, engine = emitted
    events, without = emit(tmp_path / "events.json", AIRFLOW__OPENLINEAGE__DISABLED="True")
    assert events == []

    def questions(requests):
        # How often a batch is looked at depends on the clock.
        return [request.route for request in requests if request.route != "history"]

    assert questions(engine.requests) == questions(without.requests)
