"""
The cases: what is done to a task, and what must come of it.

The numbers follow from three promises: never two builds by accident, never a build lost, never green without a
build. ``because`` says which of the provider's rules makes each number what it is.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

from . import plays
from .case import BOTH_MODES, DEFERRABLE, SYNC, Case, in_modes
from .sensors import SCHEDULER_KILLED, TRIGGERERS_KILLED, sensors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .plays import Play


def killed_workers() -> Iterable[Case]:
    """Kill a worker at each point of its work: supervisor alone, task alone, both."""
    points: list[tuple[str, object, str, dict[str, object]]] = [
        (
            "before the POST",
            plays.killed_before_post,
            "nothing was stored and nothing was started, so the retry builds; the orphan's intent cannot be "
            "written, so it does not",
            {"came": ("started",)},
        ),
        (
            "as the POST arrives",
            plays.killed_as_post_arrives,
            "the retry finds the intent, looks until the window has passed and adopts the batch that the POST "
            "makes late",
            {"came": ("adopted",), "says": ("Adopting batch",), "seconds": 45},
        ),
        (
            "and the POST lost",
            plays.killed_and_post_lost,
            "the retry finds the intent, finds no batch in the whole window, and builds",
            {"came": ("started",), "posts": 2, "seconds": 60},
        ),
        (
            "before the reply",
            plays.killed_before_reply,
            "the retry finds the intent and exactly one new batch, and adopts it",
            {"came": ("adopted",), "says": ("Adopting batch",)},
        ),
        (
            "between reply and store",
            plays.killed_before_store,
            "the id died with the process; the retry finds the intent and adopts the batch",
            {"came": ("adopted",), "says": ("Adopting batch",)},
        ),
        (
            "while waiting",
            plays.killed_while_waiting,
            "the id is stored, so the retry attaches",
            {"came": ("attached",), "says": ("Attaching to batch",)},
        ),
        (
            "while judging",
            plays.killed_while_judging,
            "the id is stored and nothing is judged yet: the retry attaches, sees the end and judges",
            {"came": ("attached",), "says": ("Attaching to batch",)},
        ),
    ]
    for (point, play, because, more), victims in itertools.product(points, ("supervisor", "task", "both")):
        whom = {"supervisor": "supervisor alone", "task": "task process alone", "both": "both processes"}
        yield from in_modes(
            Case(
                f"worker killed {point}, {whom[victims]}",
                SYNC,
                play(victims),  # type: ignore[operator]
                because,
                **{"tries": (2,), "seconds": 40, **more},  # type: ignore[arg-type]
            )
        )
    yield from in_modes(
        Case(
            "worker killed after waiting for another's batch, both processes",
            SYNC,
            plays.killed_after_anothers("both"),
            "no batch ran at the read before the POST, so the new one can only be this task's",
            tries=(2,),
            came=("adopted",),
            seconds=45,
        )
    )


def killed_workers_of_the_decorator() -> Iterable[Case]:
    """Kill a worker of a decorated task: the retry asks the function again, and then does as the operator's."""
    points: list[tuple[str, Play, str]] = [
        ("before the reply", plays.killed_before_reply("both"), "adopted"),
        ("while waiting", plays.killed_while_waiting("both"), "attached"),
    ]
    for point, play, came in points:
        yield from in_modes(
            Case(
                f"worker of a decorated task killed {point}, both processes",
                SYNC,
                plays.decorated(play),
                "the decorated task is the operator, and the function of the retry chooses the same build",
                tries=(2,),
                came=(came,),
                says=("The function 'choose' chose model=",),
                seconds=40,
            )
        )


