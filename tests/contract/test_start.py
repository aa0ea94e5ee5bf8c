"""The start is sent once, exactly as AtScale documents it, and whatever comes back is told apart."""

from __future__ import annotations

import json
import socket

import pytest

from airflow_provider_atscale.api.start import LostReply, Refused, Started
from airflow_provider_atscale.exceptions import (
    AtScaleAuthenticationError,
    AtScaleConnectionError,
    AtScaleNotFoundError,
    AtScalePermissionError,
    AtScaleStartError,
)

from .conftest import of_the_container, posts, routes, whatever_the_edition

# AtScale's own sample requests, "Run full or incremental aggregate builds":
#   curl -L 'https://<host>/v1/aggregates-batch/catalogs/<catalog_ID>/models/<model_Id>?isFullBuild=true' \
#   -H 'Content-Type: application/json' -H 'Accept: application/json' -H 'Authorization: Bearer <TOKEN>' -d ...
SAMPLES = {
    "full": (True, {}, "isFullBuild=true", {"gracePeriodOverrides": {}}),
    "incremental": (
        False,
        {"factinternetsales": 30},
        "isFullBuild=false",
        {"gracePeriodOverrides": {"factinternetsales": 30}},
    ),
}


@of_the_container
@pytest.mark.parametrize(("full", "overrides", "query", "body"), SAMPLES.values(), ids=SAMPLES)
def test_request_equals_the_documented_sample(engine, caller, ref, full, overrides, query, body):
    caller.start(ref, is_full_build=full, grace_period_overrides=overrides)
    [request] = engine.requests
    assert request.method == "POST"
    assert request.path == f"/v1/aggregates-batch/catalogs/{ref.catalog_id}/models/{ref.model_id}"
    assert request.query_string == query
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Accept"] == "application/json"
    assert request.headers["Authorization"] == f"Bearer {engine.api_token}"
    assert json.loads(request.body) == body


@pytest.mark.parametrize("full", [True, False])
def test_started(engine, caller, ref, full):
    outcome = caller.start(ref, is_full_build=full)
    [batch] = engine.batches
    assert isinstance(outcome, Started)
    assert outcome.batch.id == batch.id
    assert outcome.batch.is_full_build in (full, None)
    assert (batch.model_id, batch.is_full_build, batch.by) == (ref.model_id, full, "api")
    assert len(posts(engine)) == 1


#: Where the ids of the start "a/b c" and "ü%2F?#" arrive.
QUOTED = {
    "container": ("/v1/aggregates-batch/catalogs/a/b c/models/ü%2F?#", {}),
    "installer": ("/aggregate-batch/orgId/default/projectId/a/b c", {"cubeId": "ü%2F?#"}),
}


def test_ids_are_quoted(engine, edition, make_caller, ref):
    path, query = QUOTED[edition]
    with pytest.raises(AtScaleNotFoundError):
        make_caller("api_token").start(type(ref)("a/b c", "ü%2F?#", "", ""))
    [request] = [request for request in engine.requests if request.method == "POST"]
    assert request.path == path
    assert request.query == {**query, "isFullBuild": "false"}


#: What happens to the POST: (fault, batches in AtScale afterwards, what the flow makes of it).
FAULTS = {
    "502": ({"action": 502}, 0, LostReply),
    "503": ({"action": 503}, 0, LostReply),
    "504": ({"action": 504}, 0, LostReply),
    "503 with Retry-After": ({"action": 503, "headers": {"Retry-After": "1"}}, 0, LostReply),
    "408": ({"action": 408}, 0, LostReply),
    "502 after it was processed": ({"action": 502, "when": "after"}, 1, LostReply),
    "503 after it was processed": ({"action": 503, "when": "after"}, 1, LostReply),
    "504 after it was processed": ({"action": 504, "when": "after"}, 1, LostReply),
    "connection dropped": ({"action": "drop"}, 0, LostReply),
    "connection dropped after it was processed": ({"action": "drop_after"}, 1, LostReply),
    "connection cut in the middle of the reply": ({"action": "cut"}, 1, LostReply),
    "half of the reply": ({"action": "truncate"}, 1, LostReply),
    "reply later than the timeout": ({"action": "delay", "seconds": 0.5}, None, LostReply),
    "a page with status 200": ({"action": "html"}, 0, LostReply),
    "an empty answer with status 200": ({"action": "empty"}, 0, LostReply),
    "an empty answer after it was processed": ({"action": "empty", "when": "after"}, 1, LostReply),
    "JSON of something else": ({"action": 200, "body": {"data": []}}, 0, LostReply),
    "an id that is null": ({"action": 200, "body": {"batch": {"id": None, "status": "done"}}}, 0, LostReply),
    "500": ({"action": 500}, 0, Refused),
    "409": ({"action": 409, "headers": {"Retry-After": "1"}}, 0, Refused),
    "success: false": ({"action": 200, "body": {"success": False}}, 0, AtScaleStartError),
    "400": ({"action": 400}, 0, AtScaleStartError),
    "429": ({"action": 429, "headers": {"Retry-After": "1"}}, 0, AtScaleStartError),
    "401": ({"action": 401}, 0, AtScaleAuthenticationError),
    "403": ({"action": 403}, 0, AtScalePermissionError),
    "301": ({"action": 301, "headers": {"Location": "/elsewhere"}}, 0, AtScaleStartError),
    "302": ({"action": 302, "headers": {"Location": "/elsewhere"}}, 0, AtScaleStartError),
    "307": ({"action": 307, "headers": {"Location": "/elsewhere"}}, 0, AtScaleStartError),
    "308": ({"action": 308, "headers": {"Location": "/elsewhere"}}, 0, AtScaleStartError),
}


