"""Coming by a batch: attach, adopt, meet a running one, start one, and never start two."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from airflow_provider_atscale.api.models import AggregateInstance, Batch, History, HistoryUnavailable
from airflow_provider_atscale.api.start import LostReply, Refused
from airflow_provider_atscale.builds.state import (
    DONE,
    FAILED,
    LOST,
    REFUSED,
    BuildStateStore,
    StartIntent,
)
from airflow_provider_atscale.builds.steps import BuildContext, OwnBatch, RunningOther, Skip
from airflow_provider_atscale.exceptions import (
    AtScaleAlreadyRunningError,
    AtScaleApiError,
    AtScaleAuthenticationError,
    AtScaleConfigurationError,
    AtScaleConnectionError,
    AtScaleError,
    AtScaleNotFoundError,
    AtScalePermissionError,
    AtScaleStartError,
    AtScaleStartUnknownError,
    AtScaleTaskStoppedError,
)

from .builds import BUILD_KEY, REQUEST, accepted, builder, lost_after_start, lost_before_start
from .flows import NOW, REF
from .test_build_state import INTENT, entry, stored

MAY_NOT = HistoryUnavailable(
    "https://atscale.example.com/wapi/p/aggregate/batch-history answers HTTP 403: Forbidden", 403
)
DOWN = AtScaleApiError("Could not read the build history: HTTP 503.", 503)


def plan(**changes):
    return replace(REQUEST, **changes)


# --- a fresh batch ----------------------------------------------------------------------------------------


def test_started(server, store, log):
    step = builder(server, store, log).obtain_batch()
    assert step == OwnBatch("b1", "started", server.batches[0])
    assert server.posts == 1
    assert stored(store).batch_id == "b1"
    assert stored(store).origin == "started"


def test_the_intent_is_stored_before_the_start_and_the_id_right_after_it(server, store, log):
    seen = []
    server.starts = [lambda *_: seen.append(stored(store)) or AtScaleStartError("no", 400)]
    with pytest.raises(AtScaleStartError):
        builder(server, store, log).obtain_batch()
    [before] = seen
    assert (before.batch_id, before.outcome, before.intent.server_time) == (None, None, server.clock.moment)


@pytest.mark.parametrize(
    ("asked", "full", "overrides"),
    [
        ({"is_full_build": True}, True, {}),
        ({"is_full_build": False, "overrides": {"a": 30}}, False, {"a": 30}),
    ],
    ids=["full", "incremental"],
)
def test_what_is_asked_for_is_what_the_plan_says(server, store, log, asked, full, overrides):
    builder(server, store, log, plan(**asked)).obtain_batch()
    assert server.asked == [{"full": full, "overrides": overrides}]


def test_ended_batches_are_in_nobodys_way(server, store, log):
    for status in ("done", "failed", "cancelled", "deleted"):
        server.make(status=status, seconds=-60)
    assert builder(server, store, log).obtain_batch().origin == "started"


def test_without_a_store_it_works_as_well(server, log):
    assert builder(server, None, log).obtain_batch().origin == "started"


# --- the fence --------------------------------------------------------------------------------------------


def test_without_the_intent_nothing_is_started(server, store, log):
    store.failing = {"set"}
    with pytest.raises(
        AtScaleError,
        match=r"Nothing was started: the intent to build model .*\(ConnectionError: the store is down\)",
    ):
        builder(server, store, log).obtain_batch()
    assert server.posts == 0


def test_without_knowing_what_an_earlier_try_left_nothing_is_started(server, store, log):
    store.failing = {"get"}
    with pytest.raises(AtScaleError, match=r"Nothing was started: .* could not be read .*the store is down"):
        builder(server, store, log).obtain_batch()
    assert (server.posts, server.history_reads) == (0, 0)


@pytest.mark.parametrize("moment", ["at once", "while the history is read", "while the intent is written"])
def test_a_stopped_task_starts_nothing(server, store, log, moment):
    stopped = {
        "at once": lambda: True,
        "while the history is read": lambda: server.history_reads > 0,
        "while the intent is written": lambda: bool(store.writes),
    }[moment]
    with pytest.raises(AtScaleTaskStoppedError, match=r"so no build of model 'Internet Sales' .* is started"):
        builder(server, store, log, is_stopped=stopped).obtain_batch()
    assert server.posts == 0


def test_an_id_that_cannot_be_stored_is_logged_and_the_task_goes_on(server, store, log):
    def accept(server, full):
        store.failing = {"set"}
        return accepted(server, full)

    server.starts = [accept]
    assert builder(server, store, log).obtain_batch().batch_id == "b1"
    assert log.has(
        "error", "Batch b1 could not be written to Airflow's task state store (ConnectionError: the store"
    )


# --- a start that is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        AtScaleStartError("Bad ids", 400),
        AtScaleNotFoundError("No such model", 404),
        AtScaleAuthenticationError("No", 401),
        AtScalePermissionError("No", 403),
        AtScaleConfigurationError("This engine cannot tell the kind"),
        AtScaleConnectionError("refused", sent=False),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_plain_no_is_raised_and_a_retry_has_nothing_to_look_for(server, store, log, error):
    server.starts = [error]
    with pytest.raises(type(error)):
        builder(server, store, log).obtain_batch()
    assert stored(store).outcome == REFUSED
    assert builder(server, store, log).obtain_batch().origin == "started"
    assert server.clock.slept == []


def test_a_no_that_cannot_be_stored_is_raised_all_the_same(server, store, log):
    def refuse(*_):
        store.failing = {"set"}
        return AtScaleStartError("Bad ids", 400)

    server.starts = [refuse]
    with pytest.raises(AtScaleStartError):
        builder(server, store, log).obtain_batch()
    assert log.has(
        "warning", "The outcome (no batch was started) could not be written to Airflow's task state store"
    )


REFUSAL = Refused(AtScaleStartError("AtScale refused to build: HTTP 500.", 500))


@pytest.mark.parametrize(("status", "may_have_started"), [(409, False), (500, True)])
def test_what_a_task_that_is_stopped_after_a_refusal_says_of_its_start(
    server, store, log, status, may_have_started
):
    """AtScale may answer 500 although it has made a batch; after a 409 the task has surely started nothing."""
    server.starts = [lambda server, _: server.make() and Refused(AtScaleStartError("refused", status))]
    mine = builder(server, store, log)
    assert isinstance(mine.obtain_batch(), RunningOther)
    assert mine.may_have_started is may_have_started


def test_refused_and_a_batch_runs_that_came_in_between(server, store, log):
    server.starts = [lambda server, _: server.make() and REFUSAL]
    step = builder(server, store, log).obtain_batch()
    assert step == RunningOther(server.batches[0])
    assert stored(store).outcome == REFUSED
    assert server.posts == 1


def test_refused_and_the_running_batch_is_listed_late(server, store, log):
    server.lag = 1.5
    server.starts = [lambda server, _: server.make() and REFUSAL]
    assert builder(server, store, log).obtain_batch() == RunningOther(server.batches[0])
    assert server.clock.slept == [2.0]


@pytest.mark.parametrize(
    "reads", [[], [None, MAY_NOT, MAY_NOT], [None, DOWN, DOWN]], ids=["none", "403", "503"]
)
def test_refused_and_no_batch_explains_it(server, store, log, reads):
    server.starts, server.reads = [REFUSAL], list(reads)
    with pytest.raises(AtScaleStartError, match="AtScale refused to build"):
        builder(server, store, log).obtain_batch()
    assert stored(store).outcome is None


def test_a_500_after_which_there_is_a_batch_all_the_same_is_adopted_by_a_retry(server, store, log):
    server.lag = 10.0
    server.starts = [lambda server, full: server.make(full) and REFUSAL]
    with pytest.raises(AtScaleStartError):
        builder(server, store, log).obtain_batch()
    assert builder(server, store, log).obtain_batch() == OwnBatch("b1", "adopted", server.batches[0])
    assert server.posts == 1


# --- a reply that is lost ---------------------------------------------------------------------------------


@pytest.mark.parametrize("lag", [0.0, 5.0, 100.0])
def test_lost_and_the_batch_appears(server, store, log, lag):
    server.lag = lag
    server.starts = [lost_after_start]
    step = builder(server, store, log).obtain_batch()
    assert step == OwnBatch("b1", "adopted", server.batches[0])
    assert stored(store).batch_id == "b1"
    assert stored(store).origin == "adopted"
    assert log.has("warning", "Adopting batch b1")
    assert sum(server.clock.slept) <= lag + 15
    assert server.posts == 1


def test_lost_and_the_history_is_down_for_a_while(server, store, log):
    server.starts, server.reads = [lost_after_start], [None, DOWN, DOWN, DOWN]
    assert builder(server, store, log).obtain_batch().origin == "adopted"


@pytest.mark.parametrize(
    ("reads", "said"),
    [
        (
            [],
            "reply to the start was lost (HTTP 503), and no new batch appeared in the build history. Nothing",
        ),
        (
            [None, MAY_NOT],
            f"was lost (HTTP 503), and no permission to read the build history ({MAY_NOT}). Nothing more",
        ),
        (
            [None] + [DOWN] * 50,
            "could not be read: Could not read the build history: HTTP 503. Nothing more was started",
        ),
        (
            [None] + [AtScaleAuthenticationError("No token", 401)] * 50,
            "and the build history could not be read: No token Nothing more was started",
        ),
    ],
    ids=["none appears", "403", "503", "401"],
)
def test_lost_and_not_to_be_found_is_an_error_that_a_retry_may_cure(server, store, log, reads, said):
    server.starts, server.reads = [lost_before_start], reads
    with pytest.raises(AtScaleStartUnknownError, match=re.escape(said)):
        builder(server, store, log).obtain_batch()
    assert (stored(store).batch_id, stored(store).outcome) == (None, None)
    assert server.posts == 1
    assert sum(server.clock.slept) <= 120.0 + 0.2


@pytest.mark.parametrize(
    ("has_store", "said"),
    [
        (True, "a retry of the task searches again before it starts one."),
        (False, "before Airflow 3.3 a retry does not search for it, so look into the build history before you"),
    ],
    ids=["Airflow 3.3", "before"],
)
@pytest.mark.parametrize("reads", [[], [None] + [DOWN] * 50], ids=["none appears", "503"])
def test_lost_and_not_to_be_found_says_what_a_retry_does(server, store, log, has_store, said, reads):
    server.starts, server.reads = [lost_before_start], list(reads)
    with pytest.raises(AtScaleStartUnknownError, match=re.escape(said)):
        builder(server, store if has_store else None, log).obtain_batch()


def test_lost_and_several_appear(server, store, log):
    def lost(server, full):
        server.make(full)
        server.make(full)
        return LostReply("HTTP 503")

    server.starts = [lost]
    with pytest.raises(
        AtScaleStartUnknownError, match=r"AtScale has 2 new incremental builds .* b2 \(new, created .*b1"
    ):
        builder(server, store, log).obtain_batch()
    with pytest.raises(AtScaleStartUnknownError, match="AtScale has 2 new incremental builds"):
        builder(server, store, log).obtain_batch()
    assert server.posts == 1


def test_lost_and_only_others_appear(server, store, log):
    """Another kind, or an older batch that is listed late, is not ours."""

    def lost(server, full):
        server.make(not full)
        server.make(full, seconds=-30)
        return LostReply("HTTP 503")

    server.starts = [lost]
    with pytest.raises(AtScaleStartUnknownError):
        builder(server, store, log).obtain_batch()


def test_lost_where_the_history_could_not_be_read_before_adopts_nothing_old(server, store, log):
    """The only batch that is listed afterwards is last week's: it is not this task's build."""
    server.make(status="done", seconds=-7 * 86_400)
    server.starts, server.reads = [lost_before_start], [MAY_NOT]
    with pytest.raises(AtScaleStartUnknownError):
        builder(server, store, log).obtain_batch()
    assert builder(server, store, log).obtain_batch() == OwnBatch("b2", "started", server.batches[0])


def test_a_stop_while_a_lost_batch_is_looked_for_says_that_it_may_go_on(server, store, log):
    server.starts = [lost_before_start]
    with pytest.raises(AtScaleTaskStoppedError, match="if it was, it goes on in AtScale"):
        builder(server, store, log, is_stopped=lambda: server.posts > 0).obtain_batch()


@pytest.mark.parametrize("policy", ["wait", "attach"])
def test_lost_while_a_batch_ran_is_decided_by_on_running(server, store, log, policy):
    """The intent of an earlier try says that one ran, so a new batch may be a sibling's without our data."""
    store.set(
        "atscale_build",
        entry(intent=StartIntent(NOW, server.clock.moment, frozenset({"b1"}), had_running=True)).to_json(),
    )
    server.make(seconds=-60)
    server.end("b1")
    server.make()
    step = builder(server, store, log, plan(on_running=policy)).obtain_batch()
    assert step == (
        RunningOther(server.batches[0]) if policy == "wait" else OwnBatch("b2", "attached", server.batches[0])
    )
    assert server.posts == 0
    assert log.has(
        "warning", "Not using a batch of the earlier try: just before the start a batch of the model ran"
    )


