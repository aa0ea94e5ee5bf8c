"""
A model, its server and the tasks that need it, in all orders: a deterministic simulation of ``on_running``.

Each task is the real :class:`BuildStarter` on a greenlet of its own. It stops at each call to the outside: a read of
the history, the POST, a pause, the wait for a batch. A chooser decides who goes on next, whether time passes first,
and whether something breaks. A list of its decisions is an order; the same list gives the same run.

What the tasks know of time is what AtScale tells: times of batches, and a ``Date`` header of whole seconds. What is
right is judged by the order in which things happened, which the tasks do not know.
"""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

from greenlet import getcurrent, greenlet

from airflow_provider_atscale.api.models import Batch, History, HistoryUnavailable, Phase
from airflow_provider_atscale.api.observation import observe_found
from airflow_provider_atscale.api.start import LostReply, Refused, Started
from airflow_provider_atscale.builds.request import BuildRequest
from airflow_provider_atscale.builds.start import BuildStarter
from airflow_provider_atscale.builds.state import DONE, FAILED, BuildStateStore
from airflow_provider_atscale.builds.steps import BuildContext, OwnBatch, RunningOther
from airflow_provider_atscale.exceptions import AtScaleError, AtScaleStartError

from .builds import BUILD_KEY, HOST
from .flows import NOW, REF

#: How long nothing happens in one step of time, in seconds.
TICK = 0.5
STANDARD = BuildRequest(is_full_build=False)
FULL = replace(STANDARD, is_full_build=True)
GRACE = replace(STANDARD, overrides={"sales": 30})


class Wrong(AssertionError):
    """The rule has let something happen that must not."""


class Death(BaseException):
    """The task's process is gone."""


