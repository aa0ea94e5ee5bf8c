"""What a case is: what is done to a task, and what must come of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .scene import SENSOR_MODES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .plays import Injury, Play
    from .scene import Observed

SYNC, DEFERRABLE = "sync", "deferrable"
SENSOR_POKE, SENSOR_RESCHEDULE, SENSOR_DEFERRABLE = SENSOR_MODES
BOTH_MODES = (SYNC, DEFERRABLE)
_PLAIN = str.maketrans(" =", "__", ",;'")


@dataclass(frozen=True)
class Case:
    """
    One row of the table.

    :param title: what happens.
    :param mode: how the task waits.
    :param play: what does it.
    :param because: why the expectations are what they are.
    :param builds: batches that the tasks start.
    :param overlaps: of them those that begin while another runs.
    :param posts: start calls that reach AtScale; None where restarts of the engine forget them.
    :param states: final states of the tasks, in any order.
    :param tries: number of each task's last try; None where chance has a say.
    :param came: how the tasks come to their batches, in any order; None for one that reports nothing, and None
        alone where that does not matter.
    :param says: texts that the logs of task and trigger hold.
    :param auth: how the connection authenticates: ``api_token``, which is ``client_api_key`` on the installer
        edition, or ``password``.
    :param edition: which edition of AtScale is played against.
    :param injury: what is done to Airflow's own components, once for all cases that have it.
    :param seconds: roughly how long it takes; the longest begin first.
    :param to_the_end: seconds that may pass from the play's end to the end of the runs.
    :param fails: why the provider is known not to do what is expected.
    """

    title: str
    mode: str
    play: Play
    because: str
    builds: int = 1
    overlaps: int = 0
    posts: int | None = 1
    states: tuple[str, ...] = ("success",)
    tries: tuple[int, ...] | None = (1,)
    came: tuple[str | None, ...] | None = ("started",)
    says: tuple[str, ...] = ()
    auth: str = "api_token"
    edition: str = "container"
    injury: Injury | None = None
    seconds: int = 30
    to_the_end: float = 90.0
    fails: str | None = None

    @property
    def id(self) -> str:
        """The name on the command line."""
        return f"{self.full_title}-{self.mode}".translate(_PLAIN)

    @property
    def full_title(self) -> str:
        """The title, with the edition where it is not the usual one."""
        return self.title if self.edition == "container" else f"{self.title} ({self.edition})"

    def differences(self, seen: Observed) -> list[str]:
        """Say what was seen otherwise than expected."""
        pairs = [
            ("builds", self.builds, seen.builds),
            ("overlaps", self.overlaps, seen.overlaps),
            ("starts posted", self.posts, seen.posts),
            ("states", tuple(sorted(self.states)), tuple(sorted(seen.states))),
            ("tries", self.tries and tuple(sorted(self.tries)), tuple(sorted(seen.tries))),
            ("came by its batch", self.came and _sorted(self.came), _sorted(seen.came)),
            ("green before a batch ended", 0, seen.early),
            ("processes left behind", 0, seen.orphans),
        ]
        found = [
            f"{name}: expected {want}, was {got}"
            for name, want, got in pairs
            if want is not None and want != got
        ]
        return found + [f"no log says {text!r}" for text in self.says if text not in seen.logs]


def _sorted(words: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(sorted(map(str, words)))


def in_modes(case: Case, *modes: str) -> list[Case]:
    """Return the case in some modes; the deferrable one with a user's password, so that both kinds occur."""
    auth = {SYNC: "api_token", DEFERRABLE: "password"}
    return [replace(case, mode=mode, auth=auth[mode]) for mode in modes or BOTH_MODES]


def of_sensor(case: Case) -> Case:
    """Return the case with what is expected of any sensor: it starts nothing."""
    return replace(case, builds=0, posts=0, came=None)