# --- a batch that runs already ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["new", "inprogress", "running", "active", "archived"])
def test_wait_for_a_running_batch_to_end(server, store, log, status):
    running = server.make(status=status, seconds=-60)
    mine = builder(server, store, log)
    assert mine.obtain_batch() == RunningOther(running)
    assert server.posts == 0
    server.end("b1")
    assert mine.obtain_batch() == OwnBatch("b2", "started", server.batches[0])


@pytest.mark.parametrize("policy", ["wait", "join"])
def test_a_history_that_lists_an_ended_batch_as_running_is_not_read_without_pauses(server, store, log, policy):
    """A cache between Airflow and AtScale may give an old history, although a poll has seen the end."""
    server.make(status="inprogress", seconds=-60)
    mine = builder(server, store, log, replace(REQUEST, on_running=policy))
    for _ in range(5):
        assert isinstance(mine.obtain_batch(), RunningOther)
    assert server.clock.slept == [1.0, 2.0, 4.0, 4.0]
    server.end("b1")
    assert mine.obtain_batch().origin == "started"


def test_skip(server, store, log):
    server.make(seconds=-60)
    with pytest.raises(Skip, match=r"Skipped: batch b1 .* already runs, and on_running is 'skip'"):
        builder(server, store, log, plan(on_running="skip")).obtain_batch()
    assert server.posts == 0


