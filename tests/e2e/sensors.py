"""The sensor's plays and cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import plays
from .case import SENSOR_DEFERRABLE, SENSOR_POKE, SENSOR_RESCHEDULE, Case, of_sensor
from .scene import SENSOR_MODES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .plays import Play
    from .scene import Scene

#: Made once each, for cases with the same injury are played together.
SCHEDULER_KILLED = plays.scheduler_killed
TRIGGERERS_KILLED = (
    ("triggerer killed while waiting, and restarted", plays.triggerer_killed("both")),
    ("triggerer's supervisor alone killed, and restarted", plays.triggerer_killed("supervisor")),
    ("triggerer's runner alone killed, and restarted", plays.triggerer_killed("runner")),
    ("one of two triggerers killed", plays.one_of_two_triggerers_killed),
)


def killed_at_first_look(victims: str) -> Play:
    """Kill the worker while the sensor's first look is under way."""

    def play(scene: Scene) -> None:
        look = scene.hold("history")
        scene.start_run()
        scene.wait_held(look)
        scene.kill_worker(victims)
        scene.release(look)
        scene.wait_try(2)
        scene.end_builds()

    return play


def killed_at_later_look(victims: str) -> Play:
    """Kill the worker while one of the sensor's later looks is under way."""

    def play(scene: Scene) -> None:
        scene.start_run()
        scene.wait_waiting()
        look = scene.hold("history")
        scene.wait_held(look)
        scene.kill_worker(victims)
        scene.release(look)
        scene.wait_try(2)
        scene.end_builds()

    return play


def killed_workers(victims: str) -> Iterable[Case]:
    """Kill a worker at each point of the sensor's work."""
    whom = {"supervisor": "supervisor alone", "task": "task process alone", "both": "both processes"}[victims]
    because = "the sensor keeps nothing that a retry needs: it looks again, and starts nothing"
    for mode in SENSOR_MODES:
        looks = [("at the first look", killed_at_first_look), ("while judging", plays.killed_while_judging)]
        if mode != SENSOR_DEFERRABLE:
            looks.append(("at a later look", killed_at_later_look))
        for point, play in looks:
            title = f"worker killed {point}, {whom}"
            yield of_sensor(Case(title, mode, play(victims), because, tries=(2,), seconds=40))


def sensors() -> Iterable[Case]:
    """Do to the sensor what is done to the operator; it must see the end of somebody else's batch."""
    for mode in SENSOR_MODES:
        yield of_sensor(Case("undisturbed", mode, plays.undisturbed, "the measure of all others", seconds=10))
    yield from killed_workers("both")
    for title, injury in TRIGGERERS_KILLED:
        because = "the trigger's arguments are all that a new triggerer needs"
        yield of_sensor(Case(title, SENSOR_DEFERRABLE, plays.over, because, injury=injury))
    title = "scheduler killed while waiting, and restarted"
    for mode in (SENSOR_RESCHEDULE, SENSOR_DEFERRABLE):
        because = "between its looks nothing of it runs"
        yield of_sensor(Case(title, mode, plays.over, because, injury=SCHEDULER_KILLED, seconds=40))
    because = "the new scheduler runs the task again; its orphan only reads"
    yield of_sensor(
        Case(title, SENSOR_POKE, plays.over_sync, because, injury=SCHEDULER_KILLED, tries=(2,), seconds=40)
    )
