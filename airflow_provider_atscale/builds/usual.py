"""Tell from a model's build history how long a build usually takes, and when one is late."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.models import History, Phase, parse_batch
from airflow_provider_atscale.api.stored_json import read_json
from airflow_provider_atscale.builds.report import format_duration

if TYPE_CHECKING:
    from airflow_provider_atscale.api.models import Batch
    from airflow_provider_atscale.api.observation import Observation

#: With fewer good batches than these, nothing is said.
LEAST_BATCHES = 5


@dataclass(frozen=True, slots=True)
class Usual:
    """
    How long the last good batches of a model and kind took.

    :param median: Half of them took at most so many seconds.
    :param low: The 10th percentile, in seconds.
    :param high: The 90th percentile, in seconds.
    """

    median: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        usual, low, high = map(format_duration, (self.median, self.low, self.high))
        units = {each.partition(" ")[2] for each in (usual, low, high)}
        # The unit is said once if it is the same.
        shown = f"{low.split()[0]} to {high.split()[0]}" if len(units) == 1 else f"{low} to {high}"
        return f"usually {usual} ({shown})"


def usual_duration(history: History, is_full_build: bool | None) -> Usual | None:
    """Return how long the good batches of a kind, which may be unknown, took; None if there are fewer than five."""
    seconds = [
        batch.seconds
        for batch in history.batches
        if batch.phase is Phase.SUCCEEDED and batch.is_full_build is is_full_build and batch.seconds is not None
    ]
    if len(seconds) < LEAST_BATCHES:
        return None
    tenths = statistics.quantiles(seconds, n=10, method="inclusive")
    return Usual(statistics.median(seconds), tenths[0], tenths[-1], len(seconds))


@dataclass(slots=True)
class Expectation:
    """
    How long the batch of one wait should take.

    :param warn_after: Seconds after which the user wants a warning; None: after the 90th percentile.
    :param is_warned: Whether the warning was logged, in any process.
    """

    warn_after: float | None = None
    usual: Usual | None = None
    is_warned: bool = False

    @property
    def usual_seconds(self) -> float | None:
        """How long such a batch usually takes; None if that is not known."""
        return self.usual.median if self.usual else None

    @property
    def late_after(self) -> float | None:
        """Seconds after which the batch is late; None if that is not known."""
        if self.warn_after is not None:
            return self.warn_after
        return self.usual.high if self.usual else None

    def learn(self, observation: Observation, is_full_build: bool | None = None) -> None:
        """
        Take the usual duration from the history that a poll has read, unless it is known.

        :param is_full_build: The kind that was asked for, in case the batch is not listed yet.
        """
        rows = getattr(observation, "rows", ())
        if self.usual is not None or len(rows) < LEAST_BATCHES:
            return
        batch: Batch | None = getattr(observation, "batch", None)
        kind = is_full_build if batch is None else batch.is_full_build
        parsed = (each for each in map(parse_batch, rows) if each is not None and each.is_rebuild)
        others = tuple(each for each in parsed if batch is None or each.id != batch.id)
        self.usual = usual_duration(History(others), kind)

    def is_late(self, seconds: float | None) -> bool | None:
        """Return whether a batch that took so long was late; None if that is not known."""
        if self.is_warned:
            # The wait may have counted the time in AtScale's queue, which the duration lacks.
            return True
        return None if seconds is None or self.late_after is None else seconds > self.late_after

    def describe(self, began: float) -> str:
        """Return the usual duration and the end of a batch that began at that time; empty if not known."""
        if self.usual is None:
            return ""
        end = datetime.fromtimestamp(began + self.usual.median, timezone.utc)
        is_near = abs(end.timestamp() - began) < 12 * 3600
        return f"{self.usual}, expected by {end:{'%H:%M' if is_near else '%Y-%m-%d %H:%M'}} UTC"

    def to_json(self) -> dict[str, Any]:
        """Return the expectation as JSON values."""
        return asdict(self)


def parse_expectation(value: Any) -> Expectation:
    """Return the expectation that :meth:`Expectation.to_json` wrote; None is an empty one."""
    if value is None:
        return Expectation()
    try:
        expectation: Expectation = read_json(Expectation, value)
    except ValueError as error:
        raise ValueError(f"{value!r} is not an expectation: {error}") from None
    return expectation
