"""When a batch is looked at again: soon at first, never more often than people would, never in step."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_atscale.protocol.watch import FIRST, FLOOR, JITTER, SHORTEST, cadence

elapsed = st.floats(0, 1e7)
estimates = st.none() | st.floats(-1e6, 1e12)
caps = st.floats(0, 1e5)
chance = st.floats(0, 1)


@given(elapsed, estimates, caps, chance)
def test_bounds(elapsed, estimate, cap, random):
    seconds = cadence(elapsed, estimate, cap, random)
    assert seconds <= max(cap, FLOOR) * (1 + JITTER)
    assert seconds >= min(FIRST, max(cap, FLOOR))
    if elapsed >= SHORTEST:
        assert seconds >= min(SHORTEST, max(cap, FLOOR))


@given(elapsed, st.floats(-1e6, 1e12), caps, chance)
def test_an_estimate_never_lengthens_a_wait(elapsed, estimate, cap, random):
    assert cadence(elapsed, estimate, cap, random) <= cadence(elapsed, None, cap, random)


@given(elapsed, caps)
def test_waiters_never_beat_in_step(elapsed, cap):
    early, middle, late = (cadence(elapsed, None, cap, random) for random in (0.0, 0.5, 1.0))
    assert early < middle < late


def looks(length: float, dice: random.Random, estimate: float | None = None) -> tuple[int, float]:
    """Return how often a build is looked at, and how late its end is seen."""
    count, now = 0, 0.0
    while now < length:
        now += cadence(now, estimate, 60.0, dice.random())
        count += 1
    return count, now - length


def lengths(low: float, high: float, dice: random.Random, count: int) -> list[float]:
    return [low * (high / low) ** dice.random() for _ in range(count)]


@pytest.mark.parametrize(("low", "high"), [(1, 10), (10, 100), (100, 1_000), (1_000, 14_400)])
def test_the_end_is_seen_soon(low, high):
    dice = random.Random(low)
    builds = lengths(low, high, dice, 2_000 if low < 1_000 else 300)
    late = [looks(length, dice)[1] / max(length / 10, 1.0) for length in builds]
    assert statistics.median(late) <= 1.0


@pytest.mark.parametrize("estimated", [False, True], ids=["without estimate", "with estimate"])
def test_a_build_costs_twenty_requests_more_than_a_look_each_minute(estimated):
    dice = random.Random(7)
    for length in [*lengths(1, 1_000, dice, 2_000), *lengths(1_000, 14_400, dice, 300), 14_400.0]:
        estimate = length * dice.uniform(0.05, 3) if estimated else None
        assert looks(length, dice, estimate)[0] <= math.ceil(length / 60) + 20


def test_a_short_build_is_seen_in_about_a_second():
    dice = random.Random(1)
    assert max(looks(2.0, dice)[1] for _ in range(500)) <= 2.1


def test_a_build_whose_end_is_estimated_well_is_seen_sooner():
    dice = random.Random(3)
    builds = lengths(100, 1_000, dice, 500)
    plain = [looks(length, dice)[1] / length for length in builds]
    known = [looks(length, dice, estimate=length * 0.99)[1] / length for length in builds]
    assert statistics.median(known) < statistics.median(plain)
    assert statistics.median(known) < 0.05


def test_the_first_look_comes_after_about_a_second_and_the_last_after_the_cap():
    assert cadence(0.0, None, 60.0, 0.0) == FIRST
    assert cadence(1e6, None, 60.0, 0.0) == 60.0
