"""
No answer whatever makes a wait end in success, unless it says so in AtScale's words of this very batch.

Bodies are arbitrary JSON, arbitrary bytes, and real bodies with a few values changed to what nearly passes.
Whether a body says so is decided here once more, from the raw JSON and without the package's own reading.
"""

from __future__ import annotations

import copy
import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_atscale.api.models import Phase
from airflow_provider_atscale.api.observation import ReadFailed, observe_found
from airflow_provider_atscale.api.start import LostReply, Refused, Started
from airflow_provider_atscale.exceptions import AtScaleError
from airflow_provider_atscale.waiting.policy import Ended, WaitPolicy

from .flows import (
    BATCH_ID,
    HISTORY,
    INSTANCES,
    NOW,
    OTHER_ID,
    REF,
    TOKENS,
    container,
    history,
    in_turn,
    instance,
    perform,
    reply,
    routes,
    row,
    started,
)
from .test_models import JSON

NEAR = [
    None, True, False, 0, 1, -1, "", " ", "null", "None", "true", BATCH_ID, BATCH_ID.upper(), BATCH_ID[:-1],
    f"{BATCH_ID}0", f" {BATCH_ID} ", OTHER_ID, [BATCH_ID], {"id": BATCH_ID}, "done", "DONE", " Do-ne ",
    "undone", "done!", "not done", "success", "successful", "succeeded", "active", "failed", "new",
    "inprogress", ["done"], {"status": "done"}, "finished", "complete", 10**400, 1e308, "0001-01-01T00:00:00Z",
    [], {},
]  # fmt: skip
STATUSES = [200, 200, 200, 201, 204, 206, 302, 400, 401, 403, 404, 429, 500, 502, 503]


def places(value, path=()):
    """Yield the way to each value in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def put(value, path, new):
    if not path:
        return new
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return value


@st.composite
def near_misses(draw, *bodies):
    """Change a real body in a few places, and perhaps cut it."""
    body = copy.deepcopy(draw(st.sampled_from(bodies)))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(sorted(places(body), key=repr)))
        body = put(body, path, copy.deepcopy(draw(st.sampled_from(NEAR))))
    text = json.dumps(body).encode()
    return text[: draw(st.integers(1, len(text)))] if draw(st.integers(0, 9)) == 0 else text


def answers(*bodies):
    """Give any answer at all, most of them nearly right."""
    content = st.one_of(near_misses(*bodies), near_misses(*bodies), JSON, st.binary(), st.text())
    return st.builds(reply, content, st.sampled_from(STATUSES))


HISTORIES = (
    history(row(status="done")),
    history(row(status="inprogress"), row(OTHER_ID, "done")),
    history(row(OTHER_ID, "done"), row(status="failed")),
    history(row(OTHER_ID, "success")),
    history(),
)
LISTS = (
    {"data": [instance(1), instance(2, "failed")], "total": 2},
    {"data": [instance(1), instance(2, batch_id=OTHER_ID)], "total": 2},
    {"data": [instance(1, "inprogress"), instance(2, batch_id=OTHER_ID)], "total": 2},
    {"data": [instance(1, "deleted")], "total": 1},
    {"data": [instance(1, batch_id=None)], "total": 1},
    {"data": [instance(1, batch_id=OTHER_ID)], "total": 1},
    {"data": [], "total": 0},
)


def words_of(body: bytes, key: str) -> set[str]:
    """Return the status words that a body, read naively, has for the batch."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return set()
    rows = data.get("data") if isinstance(data, dict) else None
    return {
        re.sub(r"[\s_-]", "", each["status"]).lower()
        for each in (rows if isinstance(rows, list) else ())
        if isinstance(each, dict)
        and isinstance(each.get("status"), str)
        and isinstance(each.get(key), str)
        and each[key].strip() == BATCH_ID
    }


def attempt(flow, server):
    """Return the value of a flow, or the error of ours that it ends in."""
    try:
        return perform(flow, server)
    except AtScaleError as error:
        return error


def wait_for_it(server, looks: int = 5):
    """Wait as every waiter does, until the judge decides; return whether the end is a success."""
    edition, judge = container(), WaitPolicy(NOW, 60.0)
    for number in range(looks):
        found = attempt(edition.batches(REF, (BATCH_ID,)), server)
        is_trouble = isinstance(found, AtScaleError)
        observation = ReadFailed(str(found)) if is_trouble else observe_found(found, BATCH_ID)
        decision = judge.observe(observation, NOW + 1_000 * number, 0.5)
        if isinstance(decision, Ended):
            assert decision.batch.id == BATCH_ID
            return decision.batch.phase is Phase.SUCCEEDED
    return False


