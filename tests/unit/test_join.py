"""``on_running="join"``: which batch of another one has this task's data, and what is done if none has."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from airflow_provider_atscale.api.models import Batch, History, HistoryUnavailable
from airflow_provider_atscale.api.start import LostReply, Refused
from airflow_provider_atscale.builds.join import FirstLook, find_joinable, pause_before_start, serves
from airflow_provider_atscale.builds.request import BuildRequest
from airflow_provider_atscale.builds.state import (
    DONE,
    FAILED,
    LOOK_KEY,
    BuildStateStore,
    parse_stored_build,
)
from airflow_provider_atscale.builds.steps import OwnBatch, RunningOther
from airflow_provider_atscale.exceptions import AtScaleError, AtScaleStartError

from .builds import BUILD_KEY, JOIN, Log, Store, accepted, builder
from .flows import NOW
from .test_build_state import stored

T = datetime.fromtimestamp(NOW, timezone.utc)
FULL = replace(JOIN, is_full_build=True)
GRACE = replace(JOIN, overrides={"sales": 30})
REFUSAL = Refused(AtScaleStartError("AtScale refused to build: HTTP 409.", 409))
MAY_NOT = HistoryUnavailable("HTTP 403", 403)


def batch(name="b", seconds: float | None = 5.0, status="inprogress", full: bool | None = False):
    """Make a batch that was created so many seconds after the first look."""
    created = None if seconds is None else T + timedelta(seconds=seconds)
    return Batch(name, status, full, "aggregate_batch", created=created)


# --- the rule ---------------------------------------------------------------------------------------------

KINDS = {
    # batch, request: served?
    "standard for standard": (False, JOIN, True),
    "full for standard": (True, JOIN, True),
    "unknown for standard": (None, JOIN, True),
    "standard for full": (False, FULL, False),
    "full for full": (True, FULL, True),
    "unknown for full": (None, FULL, False),
    "standard for overrides": (False, GRACE, False),
    "full for overrides": (True, GRACE, True),
    "unknown for overrides": (None, GRACE, False),
}


@pytest.mark.parametrize(("full", "request_", "expected"), KINDS.values(), ids=KINDS)
def test_what_a_batch_serves(full, request_, expected):
    assert serves(batch(full=full), request_) is expected


MOMENTS = {
    "before the first look": (batch(seconds=-60), None),
    "in the same second": (batch(seconds=0.0), None),
    "in the same second, with a fraction": (batch(seconds=0.999), None),
    "in the next second": (batch(seconds=1.0), None),
    "less than two seconds later": (batch(seconds=1.999), None),
    "two seconds later": (batch(seconds=2.0), "b"),
    "later": (batch(seconds=60), "b"),
    "later by its time, but listed at the first look": (batch("known", seconds=60), None),
    "at a time that is not told": (batch(seconds=None), None),
    "later, and done": (batch(status="done"), "b"),
    "later, and done in another word": (batch(status="SUCCESS"), "b"),
    "later, and failed": (batch(status="failed"), None),
    "later, and cancelled": (batch(status="cancelled"), None),
    "later, and deleted": (batch(status="deleted"), None),
    "later, new": (batch(status="new"), "b"),
    "later, in a status that nobody knows": (batch(status="pondering"), "b"),
}


@pytest.mark.parametrize(("found", "expected"), MOMENTS.values(), ids=MOMENTS)
def test_which_moment_makes_a_batch_joinable(found, expected):
    look = FirstLook(T, ("known",))
    joined = find_joinable(History((found,), T + timedelta(minutes=2)), look, JOIN)
    assert (joined.id if joined else None) == expected


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        ([batch("a"), batch("b", status="done")], "b"),
        ([batch("a", status="failed"), batch("b")], "b"),
        ([batch("a", full=False), batch("b", full=True)], "a"),
        ([], None),
    ],
    ids=["one that is done before one that runs", "never a failed one", "the first that serves", "none"],
)
def test_which_of_several(batches, expected):
    joined = find_joinable(History(tuple(batches), T), FirstLook(T), JOIN)
    assert (joined.id if joined else None) == expected


def test_a_first_look_remembers_what_its_time_alone_may_not_tell():
    history = History((batch("now", 0), batch("old", -7200), batch("no time", None), batch("ahead", 90)), T)
    assert FirstLook.at(history) == FirstLook(T, ("ahead", "no time", "now"))


def test_a_batch_whose_time_is_told_only_after_the_first_look_is_waited_for(server, store, log):
    server.batches = [Batch("b1", "new", False)]
    server.reads = [History(tuple(server.batches), T)]
    mine = builder(server, store, log, JOIN)
    assert mine.obtain_batch() == RunningOther(server.batches[0])
    server.clock.now += 60
    server.batches = [batch("b1", seconds=10)]
    assert mine.obtain_batch() == RunningOther(server.batches[0])


def test_an_answer_without_a_time_is_no_first_look():
    assert FirstLook.at(History((batch(),), None)) is None


ORDER = [
    (FULL, False),
    (GRACE, False),
    (JOIN, False),
    (FULL, True),
    (GRACE, True),
    (JOIN, True),
]


def test_who_serves_more_starts_first_and_who_has_waited_serves_all_that_began_by_then():
    ranges = [
        tuple(pause_before_start(request, has_waited=waited, chance=chance) for chance in (0.0, 1.0))
        for request, waited in ORDER
    ]
    assert [each for each, _ in ranges] == pytest.approx([0.0, 0.0, 0.2, 2.0, 2.0, 2.2])
    assert [most for _, most in ranges] == pytest.approx([0.2, 0.2, 0.4, 2.2, 2.2, 2.4])


# --- a task -----------------------------------------------------------------------------------------------


def test_nothing_runs(server, store, log):
    """The history is read again right before the POST, after a short pause."""
    assert builder(server, store, log, JOIN).obtain_batch() == OwnBatch("b1", "started", server.batches[0])
    assert server.history_reads == 2
    assert server.clock.slept == [pytest.approx(0.3)]


@pytest.mark.parametrize("seconds", [0.0, 1.0, 1.9])
def test_a_batch_that_begins_during_the_pause_less_than_two_seconds_later_is_waited_for(
    server, store, log, seconds
):
    def sleep(_):
        server.clock.now += seconds
        server.make()

    mine = builder(server, store, log, JOIN, sleep=sleep)
    assert mine.obtain_batch() == RunningOther(server.batches[0])
    assert log.has("info", "or less than 2 seconds later, so it may lack data")
    assert server.posts == 0


def test_a_batch_that_begins_during_the_pause_two_seconds_later_is_joined(server, store, log):
    def sleep(_):
        server.clock.now += 2
        server.make()

    mine = builder(server, store, log, JOIN, sleep=sleep)
    assert mine.obtain_batch() == OwnBatch("b1", "joined", server.batches[0], "2025-02-27T09:53:22+00:00")
    assert server.posts == 0
    assert stored(store).batch_id == "b1"
    assert stored(store).origin == "joined"
    assert log.has("info", "Joining batch b1 (incremental, new), which another task or user started")


def test_an_older_batch_is_waited_for_and_the_newer_one_joined(server, store, log):
    older = server.make(status="inprogress", seconds=-60)
    mine = builder(server, store, log, JOIN)
    assert mine.obtain_batch() == RunningOther(older)
    assert log.has(
        "info", "it was listed when this task began (2025-02-27T09:53:20+00:00), so it may lack data"
    )
    server.clock.now += 60
    server.end("b1")
    newer = server.make(status="inprogress")
    assert mine.obtain_batch() == OwnBatch("b2", "joined", newer, "2025-02-27T09:54:20+00:00")
    assert server.posts == 0


def test_a_newer_batch_that_has_ended_by_then_is_joined_too(server, store, log):
    server.make(seconds=-60)
    mine = builder(server, store, log, JOIN)
    mine.obtain_batch()
    server.clock.now += 60
    server.end("b1")
    server.make(status="done")
    step = mine.obtain_batch()
    assert (step.batch_id, step.origin) == ("b2", "joined")
    assert server.posts == 0


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_newer_batch_that_has_failed_is_not_joined(server, store, log, status):
    server.make(seconds=-60)
    mine = builder(server, store, log, JOIN)
    mine.obtain_batch()
    server.clock.now += 60
    server.end("b1")
    server.make(status=status)
    assert mine.obtain_batch() == OwnBatch("b3", "started", server.batches[0])


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (FULL, "a full build was asked for, and it is not known to be a full build"),
        (GRACE, "grace_period_overrides were asked for, and it is not known to be a full build"),
    ],
    ids=["full", "overrides"],
)
def test_a_newer_batch_that_does_not_serve_is_waited_for(server, store, log, request_, said):
    server.make(seconds=-60)
    mine = builder(server, store, log, request_)
    mine.obtain_batch()
    server.clock.now += 60
    server.end("b1")
    newer = server.make()
    assert mine.obtain_batch() == RunningOther(newer)
    assert log.has("info", said)
    server.end("b2")
    assert mine.obtain_batch() == OwnBatch("b3", "started", server.batches[0])


@pytest.mark.parametrize("seconds", [0.0, 1.0, 2.0])
def test_refused_because_another_was_quicker(server, store, log, seconds):
    """What began less than two seconds after the first look is waited for; what began later is joined."""

    def refuse(server, _):
        server.clock.now += seconds
        server.make()
        return REFUSAL

    server.starts = [refuse]
    mine = builder(server, store, log, JOIN, sleep=lambda _: None)
    step = mine.obtain_batch()
    if seconds == 2.0:
        assert (step.batch_id, step.origin) == ("b1", "joined")
    else:
        assert step == RunningOther(server.batches[0])
    assert server.posts == 1


def test_refused_because_of_one_that_has_ended_by_now(server, store, log):
    def refuse(server, _):
        server.clock.now += 2
        server.make(status="done")
        return REFUSAL

    server.starts = [refuse]
    assert builder(server, store, log, JOIN).obtain_batch().origin == "joined"


def lost_and_two_appear(server, full):
    """Start a build whose reply is lost, while another one is started, too."""
    server.clock.now += 2
    server.make(full)
    server.make(full)
    return LostReply("HTTP 503")


def test_lost_and_two_appear(server, store, log):
    """One of the two is this task's, and both began after it: either one will do."""
    server.starts = [lost_and_two_appear]
    step = builder(server, store, log, JOIN).obtain_batch()
    assert (step.batch_id, step.origin) == ("b2", "joined")