def troubles() -> Iterable[Case]:
    """Let the engine, or the way to it, fail."""
    yield from in_modes(Case("undisturbed", SYNC, plays.undisturbed, "the measure of all others", seconds=10))
    yield from in_modes(
        Case(
            "batch late",
            SYNC,
            plays.batch_is_late,
            "a late batch is a warning, on the worker or in the triggerer, and its task is green",
            says=("Late: not done after",),
            seconds=30,
        )
    )
    yield from in_modes(
        Case(
            "engine restarted while waiting",
            SYNC,
            plays.engine_restarts,
            "an engine that does not answer is trouble, and trouble is borne",
            posts=None,
        )
    )
    yield from in_modes(
        Case(
            "engine answers 503 while waiting", SYNC, plays.engine_away, "503 is trouble, and trouble is borne"
        )
    )
    yield from in_modes(
        Case(
            "engine answers 503 before the start",
            SYNC,
            plays.engine_away_before,
            "reads are repeated, then the try fails: nothing was started, so a retry may build",
            tries=None,
        )
    )
    yield from in_modes(
        Case(
            "gateway answers 503 instead of the POST's reply",
            SYNC,
            plays.reply_fails(503),
            "a lost reply: the batch is in the history, and is adopted in the same try",
            came=("adopted",),
        )
    )
    yield from in_modes(
        Case(
            "gateway answers 503 to the POST, no batch made",
            SYNC,
            plays.reply_fails(503, "before"),
            "a lost reply: no batch appears in the window, so the try fails with a typed error; the retry "
            "looks again and builds",
            posts=2,
            tries=(2,),
            says=("AtScale may or may not have started",),
            seconds=70,
        )
    )
    yield from in_modes(
        Case(
            "reply to the POST cut in the middle",
            SYNC,
            plays.reply_fails("cut"),
            "a lost reply: the batch is in the history, and is adopted in the same try",
            came=("adopted",),
        )
    )
    yield from in_modes(
        Case(
            "POST dropped before the engine has read it",
            SYNC,
            plays.reply_fails("drop"),
            "nobody can tell this from a lost reply, so it ends as one: typed error, then the retry builds",
            posts=2,
            tries=(2,),
            says=("AtScale may or may not have started",),
            seconds=70,
        )
    )
    yield from in_modes(
        Case(
            "history late by 20 s",
            SYNC,
            plays.late_history(plays.undisturbed),
            "a batch that is not listed yet is waited for",
        )
    )
    yield from in_modes(
        Case(
            "history late by 20 s, reply to the POST cut",
            SYNC,
            plays.late_history(plays.reply_fails("cut")),
            "the batch is looked for longer than the history is late",
            came=("adopted",),
            seconds=45,
        )
    )
    yield from in_modes(
        Case(
            "history late by 20 s, worker killed before the reply",
            SYNC,
            plays.late_history(plays.killed_before_reply("both")),
            "the retry's window begins at the intent and is longer than the history is late",
            tries=(2,),
            came=("adopted",),
            seconds=50,
        )
    )


def credentials() -> Iterable[Case]:
    """Let credentials end, or come back where they should not."""
    yield from in_modes(
        Case("token expired while waiting", SYNC, plays.token_expires, "a 401 is answered by a new token")
    )
    rotated = Case(
        "token revoked while waiting, rotated in the connection",
        SYNC,
        plays.token_is_rotated,
        "a refused token after the start is trouble; the connection is looked up again",
        seconds=60,
    )
    revoked = Case(
        "token revoked while waiting, for good",
        SYNC,
        plays.token_is_revoked,
        "the trouble outlasts the tolerance; the retry cannot even look, and credentials are never retried",
        states=("failed",),
        tries=(2,),
        came=(None,),
        says=("could not be read for", "AtScaleAuthenticationError"),
        seconds=110,
    )
    for case, mode in itertools.product((rotated, revoked), BOTH_MODES):
        yield replace(case, mode=mode)
    yield from in_modes(
        Case(
            "credentials sent back in error texts",
            SYNC,
            plays.secrets_come_back,
            "errors are trouble, and credentials in them are taken out",
        )
    )


