"""Deadlines, the log of progress, and the blocking wait."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_atscale.api.models import AggregateInstance, Batch
from airflow_provider_atscale.api.observation import Missing, ReadFailed, Seen
from airflow_provider_atscale.exceptions import (
    AtScaleAuthenticationError,
    AtScaleConnectionError,
    AtScaleTaskStoppedError,
)
from airflow_provider_atscale.hooks.atscale import AtScaleHook
from airflow_provider_atscale.waiting.blocking import wait_blocking
from airflow_provider_atscale.waiting.deadline import Deadline, parse_deadline, timeout_result
from airflow_provider_atscale.waiting.policy import Ended, GaveUp, TimedOut, Tolerance, WaitPolicy
from airflow_provider_atscale.waiting.progress import HEARTBEAT, Progress
from airflow_provider_atscale.waiting.tolerance import load_tolerance

from .flows import NOW, REF, Clock

log = logging.getLogger("a wait")
DONE, BUSY = Seen(Batch("b", "done")), Seen(Batch("b", "inprogress"))


# --- deadlines --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeout", "execution_timeout", "expected"),
    [
        (None, None, None),
        (60.0, None, Deadline(NOW + 60, "timeout")),
        (None, 60.0, Deadline(NOW - 10 + 60, "execution_timeout")),
        (60.0, 65.0, Deadline(NOW - 10 + 65, "execution_timeout")),
        (60.0, 90.0, Deadline(NOW + 60, "timeout")),
        (60.0, 70.0, Deadline(NOW + 60, "timeout")),
    ],
    ids=["none", "timeout", "execution_timeout", "execution_timeout is earlier", "timeout is earlier", "equal"],
)
def test_the_earlier_of_both_limits(timeout, execution_timeout, expected):
    assert Deadline.earlier(NOW, timeout, NOW - 10, execution_timeout) == expected


@given(st.none() | st.builds(Deadline, st.floats(0, 1e12), st.sampled_from(["timeout", "execution_timeout"])))
def test_a_deadline_is_read_back(deadline):
    assert parse_deadline(deadline.to_json() if deadline else None) == deadline


@pytest.mark.parametrize(
    ("status", "seconds"), [("inprogress", 100.0), (None, 100.0)], ids=["seen", "never seen"]
)
def test_the_result_of_a_wait_whose_deadline_has_passed(status, seconds):
    policy = WaitPolicy(NOW, 60.0)
    if status:
        policy.observe(Seen(Batch("b", status)), NOW + 1, 0.5)
    assert timeout_result(Deadline(NOW + 100, "timeout"), policy, NOW + 100) == TimedOut(
        "timeout", seconds, status
    )


def test_tolerances_come_from_airflows_configuration(monkeypatch):
    assert load_tolerance() == Tolerance()
    monkeypatch.setenv("AIRFLOW__ATSCALE__MISSING_TOLERANCE", "7")
    monkeypatch.setenv("AIRFLOW__ATSCALE__SETTLE_TIME", "0.5")
    assert load_tolerance() == Tolerance(missing=7.0, confirm_end_after=0.5)


# --- one poll ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"b": DONE.batch}, DONE),
        ({}, Missing()),
        ({"c": Batch("c", "done")}, Missing()),
        (AtScaleConnectionError("no answer"), ReadFailed("no answer")),
        (AtScaleAuthenticationError("refused", 401), ReadFailed("refused")),
    ],
    ids=["found", "missing", "another's", "trouble", "refused credentials"],
)
def test_any_answer_is_an_observation(found, expected):
    asked = []

    def get_batches(ref, wanted, tries):
        asked.append((ref, wanted, tries))
        if isinstance(found, Exception):
            raise found
        return found

    assert (
        AtScaleHook.observe_batch(SimpleNamespace(get_batches=get_batches, poll=nullcontext), REF, "b")
        == expected
    )
    assert asked == [(REF, ("b",), 1)]


def test_a_programming_error_is_no_observation():
    def broken(*_args, **_kwargs):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        AtScaleHook.observe_batch(SimpleNamespace(get_batches=broken, poll=nullcontext), REF, "b")


# --- the loop ---------------------------------------------------------------------------------------------


class Build:
    """A batch that ends after so many seconds, and when it was polled."""

    def __init__(self, clock: Clock, seconds: float, end: str = "done", takes: float = 0.0) -> None:
        self.clock, self.began, self.seconds, self.end, self.takes = clock, clock.now, seconds, end, takes
        self.polls: list[float] = []

    def observe(self):
        self.clock.now += self.takes
        self.polls.append(self.clock.now - self.began)
        status = self.end if self.clock.now - self.began >= self.seconds else "inprogress"
        return Seen(Batch("b", status))


def wait(observe, clock, deadline=None, is_stopped=lambda: False, cap=60.0):
    policy = WaitPolicy(clock.now, cap, subject="Batch b")
    progress = Progress(log, "Batch b", clock.now)
    return wait_blocking(observe, policy, progress, deadline, is_stopped, clock, clock.sleep)


@pytest.mark.parametrize("end", ["done", "failed"])
@pytest.mark.parametrize("seconds", [0.0, 2.0, 90.0, 7200.0])
def test_a_wait_ends_with_its_batch(seconds, end):
    clock = Clock()
    build = Build(clock, seconds, end)
    assert wait(build.observe, clock) == Ended(Batch("b", end))
    assert seconds <= build.polls[-1] <= seconds * 1.22 + 2.5
    assert len(build.polls) <= seconds / 60 + 21


def test_a_batch_that_has_ended_is_not_waited_for():
    clock = Clock()
    wait(lambda: DONE, clock)
    assert clock.slept == []


@pytest.mark.parametrize(
    ("seconds", "limit", "ended"),
    [(100.0, 50.0, False), (100.0, 200.0, True), (100.0, 100.0, True), (0.0, -5.0, True), (100.0, -5.0, False)],
    ids=["too long", "in time", "at the deadline", "done before a deadline that has passed", "passed before"],
)
def test_a_deadline_ends_the_wait_after_a_last_poll(seconds, limit, ended):
    clock = Clock()
    build = Build(clock, seconds)
    result = wait(build.observe, clock, Deadline(NOW + limit, "timeout"))
    if ended:
        assert isinstance(result, Ended)
    else:
        assert result == TimedOut("timeout", max(limit, 0.0), "inprogress")
    assert build.polls[-1] <= max(limit, 0.0) + 0.001


def test_a_slow_poll_does_not_miss_the_deadline():
    clock = Clock()
    build = Build(clock, 1e9, takes=30.0)
    result = wait(build.observe, clock, Deadline(NOW + 100, "execution_timeout"))
    assert isinstance(result, TimedOut)
    assert result.limit == "execution_timeout"
    assert 100.0 <= result.seconds <= 130.0


def test_a_batch_that_ends_during_the_last_poll_has_ended():
    clock = Clock()
    assert isinstance(
        wait(Build(clock, 101.0, takes=30.0).observe, clock, Deadline(NOW + 100, "timeout")), Ended
    )


def test_a_stopped_task_stops_waiting_and_says_that_the_build_goes_on():
    clock = Clock()
    build = Build(clock, 1e9)
    with pytest.raises(
        AtScaleTaskStoppedError, match="while it waited for Batch b; the build goes on in AtScale"
    ):
        wait(build.observe, clock, is_stopped=lambda: len(build.polls) == 3)
    assert len(build.polls) == 3


def test_trouble_is_tolerated_for_a_limited_time():
    clock = Clock()
    result = wait(lambda: ReadFailed("HTTP 503"), clock)
    assert isinstance(result, GaveUp)
    assert result.kind == "trouble"
    assert 1800 <= clock.now - NOW <= 1800 + 70


def test_a_build_survives_an_outage_that_is_shorter_than_the_tolerance():
    clock = Clock()
    build = Build(clock, 3600.0)

    def observe():
        seen = build.observe()
        return ReadFailed("HTTP 503") if 600 < clock.now - NOW < 2300 else seen

    assert wait(observe, clock) == Ended(Batch("b", "done"))


# --- the log ----------------------------------------------------------------------------------------------


def lines_of(*steps):
    """Pass observations at seconds to the policy and to the log; return the lines."""
    lines = []
    log_to = SimpleNamespace(
        info=lambda text, *args: lines.append("info: " + text % args),
        warning=lambda text, *args: lines.append("warning: " + text % args),
    )
    policy, progress = WaitPolicy(NOW, 60.0), Progress(log_to, "Batch b", NOW)
    for second, observation in steps:
        policy.observe(observation, NOW + second, 0.5)
        progress.log_observation(observation, policy, NOW + second)
    return lines


def seen(status, **values):
    return Seen(Batch("b", status, **values))


HALF = tuple(
    AggregateInstance(str(number), status) for number, status in enumerate(["active", "active", "new"])
)


@pytest.mark.parametrize(
    ("steps", "lines"),
    [
        ([(1, seen("new"))], ["info: Not started yet (new) after 1 s. Batch b"]),
        ([(1, seen("new")), (2, seen("new")), (9, seen("new"))], ["info: Not started yet (new) after 1 s. Batch b"]),
        (
            [(1, seen("new")), (5, BUSY), (9, DONE)],
            [
                f"info: {each}. Batch b"
                for each in ("Not started yet (new) after 1 s", "Running after 5 s", "Done after 9 s")
            ],
        ),
        (
            [(1, BUSY), (HEARTBEAT, BUSY), (HEARTBEAT + 1, BUSY), (HEARTBEAT + 2, BUSY)],
            ["info: Running after 1 s. Batch b", "info: Running after 10 min. Batch b"],
        ),
        (
            [(1, seen("inprogress", estimate_ms=90_000, progress=12.4))],
            ["info: Running after 1 s, AtScale estimates 90 s, 12 % done. Batch b"],
        ),
        (
            [(1, seen("done", estimate_ms=90_000))],
            ["info: Done after 1 s. Batch b"],
        ),
        ([(1, seen("cancelled"))], ["info: Ended as cancelled after 1 s. Batch b"]),
        (
            [(1, ReadFailed("HTTP 503.")), (2, ReadFailed("HTTP 502")), (9, BUSY)],
            [
                "warning: Still waiting after 1 s: HTTP 503. Batch b",
                "info: Running after 9 s. Batch b",
            ],
        ),
        ([(1, Missing())], ["info: Still waiting after 1 s: the build history does not list it. Batch b"]),
        (
            [(1, seen("archived"))],
            ["info: Still waiting after 1 s: its status is 'archived'. Batch b"],
        ),
    ],
    ids=[
        "first poll", "no line per poll", "changes", "heartbeat", "estimate", "no estimate at the end", "cancelled",
        "trouble", "missing", "unknown",
    ],
)  # fmt: skip
def test_the_log_has_what_is_news(steps, lines):
    assert lines_of(*steps) == lines


def test_the_fallback_to_aggregates_is_logged_once():
    shown = seen("inprogress", instances=HALF)
    first, second = lines_of((1, shown), (9, shown))
    assert first.startswith("warning: No permission to read the build history; falling back to aggregates")
    assert second == "info: Running after 1 s, 2 of 3 aggregates built. Batch b"
