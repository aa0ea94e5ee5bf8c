"""The wait policy: a table of observations and decisions."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_atscale.api.models import ALL_DELETED, AggregateInstance, Batch, Phase, normalize_status
from airflow_provider_atscale.api.observation import Missing, ReadFailed, Seen, observe_found
from airflow_provider_atscale.waiting.policy import (
    JITTER,
    MIN_POLL_INTERVAL,
    Ended,
    GaveUp,
    Tolerance,
    Wait,
    WaitPolicy,
)

from .flows import NOW
from .test_models import JSON

CAP = 60.0


def seen(status: str, **values) -> Seen:
    return Seen(Batch("b", status, **values))


def by_instances(status: str, *statuses: str) -> Seen:
    instances = tuple(AggregateInstance(str(number), each) for number, each in enumerate(statuses))
    return seen(status, instances=instances)


def new_policy(cap: float = CAP, **tolerance: float) -> WaitPolicy:
    return WaitPolicy(NOW, cap, Tolerance(**tolerance), "Batch b")


def word_of(decision) -> str:
    """Return a decision as one word."""
    if isinstance(decision, Ended):
        return decision.batch.phase.value
    return decision.kind if isinstance(decision, GaveUp) else "wait"


def play(policy: WaitPolicy, *steps) -> list[str]:
    """Show observations at seconds after the wait began; return the decisions."""
    return [word_of(policy.observe(observation, NOW + second, 0.5)) for second, observation in steps]


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
        # Missing: five minutes, and three attempts at least.
        ([(1, GONE), (299, GONE), (302, GONE)], ["wait", "wait", "missing"]),
        ([(1, GONE), (302, GONE), (303, GONE)], ["wait", "wait", "missing"]),
        ([(1, GONE), (290, BUSY), (302, GONE), (600, GONE), (603, GONE)], ["wait"] * 4 + ["missing"]),
        # Seen for hours, then gone: five minutes from then on.
        ([(9000, BUSY), (9060, GONE), (9120, GONE), (9180, GONE), (9361, GONE)], ["wait"] * 4 + ["missing"]),
        # First read long after the wait began, as after a restart of a triggerer: five minutes again.
        ([(9060, GONE), (9061, GONE), (9062, GONE), (9361, GONE)], ["wait"] * 3 + ["missing"]),
        # Trouble: half an hour without one good answer.
        ([(1, DOWN), (900, DOWN), (1802, DOWN)], ["wait", "wait", "trouble"]),
        ([(1, DOWN), (1799, BUSY), (1900, DOWN), (3600, DOWN), (3601, DOWN)], ["wait"] * 5),
        ([(1, DOWN), (9000, DOWN)], ["wait", "wait"]),
        # An unknown word: half an hour.
        ([(1, ODD), (900, ODD), (1802, ODD)], ["wait", "wait", "unknown"]),
        ([(1, ODD), (900, ODD), (1802, DONE)], ["wait", "wait", "succeeded"]),
        # Alternating kinds do not extend the wait.
        ([(1, GONE), (100, DOWN), (200, GONE), (300, DOWN), (400, GONE)], ["wait"] * 4 + ["missing"]),
        ([(1, ODD), (900, DOWN), (1000, GONE), (1100, ODD), (1900, ODD)], ["wait"] * 4 + ["unknown"]),
        # A history that was read is an end of trouble, even if the batch is not in it.
        ([(1, DOWN), (900, DOWN), (1790, GONE), (1810, DOWN), (1820, DOWN)], ["wait"] * 5),
    ],
    ids=[
        "done", "done at once", "success", "failed", "cancelled", "active", "active, then done",
        "missing", "missing needs three attempts", "was there in between",
        "gone after hours", "first read after hours",
        "trouble", "a good answer in between", "trouble needs three attempts",
        "unknown", "unknown then done",
        "missing and trouble", "unknown and others", "read but missing",
    ],
)  # fmt: skip
def test_decisions(steps, expected):
    assert play(new_policy(), *steps) == expected


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
    assert play(new_policy(), *steps) == expected


@pytest.mark.parametrize("end", [ALL, by_instances("failed", "failed")], ids=["done", "failed"])
def test_once_the_history_has_listed_a_batch_only_the_history_ends_it(end):
    """A permission that is lost for a while must not let a list of instances, still growing, end the wait."""
    steps = [(1, BUSY), (10, end), (60, end), (120, end), (130, BUSY), (140, DONE)]
    assert play(new_policy(), *steps) == ["wait", "wait", "wait", "wait", "wait", "succeeded"]
    assert play(new_policy(), (1, BUSY), (10, end), (900, end), (1900, end))[-1] == "trouble"


def test_a_later_process_knows_that_the_history_has_listed_a_batch():
    policy, later = new_policy(), new_policy()
    play(policy, (1, BUSY))
    later.restore(json.loads(json.dumps(policy.to_json())))
    assert play(later, (10, ALL), (60, ALL)) == ["wait", "wait"]


def test_an_end_that_only_instances_show_is_never_taken_at_once():
    assert play(new_policy(confirm_end_after=0.0), (1, ALL), (2, ALL)) == ["wait", "succeeded"]


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
    policy = new_policy()
    *_, last = [policy.observe(observation, NOW + second, 0.5) for second, observation in steps]
    assert last.reason == expected


def test_uncertainty_is_visible():
    policy = new_policy()
    assert (policy.is_uncertain, policy.last_answer) == (False, None)
    policy.observe(DOWN, NOW + 1, 0.5)
    assert (policy.is_uncertain, policy.last_answer) == (True, "HTTP 503")
    policy.observe(BUSY, NOW + 2, 0.5)
    assert (policy.is_uncertain, policy.last_answer) == (False, None)


def test_a_thousand_failed_reads_are_tolerated_if_they_should_be():
    policy = new_policy(cap=0.5, trouble=1e9)
    assert {word_of(policy.observe(DOWN, NOW + number, 0.5)) for number in range(2_000)} == {"wait"}


def test_a_server_in_trouble_is_polled_less_and_less_often():
    policy = new_policy()
    waits = [policy.observe(DOWN, NOW + 1, 0.0).seconds for _ in range(8)]
    assert waits[:5] == [2, 4, 8, 16, 32]
    assert waits[5:] == [60, 60, 60]


def test_a_poll_is_due_when_a_tolerance_ends():
    policy = new_policy()
    policy.observe(BUSY, NOW + 4000, 0.5)
    policy.observe(GONE, NOW + 4060, 0.5)
    assert policy.observe(GONE, NOW + 4350, 0.5) == Wait(10.0)


def test_a_clock_that_jumps_does_no_harm():
    assert play(new_policy(), (1, DOWN), (-4000, DOWN), (5, BUSY), (1e8, DONE)) == ["wait"] * 3 + ["succeeded"]


@pytest.mark.parametrize(
    ("found", "expected"),
    [({}, Missing()), ({"b": Batch("b", "done")}, DONE), ({"b": Batch("c", "done")}, Missing())],
    ids=["none", "found", "another's"],
)
def test_the_observation_of_one_batch(found, expected):
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
    policy, now = new_policy(cap), NOW
    for observation, gap, random in steps:
        now += gap
        decision = policy.observe(observation, now, random)
        if isinstance(decision, Ended):
            assert decision.batch is observation.batch
            assert decision.batch.phase in (Phase.SUCCEEDED, Phase.FAILED)
            if decision.batch.phase is Phase.SUCCEEDED:
                assert normalize_status(observation.batch.status) in ("done", "success")
            return
        if isinstance(decision, GaveUp):
            return
        assert (
            MIN_POLL_INTERVAL * 0.99 <= decision.seconds <= max(cap, 60.0) * (1 + JITTER)
            or decision.seconds <= 1.0
        )


@given(
    st.lists(st.sampled_from([GONE, DOWN, ODD]), min_size=1, max_size=6),
    st.lists(st.sampled_from([GONE, DOWN, ODD]), max_size=30),
    st.sampled_from([1.0, 60.0, 600.0]),
    st.floats(0, 1),
)
def test_endless_uncertainty_ends(pattern, first, cap, late):
    policy, now, attempts = new_policy(cap), NOW, 0
    began = now
    while True:
        observation = first[attempts] if attempts < len(first) else pattern[attempts % len(pattern)]
        decision = policy.observe(observation, now, late)
        attempts += 1
        assert attempts <= 5_000
        if isinstance(decision, GaveUp):
            break
        now += decision.seconds + late
    # Half an hour for what comes last, beside what came before it took turns.
    assert now - began <= 1800 + (len(first) + 3 * len(pattern)) * (cap * (1 + JITTER) + 2)


@given(st.lists(st.tuples(st.sampled_from([GONE, DOWN, ODD, BUSY]), st.floats(0, 200)), max_size=12), st.data())
def test_a_later_process_decides_as_this_one_would(steps, data):
    policy, now = new_policy(), NOW
    for observation, gap in steps:
        now += gap
        policy.observe(observation, now, 0.5)
    later = new_policy()
    later.restore(json.loads(json.dumps(policy.to_json())))
    assert (later.is_uncertain, later.last_answer, later.to_json()) == (
        policy.is_uncertain, policy.last_answer, policy.to_json(),
    )  # fmt: skip
    uncertain = st.lists(st.tuples(st.sampled_from([GONE, DOWN, ODD]), st.floats(0, 900)))
    for observation, gap in data.draw(uncertain):
        now += gap
        assert later.observe(observation, now, 0.5) == policy.observe(observation, now, 0.5)


kinds = st.sampled_from(["missing", "trouble", "unknown"])
states = st.fixed_dictionaries(
    {},
    optional={
        "kind": JSON | kinds,
        "uncertainties": JSON
        | st.dictionaries(
            kinds,
            JSON | st.fixed_dictionaries({"since": st.floats() | st.integers(), "attempts": st.integers()}),
        ),
        "seen_in_history": JSON | st.booleans(),
        "answers": JSON,
    },
)


@given(states | st.dictionaries(st.text(max_size=5), JSON))
def test_a_stored_state_of_any_shape_does_no_harm(stored):
    policy = new_policy()
    policy.restore(stored)
    assert word_of(policy.observe(BUSY, NOW, 0.5)) == "wait"
    assert word_of(policy.observe(GONE, NOW, 0.5)) == "wait"
    assert word_of(policy.observe(DONE, NOW, 0.5)) == "succeeded"