def people() -> Iterable[Case]:
    """Let people and other tasks do what they do."""
    marked = Case(
        "marked failed while waiting",
        SYNC,
        plays.marked_failed,
        "nothing can be cancelled: the build goes on, and on_kill says so in the log of worker or trigger",
        states=("failed",),
        came=(None,),
    )
    on_kill = {SYNC: "The task was stopped. Batch", DEFERRABLE: "This triggerer stopped waiting for batch"}
    for case in in_modes(marked):
        yield replace(case, says=(on_kill[case.mode],))
    yield from in_modes(
        Case(
            "cleared while waiting",
            SYNC,
            plays.cleared_while_waiting,
            "a clear means: build again; after the batch that still runs",
            builds=2,
            posts=2,
            tries=(2,),
        )
    )
    yield from in_modes(
        Case(
            "cleared when green",
            SYNC,
            plays.cleared_when_green,
            "a clear means: build again, never a stale success",
            builds=2,
            posts=2,
            tries=(2,),
        )
    )
    yield from in_modes(
        Case(
            "three running mapped siblings cleared at once",
            SYNC,
            plays.siblings_cleared,
            "Airflow loses max_tries of some, and the run's clear_number tells all the same",
            builds=6,
            posts=6,
            states=("success",) * 3,
            tries=(2, 2, 2),
            came=("started",) * 3,
            seconds=60,
        )
    )
    for what, mapped in (("two runs of the DAG at once", False), ("two mapped siblings at once", True)):
        yield from in_modes(
            Case(
                f"{what} on one model, on_running=wait",
                SYNC,
                plays.at_once(mapped),
                "AtScale refuses one of the two POSTs; that task waits for the other's batch, then builds",
                builds=2,
                posts=3,
                states=("success",) * 2,
                tries=(1, 1),
                came=("started",) * 2,
            )
        )
    for policy, states, came, tries in (
        ("attach", ("success", "success"), ("started", "attached"), (1, 1)),
        ("skip", ("success", "skipped"), ("started", None), (1, 1)),
        ("fail", ("success", "failed"), ("started", None), (1, 3)),
    ):
        yield from in_modes(
            Case(
                f"two runs of the DAG at once on one model, on_running={policy}",
                SYNC,
                plays.at_once(False, on_running=policy),
                "AtScale refuses one of the two POSTs, and on_running decides; later tries see the batch "
                "before they post",
                posts=2,
                states=states,
                tries=tries,
                came=came,
            )
        )


def airflow_itself() -> Iterable[Case]:
    """Kill what all tasks share."""
    waits_on = "the trigger's arguments are all that a new triggerer needs, and a trigger starts nothing"
    for title, injury in TRIGGERERS_KILLED:
        yield Case(title, DEFERRABLE, plays.over, waits_on, injury=injury, auth="password")
        yield Case(
            f"{title}; waiting for another's batch", DEFERRABLE, plays.over_before_own, waits_on, injury=injury
        )
    for title, injury in TRIGGERERS_KILLED[:1]:
        yield Case(
            f"{title}, and a worker; 23 tasks of four DAGs join",
            DEFERRABLE,
            plays.joined_by_many,
            "all but the first began after its batch did: one of them builds after it, and the others join that",
            builds=2,
            posts=None,
            states=("success",) * 23,
            # On a busy machine Airflow takes tries from tasks that start late.
            tries=None,
            came=None,
            says=("Adopting batch", "Joining batch"),
            injury=injury,
            seconds=180,
            to_the_end=240.0,
        )
    title = "scheduler killed while waiting, and restarted"
    yield Case(title, DEFERRABLE, plays.over, "a deferred task needs no scheduler", injury=SCHEDULER_KILLED)
    yield Case(
        title,
        SYNC,
        plays.over_sync,
        "the new scheduler runs the task again, and the try attaches; its orphan only reads",
        injury=SCHEDULER_KILLED,
        tries=(2,),
        came=("attached",),
    )


#: What is played against the installer edition, too: the start of a batch is what the editions differ in.
_OF_BOTH_EDITIONS = (
    "undisturbed",
    "reply to the POST cut in the middle",
    "worker killed before the reply, both processes",
    "two runs of the DAG at once on one model, on_running=wait",
    "triggerer killed while waiting, and restarted",
)


def in_the_installer_edition(cases: Iterable[Case]) -> Iterable[Case]:
    """Return those cases for the other edition that are worth it; the sync ones with a client API key."""
    for case in cases:
        if case.title in _OF_BOTH_EDITIONS:
            yield replace(case, edition="installer")


_CASES = [
    *killed_workers(),
    *killed_workers_of_the_decorator(),
    *troubles(),
    *credentials(),
    *people(),
    *airflow_itself(),
    *sensors(),
]
CASES = [*_CASES, *in_the_installer_edition(_CASES)]
