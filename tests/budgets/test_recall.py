"""What is not parsed a second time, and what is."""

from __future__ import annotations

import pytest

from airflow_provider_atscale.exceptions import AtScaleConnectionError
from airflow_provider_atscale.hub import Recall
from airflow_provider_atscale.protocol.messages import Request, Response, Secret

URL = "https://atscale.invalid/history"


def answer(body: bytes, status: int = 200) -> Response:
    return Response(status, {}, body, URL)


class Reader:
    """A flow that sends so many requests, and makes a value of all it was told."""

    def __init__(self, requests: int = 1) -> None:
        self.requests = requests
        self.made = 0

    def flow(self):
        bodies = []
        for _ in range(self.requests):
            yield Secret("no answer")
            response = yield Request("GET", URL)
            bodies.append(response.body)
        self.made += 1
        return tuple(bodies)


def drive(flow, *outcomes):
    """Run a flow with the outcomes of its requests; errors are thrown into it."""
    waiting = list(outcomes)
    try:
        effect = flow.send(None)
        while True:
            if not isinstance(effect, Request):
                effect = flow.send(None)
                continue
            outcome = waiting.pop(0)
            effect = flow.throw(outcome) if isinstance(outcome, Exception) else flow.send(outcome)
    except StopIteration as stop:
        assert not waiting
        return stop.value


@pytest.mark.parametrize(
    ("first", "second", "asked", "made"),
    [
        pytest.param(answer(b"[1]"), answer(b"[1]"), "a", 1, id="the same answer"),
        pytest.param(answer(b"[1]"), answer(b"[2]"), "a", 2, id="another answer"),
        pytest.param(answer(b"[1]"), answer(b"[1]"), "b", 2, id="the same answer to another question"),
        pytest.param(answer(b"no", 403), answer(b"no", 403), "a", 2, id="a refusal"),
        pytest.param(answer(b"[1]"), answer(b"[1]", 500), "a", 2, id="an error with the same text"),
    ],
)
def test_second_run(first, second, asked, made):
    recall, reader = Recall(), Reader()
    assert drive(recall.over(reader.flow(), "a"), first) == (first.body,)
    assert drive(recall.over(reader.flow(), asked), second) == (second.body,)
    assert reader.made == made


def test_flow_of_several_requests_runs_as_it_is():
    recall, reader = Recall(), Reader(requests=2)
    for _ in range(2):
        assert drive(recall.over(reader.flow(), "a"), answer(b"1"), answer(b"2")) == (b"1", b"2")
    assert reader.made == 2


def test_one_answer_of_several_is_not_taken_for_all():
    """A history of one page is remembered; when it grows, its first page alone must not bring the old value."""
    recall = Recall()
    assert drive(recall.over(Reader(1).flow(), "a"), answer(b"1")) == (b"1",)
    assert drive(recall.over(Reader(2).flow(), "a"), answer(b"0"), answer(b"1")) == (b"0", b"1")


def test_errors_reach_the_flow_and_spoil_nothing():
    recall, reader = Recall(), Reader()
    drive(recall.over(reader.flow(), "a"), answer(b"1"))
    with pytest.raises(AtScaleConnectionError):
        drive(recall.over(reader.flow(), "a"), AtScaleConnectionError("gone"))
    assert drive(recall.over(reader.flow(), "a"), answer(b"1")) == (b"1",)
    assert reader.made == 1
