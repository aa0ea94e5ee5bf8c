"""
``on_running="join"`` in all orders: never stale, nothing lost, few builds, everybody comes to an end.

Small plans are explored in every order, larger ones in orders by chance. ``ATSCALE_JOIN_ORDERS=20000`` explores more
of each. What is explored, and what not, is said by :class:`~unit.join_world.Plan`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta

import pytest

from airflow_provider_atscale.api.models import Phase
from airflow_provider_atscale.builds import join, running, start, state
from airflow_provider_atscale.builds.steps import NotFound

from .join_world import FULL, GRACE, STANDARD, Plan, RandomChooser, World, Wrong, explore, run

MORE = int(os.environ.get("ATSCALE_JOIN_ORDERS", "0"))
TWO, THREE = (STANDARD,) * 2, (STANDARD,) * 3

#: A plan, how many batches there may be at most, and whether it is small enough to be explored in every order.
PLANS = {
    "two tasks": (Plan(TWO, (0.0, 0.5)), 2, True),
    "in the same second": (Plan(TWO, (0.0, 0.0)), 2, False),
    "three tasks": (Plan(THREE, (0.0, 0.5, 1.0), passing=0), 2, False),
    "long and short batches": (Plan(THREE, (0.0, 0.5, 3.0), lengths=(1.0, 4.0), passing=0), 3, False),
    "listed late": (Plan(TWO, (0.0, 0.5), lag=0.5), 2, True),
    "listed late, by a late clock": (Plan(TWO, (0.0, 0.5), lag=0.5, late=1.0), 2, True),
    "up to the end of a batch": (Plan(THREE, (0.0, 0.5, 1.5), passing=0), 2, False),
    "two at a time": (Plan(TWO, (0.0, 0.5), refuses=False), 2, True),
    # Each failed batch may cost one more, for all of them.
    "a batch fails": (Plan(TWO, (0.0, 0.5), failed=1), 3, False),
    "a batch of three tasks fails": (Plan(THREE, (0.0, 0.5, 1.0), failed=1, passing=0), 3, False),
    "a short batch fails": (Plan(THREE, (0.0, 0.5, 1.0), lengths=(2.0, 0.5), passing=4, failed=1), 4, False),
    "a batch lacks aggregates": (Plan(TWO, (0.0, 0.5), incomplete=1, passing=0), 3, False),
    "aggregates are missing and the history is refused": (
        Plan(TWO, (0.0, 0.5), incomplete=2, refused=1, passing=0),
        5,
        False,
    ),
    "a reply is lost": (Plan(TWO, (0.0, 0.5), lost=1), 2, False),
    "a reply is lost, two at a time": (Plan(TWO, (0.0, 0.5), lost=1, refuses=False), 3, False),
    "a single task": (Plan((STANDARD,), (0.0,), lost=1, deaths=1), 1, True),
    "a process dies": (Plan(TWO, (0.0, 0.5), deaths=1), 2, False),
    "a process dies, two at a time": (Plan(TWO, (0.0, 0.5), deaths=1, refuses=False), 3, False),
    "a process dies and its batch fails": (Plan((STANDARD,), (0.0,), deaths=1, failed=1), 2, True),
    "a reply is lost and a process dies": (Plan(THREE, (0.0, 0.5, 1.5), (1.0,), lost=1, deaths=1), 3, False),
    "a task is cleared": (Plan(TWO, (0.0, 0.5), clears=1), 3, False),
    "without a store": (Plan(TWO, (0.0, 0.5), failed=1, deaths=0, has_store=False), 4, False),
    "a standard and a full build": (Plan((STANDARD, FULL), (0.0, 0.5)), 2, True),
    "a standard build and one with overrides": (Plan((STANDARD, GRACE), (0.0, 0.5)), 2, True),
    "a full build among others": (Plan((STANDARD, STANDARD, FULL), (0.0, 0.5, 0.5), passing=0), 3, False),
    "overrides among others": (Plan((STANDARD, STANDARD, GRACE), (0.0, 0.5, 0.5), passing=0), 3, False),
    "overrides and a full build": (Plan((GRACE, FULL), (0.0, 0.5)), 2, True),
    "all kinds and a lost reply": (Plan((STANDARD, GRACE, FULL), (0.0, 0.5, 0.5), lost=1), 4, False),
}

#: Larger plans, in orders by chance.
BY_CHANCE = {
    "ten tasks": (Plan((STANDARD,) * 10, (0.0,) * 5 + (0.5, 1.0, 1.5, 1.5, 2.0), (6.0,), passing=3), 2),
    "all kinds": (
        Plan((STANDARD, FULL, GRACE, STANDARD, FULL, STANDARD), (0.0, 0.0, 0.5, 1.0, 4.0, 5.0), (1.0, 3.0)),
        6,
    ),
    "everything breaks": (
        Plan(
            (STANDARD, FULL, STANDARD, STANDARD, STANDARD),
            (0.0, 0.0, 0.5, 1.5, 4.0),
            (1.0, 3.0),
            passing=2,
            failed=2,
            incomplete=1,
            lost=1,
            deaths=2,
            clears=1,
        ),
        10,
    ),
}


def at_most(builds: int):
    def check(world: World) -> None:
        if len(world.batches) > builds:
            raise Wrong(f"{len(world.batches)} builds instead of {builds}")
        for task in world.tasks:
            others = [each for each in world.plan.requests if each != task.request]
            # A build of another kind may be in the way without having this task's data for it.
            if task.waits > 2 + len(others):
                raise Wrong(f"task {task.number} waited through {task.waits} builds")

    return check


@pytest.mark.parametrize(("plan", "builds", "is_small"), PLANS.values(), ids=PLANS)
def test_in_every_order(plan, builds, is_small):
    count, complete = explore(plan, at_most(builds), MORE or (None if is_small else 300))
    print(f"{count} orders{', which are all' if complete else ''}")
    assert complete or not is_small or MORE


@pytest.mark.parametrize(("plan", "builds"), BY_CHANCE.values(), ids=BY_CHANCE)
def test_by_chance(plan, builds):
    for seed in range(MORE or 60):
        run(plan, RandomChooser(seed), at_most(builds))


# --- planted faults: the simulation finds what it is made for ----------------------------------------------


def attach_to_an_older_batch(monkeypatch):
    monkeypatch.setattr(join.FirstLook, "is_before", lambda self, batch: True)


def take_equal_seconds_for_newer(monkeypatch):
    def is_before(self, batch):
        return batch.id not in self.known and batch.created.replace(microsecond=0) >= self.server_time

    monkeypatch.setattr(join.FirstLook, "is_before", is_before)


def take_the_clock_for_exact(monkeypatch):
    monkeypatch.setattr(join, "DATE_DELAY", timedelta(seconds=1))


def pause_no_longer_after_a_wait(monkeypatch):
    monkeypatch.setattr(join, "_PAUSE_AFTER_WAIT", 0.0)


def forget_the_overrides(monkeypatch):
    def serves(batch, request):
        return not request.is_full_build or batch.is_full_build is True

    monkeypatch.setattr(join, "serves", serves)


def forget_the_kind(monkeypatch):
    monkeypatch.setattr(join, "serves", lambda batch, request: True)


def join_a_failed_batch(monkeypatch):
    def find_joinable(history, look, request):
        newer = [each for each in history.batches if look.is_before(each) and join.serves(each, request)]
        return next((each for each in newer if each.phase is not Phase.SUPERSEDED), None)

    monkeypatch.setattr(running, "find_joinable", find_joinable)


def forget_what_has_failed(monkeypatch):
    monkeypatch.setattr(join.FirstLook, "without", lambda self, ids: self)


def forget_what_has_failed_if_the_history_is_refused(monkeypatch):
    find = running.OnRunning._find_first_look
    monkeypatch.setattr(
        running.OnRunning, "_find_first_look", lambda self, history: history and find(self, history)
    )


def let_a_clear_change_nothing(monkeypatch):
    load = state.BuildStateStore.load_first_look

    def load_first_look(self):
        stored = (self._store or {}).get(state.LOOK_KEY)
        return state.parse_first_look(stored["look"]) if stored else load(self)

    monkeypatch.setattr(state.BuildStateStore, "load_first_look", load_first_look)


def let_each_try_begin_anew(monkeypatch):
    monkeypatch.setattr(state.BuildStateStore, "load_first_look", lambda self: None)


def never_join(monkeypatch):
    monkeypatch.setattr(running, "find_joinable", lambda *_: None)


def forget_a_start_without_reply(monkeypatch):
    monkeypatch.setattr(start, "find_lost_batch", lambda *_, **__: NotFound("nobody looks"))


def forget_what_an_earlier_try_started(monkeypatch):
    monkeypatch.setattr(state.BuildStateStore, "load", lambda self: state.StartNew())


#: A fault, the plan that shows it, and what the simulation says.
PLANTED = {
    attach_to_an_older_batch: ("two tasks", "stale"),
    take_equal_seconds_for_newer: ("listed late", "stale"),
    take_the_clock_for_exact: ("listed late, by a late clock", "stale"),
    pause_no_longer_after_a_wait: ("up to the end of a batch", "builds instead of"),
    forget_the_overrides: ("overrides among others", "less than asked"),
    forget_the_kind: ("a full build among others", "less than asked"),
    join_a_failed_batch: ("a short batch fails", "which had failed"),
    forget_what_has_failed: ("a batch lacks aggregates", "once more, which had failed for it"),
    forget_what_has_failed_if_the_history_is_refused: (
        "aggregates are missing and the history is refused",
        "once more, which had failed for it",
    ),
    let_a_clear_change_nothing: ("a task is cleared", "stale"),
    let_each_try_begin_anew: ("a batch of three tasks fails", "builds instead of"),
    never_join: ("three tasks", "builds instead of"),
    forget_a_start_without_reply: ("a reply is lost, two at a time", "nobody waited for"),
    forget_what_an_earlier_try_started: ("a process dies", "nobody waited for"),
}


@pytest.mark.parametrize(
    ("fault", "plan", "said"),
    [(fault, *found) for fault, found in PLANTED.items()],
    ids=[each.__name__ for each in PLANTED],
)
def test_a_planted_fault_is_found(monkeypatch, fault, plan, said):
    fault(monkeypatch)
    small, builds, _ = PLANS[plan]
    check = at_most(builds)

    def search() -> None:
        explore(small, check, 500)
        for seed in range(3000):
            run(small, RandomChooser(seed), check)

    with pytest.raises(Wrong, match=said):
        search()


def test_an_order_is_replayed():
    """What is found can be looked at again: the same decisions give the same run."""
    plan = replace(PLANS["a batch fails"][0], lengths=(1.0, 2.0))
    first = RandomChooser(7)
    world = run(plan, first, at_most(9))
    again = run(plan, RandomChooser(7), at_most(9))
    assert [(each.id, each.created) for each in again.batches] == [
        (each.id, each.created) for each in world.batches
    ]