@settings(max_examples=250)
@given(answers(*HISTORIES))
@example(reply(HISTORIES[0]))
def test_the_history(answer):
    succeeded = wait_for_it(routes({**TOKENS, HISTORY: answer, INSTANCES: reply({"data": [], "total": 0})}))
    said = words_of(answer.body, "id") if 200 <= answer.status < 300 else set()
    assert not succeeded or said & {"done", "success"}


@settings(max_examples=250)
@given(answers(*LISTS), st.sampled_from([401, 403, 404]))
@example(reply(LISTS[0]), 403)
def test_the_instances(answer, refusal):
    succeeded = wait_for_it(routes({**TOKENS, HISTORY: reply({}, refusal), INSTANCES: answer}))
    said = words_of(answer.body, "batchId") if 200 <= answer.status < 300 else set()
    assert not succeeded or said & {"done", "success", "active"}
    assert not succeeded or not said & {"new", "pending", "inprogress", "running", "cancelled"}


@settings(max_examples=250)
@given(st.lists(answers(*HISTORIES), min_size=1, max_size=4), st.lists(answers(*LISTS), min_size=1, max_size=4))
def test_both_by_turns(histories, lists):
    succeeded = wait_for_it(routes({**TOKENS, HISTORY: histories, INSTANCES: lists}), looks=6)
    said = set().union(
        *(words_of(answer.body, "id") for answer in histories),
        *(words_of(answer.body, "batchId") for answer in lists),
    )
    assert not succeeded or said & {"done", "success", "active"}


@pytest.mark.parametrize(
    ("body", "expected"), [(HISTORIES[0], True), (HISTORIES[2], False)], ids=["done", "failed"]
)
def test_a_history_that_says_so_does_end_the_wait(body, expected):
    """The properties above would hold of a judge that never says success."""
    assert wait_for_it(routes({**TOKENS, HISTORY: reply(body)})) is expected


def test_instances_that_say_so_do_end_the_wait():
    assert wait_for_it(routes({**TOKENS, HISTORY: reply({}, 403), INSTANCES: reply(LISTS[0])})) is True


# --- the start --------------------------------------------------------------------------------------------


def ids_in(body: bytes) -> set[str]:
    """Return the batch ids that an answer to the start, read naively, carries."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return set()
    found = set()
    for place in (data, data.get("response") if isinstance(data, dict) else None):
        batch = place.get("batch") if isinstance(place, dict) else None
        if isinstance(batch, dict) and isinstance(batch.get("id"), str) and batch["id"].strip():
            found.add(batch["id"].strip())
    return found


@settings(max_examples=250)
@given(answers(started(), {"response": started(), "status": {"message": "ok"}}))
def test_no_answer_to_the_start_is_a_start_without_a_batch_id(answer):
    flow = container().start(REF, is_full_build=False, grace_period_overrides={}, before_post=lambda _: None)
    outcome = attempt(flow, in_turn(answer))
    told = ids_in(answer.body) if 200 <= answer.status < 300 else set()
    if isinstance(outcome, Started):
        assert outcome.batch.id in told
    else:
        assert isinstance(outcome, (LostReply, Refused)) or str(REF) in str(outcome)
        assert not told


# --- every other call -------------------------------------------------------------------------------------


@given(answers(*HISTORIES, *LISTS, [{"id": "c", "models": [{"id": "m"}]}], {"accessToken": "t"}))
def test_every_call_ends_in_a_value_or_in_an_error_of_ours(answer):
    edition = container()
    server = lambda _: answer  # noqa: E731
    calls = [
        edition.resolve("c", "m"),
        edition.models(),
        edition.history(REF),
        edition.batches(REF, (BATCH_ID,)),
        edition.instances(BATCH_ID),
        edition.locate(BATCH_ID),
        *(flow for _, flow in edition.probe()),
    ]
    for call in calls:
        outcome = attempt(call, server)
        assert not isinstance(outcome, AtScaleError) or len(str(outcome)) < 3_000


@given(answers(*HISTORIES, {"accessToken": "t"}))
def test_no_answer_of_the_exchange_is_a_success(answer):
    server = routes({"/v1/token": answer, HISTORY: reply(HISTORIES[1]), INSTANCES: reply(LISTS[2])})
    assert not wait_for_it(server)