def test_fail(server, store, log):
    server.make(seconds=-60)
    with pytest.raises(AtScaleAlreadyRunningError, match=r"Nothing was started: batch b1 .*/history/b1"):
        builder(server, store, log, plan(on_running="fail")).obtain_batch()
    assert server.posts == 0


@pytest.mark.parametrize(
    ("running", "asked", "attaches"),
    [
        (False, False, True),
        (True, False, True),
        (True, True, True),
        (False, True, False),
        (None, True, True),
        (None, None, True),
    ],
    ids=[
        "same kind",
        "full for incremental",
        "both full",
        "incremental for full",
        "kind not told",
        "nothing told",
    ],
)
def test_attach_to_a_batch_that_builds_at_least_as_much(server, store, log, running, asked, attaches):
    batch = server.make(running, seconds=-60)
    step = builder(server, store, log, plan(on_running="attach", is_full_build=asked)).obtain_batch()
    assert step == (OwnBatch("b1", "attached", batch) if attaches else RunningOther(batch))
    assert server.posts == 0
    assert log.has("warning", "it may lack data that was loaded after that") is attaches


def test_attach_does_not_ask_for_the_overrides(server, store, log):
    """AtScale does not tell which ones a batch has."""
    batch = server.make(False, seconds=-60)
    step = builder(server, store, log, plan(on_running="attach", overrides={"sales": 30})).obtain_batch()
    assert step == OwnBatch("b1", "attached", batch)


