"""
The cases on CeleryExecutor: what is done, and what must come of it.

``tries`` is None if Airflow itself decides whether the task survives; the builds are what counts.
"""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import TYPE_CHECKING

from e2e import plays
from e2e import sensors as of_sensors
from e2e.case import (
    BOTH_MODES,
    DEFERRABLE,
    SENSOR_DEFERRABLE,
    SENSOR_POKE,
    SENSOR_RESCHEDULE,
    SYNC,
    Case,
    in_modes,
    of_sensor,
)
from e2e.scene import SENSOR_MODES

from . import injuries

if TYPE_CHECKING:
    from collections.abc import Iterable

    from e2e.plays import Injury

#: Deferred at a time, over two triggerers.
MANY = 300
LONG = 180.0


def undisturbed() -> Iterable[Case]:
    """Let nothing happen."""
    because = "the measure of all others"
    yield from in_modes(Case("undisturbed", SYNC, plays.undisturbed, because, seconds=10))
    for mode in SENSOR_MODES:
        yield of_sensor(Case("undisturbed", mode, plays.undisturbed, because, seconds=10))


def killed_task_processes() -> Iterable[Case]:
    """Kill a task's process; its supervisor, a process of Celery's pool, tells Airflow at once."""
    points = [
        ("before the POST", plays.killed_before_post, "nothing was started: the retry builds", {}),
        (
            "and the POST lost",
            plays.killed_and_post_lost,
            "the retry finds no batch in the whole window, and builds",
            {"posts": 2},
        ),
        ("before the reply", plays.killed_before_reply, "the retry adopts the batch", {}),
        ("between reply and store", plays.killed_before_store, "the retry adopts the batch", {}),
        ("while waiting", plays.killed_while_waiting, "the id is stored: the retry attaches", {}),
        ("while judging", plays.killed_while_judging, "the id is stored: the retry attaches", {}),
    ]
    for point, play, because, more in points:
        title = f"task process killed {point}"
        yield from in_modes(
            Case(title, SYNC, play("task"), because, tries=(2,), came=None, seconds=40, **more)  # type: ignore[arg-type]
        )
    for point, play in (
        ("before the reply", plays.killed_before_reply),
        ("while waiting", plays.killed_while_waiting),
    ):
        because = "Celery reports the loss of its process at once; the orphan cannot store or start anything"
        title = f"task's supervisor killed {point}"
        yield from in_modes(Case(title, SYNC, play("supervisor"), because, tries=None, came=None, seconds=50))
    yield from of_sensors.killed_workers("task")


def killed_workers() -> Iterable[Case]:
    """Kill whole workers; the retry comes after the heartbeat timeout, which is longer than the window."""
    machine, main = injuries.worker_killed("machine"), injuries.worker_killed("main")
    held = injuries.held
    points = [
        ("before the POST", held("history"), "nothing was started: the retry builds", {}),
        (
            "and the POST lost",
            held("start.received", then="drop", waits=False),
            "the window has passed when the retry comes: it looks once, and builds",
            {"posts": 2},
        ),
        ("before the reply", held("start.created"), "the batch is in the history: the retry adopts it", {}),
        (
            "before the reply, batch ended before the retry",
            held("start.created", ends=True),
            "the ended batch is in the history: the retry adopts it and succeeds without a second build",
            {},
        ),
    ]
    for point, play, because, more in points:
        title = f"worker's machine killed {point}"
        case = Case(title, SYNC, play, because, tries=(2,), came=None, injury=machine, to_the_end=LONG)
        yield from in_modes(replace(case, **more))  # type: ignore[arg-type]
    waits = Case(
        "worker's machine killed while waiting",
        SYNC,
        injuries.over_retry,
        "the id is stored: the retry attaches",
        tries=(2,),
        came=None,
        injury=machine,
    )
    yield waits
    yield of_sensor(replace(waits, mode=SENSOR_POKE, because="the retry looks again"))
    title = "worker's main process killed"
    for mode in BOTH_MODES:
        yield Case(
            f"{title} before the reply",
            mode,
            held("start.created"),
            "the processes of the pool die with it; the orphan of the task cannot store anything",
            tries=(2,),
            came=None,
            injury=main,
            to_the_end=LONG,
        )
    waits = replace(waits, title=f"{title} while waiting", injury=main)
    yield waits
    yield of_sensor(replace(waits, mode=SENSOR_POKE, because="the retry looks again"))