def test_lost_and_the_own_one_has_ended_beside_a_newer_one(server, store, log):
    """Only the newer one certainly began after the task did, so nobody waits for the task's own one."""

    def lost(server, full):
        server.make(full, status="done")
        server.clock.now += 2
        server.make(full)
        return LostReply("HTTP 504")

    server.starts = [lost]
    step = builder(server, store, log, JOIN).obtain_batch()
    assert (step.batch_id, step.origin) == ("b2", "joined")
    assert server.posts == 1


def test_lost_and_two_appear_too_soon_after_the_first_look(server, store, log):
    """Neither one certainly has the task's data: it waits for them, and builds once more."""

    def lost(server, full):
        server.make(full)
        server.make(full)
        return LostReply("HTTP 504")

    server.starts = [lost]
    mine = builder(server, store, log, JOIN, sleep=lambda _: None)
    running = mine.obtain_batch()
    assert isinstance(running, RunningOther)
    server.end(running.batch.id)
    other = mine.obtain_batch()
    assert isinstance(other, RunningOther)
    assert other.batch.id != running.batch.id
    server.end(other.batch.id)
    assert (server.posts, mine.obtain_batch().origin, server.posts) == (1, "started", 2)


def test_lost_and_two_appear_that_may_lack_the_overrides(server, store, log):
    server.starts = [lost_and_two_appear]
    mine = builder(server, store, log, GRACE)
    assert mine.obtain_batch() == RunningOther(server.batches[0])
    server.end("b1")
    server.end("b2")
    retry = builder(server, store, log, GRACE)
    assert retry.obtain_batch() == OwnBatch("b3", "started", server.batches[0])
    assert log.has("warning", "several new builds may be this task's, and none of them certainly has its data")


