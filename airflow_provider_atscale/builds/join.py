"""
Which batch of another task or user already has this task's data.

The rule is the group commit of databases: a build that *began after my data was loaded* has my data, no matter
who started it. "Began" and "after" are by AtScale's clock alone. A task's data is loaded before the task first
looks at the build history; that read shows the server's clock and the batches that exist by then.

====================================================  =====================================================
a batch                                               is joined
====================================================  =====================================================
was listed at the first look                          no: it may have read the tables before the data was loaded
was created less than two seconds after the first     no: a ``Date`` header may be that late, and AtScale may list
look, by its ``Date`` header                          a batch late
was created later, and runs or has ended well         if it serves what is asked
has failed                                            no
has no creation time                                  no
====================================================  =====================================================

A full batch serves every request. A standard batch serves a standard request without ``grace_period_overrides``
only, because AtScale does not tell which overrides a batch was started with. A batch whose kind AtScale does not
tell is one of the two, so it serves the same requests as a standard one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.models import Batch, History, Phase
from airflow_provider_atscale.api.stored_json import read_json
from airflow_provider_atscale.api.values import DATE_DELAY, iso

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_atscale.builds.request import BuildRequest

#: Batches that are known to be older than this at a read are recognized by their time alone.
_REMEMBERED = timedelta(hours=1)
#: Seconds of the random pause before a start, and of each step of the order in which tasks start.
_PAUSE = 0.2
#: Seconds by which the pause is longer after a wait for another batch.
_PAUSE_AFTER_WAIT = DATE_DELAY.total_seconds()


def ids_to_remember(history: History) -> frozenset[str]:
    """Return the ids of the batches whose time alone may not show later that this read has listed them."""
    now = history.server_time
    return frozenset(
        each.id
        for each in history.batches
        # A time that is not told yet may be told later.
        if each.created is None or now is None or each.created >= now - _REMEMBERED
    )


@dataclass(frozen=True, slots=True)
class FirstLook:
    """
    The moment at which a task began: what AtScale showed when the task first looked.

    :param known: Ids of the batches that must not be joined: listed then, or failed for this task since.
    """

    server_time: datetime
    known: tuple[str, ...] = ()

    @classmethod
    def at(cls, history: History) -> FirstLook | None:
        """Return the first look that a read of the history is; None if the server told no time."""
        if history.server_time is None:
            return None
        return cls(history.server_time, tuple(sorted(ids_to_remember(history))))

    def without(self, ids: Iterable[str]) -> FirstLook:
        """Return the first look of a task that must not join these batches."""
        return replace(self, known=tuple(sorted({*self.known, *ids})))

    def is_before(self, batch: Batch) -> bool:
        """Return whether a batch certainly began after the task did."""
        if batch.created is None or batch.id in self.known:
            return False
        return batch.created >= self.server_time.replace(microsecond=0) + DATE_DELAY

    def to_json(self) -> dict[str, Any]:
        """Return the first look as JSON values."""
        return {"server_time": iso(self.server_time), "known": list(self.known)}


def parse_first_look(value: Any) -> FirstLook | None:
    """Return the first look that :meth:`FirstLook.to_json` wrote; None stays None, others are a ``ValueError``."""
    look: FirstLook | None = read_json(FirstLook | None, value)
    return look


def serves(batch: Batch, request: BuildRequest) -> bool:
    """Return whether a batch certainly builds all that a request asks for."""
    if request.is_full_build or request.overrides:
        return batch.is_full_build is True
    return True


def find_joinable(history: History, look: FirstLook, request: BuildRequest) -> Batch | None:
    """Return a batch that has this task's data: one that has ended well, or else one that runs."""
    newer = [each for each in history.batches if look.is_before(each) and serves(each, request)]
    done = [each for each in newer if each.phase is Phase.SUCCEEDED]
    running = [each for each in newer if each.blocks_new_build]
    return next(iter([*done, *running]), None)


def pause_before_start(request: BuildRequest, *, has_waited: bool, chance: float) -> float:
    """
    Return how long a task waits before it checks again and starts a build, so that few start in the same moment.

    A full build or one with overrides goes before a standard one, which it may serve but which cannot serve it. A
    task that has waited for another batch to end pauses so long that its batch serves each task that began before
    that end.

    :param chance: A random number from 0 to 1.
    """
    goes_first = request.is_full_build or bool(request.overrides)
    pause = _PAUSE * ((not goes_first) + chance)
    return pause + _PAUSE_AFTER_WAIT if has_waited else pause