@pytest.mark.parametrize(("fault", "batches", "expected"), FAULTS.values(), ids=FAULTS)
def test_whatever_happens_to_it_it_is_sent_once(engine, make_caller, ref, fault, batches, expected):
    caller = make_caller(timeout=0.2 if fault["action"] == "delay" else 5)
    caller.run(lambda edition: edition.history(ref))  # from here on the connection is a used one
    engine.fault(**fault, route="start", times=None)
    fences = []

    def start():
        return caller.start(ref, before_post=lambda _: fences.append(len(posts(engine))))

    if issubclass(expected, Exception):
        with pytest.raises(expected) as caught:
            start()
        assert type(caught.value) is expected
        assert caught.value.retry_after == (1.0 if "Retry-After" in fault.get("headers", {}) else None)
    else:
        assert isinstance(start(), expected)
    assert fences == [0]
    assert len(posts(engine)) == 1
    assert "unknown" not in routes(engine), "a redirect was followed"
    assert caller.naps == []
    if batches is not None:
        assert len(engine.batches) == batches


@pytest.mark.parametrize(
    ("second", "status"),
    [("500", 500), ("409", 409)],
    ids=["as it is said", "as it should be said"],
)
def test_refused_while_a_batch_runs(engine, caller, ref, second, status):
    engine.settings(on_second_start=second)
    caller.start(ref)
    outcome = caller.start(ref)
    assert isinstance(outcome, Refused)
    assert outcome.error.http_status_code == status
    assert len(engine.batches) == 1


def test_server_message_reaches_the_reader(engine, caller, ref):
    engine.fault(400, route="start", body={"statusCode": 400, "message": ["isFullBuild must be a boolean"]})
    with pytest.raises(AtScaleStartError, match="isFullBuild must be a boolean"):
        caller.start(ref)


def test_nothing_is_sent_if_before_post_raises(engine, caller, ref):
    def fence(_):
        raise RuntimeError("the store is away")

    with pytest.raises(RuntimeError, match="the store is away"):
        caller.start(ref, before_post=fence)
    assert posts(engine) == []


def test_refused_connection_may_be_tried_again(engine, caller, ref):
    """Nothing was sent, so nothing can have been started; each try asks the fence anew."""
    caller.run(lambda edition: edition.history(ref))
    engine.stop()
    caller.notice()
    fences = []
    caller.on_nap = engine.start
    outcome = caller.start(ref, before_post=lambda _: fences.append(1))
    assert isinstance(outcome, Started)
    assert caller.naps == [0.5]
    assert len(fences) == 2
    assert len(engine.batches) == 1


def test_refused_connection_is_an_error_in_the_end(engine, caller, ref):
    caller.run(lambda edition: edition.history(ref))
    engine.stop()
    caller.notice()
    fences = []
    with pytest.raises(AtScaleConnectionError, match="Check the connection's host") as caught:
        caller.start(ref, before_post=lambda _: fences.append(1))
    assert caught.value.sent is False
    assert caller.naps == [0.5, 2.0]
    assert len(fences) == 3


@pytest.fixture
def deaf():
    """Take connections at a port until it takes no more: from then on to connect is to wait."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = []
        for _ in range(3):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(server.getsockname())
            waiting.append(client)
        yield "http://{}:{}".format(*server.getsockname())
        for client in waiting:
            client.close()


@whatever_the_edition
def test_connection_that_never_comes_about_has_sent_nothing(make_caller, ref, deaf):
    # It is known whether anything was sent, so it does not matter which timeout is over first.
    caller = make_caller(host=deaf, timeout=0.2)
    with pytest.raises(AtScaleConnectionError) as caught:
        caller.start(ref)
    assert caught.value.sent is False
    assert caller.naps == [0.5, 2.0]