def test_refused_and_the_reason_is_listed_too_late(server, store, log):
    """What a retry finds then began before this task, perhaps: it is no batch of this task's."""
    server.lag = 10.0
    server.starts = [lambda server, full: server.make(full) and REFUSAL]
    with pytest.raises(AtScaleStartError):
        builder(server, store, log, JOIN).obtain_batch()
    server.clock.now += 10
    assert builder(server, store, log, JOIN).obtain_batch() == RunningOther(server.batches[0])


# --- when it is the same as wait --------------------------------------------------------------------------


def test_without_a_readable_history_it_is_wait(server, store, log):
    server.reads = [MAY_NOT]
    assert builder(server, store, log, JOIN).obtain_batch().origin == "started"
    assert server.clock.slept == []
    assert log.has("warning", "on_running='join' works as 'wait' now, because the build history cannot be read")


def test_without_the_servers_time_it_is_wait(server, store, log):
    running = server.make(seconds=-60)
    server.get_history = lambda ref: History(tuple(server.batches), None)
    mine = builder(server, store, log, JOIN)
    assert mine.obtain_batch() == RunningOther(running)
    assert log.has(
        "warning",
        "on_running='join' works as 'wait' now, because AtScale's answer has no time: it has no Date header, or "
        "an Age header, with which a proxy marks an answer from its cache",
    )
    server.clock.now += 60
    server.end("b1")
    newer = server.make()
    assert mine.obtain_batch() == RunningOther(newer)
    assert LOOK_KEY not in store.values


