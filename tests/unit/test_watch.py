"""The one judge: what is seen of a batch, and what a waiter makes of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_atscale.api.models import ALL_DELETED, AggregateInstance, Batch, Phase, normalize_status
from airflow_provider_atscale.api.observation import Missing, ReadFailed, Seen, observe_found
from airflow_provider_atscale.waiting.policy import FLOOR, JITTER, Ended, GaveUp, Tolerance, Wait, WaitPolicy

from .flows import NOW
from .test_models import JSON

CAP = 60.0


def seen(status: str, **values) -> Seen:
    return Seen(Batch("b", status, **values))


def by_instances(status: str, *statuses: str) -> Seen:
    instances = tuple(AggregateInstance(str(number), each) for number, each in enumerate(statuses))
    return seen(status, instances=instances)


def watch(cap: float = CAP, **tolerance: float) -> WaitPolicy:
    return WaitPolicy(NOW, cap, Tolerance(**tolerance), "Batch b")


def told(decision) -> str:
    """Put a decision in a word."""
    if isinstance(decision, Ended):
        return decision.batch.phase.value
    return decision.kind if isinstance(decision, GaveUp) else "wait"


def play(judge: WaitPolicy, *steps) -> list[str]:
    """Show observations at seconds after the wait began; return the decisions."""
    return [told(judge.observe(observation, NOW + second, 0.5)) for second, observation in steps]


BUSY, DONE, FAILED, ODD = seen("inprogress"), seen("done"), seen("failed"), seen("archived")
GONE, DOWN = Missing(), ReadFailed("HTTP 503")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([(1, BUSY), (3, BUSY), (9, DONE)], ["wait", "wait", "succeeded"]),
        ([(1, DONE)], ["succeeded"]),
        ([(1, seen("Success"))], ["succeeded"]),
        ([(1, FAILED)], ["failed"]),
        ([(1, seen("cancelled"))], ["failed"]),
        # "active" was never seen on a batch: it is tolerated as long as any unknown word, then it is an error.
        ([(1, seen("active")), (900, seen("active")), (1802, seen("active"))], ["wait", "wait", "unknown"]),
        ([(1, seen("active")), (900, seen("active")), (1700, DONE)], ["wait", "wait", "succeeded"]),
        # Missing: five minutes, and three looks at least.
        ([(1, GONE), (299, GONE), (302, GONE)], ["wait", "wait", "missing"]),
        ([(1, GONE), (302, GONE), (303, GONE)], ["wait", "wait", "missing"]),
        ([(1, GONE), (290, BUSY), (302, GONE), (600, GONE), (603, GONE)], ["wait"] * 4 + ["missing"]),
        # Seen for hours, then gone: five minutes from then on.
        ([(9000, BUSY), (9060, GONE), (9120, GONE), (9180, GONE), (9361, GONE)], ["wait"] * 4 + ["missing"]),
        # First looked at long after the wait began, as after a restart of a triggerer: five minutes again.
        ([(9060, GONE), (9061, GONE), (9062, GONE), (9361, GONE)], ["wait"] * 3 + ["missing"]),
        # Trouble: half an hour without one good answer.
        ([(1, DOWN), (900, DOWN), (1802, DOWN)], ["wait", "wait", "trouble"]),
        ([(1, DOWN), (1799, BUSY), (1900, DOWN), (3600, DOWN), (3601, DOWN)], ["wait"] * 5),
        ([(1, DOWN), (9000, DOWN)], ["wait", "wait"]),
        # An unknown word: half an hour.
        ([(1, ODD), (900, ODD), (1802, ODD)], ["wait", "wait", "unknown"]),
        ([(1, ODD), (900, ODD), (1802, DONE)], ["wait", "wait", "succeeded"]),
        # Kinds that take turns do not put the end off.
        ([(1, GONE), (100, DOWN), (200, GONE), (300, DOWN), (400, GONE)], ["wait"] * 4 + ["missing"]),
        ([(1, ODD), (900, DOWN), (1000, GONE), (1100, ODD), (1900, ODD)], ["wait"] * 4 + ["unknown"]),
        # A history that was read is an end of trouble, even if the batch is not in it.
        ([(1, DOWN), (900, DOWN), (1790, GONE), (1810, DOWN), (1820, DOWN)], ["wait"] * 5),
    ],
    ids=[
        "done", "done at once", "success", "failed", "cancelled", "active", "active, then done",
        "missing", "missing needs three looks", "was there in between",
        "gone after hours", "first look after hours",
        "trouble", "a good answer in between", "trouble needs three looks",
        "unknown", "unknown then done",
        "missing and trouble", "unknown and others", "read but missing",
    ],
)  # fmt: skip
def test_what_is_made_of_what_is_seen(steps, expected):
    assert play(watch(), *steps) == expected


ALL, HALF = by_instances("done", "active", "active"), by_instances("inprogress", "active", "new")
REPLACED = by_instances(ALL_DELETED, "deleted", "deleted")
MORE, NONE = by_instances("done", "active", "active", "active"), by_instances("failed", "failed")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([(1, ALL), (29, ALL), (31, ALL)], ["wait", "wait", "succeeded"]),
        ([(1, ALL), (20, MORE), (31, MORE), (50, MORE)], ["wait", "wait", "wait", "succeeded"]),
        ([(1, ALL), (20, HALF), (31, ALL), (61, ALL)], ["wait", "wait", "wait", "succeeded"]),
        ([(1, ALL), (20, GONE), (31, ALL)], ["wait", "wait", "wait"]),
        ([(1, ALL), (20, DOWN), (31, ALL)], ["wait", "wait", "succeeded"]),
        ([(1, NONE), (31, NONE)], ["wait", "failed"]),
        ([(1, REPLACED), (31, REPLACED)], ["wait", "superseded"]),
        ([(1, ALL), (20, REPLACED), (31, REPLACED), (50, REPLACED)], ["wait", "wait", "wait", "superseded"]),
    ],
    ids=[
        "stays",
        "more appear",
        "goes on",
        "disappears",
        "trouble in between",
        "failed",
        "superseded",
        "superseded in between",
    ],
)
def test_an_end_that_only_instances_show_must_stay(steps, expected):
    assert play(watch(), *steps) == expected


@pytest.mark.parametrize("end", [ALL, by_instances("failed", "failed")], ids=["done", "failed"])
def test_once_the_history_has_listed_a_batch_only_the_history_ends_it(end):
    """Rights that pass for a while must not let a list of instances, still growing, end the wait."""
    steps = [(1, BUSY), (10, end), (60, end), (120, end), (130, BUSY), (140, DONE)]
    assert play(watch(), *steps) == ["wait", "wait", "wait", "wait", "wait", "succeeded"]
    assert play(watch(), (1, BUSY), (10, end), (900, end), (1900, end))[-1] == "trouble"


def test_that_the_history_has_listed_a_batch_is_known_to_later_processes():
    judge, later = watch(), watch()
    play(judge, (1, BUSY))
    later.remember(json.loads(json.dumps(judge.memory())))
    assert play(later, (10, ALL), (60, ALL)) == ["wait", "wait"]


def test_an_end_that_only_instances_show_is_never_believed_at_once():
    assert play(watch(settle=0.0), (1, ALL), (2, ALL)) == ["wait", "succeeded"]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (
            [(1, DOWN), (900, ReadFailed("HTTP 502")), (1802, ReadFailed("no answer."))],
            "Batch b could not be read for 30 minutes; the last 3 answers were: HTTP 503; then HTTP 502; then "
            "no answer",
        ),
        ([(1, GONE), (2, GONE), (302, GONE)], "Batch b has not been in the build history for 5 minutes"),
        (
            [(1, ODD), (2, ODD), (1802, ODD)],
            "Batch b has been in an unknown status for 30 minutes: its status is 'archived'; then its status "
            "is 'archived'; then its status is 'archived'",
        ),
    ],
    ids=["trouble", "missing", "unknown"],
)
def test_giving_up_says_why(steps, expected):
    judge = watch()
    *_, last = [judge.observe(observation, NOW + second, 0.5) for second, observation in steps]
    assert last.reason == expected


def test_doubt_is_told():
    judge = watch()
    assert (judge.is_uncertain, judge.last_answer) == (False, None)
    judge.observe(DOWN, NOW + 1, 0.5)
    assert (judge.is_uncertain, judge.last_answer) == (True, "HTTP 503")
    judge.observe(BUSY, NOW + 2, 0.5)
    assert (judge.is_uncertain, judge.last_answer) == (False, None)


def test_a_thousand_looks_in_trouble_are_looks_like_any_others():
    judge = watch(cap=0.5, trouble=1e9)
    assert {told(judge.observe(DOWN, NOW + number, 0.5)) for number in range(2_000)} == {"wait"}


def test_trouble_is_asked_about_less_and_less_often():
    judge = watch()
    waits = [judge.observe(DOWN, NOW + 1, 0.0).seconds for _ in range(8)]
    assert waits[:5] == [2, 4, 8, 16, 32]
    assert waits[5:] == [60, 60, 60]


def test_the_bound_of_a_doubt_is_looked_at_when_it_is_reached():
    judge = watch()
    judge.observe(BUSY, NOW + 4000, 0.5)
    judge.observe(GONE, NOW + 4060, 0.5)
    assert judge.observe(GONE, NOW + 4350, 0.5) == Wait(10.0)


def test_a_clock_that_jumps_does_no_harm():
    assert play(watch(), (1, DOWN), (-4000, DOWN), (5, BUSY), (1e8, DONE)) == ["wait"] * 3 + ["succeeded"]


@pytest.mark.parametrize(
    ("found", "expected"),
    [({}, Missing()), ({"b": Batch("b", "done")}, DONE), ({"b": Batch("c", "done")}, Missing())],
    ids=["none", "found", "another's"],
)
def test_what_a_read_of_batches_is_for_one_of_them(found, expected):
    assert observe_found(found, "b") == expected


# --- properties -------------------------------------------------------------------------------------------

words = (
    st.sampled_from(["new", "inprogress", "active", "archived", "failed", "deleted", "don", "undone"])
    | st.text()
)
observations = (
    st.builds(seen, words)
    | st.just(GONE)
    | st.builds(ReadFailed, st.text(max_size=5))
    | st.builds(
        lambda status, each: by_instances(status, *each), words, st.lists(st.text(max_size=4), max_size=3)
    )
)
successes = st.sampled_from(["done", "Success"]).map(seen)
gaps = st.floats(0, 5_000)
chance = st.floats(0, 1)


@given(st.lists(st.tuples(observations | successes, gaps, chance), max_size=25), st.floats(0, 600))
def test_only_an_observed_success_is_a_success(steps, cap):
    judge, now = watch(cap), NOW
    for observation, gap, random in steps:
        now += gap
        decision = judge.observe(observation, now, random)
        if isinstance(decision, Ended):
            assert decision.batch is observation.batch
            assert decision.batch.phase in (Phase.SUCCEEDED, Phase.FAILED)
            if decision.batch.phase is Phase.SUCCEEDED:
                assert normalize_status(observation.batch.status) in ("done", "success")
            return
        if isinstance(decision, GaveUp):
            return
        assert FLOOR * 0.99 <= decision.seconds <= max(cap, 60.0) * (1 + JITTER) or decision.seconds <= 1.0


@given(
    st.lists(st.sampled_from([GONE, DOWN, ODD]), min_size=1, max_size=6),
    st.lists(st.sampled_from([GONE, DOWN, ODD]), max_size=30),
    st.sampled_from([1.0, 60.0, 600.0]),
    st.floats(0, 1),
)
def test_endless_doubt_ends(pattern, first, cap, late):
    judge, now, looks = watch(cap), NOW, 0
    began = now
    while True:
        observation = first[looks] if looks < len(first) else pattern[looks % len(pattern)]
        decision = judge.observe(observation, now, late)
        looks += 1
        assert looks <= 5_000
        if isinstance(decision, GaveUp):
            break
        now += decision.seconds + late
    # Half an hour for what comes last, beside what came before it took turns.
    assert now - began <= 1800 + (len(first) + 3 * len(pattern)) * (cap * (1 + JITTER) + 2)


@given(st.lists(st.tuples(st.sampled_from([GONE, DOWN, ODD, BUSY]), st.floats(0, 200)), max_size=12), st.data())
def test_another_process_goes_on_as_this_one_would(steps, data):
    judge, now = watch(), NOW
    for observation, gap in steps:
        now += gap
        judge.observe(observation, now, 0.5)
    heir = watch()
    heir.remember(json.loads(json.dumps(judge.memory())))
    assert (heir.is_uncertain, heir.last_answer, heir.memory()) == (
        judge.is_uncertain, judge.last_answer, judge.memory(),
    )  # fmt: skip
    doubts = st.lists(st.tuples(st.sampled_from([GONE, DOWN, ODD]), st.floats(0, 900)))
    for observation, gap in data.draw(doubts):
        now += gap
        assert heir.observe(observation, now, 0.5) == judge.observe(observation, now, 0.5)


kinds = st.sampled_from(["missing", "trouble", "unknown"])
kept = st.fixed_dictionaries(
    {},
    optional={
        "kind": JSON | kinds,
        "doubts": JSON | st.dictionaries(kinds, JSON | st.lists(st.floats() | st.integers(), max_size=3)),
        "answers": JSON,
    },
)


@given(kept | st.dictionaries(st.text(max_size=5), JSON))
def test_no_memory_whatever_breaks_the_judge_or_makes_it_hasty(memory):
    judge = watch()
    judge.remember(memory)
    assert told(judge.observe(BUSY, NOW, 0.5)) == "wait"
    assert told(judge.observe(GONE, NOW, 0.5)) == "wait"
    assert told(judge.observe(DONE, NOW, 0.5)) == "succeeded"