def test_attach_chooses_the_batch_that_serves(server, store, log):
    full = server.make(True, seconds=-60)
    server.make(False, seconds=-30)
    step = builder(server, store, log, plan(on_running="attach", is_full_build=True)).obtain_batch()
    assert step == OwnBatch("b1", "attached", full)
    assert stored(store).batch_id == "b1"


@pytest.mark.parametrize("policy", ["wait", "attach", "skip", "fail"])
def test_refused_asks_on_running_again(server, store, log, policy):
    server.starts = [lambda server, _: server.make() and REFUSAL]
    mine = builder(server, store, log, plan(on_running=policy))
    if policy in ("skip", "fail"):
        with pytest.raises(Skip if policy == "skip" else AtScaleAlreadyRunningError):
            mine.obtain_batch()
    else:
        step = mine.obtain_batch()
        assert step == (
            RunningOther(server.batches[0])
            if policy == "wait"
            else OwnBatch("b1", "attached", server.batches[0])
        )


def test_a_history_that_may_not_be_read_is_said_and_the_build_started(server, store, log):
    server.reads = [MAY_NOT]
    assert builder(server, store, log).obtain_batch().origin == "started"
    assert log.has("warning", "No permission to read the build history (https://")
    assert stored(store).intent.had_running is True


@pytest.mark.parametrize(
    "error",
    [DOWN, AtScaleAuthenticationError("No", 401), AtScaleConnectionError("no answer")],
    ids=["503", "401", "cut"],
)
def test_a_history_that_cannot_be_read_before_the_start_is_an_error(server, store, log, error):
    server.reads = [error]
    with pytest.raises(type(error)):
        builder(server, store, log).obtain_batch()
    assert server.posts == 0