def test_a_batch_without_a_time_is_waited_for(server, store, log):
    server.make(seconds=-60)
    mine = builder(server, store, log, JOIN)
    mine.obtain_batch()
    server.batches = [Batch("b2", "new", False)]
    server.reads = [History(tuple(server.batches), T)]
    assert mine.obtain_batch() == RunningOther(server.batches[0])
    assert log.has("info", "AtScale does not tell when it was created")


@pytest.mark.parametrize("policy", ["wait", "attach", "skip", "fail"])
def test_the_others_neither_pause_nor_look_twice(server, store, log, policy):
    builder(server, store, log, replace(JOIN, on_running=policy)).obtain_batch()
    assert (server.history_reads, server.clock.slept) == (1, [])
    assert LOOK_KEY not in store.values


# --- the first look ---------------------------------------------------------------------------------------


def wait_for_an_older_batch(server, store, **options):
    server.make(seconds=-60)
    first = builder(server, store, Log(), JOIN, **options)
    assert isinstance(first.obtain_batch(), RunningOther)
    return first


def a_newer_batch_begins(server):
    server.clock.now += 60
    server.end("b1")
    return server.make()


def test_a_retry_joins_what_began_after_the_first_try(server, store, log):
    wait_for_an_older_batch(server, store)
    a_newer_batch_begins(server)
    assert builder(server, store, log, JOIN).obtain_batch().origin == "joined"


@pytest.mark.parametrize("changes", [{"max_tries": 4}, {"clear_number": 1}], ids=["task", "run"])
def test_a_clear_moves_the_moment_forward(server, store, log, changes):
    wait_for_an_older_batch(server, store)
    newer = a_newer_batch_begins(server)
    cleared = builder(server, store, log, JOIN, key=replace(BUILD_KEY, **changes))
    assert cleared.obtain_batch() == RunningOther(newer)


def test_before_airflow_3_3_the_first_look_of_each_try_counts(server, log):
    wait_for_an_older_batch(server, None)
    newer = a_newer_batch_begins(server)
    assert builder(server, None, log, JOIN).obtain_batch() == RunningOther(newer)


def test_a_resumed_try_keeps_its_first_look_without_a_store(server, log):
    first = wait_for_an_older_batch(server, None)
    a_newer_batch_begins(server)
    resumed = builder(server, None, log, JOIN, first_look=first.first_look)
    assert resumed.obtain_batch().origin == "joined"


@pytest.mark.parametrize("failing", ["get", "set"])
def test_a_store_that_fails_makes_the_moment_later_never_earlier(server, store, log, failing):
    server.make(seconds=-60)
    mine = builder(server, store, log, JOIN)
    load = store.get

    def get(key):
        if key == LOOK_KEY and failing == "get":
            raise ConnectionError("the store is down")
        return load(key)

    store.get = get
    store.failing = {"set"} if failing == "set" else set()
    assert isinstance(mine.obtain_batch(), RunningOther)
    assert log.has("warning", "the store is down")
    assert mine.first_look == FirstLook(T, ("b1",))


