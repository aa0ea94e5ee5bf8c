from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

LOST = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, "json"), (403, "json"), (404, "json"), (429, "json"), (500, "json"), (502, "html"), (503, "html")],
)
def test_status(container, status, kind):
    container.engine.fault(status, route="catalogs", headers={"Retry-After": "7"})
    response = container.catalogs()
    assert (response.status_code, response.headers["Retry-After"]) == (status, "7")
    assert kind in response.headers["Content-Type"]
    assert container.catalogs().ok


@pytest.mark.parametrize(
    ("body", "text", "kind"),
    [
        ({"a": 1}, '{"a": 1}', "application/json"),
        ('{"data": [', '{"data": [', "application/json"),
        ("<html>", "<html>", "text/html"),
        ("hello", "hello", "text/plain"),
    ],
)
def test_body(container, body, text, kind):
    container.engine.fault(200, route="catalogs", body=body)
    response = container.catalogs()
    assert response.text == text
    assert response.headers["Content-Type"].startswith(kind)


def test_content_type_can_be_given(container):
    container.engine.fault(200, body="x", headers={"Content-Type": "text/csv"})
    assert container.catalogs().headers["Content-Type"] == "text/csv"


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize(("when", "batches"), [("before", 0), ("after", 1)])
def test_start_answered_with_an_error(container, status, when, batches):
    container.engine.fault(status, route="start", when=when)
    assert container.start().status_code == status
    assert len(container.engine.batches) == batches


@pytest.mark.parametrize(("action", "batches"), [("drop", 0), ("drop_after", 1), ("cut", 1)])
def test_start_without_an_answer(container, action, batches):
    container.engine.fault(action, method="post", path="/aggregates-batch/")
    with pytest.raises(LOST):
        container.start()
    assert len(container.engine.batches) == batches
    assert container.engine.requests[-1].status is None


def test_truncated(container):
    whole = container.catalogs().text
    container.engine.fault("truncate", route="catalogs")
    response = container.catalogs()
    assert response.status_code == 200
    assert response.text == whole[: len(whole) // 2]


@pytest.mark.parametrize(("when", "batches"), [("before", 0), ("after", 1)])
def test_html(container, when, batches):
    container.engine.fault("html", route="start", when=when)
    response = container.start()
    assert (response.status_code, "Sign in" in response.text) == (200, True)
    assert len(container.engine.batches) == batches


def test_empty(container):
    container.engine.fault("empty")
    response = container.catalogs()
    assert (response.status_code, response.content) == (200, b"")


def test_delay_adds_to_another_fault(container):
    container.engine.fault("delay", seconds=0.1)
    container.engine.fault(503)
    before = time.monotonic()
    assert container.catalogs().status_code == 503
    assert time.monotonic() - before >= 0.1
    assert container.catalogs().ok


def test_matching(container):
    container.engine.fault(503, query="page=2", times=None)
    jwt = container.jwt()
    assert container.history(jwt).ok
    assert [container.history(jwt, page=2).status_code for _ in range(2)] == [503, 503]
    container.engine.clear_faults()
    assert container.history(jwt, page=2).ok
    container.engine.fault(503, path=r"/v1/catalogs$", method="GET", times=2)
    assert container.instances().ok
    assert [container.catalogs().status_code for _ in range(3)] == [503, 503, 200]


@pytest.mark.parametrize(
    "wrong", [{"action": "odd"}, {"action": 503, "when": "never"}, {"action": 503, "path": "("}]
)
def test_wrong_faults(container, wrong):
    with pytest.raises(ValueError, match=r"odd|never|regular expression"):
        container.engine.fault(**wrong)


def test_odd_status_and_redirect(container):
    container.engine.fault(520, route="catalogs")
    assert container.catalogs().status_code == 520
    container.engine.fault(302, route="catalogs", headers={"Location": "/engine/version"})
    assert container.catalogs().text == "C2026.5.1"


def test_latency(container):
    container.engine.settings(latency=0.1)
    with ThreadPoolExecutor(4) as pool:
        assert all(answer.ok for answer in pool.map(lambda _: container.catalogs(), range(4)))
    assert container.engine.stats.max_in_flight == 4


def test_connections_are_closed(container):
    assert container.catalogs().ok
    container.engine.close_connections()
    deadline = time.monotonic() + 5
    while container.engine.stats.connections_open and time.monotonic() < deadline:
        time.sleep(0.01)
    assert container.catalogs().ok
    assert container.engine.stats.connections_opened == 2


def test_reset(container):
    container.engine.fault(503, times=None)
    hold = container.engine.hold()
    container.engine.reset()
    assert container.catalogs().ok
    with pytest.raises(ValueError, match="no hold"):
        container.engine.hold_status(hold)