# --- what an earlier try left -----------------------------------------------------------------------------


def left(store, *args, **kwargs):
    store.set("atscale_build", entry(*args, **kwargs).to_json())


@pytest.mark.parametrize("status", ["new", "inprogress", "done", "archived", None], ids=str)
def test_attach_to_the_batch_of_an_earlier_try(server, store, log, status):
    left(store, "b1", start="adopted")
    batch = server.make(status=status) if status else None
    assert builder(server, store, log).obtain_batch() == OwnBatch("b1", "attached", batch)
    assert server.posts == 0


@pytest.mark.parametrize("outcome", [None, DONE], ids=["running", "judged good"])
@pytest.mark.parametrize("policy", ["wait", "join"])
def test_a_batch_that_an_earlier_try_attached_to_is_no_longer_enough(server, store, log, policy, outcome):
    """Somebody has changed on_running since, because of the data that such a batch may lack."""
    left(store, "b1", outcome, start="attached")
    running = server.make(status="inprogress" if outcome is None else "done", seconds=-60)
    step = builder(server, store, log, plan(on_running=policy)).obtain_batch()
    if outcome is None:
        assert step == RunningOther(running)
    else:
        assert step == OwnBatch("b2", "started", server.batches[0])
    assert log.has("info", f"an earlier try attached to it, and on_running is now {policy!r}")


def test_attach_goes_on_with_what_an_earlier_try_attached_to(server, store, log):
    left(store, "b1", start="attached")
    done = server.make(status="done", seconds=-60)
    retry = plan(on_running="attach")
    assert builder(server, store, log, retry).obtain_batch() == OwnBatch("b1", "attached", done)
    left(store, "b1", DONE, start="attached")
    assert builder(server, store, log, retry).obtain_batch() == OwnBatch("b1", "attached", is_finished=True)
    assert server.posts == 0


def test_attach_although_it_cannot_be_seen(server, store, log):
    left(store, "b1")
    server.looks = [DOWN]
    assert builder(server, store, log).obtain_batch() == OwnBatch("b1", "attached", None)


def test_rebuild_where_the_earlier_tries_batch_failed_unseen(server, store, log):
    left(store, "b1")
    server.make(status="failed")
    assert builder(server, store, log).obtain_batch() == OwnBatch("b2", "started", server.batches[0])
    assert log.has("warning", "Batch b1 of an earlier try ended as failed: a new one is started")


def test_a_failure_that_only_instances_show_is_waited_for(server, store, log):
    """More instances may come: a batch that looks like one that failed may be at work."""
    left(store, "b1")
    instances = (AggregateInstance("1", "failed"),)
    server.looks = [{"b1": Batch("b1", "failed", instances=instances)}]
    assert builder(server, store, log).obtain_batch().batch_id == "b1"
    assert server.posts == 0


def test_succeed_without_a_build(server, store, log):
    left(store, "b1", DONE)
    assert builder(server, store, log).obtain_batch() == OwnBatch("b1", "attached", is_finished=True)
    assert (server.posts, server.history_reads) == (0, 0)


def test_rebuild(server, store, log):
    left(store, "b0", FAILED)
    assert builder(server, store, log).obtain_batch().origin == "started"
    assert log.has("info", "Not using the batch of an earlier try: the batch of an earlier try failed")


def test_a_batch_that_had_gone_missing_and_is_listed_by_now_is_attached_to(server, store, log):
    left(store, "b1", LOST)
    batch = server.make()
    assert builder(server, store, log).obtain_batch() == OwnBatch("b1", "attached", batch)
    assert server.posts == 0


def test_a_batch_that_is_still_missing_is_built_again(server, store, log):
    left(store, "b0", LOST)
    assert builder(server, store, log).obtain_batch().origin == "started"
    assert log.has("warning", "Batch b0 of an earlier try is still not in the build history")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_tries": 4}, "the task was cleared"),
        ({"clear_number": 1}, "the task was cleared"),
        ({"server": "https://other"}, "an earlier try built something else (server differs)"),
        (
            {"grace_period_overrides": {"sales": 30}},
            "an earlier try built something else (grace_period_overrides differs)",
        ),
    ],
)
def test_ignore_and_meet_it_like_any_other(server, store, log, changes, said):
    left(store, "b1")
    running = server.make()
    step = builder(server, store, log, key=replace(BUILD_KEY, **changes)).obtain_batch()
    assert step == RunningOther(running)
    assert log.has("info", said)