@pytest.mark.parametrize(
    "value",
    [None, 7, {}, {"key": None, "look": None}, {"key": BUILD_KEY.to_json(), "look": {"server_time": 7}}],
    ids=repr,
)
def test_a_stored_moment_that_cannot_be_read_is_none(store, value):
    store.set(LOOK_KEY, value)
    assert BuildStateStore(store, BUILD_KEY).load_first_look() is None


def test_the_moment_is_stored_before_the_start(server, store, log):
    server.starts = [lambda server, full: seen.append(set(store.values)) or accepted(server, full)]
    seen = []
    builder(server, store, log, JOIN).obtain_batch()
    assert LOOK_KEY in seen[0]


# --- failures ---------------------------------------------------------------------------------------------


def judge(store, outcome, batch_id):
    BuildStateStore(store, BUILD_KEY).store_outcome(outcome, batch_id)


def test_retries_after_a_joined_batch_that_failed_share_one_further_build(server, log):
    """Three tasks join one batch; it fails; one retry builds and the two others join that."""
    stores = [Store() for _ in range(3)]
    server.make(seconds=-60)
    tasks = [builder(server, store, log, JOIN) for store in stores]
    for task in tasks:
        task.obtain_batch()
    a_newer_batch_begins(server)
    for task, store in zip(tasks, stores, strict=True):
        assert task.obtain_batch().batch_id == "b2"
        judge(store, FAILED, "b2")
    server.end("b2", "failed")
    server.clock.now += 300
    came = [builder(server, store, log, JOIN).obtain_batch() for store in stores]
    assert [(each.batch_id, each.origin) for each in came] == [
        ("b3", "started"), ("b3", "joined"), ("b3", "joined"),
    ]  # fmt: skip
    assert server.posts == 1


def test_a_joined_batch_that_was_judged_incomplete_is_not_joined_again(server, store, log):
    """It is done, and the task failed by it: ``failed_aggregates="fail"``."""
    wait_for_an_older_batch(server, store)
    a_newer_batch_begins(server)
    assert builder(server, store, log, JOIN).obtain_batch().batch_id == "b2"
    server.end("b2", "done")
    judge(store, FAILED, "b2")
    assert builder(server, store, log, JOIN).obtain_batch() == OwnBatch("b3", "started", server.batches[0])
    server.end("b3", "done")
    judge(store, FAILED, "b3")
    assert builder(server, store, log, JOIN).obtain_batch() == OwnBatch("b4", "started", server.batches[0])


@pytest.mark.parametrize(
    "between",
    [MAY_NOT, AtScaleError("the build history could not be read: HTTP 500")],
    ids=["no permission", "trouble"],
)
def test_a_joined_batch_that_failed_for_the_task_is_not_joined_after_a_try_without_history(
    server, store, log, between
):
    """What is stored of the failed batch is overwritten by the start of the try in between."""
    wait_for_an_older_batch(server, store)
    a_newer_batch_begins(server)
    assert builder(server, store, log, JOIN).obtain_batch().batch_id == "b2"
    server.end("b2", "done")
    judge(store, FAILED, "b2")
    server.reads = [between] * 3
    server.starts = [REFUSAL]
    with pytest.raises(AtScaleError):
        builder(server, store, log, JOIN).obtain_batch()
    server.reads, server.starts = [], []
    assert builder(server, store, log, JOIN).obtain_batch() == OwnBatch("b3", "started", server.batches[0])


def test_a_joined_batch_that_was_judged_good_needs_no_build(server, store, log):
    wait_for_an_older_batch(server, store)
    a_newer_batch_begins(server)
    builder(server, store, log, JOIN).obtain_batch()
    judge(store, DONE, "b2")
    assert builder(server, store, log, JOIN).obtain_batch().batch_id == "b2"
    assert server.posts == 0


def test_a_retry_goes_on_with_the_batch_that_it_joined(server, store, log):
    wait_for_an_older_batch(server, store)
    newer = a_newer_batch_begins(server)
    builder(server, store, log, JOIN).obtain_batch()
    assert builder(server, store, log, JOIN).obtain_batch() == OwnBatch("b2", "attached", newer)
    assert parse_stored_build(store.get("atscale_build")).origin == "joined"


def test_join_is_the_default():
    assert BuildRequest(is_full_build=False) == JOIN
