"""What a try stores, and what the next try makes of it."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_atscale.api.models import Batch, History
from airflow_provider_atscale.builds.state import (
    DONE,
    FAILED,
    KEY,
    LOST,
    REFUSED,
    AlreadyDone,
    BuildKey,
    BuildStateStore,
    Reattach,
    SearchHistory,
    StartIntent,
    StartNew,
    StoredBuild,
    decide,
    parse_stored_build,
)

from .builds import Store
from .flows import CATALOG_ID, HOST, MODEL_ID, NOW
from .test_models import JSON

T = datetime.fromtimestamp(NOW, timezone.utc)
ME = BuildKey(HOST, CATALOG_ID, MODEL_ID, is_full_build=False, map_index=-1, max_tries=3, clear_number=0)
INTENT = StartIntent(NOW, T, frozenset({"old"}), had_running=False)


def entry(batch_id=None, outcome=None, start="started", key=ME, intent=INTENT) -> StoredBuild:
    return StoredBuild(key.to_json(), intent, batch_id, start, outcome)


def at(seconds: float) -> datetime:
    return T + timedelta(seconds=seconds)


# --- the decision -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "decision"),
    [
        (None, StartNew()),
        # A retry of the same task.
        (entry(), SearchHistory(entry())),
        (entry("b1"), Reattach(entry("b1"))),
        (entry("b1", start="attached"), Reattach(entry("b1", start="attached"))),
        (entry("b1", DONE), AlreadyDone(entry("b1", DONE))),
        (entry("b1", FAILED), StartNew("the batch of an earlier try failed", failed=True)),
        # It may only have been late: it is looked for once more.
        (entry("b1", LOST), Reattach(entry("b1", LOST))),
        (entry(None, REFUSED), StartNew("AtScale refused the start of an earlier try")),
        # Cleared: build again, whatever was there.
        *(
            (
                entry(batch_id, outcome, key=replace(ME, **changed)),
                StartNew("the task was cleared, which means: build again", cleared=True),
            )
            for changed in ({"max_tries": 2}, {"clear_number": 1}, {"max_tries": 7, "clear_number": 2})
            for batch_id, outcome in ((None, None), ("b1", None), ("b1", DONE), ("b1", FAILED))
        ),
        # Somebody else's, or of something else.
        *(
            (
                entry("b1", DONE, key=replace(ME, **changed)),
                StartNew(f"an earlier try built something else ({name} differs)"),
            )
            for changed, name in (
                ({"server": "https://other"}, "server"),
                ({"catalog_id": "x"}, "catalog_id"),
                ({"model_id": "x"}, "model_id"),
                ({"is_full_build": True}, "is_full_build"),
                ({"grace_period_overrides": {"sales": 30}}, "grace_period_overrides"),
                ({"map_index": 7}, "map_index"),
                ({"server": "https://other", "max_tries": 9}, "server"),
                ({"server": "https://other", "model_id": "x"}, "server, model_id"),
            )
        ),
    ],
)
def test_how_a_try_goes_on(stored, decision):
    value = None if stored is None else json.loads(json.dumps(stored.to_json()))
    assert decide(value, ME) == decision


GRACE = replace(ME, grace_period_overrides={"sales": 30})
OVERRIDES = {
    # stored, asked for: is it the same build?
    "the same": (GRACE, GRACE, True),
    "another number": (replace(ME, grace_period_overrides={"sales": 31}), GRACE, False),
    "another dataset": (replace(ME, grace_period_overrides={"customers": 30}), GRACE, False),
    "one more": (replace(ME, grace_period_overrides={"sales": 30, "customers": 30}), GRACE, False),
    "none any more": (GRACE, ME, False),
    "none before": (ME, GRACE, False),
}


@pytest.mark.parametrize(("before", "now", "is_same"), OVERRIDES.values(), ids=OVERRIDES)
def test_other_overrides_are_another_build(before, now, is_same):
    value = json.loads(json.dumps(entry("b1", key=before).to_json()))
    expected = "an earlier try built something else (grace_period_overrides differs)"
    assert decide(value, now) == (Reattach(entry("b1", key=before)) if is_same else StartNew(expected))


def test_a_key_that_was_stored_before_overrides_were_part_of_it_is_read():
    value = json.loads(json.dumps(entry("b1").to_json()))
    assert set(value["key"]) == {
        "server", "catalog_id", "model_id", "is_full_build", "map_index", "max_tries", "clear_number",
    }  # fmt: skip
    assert decide(value, ME) == Reattach(entry("b1"))


GOOD = json.loads(json.dumps(entry("b1", DONE).to_json()))


def changed(path, value):
    stored = copy.deepcopy(GOOD)
    inner = stored
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return stored


@pytest.mark.parametrize(
    "stored",
    [
        "b1",
        7,
        [],
        {},
        {"batch_id": "b1"},
        changed(["version"], 2),
        changed(["version"], "1"),
        changed(["key"], None),
        changed(["intent"], None),
        changed(["intent", "at"], None),
        changed(["intent", "at"], "now"),
        changed(["intent", "at"], True),
        changed(["intent", "at"], float("nan")),
        changed(["intent", "at"], 10**400),
        changed(["intent", "known"], None),
        changed(["intent", "known"], "old"),
        changed(["batch_id"], ""),
        changed(["batch_id"], 7),
        changed(["batch_id"], None),
        changed(["outcome"], "great"),
        changed(["outcome"], True),
        changed(["origin"], None),
    ],
    ids=lambda stored: repr(stored)[:60] if not isinstance(stored, dict) else None,
)
def test_what_is_not_understood_is_not_gone_on_with(stored):
    assert decide(stored, ME) == StartNew("the stored state of an earlier try cannot be read")


def test_a_stored_intent_that_does_not_say_whether_a_batch_ran_is_read_as_if_one_had():
    stored = changed(["outcome"], None)
    del stored["intent"]["had_running"]
    assert decide(stored, ME).build.intent.had_running is True


@given(
    JSON
    | st.sampled_from([["key"], ["intent"], ["intent", "at"], ["batch_id"], ["outcome"]]).flatmap(
        lambda path: JSON.map(lambda value: changed(path, value))
    )
)
def test_nothing_stored_whatever_is_green_without_a_batch(stored):
    decision = decide(stored, ME)
    assert isinstance(decision, (StartNew, Reattach, AlreadyDone, SearchHistory))
    if isinstance(decision, (Reattach, AlreadyDone)):
        assert decision.build.batch_id
    if isinstance(decision, AlreadyDone):
        assert decision.build.outcome == DONE
        assert dict(decision.build.key).items() >= ME.to_json().items()


entries = st.builds(
    StoredBuild,
    st.just(ME.to_json()),
    st.builds(
        StartIntent,
        st.floats(0, 1e10),
        # Year 9999 is a placeholder, which is never read as a time: see test_flow and test_models.
        st.none() | st.datetimes(datetime(1970, 1, 1), datetime(9998, 12, 31), timezones=st.just(timezone.utc)),
        st.frozensets(st.text()),
        st.booleans(),
    ),
    st.text(min_size=1),
    st.sampled_from(["started", "attached", "adopted"]),
    st.sampled_from([None, DONE, FAILED, REFUSED, LOST]),
)


@given(entries)
def test_what_is_stored_is_read_back(stored):
    assert parse_stored_build(json.loads(json.dumps(stored.to_json()))) == stored


# --- which batch an intent led to -------------------------------------------------------------------------


def batch(batch_id="new", seconds: float | None = 0.5, full: bool | None = False, status="inprogress") -> Batch:
    return Batch(batch_id, status, is_full_build=full, created=None if seconds is None else at(seconds))


@pytest.mark.parametrize(
    ("new", "is_candidate"),
    [
        (batch(), True),
        (batch(seconds=0.0), True),
        (batch(seconds=3600), True),
        (batch(status="done"), True),
        (batch(status="failed"), True),
        (batch(full=None), True),
        # The Date header has whole seconds.
        (batch(seconds=-0.9), True),
        (batch(seconds=-1.1), False),
        (batch(seconds=-86_400), False),
        (batch(full=True), False),
        (batch("old"), False),
        # No time: new is what was not listed before.
        (batch(seconds=None), True),
        (batch("old", seconds=None), False),
    ],
    ids=[
        "just after",
        "at the same second",
        "an hour later",
        "done already",
        "failed already",
        "kind not told",
        "within the second",
        "just before",
        "yesterday",
        "of the other kind",
        "listed before",
        "no time",
        "no time, listed before",
    ],
)
def test_which_batch_may_be_the_one_that_was_started(new, is_candidate):
    found = INTENT.candidates(History((new,), T), is_full_build=False)
    assert found == ((new,) if is_candidate else ())


@pytest.mark.parametrize("full", [True, False, None])
def test_where_the_engine_chooses_the_kind_it_tells_nothing(full):
    intent = replace(INTENT, sends_kind=False)
    assert intent.candidates(History((batch(full=full),), T), is_full_build=True) == (batch(full=full),)


def test_several_batches_may_be_the_one():
    first, second = batch("a"), batch("b", 7)
    assert INTENT.candidates(History((second, batch("old"), first)), is_full_build=False) == (second, first)


@pytest.mark.parametrize(
    ("zone", "is_candidate"), [("+05:30", True), ("-08:00", True)], ids=["ahead of us", "behind us"]
)
def test_times_of_different_zones_are_compared_as_points_in_time(zone, is_candidate):
    hours, minutes = int(zone[:3]), int(zone[4:])
    offset = timezone(timedelta(hours=hours, minutes=minutes))
    new = replace(batch(), created=at(0.5).astimezone(offset))
    assert bool(INTENT.candidates(History((new,)), is_full_build=False)) is is_candidate


def test_without_the_servers_clock_the_ids_decide():
    intent = StartIntent.after(History((batch("old", -86_400),)), NOW)
    assert intent.candidates(History((batch("old", -86_400), batch("new"))), is_full_build=False) == (
        batch("new"),
    )


OLD, RUNNING = batch("old", -86_400, status="done"), batch("running", -60)


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        (History((), T), StartIntent(NOW, T, frozenset(), had_running=False)),
        (History((OLD,), T), StartIntent(NOW, T, frozenset(), had_running=False)),
        (History((RUNNING, OLD), T), StartIntent(NOW, T, frozenset({"running"}), had_running=True)),
        (
            History((batch("recent", -3599, status="done"),), T),
            StartIntent(NOW, T, frozenset({"recent"}), had_running=False),
        ),
        (History((replace(OLD, created=None),), T), StartIntent(NOW, T, frozenset({"old"}), had_running=False)),
        (History((OLD,), None), StartIntent(NOW, None, frozenset({"old"}), had_running=False)),
        (
            History((batch("odd", -60, status="archived"),), T),
            StartIntent(NOW, T, frozenset({"odd"}), had_running=True),
        ),
        (None, StartIntent(NOW, None, frozenset(), had_running=True)),
    ],
    ids=["empty", "old", "running", "recent", "no time", "no clock", "unknown status", "not read"],
)
def test_the_intent_that_follows_a_read_of_the_history(history, expected):
    assert StartIntent.after(history, NOW) == expected


def test_what_an_intent_does_not_keep_is_never_taken_for_new():
    """Ids of old batches are left out of the store, for their times tell that they are old."""
    rows = tuple(batch(f"b{hours}", -3600.0 * hours, status="done") for hours in range(48))
    intent = StartIntent.after(History(rows, T), NOW)
    assert len(intent.known) <= 3
    assert intent.candidates(History(rows, T), is_full_build=False) == ()


# --- the memory -------------------------------------------------------------------------------------------


def memory(store, key=ME) -> BuildStateStore:
    return BuildStateStore(store, key)


def stored(store):
    return parse_stored_build(store.get(KEY))


def test_a_build_is_stored_step_by_step():
    store = Store()
    mine = memory(store)
    assert mine.load() == StartNew()
    mine.store_intent(INTENT)
    assert memory(store).load() == SearchHistory(entry())
    mine.store_batch("b1", "started", INTENT)
    assert memory(store).load() == Reattach(entry("b1"))
    mine.store_outcome(DONE, "b1")
    assert memory(store).load() == AlreadyDone(entry("b1", DONE))


def test_a_judgement_of_another_process_finds_the_entry():
    store = Store(**{KEY: entry("b1").to_json()})
    memory(store).store_outcome(FAILED, "b1")
    assert stored(store) == entry("b1", FAILED)


@pytest.mark.parametrize(
    ("before", "batch_id", "key"),
    [
        (None, "b1", ME),
        (entry("b2"), "b1", ME),
        (entry("b1"), "b1", replace(ME, max_tries=4)),
        (entry("b1"), "b1", replace(ME, model_id="x")),
    ],
    ids=["nothing stored", "another batch", "cleared since", "another model"],
)
def test_a_judgement_is_stored_only_for_the_batch_that_it_is_about(before, batch_id, key):
    store = Store(**({} if before is None else {KEY: before.to_json()}))
    memory(store, key).store_outcome(DONE, batch_id)
    assert store.writes == []


@pytest.mark.parametrize(
    ("outcome", "decision"),
    [
        (DONE, AlreadyDone(entry("b1", DONE))),
        (FAILED, StartNew("the batch of an earlier try failed", failed=True)),
    ],
)
def test_a_judgement_brings_the_id_where_only_the_intent_could_be_stored(outcome, decision):
    store = Store()
    mine = memory(store)
    mine.store_intent(INTENT)
    store.failing = {"set"}
    with pytest.raises(ConnectionError):
        mine.store_batch("b1", "started", INTENT)
    store.failing = set()
    mine.store_outcome(outcome, "b1")
    assert memory(store).load() == decision


def test_a_start_that_came_to_nothing_is_stamped():
    store = Store()
    mine = memory(store)
    mine.store_intent(INTENT)
    mine.store_outcome(REFUSED)
    assert memory(store).load() == StartNew("AtScale refused the start of an earlier try")


@pytest.mark.parametrize(
    "write",
    [
        lambda mine: mine.store_intent(INTENT),
        lambda mine: mine.store_batch("b1", "started", INTENT),
        lambda mine: mine.store_outcome(DONE, "b0"),
    ],
    ids=["intent", "id", "outcome"],
)
def test_a_write_that_fails_is_an_error_and_changes_nothing(write):
    store = Store(**{KEY: entry("b0").to_json()})
    mine = memory(store)
    mine.load()
    store.failing = {"set"}
    with pytest.raises(ConnectionError):
        write(mine)
    store.failing = set()
    assert stored(store) == entry("b0")
    mine.store_outcome(DONE, "b0")
    assert stored(store) == entry("b0", DONE)


def test_a_read_that_fails_is_an_error():
    store = Store()
    store.failing = {"get"}
    with pytest.raises(ConnectionError):
        memory(store).load()


def test_without_a_store_nothing_is_remembered_and_nothing_fails():
    mine = memory(None)
    assert not mine.is_persistent
    assert mine.load() == StartNew()
    mine.store_intent(INTENT)
    mine.store_batch("b1", "started", INTENT)
    mine.store_outcome(DONE, "b1")
    assert mine.load() == StartNew()
    assert memory(Store()).is_persistent


# --- what people read -------------------------------------------------------------------------------------


def about(batch_id):
    return {"model": "Internet Sales", "catalog": "Sales Insights", "history_url": f"{HOST}/{batch_id}"}


STEPS = {
    "before the start": ([], "starting", None),
    "after the start": ([("store_batch", "b1", "started", INTENT)], "started", "b1"),
    "joined": ([("store_batch", "b1", "joined", INTENT)], "started", "b1"),
    "done": ([("store_batch", "b1", "started", INTENT), ("store_outcome", DONE, "b1")], "done", "b1"),
    "failed": ([("store_batch", "b1", "started", INTENT), ("store_outcome", FAILED, "b1")], "failed", "b1"),
    "lost": ([("store_batch", "b1", "started", INTENT), ("store_outcome", LOST, "b1")], "lost", "b1"),
    "refused": ([("store_outcome", REFUSED)], "refused", None),
}


@pytest.mark.parametrize(("steps", "status", "batch_id"), STEPS.values(), ids=STEPS)
def test_the_value_begins_with_what_people_look_for(steps, status, batch_id):
    store = Store()
    mine = BuildStateStore(store, ME, about)
    mine.store_intent(INTENT)
    for name, *arguments in steps:
        getattr(mine, name)(*arguments)
    written = store.get(KEY)
    assert list(written)[:5] == ["model", "catalog", "history_url", "status", "batch_id"]
    expected = {**about(batch_id), "status": status, "batch_id": batch_id}
    assert {name: written[name] for name in expected} == expected
    assert len(json.dumps(written)) < 1000


def test_a_judgement_of_another_process_tells_people_the_same():
    store = Store(**{KEY: entry("b1").to_json()})
    BuildStateStore(store, ME, about).store_outcome(DONE, "b1")
    assert {**about("b1"), "status": "done"}.items() <= store.get(KEY).items()


def test_nobody_reads_it_back():
    """Whatever people have been shown, what a retry does depends on the rest."""
    shown = {
        **entry("b1").to_json(),
        "status": "done",
        "model": 7,
        "catalog": None,
        "history_url": [],
        "more": {},
    }
    assert decide(shown, ME) == Reattach(entry("b1"))


def test_what_an_older_version_has_stored_is_read():
    old = {
        "version": 1,
        "key": ME.to_json(),
        "intent": INTENT.to_json(),
        "batch_id": "b1",
        "origin": "started",
        "outcome": None,
    }
    assert decide(json.loads(json.dumps(old)), ME) == Reattach(entry("b1"))