@pytest.mark.parametrize("lag", [0.0, 30.0])
def test_adopt_the_batch_whose_id_an_earlier_try_did_not_learn(server, store, log, lag):
    left(store, intent=replace(INTENT, known=frozenset()))
    server.lag = lag
    server.make()
    assert builder(server, store, log).obtain_batch() == OwnBatch("b1", "adopted", server.batches[0])
    assert server.posts == 0


def test_rebuild_where_an_earlier_try_started_nothing(server, store, log):
    left(store)
    server.clock.now += 300
    assert builder(server, store, log).obtain_batch().origin == "started"
    assert server.clock.slept == []


def test_an_intent_by_a_clock_that_is_ahead_is_not_waited_for_for_hours(server, store, log):
    left(store, intent=replace(INTENT, at=NOW + 86_400))
    assert builder(server, store, log).obtain_batch().origin == "started"
    assert sum(server.clock.slept) <= 121


def test_nothing_is_started_while_it_cannot_be_known_whether_something_was(server, store, log):
    left(store)
    server.clock.now += 300
    server.reads = [DOWN]
    with pytest.raises(
        AtScaleStartUnknownError, match="a retry of the task searches again before it starts one"
    ):
        builder(server, store, log).obtain_batch()
    assert server.posts == 0


def test_below_airflow_3_3_a_retry_meets_its_own_batch_as_a_running_one(server, log):
    builder(server, None, log).obtain_batch()
    assert builder(server, None, log).obtain_batch() == RunningOther(server.batches[0])
    assert server.posts == 1


# --- judging ----------------------------------------------------------------------------------------------


def test_a_judgement_that_cannot_be_stored_is_logged(server, store, log):
    left(store, "b1")
    store.failing = {"set"}
    build = BuildContext(server, REF, REQUEST, BuildStateStore(store, BUILD_KEY), log)
    build.store_outcome(DONE, "b1")
    assert log.lines == [
        (
            "warning",
            "The outcome (batch b1 is done) could not be written to Airflow's task state store (ConnectionError: "
            "the store is down); a retry judges it again",
        )
    ]


def test_the_helper_shows_a_history_as_atscale_does(server):
    server.make()
    assert server.get_history(REF) == History((server.batches[0],), server.clock.moment)


# --- the deadline -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("until", [None, NOW + 3.0])
def test_the_read_before_the_start_ends_at_the_deadline(server, store, log, until):
    server.until = until
    builder(server, store, log).obtain_batch()
    assert server.asked_until == [until]


def test_the_search_for_a_lost_build_may_outlast_the_deadline(server, store, log):
    """A build that may have been started must be found, whatever the deadline of the wait is."""
    server.starts = [lost_after_start]
    server.lag = 60.0
    server.until = NOW + 3.0
    assert builder(server, store, log, lost_reply_window=90.0).obtain_batch().origin == "adopted"
    before, *search = server.asked_until
    assert before == NOW + 3.0
    # The whole window, and then the time of one request.
    assert search[0] == NOW + 90.0
    assert NOW + 90.0 <= search[-1] <= NOW + 90.0 + 60.0
    assert server.until == NOW + 3.0


@pytest.mark.parametrize(
    "stored_before", [{"batch_id": "b0", "outcome": LOST}, {}], ids=["a lost batch", "an intent"]
)
def test_a_start_that_never_reached_the_post_leaves_what_an_earlier_try_stored(
    server, store, log, stored_before
):
    """A login that fails is no refused start: the next try must still search for the earlier batch."""
    left(store, **stored_before)
    before = stored(store)
    server.clock.now += 300
    server.start_batch = lambda *_, **__: (_ for _ in ()).throw(AtScaleApiError("no token: HTTP 503", 503))
    with pytest.raises(AtScaleApiError):
        builder(server, store, log).obtain_batch()
    assert stored(store) == before


@pytest.mark.parametrize("policy", ["skip", "fail"])
def test_lost_with_an_unreadable_history_is_unknown_whatever_runs_then(server, store, log, policy):
    """The batch that runs may be this task's: it must not be skipped, nor said not to be started."""
    server.reads = [MAY_NOT]
    server.starts = [lost_after_start]
    with pytest.raises(AtScaleStartUnknownError, match="may or may not have started"):
        builder(server, store, log, plan(on_running=policy)).obtain_batch()
