"""
Whatever dies, and whenever: the task's build is started once, and never lost.

A task is tried until a try comes through. Each try may die at any of its steps, before or after the step took
effect: when it reads or writes the store, reads the history, posts the start, or waits. Replies are lost,
batches are listed late. In the end there is one batch, unless one failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_atscale.builds.state import DONE, FAILED, BuildStateStore
from airflow_provider_atscale.builds.steps import OwnBatch, RunningOther
from airflow_provider_atscale.exceptions import AtScaleError, AtScaleStartUnknownError

from .builds import (
    BUILD_KEY,
    JOIN,
    REQUEST,
    AtScale,
    Log,
    Store,
    accepted,
    builder,
    lost_after_start,
    lost_before_start,
)
from .flows import Clock

if TYPE_CHECKING:
    from airflow_provider_atscale.builds.request import BuildRequest

#: Seconds until a new batch is listed; the task looks for one for two minutes.
LAG = st.sampled_from([0.0, 1.0, 20.0, 100.0])


class Death(BaseException):
    """The process is gone."""


class Dice:
    """Decide at each step whether the process dies before it, after it, or not."""

    def __init__(self, fates: list[str]) -> None:
        self.fates = fates

    def step(self, act: Any) -> Any:
        fate = self.fates.pop(0) if self.fates else "live"
        if fate == "die before":
            raise Death
        if fate == "fail":
            raise ConnectionError("the store is down")
        value = act()
        if fate == "die after":
            raise Death
        return value


class MortalStore(Store):
    def __init__(self, dice: Dice) -> None:
        super().__init__()
        self.dice = dice

    def get(self, key):
        return self.dice.step(lambda: super(MortalStore, self).get(key))

    def set(self, key, value):
        self.dice.step(lambda: super(MortalStore, self).set(key, value))


class MortalAtScale(AtScale):
    dice: Dice

    def get_history(self, ref):
        return self.dice.step(lambda: super(MortalAtScale, self).get_history(ref))

    def start_batch(self, ref, *, before_post, **options):
        # The step begins after the fence: until then nothing is sent.
        before_post(True)
        return self.dice.step(
            lambda: super(MortalAtScale, self).start_batch(ref, before_post=lambda _: None, **options)
        )

    def make(self, full=False, status="new", seconds=0.0):
        assert not [each for each in self.batches if each.is_running], "two builds at a time"
        return super().make(full, status, seconds)


FATES = st.lists(st.sampled_from(["live", "live", "live", "die before", "die after"]), max_size=25)
REQUESTS = st.sampled_from([REQUEST, JOIN])
STARTS = st.lists(st.sampled_from([accepted, lost_after_start, lost_before_start]), max_size=3)


def try_on(server: AtScale, store: Any, pause: float, request: BuildRequest = REQUEST) -> OwnBatch:
    """Try again and again, as a task with many retries does; return what the last try came to."""
    for _ in range(80):
        try:
            step = builder(server, store, Log(), request).obtain_batch()
        except (Death, AtScaleError, ConnectionError):
            server.clock.now += pause
            continue
        if isinstance(step, RunningOther):
            server.clock.now += 60
            server.end(step.batch.id)
            continue
        return step
    raise AssertionError("the task came to nothing")


@settings(max_examples=300)
@given(REQUESTS, FATES, STARTS, LAG, st.sampled_from([0.0, 5.0, 300.0]))
def test_one_build_is_started_whoever_dies_when(request, fates, starts, lag, pause):
    dice = Dice(fates)
    server = MortalAtScale(Clock(), starts=list(starts), lag=lag)
    server.dice = dice
    store = MortalStore(dice)
    step = try_on(server, store, pause, request)
    assert isinstance(step, OwnBatch)
    assert [each.id for each in server.batches] == [step.batch_id] == ["b1"]


@settings(max_examples=150)
@given(REQUESTS, FATES, FATES, LAG, st.sampled_from(["done", "failed"]))
def test_a_judged_build_is_not_built_again_unless_it_failed(request, fates, later, lag, end):
    dice = Dice(fates)
    server = MortalAtScale(Clock(), lag=lag)
    server.dice = dice
    store = MortalStore(dice)
    step = try_on(server, store, 5.0, request)
    server.clock.now += 600
    server.end(step.batch_id, end)
    dice.fates = []
    BuildStateStore(store, BUILD_KEY).store_outcome(DONE if end == "done" else FAILED, step.batch_id)
    # Airflow can still lose the outcome of the task, and try again.
    dice.fates = list(later)
    again = try_on(server, store, 5.0, request)
    assert again.batch_id == ("b1" if end == "done" else "b2")
    assert len(server.batches) == (1 if end == "done" else 2)


@settings(max_examples=150)
@given(REQUESTS, FATES, STARTS, LAG)
def test_a_store_that_fails_now_and_then_costs_no_build(request, fates, starts, lag):
    """A write of the id that fails goes on; a write of the intent that fails starts nothing."""
    dice = Dice([fate.replace("die before", "fail") for fate in fates])
    server = MortalAtScale(Clock(), starts=list(starts), lag=lag)
    server.dice = Dice([])
    assert try_on(server, MortalStore(dice), 5.0, request).batch_id == "b1"
    assert len(server.batches) == 1


@settings(max_examples=100)
@given(REQUESTS, FATES, LAG, st.integers(1, 2_000))
def test_a_sibling_at_work_is_waited_for_and_never_doubled(request, fates, lag, age):
    """Of a task and a sibling on one model both build, one after the other."""
    dice = Dice(fates)
    server = MortalAtScale(Clock(), lag=lag)
    server.dice = dice
    server.make(seconds=-float(age) - lag)
    step = try_on(server, MortalStore(dice), 5.0, request)
    assert step.batch_id == "b2"
    assert len(server.batches) == 2


def test_without_the_fence_an_orphan_would_build_beside_the_retry():
    """A worker is killed, its task process lives on: its write fails, so it starts nothing."""
    server, store, log = AtScale(Clock()), Store(), Log()
    orphan = builder(server, store, log)
    retry = builder(server, store, Log())

    def read_while_the_retry_starts(ref):
        server.get_history = type(server).get_history.__get__(server)
        history = server.get_history(ref)
        assert retry.obtain_batch().batch_id == "b1"
        store.failing = {"set"}
        return history

    server.get_history = read_while_the_retry_starts
    with pytest.raises(AtScaleError, match="Nothing was started"):
        orphan.obtain_batch()
    assert server.posts == 1


def test_a_start_that_nobody_can_find_is_told_before_it_is_repeated():
    """The price of a lost reply without a batch: one red try, then a build."""
    server, store = AtScale(Clock(), starts=[lost_before_start]), Store()
    with pytest.raises(AtScaleStartUnknownError):
        builder(server, store, Log()).obtain_batch()
    assert builder(server, store, Log()).obtain_batch().batch_id == "b1"
