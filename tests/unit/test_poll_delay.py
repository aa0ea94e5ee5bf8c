"""The delay between polls: short at first, never shorter than needed, never the same for all waiters."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_atscale.waiting.policy import (
    FIRST_DELAY,
    FIRST_DELAY_UNTIL,
    JITTER,
    LATER_DELAY,
    MIN_POLL_INTERVAL,
    next_poll_delay,
)

elapsed = st.floats(0, 1e7)
caps = st.floats(0, 1e5)
chance = st.floats(0, 1)


@given(elapsed, caps, chance)
def test_bounds(elapsed, cap, random):
    seconds = next_poll_delay(elapsed, cap, random)
    assert seconds <= max(cap, MIN_POLL_INTERVAL) * (1 + JITTER)
    assert seconds >= min(FIRST_DELAY, max(cap, MIN_POLL_INTERVAL))
    if elapsed >= FIRST_DELAY_UNTIL:
        assert seconds >= min(LATER_DELAY, max(cap, MIN_POLL_INTERVAL))


@given(elapsed, caps)
def test_waiters_do_not_poll_at_the_same_time(elapsed, cap):
    early, middle, late = (next_poll_delay(elapsed, cap, random) for random in (0.0, 0.5, 1.0))
    assert early < middle < late


def polls(length: float, dice: random.Random, first: float = 0.0) -> tuple[int, float]:
    """Return how often a build is polled after a first time, and how late its end is seen."""
    count, now = 0, first
    while now < length:
        now += next_poll_delay(now, 60.0, dice.random())
        count += 1
    return count, now - length


def lengths(low: float, high: float, count: int) -> list[float]:
    """Return lengths of builds, each decade with as many as any other."""
    return [low * (high / low) ** ((number + 0.5) / count) for number in range(count)]


@pytest.mark.parametrize(("low", "high"), [(1, 2), (2, 10), (10, 20), (20, 100), (100, 1_000), (1_000, 14_400)])
def test_the_end_is_seen_soon(low, high):
    dice = random.Random(low)
    builds = lengths(low, high, 2_000 if low < 1_000 else 300)
    late = [polls(length, dice)[1] / max(length / 10, 1.0) for length in builds]
    assert statistics.median(late) <= 1.0


@pytest.mark.parametrize(
    ("first", "more"),
    [pytest.param(0.0, 20, id="from its start"), pytest.param(2.0, 19, id="after a trigger's first poll")],
)
def test_a_build_costs_twenty_requests_more_than_one_poll_each_minute(first, more):
    dice = random.Random(7)
    for length in [*lengths(1, 1_000, 2_000), *lengths(1_000, 14_400, 300), 14_400.0]:
        assert polls(length, dice, first)[0] <= math.ceil(length / 60) + more


def test_jitter_never_makes_it_more():
    """However the random numbers fall: the next poll is never earlier than without them."""
    elapsed, count = 0.0, 0
    while elapsed < 3_600:
        elapsed += next_poll_delay(elapsed, 60.0, 0.0)
        count += 1
        # A build that ends right after this poll takes one more.
        assert count + 1 <= math.ceil((elapsed + 0.001) / 60) + 20


def test_a_short_build_is_seen_in_about_a_second():
    dice = random.Random(1)
    assert max(polls(2.0, dice)[1] for _ in range(500)) <= 2.1


def test_the_first_delay_is_a_second_and_the_last_is_the_poll_interval():
    assert next_poll_delay(0.0, 60.0, 0.0) == FIRST_DELAY
    assert next_poll_delay(1e6, 60.0, 0.0) == 60.0
