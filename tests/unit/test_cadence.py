"""When a batch is looked at again: soon at first, never more often than people would, never in step."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_atscale.waiting.policy import EARLY, FIRST, FLOOR, JITTER, SHORTEST, next_poll_delay

elapsed = st.floats(0, 1e7)
estimates = st.none() | st.floats(-1e6, 1e12)
caps = st.floats(0, 1e5)
chance = st.floats(0, 1)


@given(elapsed, estimates, caps, chance)
def test_bounds(elapsed, estimate, cap, random):
    seconds = next_poll_delay(elapsed, estimate, cap, random)
    assert seconds <= max(cap, FLOOR) * (1 + JITTER)
    assert seconds >= min(FIRST, max(cap, FLOOR))
    if elapsed >= EARLY:
        assert seconds >= min(SHORTEST, max(cap, FLOOR))


@given(elapsed, st.floats(-1e6, 1e12), caps, chance)
def test_an_estimate_never_lengthens_a_wait(elapsed, estimate, cap, random):
    assert next_poll_delay(elapsed, estimate, cap, random) <= next_poll_delay(elapsed, None, cap, random)


@given(elapsed, caps)
def test_waiters_never_beat_in_step(elapsed, cap):
    early, middle, late = (next_poll_delay(elapsed, None, cap, random) for random in (0.0, 0.5, 1.0))
    assert early < middle < late


def looks(
    length: float, dice: random.Random, estimate: float | None = None, first: float = 0.0
) -> tuple[int, float]:
    """Return how often a build is looked at after a first time, and how late its end is seen."""
    count, now = 0, first
    while now < length:
        now += next_poll_delay(now, estimate, 60.0, dice.random())
        count += 1
    return count, now - length


def lengths(low: float, high: float, count: int) -> list[float]:
    """Return lengths of builds, each decade with as many as any other."""
    return [low * (high / low) ** ((number + 0.5) / count) for number in range(count)]


@pytest.mark.parametrize(("low", "high"), [(1, 2), (2, 10), (10, 20), (20, 100), (100, 1_000), (1_000, 14_400)])
def test_the_end_is_seen_soon(low, high):
    dice = random.Random(low)
    builds = lengths(low, high, 2_000 if low < 1_000 else 300)
    late = [looks(length, dice)[1] / max(length / 10, 1.0) for length in builds]
    assert statistics.median(late) <= 1.0


@pytest.mark.parametrize(
    ("estimated", "first", "more"),
    [
        pytest.param(False, 0.0, 20, id="without estimate"),
        pytest.param(True, 0.0, 21, id="with an estimate, which may add a look"),
        pytest.param(True, 2.0, 19, id="with an estimate, after a trigger's first look"),
    ],
)
def test_a_build_costs_twenty_requests_more_than_a_look_each_minute(estimated, first, more):
    dice = random.Random(7)
    for length in [*lengths(1, 1_000, 2_000), *lengths(1_000, 14_400, 300), 14_400.0]:
        estimate = length * dice.uniform(0.05, 3) if estimated else None
        assert looks(length, dice, estimate, first)[0] <= math.ceil(length / 60) + more


def test_no_chance_makes_it_more():
    """However the random numbers fall: the next look is never earlier than without them."""
    elapsed, count = 0.0, 0
    while elapsed < 3_600:
        elapsed += next_poll_delay(elapsed, None, 60.0, 0.0)
        count += 1
        # A build that ends right after this look takes one more.
        assert count + 1 <= math.ceil((elapsed + 0.001) / 60) + 20


def test_a_short_build_is_seen_in_about_a_second():
    dice = random.Random(1)
    assert max(looks(2.0, dice)[1] for _ in range(500)) <= 2.1


def test_a_build_whose_end_is_estimated_well_is_seen_sooner():
    dice = random.Random(3)
    builds = lengths(100, 1_000, 500)
    plain = [looks(length, dice)[1] / length for length in builds]
    known = [looks(length, dice, estimate=length * 0.99)[1] / length for length in builds]
    assert statistics.median(known) < statistics.median(plain)
    assert statistics.median(known) < 0.05


def test_the_first_look_comes_after_about_a_second_and_the_last_after_the_cap():
    assert next_poll_delay(0.0, None, 60.0, 0.0) == FIRST
    assert next_poll_delay(1e6, None, 60.0, 0.0) == 60.0
