"""What a resumed task is told: a plan that is read back strictly, and an event that is believed or refused."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_atscale.api.models import ModelRef, Phase, batch_to_json, parse_batch
from airflow_provider_atscale.builds.join import FirstLook
from airflow_provider_atscale.builds.request import BuildRequest
from airflow_provider_atscale.builds.usual import Expectation, Usual
from airflow_provider_atscale.exceptions import AtScaleEventError
from airflow_provider_atscale.tasks.event import read_event
from airflow_provider_atscale.tasks.plan import TaskPlan, parse_plan
from airflow_provider_atscale.waiting.deadline import Deadline
from airflow_provider_atscale.waiting.policy import Ended, GaveUp, TimedOut

from .flows import API_TOKEN, BATCH_ID, NOW, OTHER_ID, REF, row
from .test_hostile_answers import NEAR, places, put
from .test_models import JSON

PLAN = TaskPlan(
    conn_id="atscale_default",
    ref=REF,
    began=NOW,
    poll_interval=60.0,
    deadline=Deadline(NOW + 21_600, "timeout"),
    failed_aggregates="warn",
    build=BuildRequest(is_full_build=False, overrides={"factinternetsales": 30}),
)


def event_of(plan, **facts):
    """Return the event that a trigger with this plan gives back, of whichever kind."""
    return {**plan.trigger_arguments(), **facts}


texts = st.text(max_size=10)
names = st.text(min_size=1, max_size=10)
numbers = st.floats(0, 1e12) | st.integers(0, 10**12)
requests = st.builds(
    BuildRequest,
    is_full_build=st.booleans(),
    overrides=st.dictionaries(texts, numbers, max_size=3),
    on_running=st.sampled_from(["join", "wait", "attach", "skip", "fail"]),
    wait_for_completion=st.booleans(),
    give_up_after=st.none() | st.integers(1, 9),
)
plans = st.builds(
    TaskPlan,
    conn_id=names,
    ref=st.builds(ModelRef, texts, texts, texts, texts),
    began=numbers,
    poll_interval=numbers,
    deadline=st.none()
    | st.builds(Deadline, st.floats(0, 1e12), st.sampled_from(["timeout", "execution_timeout"])),
    failed_aggregates=st.sampled_from(["warn", "fail", "ignore"]),
    origin=st.sampled_from(["started", "joined", "attached", "adopted", "watched"]),
    try_number=st.integers(1, 100),
    build=st.none() | requests,
    expectation=st.builds(
        Expectation,
        st.none() | st.floats(1, 1e6),
        st.none()
        | st.builds(Usual, st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6), st.integers(5, 99)),
        st.booleans(),
    ),
    first_look=st.none()
    | st.builds(
        FirstLook,
        st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(timezone.utc)),
        st.lists(names, max_size=3).map(tuple),
    ),
    joined_at=st.none() | texts,
)


# --- the plan ---------------------------------------------------------------------------------------------


@given(plans)
def test_a_plan_is_read_back_as_it_was(plan):
    assert parse_plan(event_of(plan)) == plan
    assert parse_plan(json.loads(json.dumps(event_of(plan)))) == plan


def test_a_plan_has_no_secret_and_nothing_twice():
    arguments = PLAN.trigger_arguments()
    assert API_TOKEN not in json.dumps(arguments)
    assert arguments.keys() == {
        "atscale_conn_id", "catalog_id", "model_id", "catalog", "model", "poll_interval", "deadline", "expectation",
        "payload",
    }  # fmt: skip
    assert arguments["payload"].keys() == {
        "began", "failed_aggregates", "origin", "try_number", "build", "first_look", "joined_at",
    }  # fmt: skip


def test_an_event_of_a_trigger_that_was_made_before_an_upgrade_has_no_expectation():
    event = event_of(PLAN)
    del event["expectation"]
    assert parse_plan(event) == replace(PLAN, expectation=Expectation())


def changed(path, value):
    told = copy.deepcopy(event_of(PLAN))
    place = told
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return told


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["atscale_conn_id"], None),
        (["atscale_conn_id"], ""),
        (["atscale_conn_id"], 7),
        (["catalog_id"], None),
        (["model_id"], 7),
        (["catalog"], None),
        (["model"], ["a"]),
        (["poll_interval"], -1),
        (["poll_interval"], math.nan),
        (["poll_interval"], "60"),
        (["deadline"], 7),
        (["deadline"], {}),
        (["deadline"], {"at": NOW}),
        (["deadline"], {"at": NOW, "limit": "patience"}),
        (["deadline"], {"at": "soon", "limit": "timeout"}),
        (["deadline"], {"at": True, "limit": "timeout"}),
        (["deadline"], {"at": math.nan, "limit": "timeout"}),
        (["deadline"], {"at": math.inf, "limit": "timeout"}),
        (["deadline"], {"at": 10**400, "limit": "timeout"}),
        (["expectation"], "soon"),
        (["expectation"], {"warn_after": "soon", "usual": None, "is_warned": False}),
        (["payload"], None),
        (["payload"], "plan"),
        (["payload"], {}),
        (["payload", "began"], None),
        (["payload", "began"], "now"),
        (["payload", "began"], True),
        (["payload", "began"], math.nan),
        (["payload", "began"], math.inf),
        (["payload", "began"], 10**400),
        (["payload", "failed_aggregates"], "forgive"),
        (["payload", "failed_aggregates"], None),
        (["payload", "failed_aggregates"], ["warn"]),
        (["payload", "origin"], None),
        (["payload", "origin"], ""),
        (["payload", "try_number"], "1"),
        (["payload", "build"], 7),
        (["payload", "build"], {}),
        (["payload", "build", "is_full_build"], "false"),
        (["payload", "build", "is_full_build"], 0),
        (["payload", "build", "is_full_build"], None),
        (["payload", "build", "overrides"], None),
        (["payload", "build", "overrides"], [["a", 1]]),
        (["payload", "build", "overrides"], {"a": "1"}),
        (["payload", "build", "overrides"], {"a": None}),
        (["payload", "build", "overrides"], {"a": math.nan}),
        (["payload", "build", "overrides"], {7: 1}),
        (["payload", "build", "on_running"], "hope"),
        (["payload", "build", "on_running"], None),
        (["payload", "build", "wait_for_completion"], 1),
        (["payload", "build", "wait_for_completion"], "true"),
        (["payload", "build", "give_up_after"], 0),
        (["payload", "build", "give_up_after"], True),
        (["payload", "build", "give_up_after"], "3"),
        (["payload", "first_look"], "yesterday"),
        (["payload", "joined_at"], 7),
        (["payload", "colour"], "red"),
        (["payload", "build", "colour"], "red"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_plan_with_a_wrong_field_is_refused(path, value):
    with pytest.raises(
        ValueError, match=f"its .*{path[-1] if path[-1] != 'colour' else ''}|is not an? (deadline|expectation)"
    ):
        parse_plan(changed(path, value))


@pytest.mark.parametrize(
    "look",
    [
        {},
        {"server_time": None, "known": []},
        {"server_time": "soon", "known": []},
        {"server_time": "2025-02-27T09:53:20Z", "known": None},
        {"server_time": "2025-02-27T09:53:20Z", "known": [7]},
    ],
    ids=repr,
)
def test_a_plan_with_a_wrong_first_look_is_refused(look):
    with pytest.raises(ValueError, match="is not a valid"):
        parse_plan(changed(["payload", "first_look"], look))


# --- the event --------------------------------------------------------------------------------------------


def event(status="ended", batch_id=BATCH_ID, **facts):
    return {"status": status, "batch_id": batch_id, **event_of(PLAN), **facts}


def batch(status="done", batch_id=BATCH_ID, **values):
    return batch_to_json(parse_batch(row(batch_id, status, **values)))


ENDED = event(batch=batch())
TIMED_OUT = event("timeout", limit="timeout", seconds=21_600.0, last_status="inprogress")
GAVE_UP = event("gave_up", kind="trouble", reason="Batch b could not be read for 30 minutes")


@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        (ENDED, Ended(parse_batch(batch()))),
        (event(batch=batch("Success")), Ended(parse_batch(batch("Success")))),
        (event(batch=batch("failed")), Ended(parse_batch(batch("failed")))),
        (TIMED_OUT, TimedOut("timeout", 21_600.0, "inprogress")),
        (event("timeout", limit="execution_timeout", seconds=1), TimedOut("execution_timeout", 1.0, None)),
        (event("timeout", limit="timeout", seconds=1, last_answer="x"), TimedOut("timeout", 1.0, None, "x")),
        (GAVE_UP, GaveUp("trouble", "Batch b could not be read for 30 minutes")),
        (event("gave_up", kind="missing", reason=""), GaveUp("missing", "")),
        (event("gave_up", kind="unknown", reason="x"), GaveUp("unknown", "x")),
    ],
    ids=[
        "done",
        "success",
        "failed",
        "timeout",
        "execution_timeout",
        "never seen",
        "trouble",
        "missing",
        "unknown",
    ],
)
def test_an_event_is_read(told, verdict):
    resumed = read_event(json.loads(json.dumps(told)))
    assert (resumed.plan, resumed.result, resumed.batch_id) == (PLAN, verdict, BATCH_ID)


@pytest.mark.parametrize("told", [TIMED_OUT, GAVE_UP], ids=["timeout", "gave up"])
def test_whoever_waits_for_the_newest_batch_may_have_seen_none(told):
    told = {**told, "batch_id": None}
    assert read_event(told, needs_batch=False).batch_id is None
    with pytest.raises(AtScaleEventError, match="it has no batch id"):
        read_event(told)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (None, "it is not a mapping"),
        ([], "it is not a mapping"),
        ("done", "it is not a mapping"),
        (True, "it is not a mapping"),
        ({}, "its atscale_conn_id is None"),
        ({"status": "success"}, "its atscale_conn_id is None"),
        ({"status": "success", "batch_id": BATCH_ID}, "its atscale_conn_id is None"),
        ({**ENDED, "payload": None}, "its payload is None"),
        ({**ENDED, "payload": {}}, "its payload is {}"),
        ({**ENDED, "poll_interval": "60"}, "its poll_interval is '60'"),
        (event(None, batch=batch()), "its status is None"),
        (event("success", batch=batch()), "its status is 'success'"),
        (event("done", batch=batch()), "its status is 'done'"),
        (event("Ended", batch=batch()), "its status is 'Ended'"),
        (event(["ended"], batch=batch()), "its status is"),
        (event(batch_id=None, batch=batch()), "it has no batch id"),
        (event(batch_id="", batch=batch()), "it has no batch id"),
        (event(batch_id=7, batch=batch()), "it has no batch id"),
        (event(batch_id=[BATCH_ID], batch=batch()), "it has no batch id"),
        (event(), "its batch is not the one that it names"),
        (event(batch=None), "its batch is not the one that it names"),
        (event(batch={}), "its batch is not the one that it names"),
        (event(batch="done"), "its batch is not the one that it names"),
        (event(batch=batch(batch_id=OTHER_ID)), "its batch is not the one that it names"),
        (event(batch_id=BATCH_ID.upper(), batch=batch()), "its batch is not the one that it names"),
        (event(batch={**batch(), "status": None}), "its batch is not the one that it names"),
        (event(batch={**batch(), "status": True}), "its batch is not the one that it names"),
        (event(batch=batch("inprogress")), "its batch has not ended, its status is 'inprogress'"),
        (event(batch=batch("active")), "its batch has not ended, its status is 'active'"),
        (event(batch=batch("undone")), "its batch has not ended, its status is 'undone'"),
        (event("timeout"), "it does not say which limit has passed"),
        (event("timeout", limit="patience", seconds=1.0), "it does not say which limit has passed"),
        (event("timeout", limit="timeout"), "it does not say which limit has passed"),
        (event("timeout", limit="timeout", seconds="1"), "it does not say which limit has passed"),
        (event("timeout", limit="timeout", seconds=True), "it does not say which limit has passed"),
        (event("timeout", limit="timeout", seconds=-1), "it does not say which limit has passed"),
        (event("timeout", limit="timeout", seconds=math.nan), "it does not say which limit has passed"),
        (event("timeout", limit="timeout", seconds=10**400), "it does not say which limit has passed"),
        (event("gave_up"), "it does not say why the wait was given up"),
        (event("gave_up", kind="boredom", reason="x"), "it does not say why the wait was given up"),
        (event("gave_up", kind="trouble", reason=None), "it does not say why the wait was given up"),
        (event("gave_up", kind=["trouble"], reason="x"), "it does not say why the wait was given up"),
    ],
    ids=lambda value: None if isinstance(value, str) else repr(value)[:30],
)
@pytest.mark.parametrize("needs_batch", [True, False], ids=["operator", "sensor"])
def test_an_event_that_is_not_exactly_one_of_ours_fails_closed(told, said, needs_batch):
    if told.__class__ is dict and told.get("batch_id") is None and not needs_batch and "batch_id" in told:
        said = "its batch is not the one that it names"
    with pytest.raises(AtScaleEventError, match=said) as error:
        read_event(told, needs_batch=needs_batch)
    assert "so the task fails" in str(error.value)
    assert "same version of this package" in str(error.value)


def test_an_error_shows_no_more_of_an_event_than_fits_into_a_log():
    with pytest.raises(AtScaleEventError) as error:
        read_event({"status": "x" * 100_000})
    assert len(str(error.value)) < 1_200


@st.composite
def near_events(draw):
    told = copy.deepcopy(draw(st.sampled_from([ENDED, event(batch=batch("failed")), TIMED_OUT, GAVE_UP])))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(sorted(places(told), key=repr)))
        told = put(told, path, copy.deepcopy(draw(st.sampled_from(NEAR) | JSON)))
    return told


@given(
    near_events() | JSON | st.dictionaries(st.sampled_from([*ENDED, *GAVE_UP, *TIMED_OUT]), JSON), st.booleans()
)
def test_whatever_comes_is_refused_or_consistent(told, needs_batch):
    try:
        resumed = read_event(told, needs_batch=needs_batch)
    except AtScaleEventError:
        return
    assert parse_plan(event_of(resumed.plan)) == resumed.plan
    assert resumed.batch_id == told["batch_id"]
    assert resumed.batch_id or not needs_batch
    verdict = resumed.result
    if isinstance(verdict, Ended):
        assert told["status"] == "ended"
        assert verdict.batch.id == resumed.batch_id == told["batch"]["id"].strip()
        assert verdict.batch.status == told["batch"]["status"]
        assert verdict.batch.phase in (Phase.SUCCEEDED, Phase.FAILED)
    elif isinstance(verdict, TimedOut):
        assert (told["status"], told["limit"], told["seconds"]) == ("timeout", verdict.limit, verdict.seconds)
    else:
        assert (told["status"], told["kind"], told["reason"]) == ("gave_up", verdict.kind, verdict.reason)
