from __future__ import annotations

import dataclasses
import inspect
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from airflow_provider_atscale.testing import AtScaleEngine, EngineControl

from .conftest import ContainerCaller

IN_PROCESS_ONLY = {
    "start",
    "stop",
    "connection",
    "connection_json",
    "url",
    "urls",
    "api_token",
    "now",
    "report",
    "save",
}


@pytest.fixture
def control(container):
    return EngineControl(container.engine.url)


def public(kind):
    return {name: value for name, value in inspect.getmembers(kind) if not name.startswith("_")}


def test_same_methods_as_in_process():
    assert set(public(AtScaleEngine)) - IN_PROCESS_ONLY == set(public(EngineControl))
    for name, value in public(EngineControl).items():
        if inspect.isfunction(value):
            there = inspect.signature(getattr(AtScaleEngine, name)).parameters
            here = inspect.signature(value).parameters
            assert [(p.name, p.kind, p.default) for p in here.values()] == [
                (p.name, p.kind, p.default) for p in there.values()
            ]


def test_objects_cross_the_process(container, control):
    engine = container.engine
    catalog = control.add_catalog("new", "New")
    model = control.add_model(catalog, "m", "A model with / and ?")
    assert catalog == dataclasses.replace(engine.store.catalogs[catalog.id], models=[])
    assert control.model("A model with / and ?", "New") == model == engine.model(model.id)
    assert control.start_batch(catalog, model).model_id == model.id
    control.fail_next(model, "done", 1, repaired_aggregates=2)


def test_batches(container, control):
    engine = container.engine
    batch = control.start_batch("Sales Insights", "Internet Sales", True, by="somebody", build_seconds=5)
    assert (batch.by, batch.is_full_build, batch.ended) == ("somebody", True, None)
    with pytest.raises(ValueError, match="is running"):
        control.start_batch(None, "Internet Sales")
    ended = control.end_batch(batch.id, "cancelled", failed_aggregates=1, message="stop")
    assert ended == engine.batches[0] == control.batches[0]
    control.fail_next("Internet Sales", "error", 3, "bad")
    control.start_batch(None, "Internet Sales")
    control.advance(61)
    assert (control.batches[1].status, control.batches[1].failed_aggregates) == ("error", 3)


def test_settings_and_deployments(container, control):
    control.settings(build_seconds=3, can_view=False)
    assert (container.engine.current.build_seconds, container.engine.current.can_view) == (3, False)
    with pytest.raises(ValueError, match="odd"):
        control.settings(odd=1)
    control.add_catalog("new", "New")
    assert control.add_model("New", "m", aggregates=2) == container.engine.model("m", "new")
    assert control.model("Internet Sales", "Sales Insights") == container.model
    with pytest.raises(ValueError, match="0 models"):
        control.model("m", "Finance")
    with pytest.raises(ValueError, match="already"):
        control.add_catalog("new")


def test_tokens(container, control):
    jwt = container.jwt()
    control.expire_tokens()
    assert container.history(jwt).status_code == 401
    assert control.rotate_api_token("next") == container.engine.api_token == "next"
    assert len(control.rotate_api_token()) > 20
    control.revoke_api_token()
    control.close_connections()
    assert container.engine.api_token is None


def test_faults(container, control):
    control.fault(503, route="catalogs", times=None, headers={"Retry-After": "1"}, body={"a": 1})
    assert (container.catalogs().status_code, container.catalogs().json()) == (503, {"a": 1})
    control.clear_faults()
    assert container.catalogs().ok
    with pytest.raises(ValueError, match="odd"):
        control.fault("odd")
    control.fault("drop")
    control.reset()
    assert container.catalogs().ok


def test_holds(container, control):
    hold = control.hold("start.created")
    with pytest.raises(TimeoutError):
        control.wait_held(hold, 0.01)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(container.start)
        control.wait_held(hold)
        assert control.hold_status(hold)["held"] == 1
        control.release(hold, then="drop")
        with pytest.raises(requests.ConnectionError):
            answer.result()
    with pytest.raises(ValueError, match="hold-99"):
        control.release("hold-99")


def test_requests_and_stats(container, control):
    container.start(headers={"X-Mine": "1"})
    container.catalogs("wrong")
    ContainerCaller(container.engine).call("GET", "/nothing?b=1&c=%20x")
    first, second, third = control.requests
    assert (first.n, first.method, first.route, first.status) == (1, "POST", "start", 201)
    assert first.query == {"isFullBuild": "true"}
    assert first.query_string == "isFullBuild=true"
    assert first.headers["X-Mine"] == "1"
    assert first.body == '{"gracePeriodOverrides": {}}'
    assert (second.status, second.route) == (401, "catalogs")
    assert (third.status, third.route, third.query) == (404, "unknown", {"b": "1", "c": " x"})
    assert first.connection == second.connection != third.connection
    stats = control.stats
    assert stats == container.engine.stats
    assert stats.routes == {"start": 1, "catalogs": 1, "unknown": 1}
    assert (stats.requests, stats.connections_opened, stats.max_in_flight) == (3, 2, 1)
    control.clear_requests()
    assert control.requests == []
    assert (control.stats.requests, control.stats.connections_opened) == (0, 0)


def test_connections_are_counted(container):
    callers = [ContainerCaller(container.engine) for _ in range(3)]
    for caller in callers * 2:
        caller.catalogs()
    assert container.engine.stats.connections_open == container.engine.stats.connections_opened == 3
    assert {request.connection for request in container.engine.requests} == {1, 2, 3}


def test_request_log_is_bounded_or_off(container, control):
    control.settings(log_limit=2)
    for _ in range(3):
        container.catalogs()
    assert [request.n for request in control.requests] == [2, 3]
    control.settings(log_requests=False)
    container.catalogs()
    assert len(control.requests) == 2
    assert control.stats.requests == 4


def test_control_is_on_both_ports():
    with AtScaleEngine("installer") as engine:
        assert EngineControl(engine.urls["engine"]).stats == EngineControl(engine.url).stats


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "nothing", None, 404),
        ("POST", "settings", "[1]", 400),
        ("POST", "settings", "{", 400),
        ("POST", "faults", "{}", 400),
        ("POST", "batches/unknown/end", "{}", 400),
    ],
)
def test_wrong_calls(container, method, path, body, status):
    response = container.call(method, "/_engine/" + path, data=body)
    assert response.status_code == status
    assert "message" in response.json()


@pytest.mark.parametrize("path", ["/", "/_engine/history", "/_engine/history?batchId={}"])
def test_page(container, path):
    container.engine.add_catalog("evil", "<script>alert(1)</script>")
    container.engine.add_model("evil", "bad", "<b>bad</b>")
    container.engine.fail_next("bad", message="<i>no</i>")
    batch = container.engine.start_batch("evil", "bad", by="<u>me</u>")
    container.engine.advance(61)
    response = container.call("GET", path.format(batch.id))
    assert response.headers["Content-Type"].startswith("text/html")
    assert batch.id in response.text
    assert "failed" in response.text
    for tag in ("<script>", "<b>", "<i>", "<u>"):
        assert tag not in response.text
    assert ("Instances</h2>" in response.text) is ("batchId" in path)
    assert container.engine.stats.requests == 0


def test_page_without_builds(container):
    assert "No builds." in container.call("GET", "/").text
