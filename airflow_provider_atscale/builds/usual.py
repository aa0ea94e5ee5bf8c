"""Tell from a model's build history how long a build usually takes."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_atscale.api.models import Phase

if TYPE_CHECKING:
    from airflow_provider_atscale.api.models import History

#: With fewer good batches than these, nothing is said.
LEAST_BATCHES = 5


@dataclass(frozen=True, slots=True)
class Usual:
    """
    How long the last good batches of a model and kind took.

    :param median: Half of them took at most so many seconds.
    :param low: The 10th percentile, in seconds.
    :param high: The 90th percentile, in seconds.
    :param count: How many batches these are.
    """

    median: float
    low: float
    high: float
    count: int


def usual_duration(history: History, is_full_build: bool | None) -> Usual | None:
    """
    Return how long the good batches of a kind took; None if the history lists fewer than five.

    :param history: The model's history.
    :param is_full_build: The kind; None for batches whose kind the server does not tell.
    """
    seconds = [
        batch.seconds
        for batch in history.batches
        if batch.phase is Phase.SUCCEEDED and batch.is_full_build is is_full_build and batch.seconds is not None
    ]
    if len(seconds) < LEAST_BATCHES:
        return None
    tenths = statistics.quantiles(seconds, n=10, method="inclusive")
    return Usual(statistics.median(seconds), tenths[0], tenths[-1], len(seconds))
