"""How long a build usually takes is told by the last good batches of its kind, if there are enough."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from airflow_provider_atscale.api.models import Batch, History
from airflow_provider_atscale.api.observation import Missing, ReadFailed, Seen
from airflow_provider_atscale.builds.usual import Expectation, Usual, parse_expectation, usual_duration
from airflow_provider_atscale.waiting.policy import WaitPolicy
from airflow_provider_atscale.waiting.progress import HEARTBEAT, Progress

from .builds import Log
from .flows import row

BEGAN = datetime(2025, 2, 27, 12, 0, tzinfo=timezone.utc)


def batches(*minutes: float | None, status: str = "done", full: bool | None = True) -> tuple[Batch, ...]:
    """Make batches that took so many minutes; None: their end is not told."""
    ends = (None if each is None else BEGAN + timedelta(minutes=each) for each in minutes)
    return tuple(Batch(f"b{number}", status, full, started=BEGAN, ended=end) for number, end in enumerate(ends))


FIVE = batches(10, 20, 30, 40, 50)
USUAL = Usual(median=1800, low=840, high=2760, count=5)

CASES = {
    "nothing was built": ((), True, None),
    "four batches are too few": (batches(10, 20, 30, 40), True, None),
    "five": (FIVE, True, USUAL),
    "the order does not matter": (FIVE[::-1], True, USUAL),
    "five that took the same": (batches(*[10] * 5), True, Usual(600, 600, 600, 5)),
    "one that took very long moves the median little": (
        batches(10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 600),
        True,
        Usual(600, 600, 600, 11),
    ),
    "failed ones do not count": (FIVE[:4] + batches(1, 2, status="failed"), True, None),
    "a word nobody knows does not count": (FIVE[:4] + batches(1, status="finished?"), True, None),
    "running ones do not count": (FIVE[:4] + batches(None, status="inprogress"), True, None),
    "without an end it does not count": (FIVE[:4] + batches(None), True, None),
    "the other kind does not count": (FIVE[:4] + batches(1, full=False), True, None),
    "a kind that is not told does not count": (FIVE[:4] + batches(1, full=None), True, None),
    "five of each kind": (FIVE + batches(1, 2, 3, 4, 5, full=False), False, Usual(180, 84, 276, 5)),
    "no kind is told at all": (batches(1, 2, 3, 4, 5, full=None), None, Usual(180, 84, 276, 5)),
}


@pytest.mark.parametrize(("listed", "full", "expected"), CASES.values(), ids=CASES)
def test_usual_duration(listed, full, expected):
    assert usual_duration(History(tuple(listed)), full) == expected


# --- what a wait makes of it ------------------------------------------------------------------------------

NOON = BEGAN.timestamp()


def rows(*minutes: float, full: bool = True, status: str = "done"):
    """Make rows of the history as AtScale lists them."""
    return [
        row(
            id=f"b{number}",
            status=status,
            isFullBuild=full,
            startTime=BEGAN.isoformat(),
            endTime=(BEGAN + timedelta(minutes=each)).isoformat(),
        )
        for number, each in enumerate(minutes)
    ]


TEN = rows(35, 38, 40, 41, 41, 42, 45, 50, 52)
RUNNING = Batch("b", "inprogress", True, started=BEGAN)

LEARNT = {
    "a running batch": (Seen(RUNNING, TEN), None, 41 * 60),
    "a batch that is not listed yet": (Missing(TEN), True, 41 * 60),
    "the batch itself does not count": (Seen(Batch("b4", "done", True), TEN[:5]), None, None),
    "of another kind": (Missing(TEN), False, None),
    "too few": (Seen(RUNNING, TEN[:4]), None, None),
    "no history": (Seen(RUNNING), None, None),
    "rows that cannot be read": (Seen(RUNNING, ["?", None, 7, {}, {}, {}]), None, None),
    "builds of pending aggregates": (Seen(RUNNING, [{**each, "batchType": "create"} for each in TEN]), None, None),
    "no answer": (ReadFailed("HTTP 503"), True, None),
}  # fmt: skip


@pytest.mark.parametrize(("seen", "full", "median"), LEARNT.values(), ids=LEARNT)
def test_a_wait_learns_from_the_history_that_it_polls(seen, full, median):
    expectation = Expectation()
    expectation.learn(seen, full)
    assert (expectation.usual.median if expectation.usual else None) == median
    assert parse_expectation(expectation.to_json()) == expectation


@pytest.mark.parametrize(
    ("expectation", "seconds", "late"),
    [
        (Expectation(warn_after=60.0), 61.0, True),
        (Expectation(warn_after=60.0), 60.0, False),
        (Expectation(warn_after=60.0), None, None),
        (Expectation(), 61.0, None),
        # A queue before the build is part of the wait, but not of the build's duration.
        (Expectation(warn_after=60.0, is_warned=True), 1.0, True),
        (Expectation(warn_after=60.0, is_warned=True), None, True),
    ],
)
def test_whether_a_batch_that_has_ended_was_late(expectation, seconds, late):
    assert expectation.is_late(seconds) is late


def logged(expectation, *seconds, batch=RUNNING, since=NOON):
    """Return what a wait logs that polls after so many seconds."""
    log, policy = Log(), WaitPolicy(since, 60.0, subject="Batch b")
    progress = Progress(log, "Batch b", since, expectation)
    for each in seconds:
        seen = Seen(batch, TEN)
        policy.observe(seen, since + each, 0.5)
        progress.log_observation(seen, policy, since + each)
    return [f"{level}: {text}" for level, text in log.lines]


USUALLY = "usually 41 min (37 to 50), expected by 12:41 UTC"
LATE = {
    "told once": ((1, 2, 3), Expectation(), [f"info: Running after 1 s; {USUALLY}. Batch b"]),
    "warned once": (
        (HEARTBEAT * 6, HEARTBEAT * 6 + 1),
        Expectation(),
        [
            f"warning: Late: not done after 60 min, {USUALLY}. Batch b",
            f"info: Running after 60 min; {USUALLY}. Batch b",
        ],
    ),
    "another process has warned": (
        (HEARTBEAT * 6,),
        Expectation(is_warned=True),
        [f"info: Running after 60 min; {USUALLY}. Batch b"],
    ),
    "the user is more patient": (
        (HEARTBEAT * 6,),
        Expectation(warn_after=3601.0),
        [f"info: Running after 60 min; {USUALLY}. Batch b"],
    ),
    "the user is less patient": (
        (60, 61),
        Expectation(warn_after=60.0),
        [f"info: Running after 60 s; {USUALLY}. Batch b", f"warning: Late: not done after 61 s, {USUALLY}. Batch b"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("seconds", "expectation", "lines"), LATE.values(), ids=LATE)
def test_a_wait_tells_the_usual_duration_and_warns_once(seconds, expectation, lines):
    assert logged(expectation, *seconds) == lines


def test_a_batch_that_has_ended_is_not_late():
    done = replace(RUNNING, status="done", ended=BEGAN + timedelta(hours=2))
    assert logged(Expectation(), 7200, batch=done) == ["info: Done after 2 h 0 min. Batch b"]


def test_an_end_on_another_day_has_its_date():
    usual = Usual(median=86_400, low=80_000, high=90_000, count=5)
    assert "expected by 2025-02-28 12:00 UTC" in Expectation(usual=usual).describe(NOON)
