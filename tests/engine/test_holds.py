from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def eventually(condition, seconds=5):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("at", "batches"), [("start.received", 0), ("start.created", 1)])
def test_start_is_held(container, pool, at, batches):
    engine = container.engine
    hold = engine.hold(at)
    answer = pool.submit(container.start)
    engine.wait_held(hold)
    assert len(engine.batches) == batches
    assert (engine.requests[-1].status, engine.requests[-1].was_held) == (None, False)
    engine.release(hold)
    assert answer.result().status_code == 201
    assert len(engine.batches) == 1
    assert engine.requests[-1].was_held
    assert engine.hold_status(hold) == {"id": hold, "at": at, "held": 0, "seen": 1, "released": True}


@pytest.mark.parametrize(("at", "batches"), [("start.received", 0), ("start.created", 1)])
def test_held_start_is_dropped(container, pool, at, batches):
    hold = container.engine.hold(at)
    answer = pool.submit(container.start)
    container.engine.wait_held(hold)
    container.engine.release(hold, then="drop")
    with pytest.raises(requests.ConnectionError):
        answer.result()
    assert len(container.engine.batches) == batches


def test_a_start_whose_sender_went_away_is_processed(container):
    hold = container.engine.hold("start.received")
    with pytest.raises(requests.Timeout):
        container.call("POST", container.start_path(), container.engine.api_token, json={}, timeout=0.1)
    container.session.close()
    eventually(lambda: container.engine.stats.connections_open == 0)
    assert container.engine.batches == []
    container.engine.release(hold)
    eventually(lambda: len(container.engine.batches) == 1)


def test_refused_start_is_not_held_as_created(container):
    container.start()
    container.engine.hold("start.created")
    assert container.start().status_code == 500


def test_any_request_can_be_held(container, pool):
    hold = container.engine.hold(path="/v1/catalogs", method="get", times=2)
    answers = [pool.submit(container.catalogs) for _ in range(2)]
    eventually(lambda: container.engine.hold_status(hold)["held"] == 2)
    assert container.catalogs().ok
    assert container.engine.stats.max_in_flight == 3
    container.engine.release(hold)
    assert all(answer.result().ok for answer in answers)


def test_reset_lets_held_requests_continue(container, pool):
    hold = container.engine.hold("processed", route="catalogs")
    answer = pool.submit(container.catalogs)
    container.engine.wait_held(hold)
    container.engine.reset()
    assert answer.result().ok


def test_waiting_for_a_hold_ends(container):
    hold = container.engine.hold()
    with pytest.raises(TimeoutError):
        container.engine.wait_held(hold, timeout=0.01)


def test_released_before_any_request_came(container):
    hold = container.engine.hold()
    container.engine.release(hold)
    assert container.catalogs().ok


def test_stopping_forgets_what_is_held(container, pool):
    hold = container.engine.hold("start.received")
    answer = pool.submit(container.start)
    container.engine.wait_held(hold)
    stopper = threading.Thread(target=container.engine.stop)
    stopper.start()
    stopper.join(5)
    assert not stopper.is_alive()
    with pytest.raises(requests.ConnectionError):
        answer.result()
    container.engine.release(hold)
    assert container.engine.batches == []
    container.engine.start()


@pytest.mark.parametrize("wrong", [{"at": "odd"}, {"path": "("}])
def test_wrong_holds(container, wrong):
    with pytest.raises(ValueError, match=r"odd|regular expression"):
        container.engine.hold(**wrong)


def test_wrong_release(container):
    hold = container.engine.hold()
    with pytest.raises(ValueError, match="explode"):
        container.engine.release(hold, then="explode")


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", 5])
@pytest.mark.parametrize("name", ["path", "query"])
def test_an_unreadable_pattern_is_refused(container, name, pattern):
    with pytest.raises(ValueError, match=rf"{name} .* is not a regular expression"):
        container.engine.hold(**{name: pattern})
    # Requests go on as before.
    assert container.catalogs().ok