class RandomChooser:
    """Decide by chance, the same for the same seed; no decision depends on the one before."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.taken: list[tuple[int, int]] = []

    def choose(self, options: int) -> int:
        choice = self.random.randrange(options) if options > 1 else 0
        self.taken.append((choice, options))
        return choice


class Chooser:
    """Replay the decisions of an order; after its end always decide for the first option."""

    def __init__(self, order: tuple[int, ...] = ()) -> None:
        self.order = order
        self.taken: list[tuple[int, int]] = []

    def choose(self, options: int) -> int:
        if options == 1:
            return 0
        number = len(self.taken)
        choice = self.order[number] if number < len(self.order) else 0
        self.taken.append((choice, options))
        return choice

    def next_order(self) -> tuple[int, ...] | None:
        """Return the order to explore next, None after the last one."""
        taken = list(self.taken)
        while taken:
            choice, options = taken.pop()
            if choice + 1 < options:
                return (*(each for each, _ in taken), choice + 1)
        return None


@dataclass(frozen=True)
class Plan:
    """
    What is simulated.

    :param requests: What each task asks for.
    :param arrivals: Seconds at which each task's data is loaded and it begins.
    :param lengths: How long a batch may take.
    :param refuses: Whether the server refuses a second start.
    :param lag: Seconds until the history lists a batch.
    :param late: By how many seconds the ``Date`` header is late at most.
    :param passing: How many times time may pass although somebody could go on.
    :param failed: How many batches may fail, ``incomplete``: how many end as done without all aggregates.
    :param lost: How many replies to a start may be lost, the start made or not.
    :param deaths: How many processes may die.
    :param clears: How many tasks that have ended well may be cleared.
    :param refused: In how many tries AtScale may refuse each read of the history.
    :param has_store: Whether Airflow has a task state store (3.3+).
    """

    requests: tuple[BuildRequest, ...]
    arrivals: tuple[float, ...]
    lengths: tuple[float, ...] = (2.0,)
    refuses: bool = True
    lag: float = 0.0
    late: float = 0.0
    passing: int = 1
    failed: int = 0
    incomplete: int = 0
    lost: int = 0
    deaths: int = 0
    clears: int = 0
    refused: int = 0
    has_store: bool = True


@dataclass
class Made:
    """A batch as it really is."""

    id: str
    number: int
    created: float
    ends: float
    request: BuildRequest
    starter: int
    outcome: str = "done"
    judged: set[int] = field(default_factory=set)
    #: What its task knew just before the start.
    listed_before: frozenset[str] = frozenset()
    #: Whether its task was told its id; if not, what the first read that lists it lists besides it.
    id_is_known: bool = True
    listed_with: frozenset[str] | None = None


@dataclass
class Task:
    """A task of Airflow, from its first try to its end."""

    number: int
    request: BuildRequest
    arrival: float
    process: Any = None
    wakes: float = 0.0
    loaded: int = -1
    tries: int = 0
    clears: int = 0
    waits: int = 0
    is_refused: bool = False
    failed: set[str] = field(default_factory=set)
    listed: frozenset[str] = frozenset()
    state: str = "new"
    store: Any = None
    green: list[tuple[int, Made]] = field(default_factory=list)


class _Store(dict[str, Any]):
    def set(self, key: str, value: Any) -> None:
        self[key] = value


class _Silent:
    def __getattr__(self, level: str) -> Any:
        return lambda *_: None


class World:
    """
    One run.

    :param plan: What is simulated.
    :param chooser: Decides what happens next.
    """

    def __init__(self, plan: Plan, chooser: Chooser | RandomChooser) -> None:
        self.plan = plan
        self.chooser = chooser
        self.now = NOW
        self.events = 0
        self.batches: list[Made] = []
        self.left = {
            name: getattr(plan, name)
            for name in ("passing", "failed", "incomplete", "lost", "deaths", "clears", "refused")
        }
        self.tasks = [
            Task(number, request, NOW + arrival, store=_Store() if plan.has_store else None)
            for number, (request, arrival) in enumerate(zip(plan.requests, plan.arrivals, strict=True))
        ]
        self.hub = getcurrent()

    def run(self) -> World:
        for _ in range(2000):
            able = [task for task in self.tasks if self._can_go_on(task)]
            if not able:
                if all(task.state == "ended" for task in self.tasks):
                    self._judge()
                    return self
                self._pass_time()
                continue
            passes = self.left["passing"] > 0
            choice = self.chooser.choose(len(able) + passes)
            if choice == len(able):
                self.left["passing"] -= 1
                self.now += TICK
                continue
            self._go_on(able[choice])
        raise Wrong("the tasks do not come to an end")

    def _spend(self, fault: str, options: int = 1) -> int:
        """Return whether a fault happens now, and which kind of it."""
        if self.left[fault] <= 0:
            return 0
        choice = self.chooser.choose(options + 1)
        self.left[fault] -= bool(choice)
        return choice

    def _can_go_on(self, task: Task) -> bool:
        if task.state == "new":
            return task.arrival <= self.now
        return task.state == "runs" and task.wakes <= self.now

    def _pass_time(self) -> None:
        moments = [task.arrival for task in self.tasks if task.state == "new"]
        moments += [task.wakes for task in self.tasks if task.state == "runs"]
        if not moments:
            raise Wrong("somebody waits for what never comes")
        self.now = min(moments)

    def _go_on(self, task: Task) -> None:
        self.events += 1
        if task.state == "new":
            self._begin(task)
        if task.process and self._spend("deaths"):
            task.process.throw(Death)
        else:
            task.process.switch()

    def _begin(self, task: Task) -> None:
        task.loaded, task.state, task.tries, task.waits = self.events, "runs", 0, 0
        task.process = greenlet(lambda: self._live(task))
        task.process.parent = self.hub

    def _stop(self, task: Task, until: float = 0.0) -> None:
        """Let others go on; the task does from that moment on, as soon as it is chosen."""
        task.wakes = until
        self.hub.switch()

    def _chance(self) -> float:
        return 0.0

    def _rest(self, task: Task) -> None:
        """Let others go on between two tries: who dies there has no process."""
        with contextlib.suppress(Death):
            self._stop(task)

    def _sleep(self, task: Task, seconds: float) -> None:
        # Less than a step of time decides nothing: the read after a pause lets others go on anyway.
        if seconds >= TICK:
            self._stop(task, self.now + seconds // TICK * TICK)

    # --- a task, as Airflow and tasks/build.py run it ---

    def _live(self, task: Task) -> None:
        for _ in range(12):
            task.tries += 1
            try:
                batch = self._try(task)
            except (Death, AtScaleError):
                self._rest(task)
                continue
            task.green.append((task.loaded, batch))
            if self._spend("clears"):
                task.clears += 1
                self.events += 1
                task.loaded, task.waits, task.tries = self.events, 0, 0
                self._rest(task)
                continue
            task.state = "ended"
            return
        raise Wrong(f"task {task.number} does not get green")

    def _try(self, task: Task) -> Made:
        task.is_refused = bool(self._spend("refused"))
        key = replace(
            BUILD_KEY,
            is_full_build=task.request.is_full_build,
            max_tries=3 + task.clears,
            grace_period_overrides=task.request.overrides,
        )
        state = BuildStateStore(task.store, key)
        build = BuildContext(
            _Hook(self, task),  # type: ignore[arg-type]
            REF,
            task.request,
            state,
            _Silent(),
            clock=lambda: self.now,
            sleep=lambda seconds: self._sleep(task, seconds),
        )
        starter = BuildStarter(build, lost_reply_window=4.0, chance=self._chance)
        while True:
            step = starter.obtain_batch()
            batch_id = step.batch.id if isinstance(step, RunningOther) else step.batch_id
            batch = next(each for each in self.batches if each.id == batch_id)
            if getattr(step, "origin", "") == "joined":
                if batch.ends <= self.now and batch.outcome == "failed":
                    raise Wrong(f"task {task.number} joined {batch.id}, which had failed")
                if batch.id in task.failed:
                    raise Wrong(f"task {task.number} joined {batch.id} once more, which had failed for it")
            if isinstance(step, (RunningOther, OwnBatch)) and batch.ends > self.now:
                self._stop(task, batch.ends)
            if isinstance(step, RunningOther):
                task.waits += 1
                continue
            batch.judged.add(task.number)
            good = batch.outcome == "done"
            state.store_outcome(DONE if good else FAILED, batch.id)
            if not good:
                task.failed.add(batch.id)
                raise AtScaleError("the batch failed")
            return batch

    # --- what is right ---

    def _judge(self) -> None:
        for task in self.tasks:
            for loaded, batch in task.green:
                if batch.number < loaded:
                    raise Wrong(f"stale: task {task.number} is green by {batch.id}, which began before")
                if not _serves(batch.request, task.request):
                    raise Wrong(f"less than asked: task {task.number} is green by {batch.id}")
                if batch.outcome != "done":
                    raise Wrong(f"task {task.number} is green by {batch.id}, which is {batch.outcome}")
        lost = [each.id for each in self.batches if not each.judged and not self._is_one_of_several(each)]
        if lost:
            raise Wrong(f"nobody waited for {', '.join(lost)}")

    def _is_one_of_several(self, batch: Made) -> bool:
        # A task that was not told the id of its batch, and finds it only together with another new batch of its kind,
        # cannot tell which one is its own: AtScale does not say who started a batch.
        kinds = {each.id: each.request.is_full_build for each in self.batches}
        others = (batch.listed_with or frozenset()) - batch.listed_before
        return not batch.id_is_known and any(kinds[each] == kinds[batch.id] for each in others)


def _serves(built: BuildRequest, asked: BuildRequest) -> bool:
    return built.is_full_build or (not asked.is_full_build and (not asked.overrides or built == asked))


class _Hook:
    """The server, as one task's hook shows it; each call lets others go first."""

    def __init__(self, world: World, task: Task) -> None:
        self._world = world
        self._task = task
        self.edition = SimpleNamespace(view_right="a role", base_url=HOST)

    def _show(self, batch: Made) -> Batch:
        world = self._world
        running = batch.ends > world.now
        status = "inprogress" if running else {"incomplete": "done"}.get(batch.outcome, batch.outcome)
        created = datetime.fromtimestamp(batch.created, timezone.utc)
        return Batch(batch.id, status, batch.request.is_full_build, "aggregate_batch", created)

    def get_history(self, ref: Any) -> History | HistoryUnavailable:
        world = self._world
        world._stop(self._task)
        if self._task.is_refused:
            return HistoryUnavailable("HTTP 403", 403)
        listed = [each for each in world.batches if each.created + world.plan.lag <= world.now]
        ids = self._task.listed = frozenset(each.id for each in listed)
        for each in listed:
            if each.starter == self._task.number and not each.id_is_known and each.listed_with is None:
                each.listed_with = ids - {each.id}
        date = datetime.fromtimestamp(int(world.now - world.plan.late), timezone.utc)
        return History(tuple(self._show(each) for each in reversed(listed)), date)

    def deadline(self, until: float) -> Any:
        return contextlib.nullcontext()

    def one_request_more(self) -> Any:
        return contextlib.nullcontext()

    def observe_batch(self, ref: Any, batch_id: str) -> Any:
        shown = {each.id: self._show(each) for each in self._world.batches}
        for each in self._world.batches:
            # A retry that finds its batch failed has judged it, and does not wait.
            if each.id == batch_id and shown[batch_id].phase is Phase.FAILED:
                each.judged.add(self._task.number)
        return observe_found(shown, batch_id)

    def start_batch(self, ref: Any, *, before_post: Any, **_: Any) -> Any:
        world = self._world
        before_post(True)
        world._stop(self._task)
        # A request with overrides that is lost before it arrives is not told from its sibling's (see the docs).
        lost = world._spend("lost", 1 if self._task.request.overrides else 2)
        if lost == 2:
            return LostReply("HTTP 503")
        if world.plan.refuses and any(each.ends > world.now for each in world.batches):
            return Refused(AtScaleStartError("a batch runs", 409))
        made = self._make()
        made.id_is_known = False
        if lost:
            return LostReply("HTTP 504")
        if world.left["deaths"]:
            # The process may die after the start and before it knows of it.
            world._stop(self._task)
        made.id_is_known = True
        return Started(self._show(made))

    def _make(self) -> Made:
        world = self._world
        world.events += 1
        length = world.plan.lengths[world.chooser.choose(len(world.plan.lengths))]
        made = Made(
            f"b{len(world.batches)}",
            world.events,
            world.now,
            world.now + length,
            self._task.request,
            self._task.number,
            listed_before=self._task.listed,
        )
        if world._spend("failed"):
            made.outcome = "failed"
        elif world._spend("incomplete"):
            made.outcome = "incomplete"
        world.batches.append(made)
        return made

    def history_url(self, ref: Any, batch_id: str | None) -> str:
        return f"{HOST}/{batch_id}"


def run(plan: Plan, chooser: Chooser | RandomChooser, check: Any) -> World:
    """
    Run one order; raise :class:`Wrong`, with the order, if it goes wrong.

    :param plan: What is simulated.
    :param chooser: Decides the order.
    :param check: Checks the world at its end.
    """
    try:
        world = World(plan, chooser).run()
        check(world)
    except Wrong as wrong:
        told = [choice for choice, _ in chooser.taken]
        while told and not told[-1]:
            told.pop()
        raise Wrong(f"{wrong}; order {told} of {plan}") from None
    return world


def explore(plan: Plan, check: Any, limit: int | None = None) -> tuple[int, bool]:
    """
    Run all orders of a plan; raise :class:`Wrong` at the first one that goes wrong.

    :param plan: What is simulated.
    :param check: Checks each world at its end.
    :param limit: After how many orders to stop.
    :return: How many orders were run, and whether they were all.
    """
    order: tuple[int, ...] | None = ()
    count = 0
    while order is not None:
        if limit is not None and count >= limit:
            return count, False
        chooser = Chooser(order)
        run(plan, chooser, check)
        count += 1
        order = chooser.next_order()
    return count, True
