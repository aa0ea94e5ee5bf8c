"""One DAG, both editions, only the connection changed; and neither task nor report tell which it was."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from airflow_provider_atscale.exceptions import AtScaleWaitError
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.testing import AtScaleEngine

from . import runs
from .conftest import MODEL, QUICK, WAITS, run_task
from .test_examples import run as run_example

EXAMPLE = "example_atscale_build_after_etl"

OLD = {
    "start_forms": ["environment"],
    "history_mode": "missing",
    "batch_envelope": "response",
    "start_status": 200,
}
#: Servers that an Airflow may have to do with: edition, authentication, further fields, the engine's settings.
SERVERS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "container": ("container", "api_token", {}, {}),
    "installer, login and password": ("installer", "password", {}, {}),
    "installer, client API key": ("installer", "client_api_key", {}, {}),
    "installer, as AtScale documents it": (
        "installer",
        "client_api_key",
        {"engine_choice": True, "environment": ""},
        {"start_forms": ["literal"]},
    ),
    "installer, old engine": ("installer", "password", {"engine_choice": True}, OLD),
}
#: What differs from batch to batch and server to server, and what the old list of batches does not tell.
PARTICULAR = ("batch_id", "server", "catalog_id", "model_id", "created", "started", "ended", "seconds")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[runs.Run, AtScaleEngine]]:
    """Run the example against each server."""
    done = {}
    for name, (edition, auth, fields, settings) in SERVERS.items():
        with (
            AtScaleEngine(edition, build_seconds=0.3, **settings) as engine,
            pytest.MonkeyPatch.context() as env,
        ):
            env.setenv("AIRFLOW_CONN_ATSCALE_DEFAULT", engine.connection_json(auth, **fields))
            env.setenv("ATSCALE_EXAMPLE_FOLDER", str(tmp_path_factory.mktemp("warehouse")))
            if settings is OLD:
                engine.fault(404, route="catalogs", path="/published/", times=None)
            done[name] = run_example(EXAMPLE), engine
    return done


@pytest.mark.parametrize("server", SERVERS)
def test_the_example_is_green_whichever_the_edition(done, server):
    run, engine = done[server]
    assert run.state == "success", run.states
    assert set(run.states.values()) == {"success"}
    [batch] = engine.batches
    assert (batch.status, batch.is_full_build) == ("done", False)
    assert run["build_aggregates"].value == batch.id


@pytest.mark.parametrize("server", list(SERVERS)[1:])
def test_the_report_is_the_same(done, server):
    first, other = (
        dict(done[name][0]["build_aggregates"].xcoms["batch_result"]) for name in ("container", server)
    )
    assert set(other) == set(first)
    for report in (first, other):
        for name in PARTICULAR:
            report.pop(name)
    assert other == first


# AtScale's "Rebuilding Aggregates Using The REST API":
#   Endpoint: aggregate-batch/org_id/project_id
#   Query Parameters: cubeID - the AtScale cube ID
#   HTTP Method: POST
#   Authentication: Each API call to the AtScale engine must pass in the client-api-key field in the HTTP
#   request header.
#   Return Responses: 201 - Created / Success


def test_the_start_is_the_documented_one(done):
    _, engine = done["installer, as AtScale documents it"]
    [batch] = engine.batches
    [start] = [request for request in engine.requests if request.route == "start" and request.status != 404]
    assert (start.method, start.status) == ("POST", 201)
    assert start.path.strip("/") == "/".join(["aggregate-batch", engine.organization, batch.catalog_id])
    assert start.query_string == f"cubeID={batch.model_id}"
    assert start.body == ""
    assert start.port == "engine"


@pytest.mark.parametrize(
    "server", [name for name, (_, auth, *_) in SERVERS.items() if auth == "client_api_key"]
)
def test_each_call_passes_the_client_api_key_and_no_other_credentials(done, server):
    _, engine = done[server]
    assert {request.headers.get("client-api-key") for request in engine.requests} == {engine.client_api_key}
    assert not any("Authorization" in request.headers for request in engine.requests)
    assert {request.port for request in engine.requests} == {"engine"}


@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("edition", ["installer"], indirect=True)
def test_an_old_engine_tells_how_far_a_batch_is(engine, when, logged, mode):
    engine.settings(history_mode="missing", build_seconds=600)

    def go_on():
        engine.advance(300)
        seen = engine.stats.routes["latest"]
        when(lambda: engine.stats.routes["latest"] > seen + 2, lambda: engine.end_batch(engine.batches[0].id))

    when(lambda: engine.batches and engine.stats.routes.get("latest", 0) > 1, go_on)
    task = run_task(AtScaleAggregateBuildOperator, **MODEL, **QUICK, **mode)
    assert task.state == "success", task.errors
    assert "Running after" in (said := logged())
    assert ", 50 % done" in said


@pytest.mark.parametrize("named", ["absent", "present"])
@pytest.mark.parametrize(("choice", "state"), [("warn", "success"), ("fail", "failed")])
@pytest.mark.parametrize("edition", ["installer"], indirect=True)
def test_a_server_that_mixes_up_the_aggregates_of_batches(engine, logged, named, choice, state):
    """Where its rows name their batches they are sorted here; where they do not, none of them is believed."""
    engine.settings(instances_filter="ignored", instances_batch_id=named)
    engine.end_batch(engine.start_batch(None, "Internet Sales").id, "failed", failed_aggregates=6)
    task = run_task(AtScaleAggregateBuildOperator, failed_aggregates=choice, **MODEL, **QUICK)
    if named == "present":
        assert task.state == "success", task.errors
        assert task.xcoms["batch_result"]["instances"] == {"active": 6}
        return
    assert task.state == state
    assert "lists aggregates even for a batch that does not exist" in logged() + "".join(map(str, task.errors))
    if state == "success":
        assert task.xcoms["batch_result"]["instances"] is None
    else:
        assert type(task.error) is AtScaleWaitError


@pytest.mark.skipif(runs.VERSION < (3, 0), reason="Airflow 2 cannot schedule DAGs on events from elsewhere")
def test_a_watcher_sees_the_builds_of_either(engine):
    from airflow_provider_atscale.triggers.builds import AtScaleBuildEventTrigger

    async def main():
        events = AtScaleBuildEventTrigger(**MODEL, poll_interval=0.05).run()
        first = asyncio.ensure_future(anext(events))
        while not engine.stats.routes.get("history"):
            assert not first.done()
            await asyncio.sleep(0.01)
        batch = engine.start_batch(None, "Internet Sales", build_seconds=0.1)
        event = await asyncio.wait_for(first, 30)
        await events.aclose()
        return batch, event.payload

    batch, event = asyncio.run(main())
    assert (event["batch_id"], event["status"], event["kind"]) == (batch.id, "done", "incremental")