def stopped_workers() -> Iterable[Case]:
    """Shut workers down, warm and cold, as a deployment of a new version does."""
    warm, cold = injuries.worker_stopped(signal.SIGTERM), injuries.worker_stopped(signal.SIGQUIT)
    for kind, injury, tries, because in (
        ("warm", warm, (1,), "a warm shutdown waits for the running tasks"),
        ("cold", cold, None, "the task is told to end; what fails is retried, and attaches or adopts"),
    ):
        title = f"worker shut down {kind}"
        basis = Case(
            title, SYNC, injuries.over, because, tries=tries, came=None, injury=injury, to_the_end=LONG
        )
        yield replace(basis, title=f"{title} while waiting")
        for mode in (SENSOR_POKE, SENSOR_RESCHEDULE):
            yield of_sensor(replace(basis, title=f"{title} while waiting", mode=mode))
        for mode in BOTH_MODES:
            play = injuries.held("start.created", waits=False)
            yield replace(basis, title=f"{title} before the reply", play=play, mode=mode)


def services() -> Iterable[Case]:
    """Take each service away for twenty seconds, in each phase of a build."""
    for name, service in (("Redis", "redis"), ("PostgreSQL", "postgres"), ("the API server", "api-server")):
        injury = injuries.away(service)
        for point, play, because in (
            ("before the POST", injuries.before_post, "without a stored intent there is no POST"),
            ("before the reply", injuries.before_reply, "the id or the intent tells a retry of the batch"),
            ("while waiting", injuries.over, "the wait needs AtScale and little of Airflow"),
            ("when the batch ends", injuries.ends_meanwhile, "whatever try sees the end, it is of this batch"),
        ):
            title = f"{name} away {point}"
            for mode in BOTH_MODES:
                yield _away(Case(title, mode, play, because, injury=injury))
        for mode in SENSOR_MODES:
            because = "a try that is lost looks again"
            case = Case(f"{name} away while waiting", mode, injuries.over, because, injury=injury)
            yield of_sensor(_away(case))


def _away(case: Case) -> Case:
    # An intent may be stored and its answer lost, so that there was no POST; or the POST, and not the id.
    return replace(case, tries=None, came=None, to_the_end=LONG)


def components() -> Iterable[Case]:
    """Take triggerers and schedulers away."""
    kinds: Iterable[tuple[str, Injury]] = (
        ("triggerer killed", injuries.triggerer(injuries.kill_it)),
        ("triggerer stopped", injuries.triggerer(injuries.stop_it)),
        ("triggerer frozen", injuries.triggerer(injuries.freeze_it)),
    )
    waits_on = "the trigger's arguments are all that another triggerer needs"
    for title, injury in kinds:
        basis = Case(title, DEFERRABLE, injuries.over, waits_on, came=None, injury=injury, auth="password")
        yield replace(basis, title=f"{title} while waiting")
        yield replace(basis, title=f"{title} while waiting for another's batch", play=plays.over_before_own)
        yield of_sensor(replace(basis, title=f"{title} while waiting", mode=SENSOR_DEFERRABLE))
    title = "scheduler killed while waiting"
    adopts = "the other scheduler adopts the running tasks: no try is spent"
    for mode in BOTH_MODES:
        yield Case(title, mode, injuries.over, adopts, came=None, injury=injuries.scheduler_killed)
    for mode in SENSOR_MODES:
        case = Case(title, mode, injuries.over, adopts, injury=injuries.scheduler_killed, tries=None)
        yield of_sensor(case)


def many() -> Iterable[Case]:
    """Wait for many builds over two triggerers."""
    yield Case(
        f"{MANY} deferred builds, one of two triggerers killed",
        DEFERRABLE,
        injuries.many(MANY),
        "the other triggerer waits for them all",
        builds=MANY,
        # The engine keeps the newest requests only.
        posts=None,
        states=("success",) * MANY,
        tries=(1,) * MANY,
        came=None,
        injury=injuries.one_triggerer_killed,
        to_the_end=injuries.MANY_SOON,
    )


def redelivery() -> Iterable[Case]:
    """Have the broker deliver a running task to another worker; last, for nothing undoes it."""
    because = "Airflow refuses to run a task twice at once; the second worker drops the message"
    case = Case(
        "visibility timeout shorter than the build",
        SYNC,
        injuries.over,
        because,
        came=None,
        injury=injuries.redelivered,
    )
    yield case
    yield of_sensor(replace(case, mode=SENSOR_POKE))


CASES = [
    *undisturbed(),
    *killed_task_processes(),
    *components(),
    *killed_workers(),
    *stopped_workers(),
    *services(),
    *many(),
    *redelivery(),
]
