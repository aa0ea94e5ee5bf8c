"""How long a build usually takes is told by the last good batches of its kind, if there are enough."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from airflow_provider_atscale.api.models import Batch, History
from airflow_provider_atscale.builds.usual import Usual, usual_duration

BEGAN = datetime(2025, 2, 27, 12, 0, tzinfo=timezone.utc)


def batches(*minutes: float | None, status: str = "done", full: bool | None = True) -> tuple[Batch, ...]:
    """Make batches that took so many minutes; None: their end is not told."""
    ends = (None if each is None else BEGAN + timedelta(minutes=each) for each in minutes)
    return tuple(Batch(f"b{number}", status, full, started=BEGAN, ended=end) for number, end in enumerate(ends))


FIVE = batches(10, 20, 30, 40, 50)
USUAL = Usual(median=1800, low=840, high=2760, count=5)

CASES = {
    "nothing was built": ((), True, None),
    "four batches are too few": (batches(10, 20, 30, 40), True, None),
    "five": (FIVE, True, USUAL),
    "the order does not matter": (FIVE[::-1], True, USUAL),
    "five that took the same": (batches(*[10] * 5), True, Usual(600, 600, 600, 5)),
    "one that took very long moves the median little": (
        batches(10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 600),
        True,
        Usual(600, 600, 600, 11),
    ),
    "failed ones do not count": (FIVE[:4] + batches(1, 2, status="failed"), True, None),
    "a word nobody knows does not count": (FIVE[:4] + batches(1, status="finished?"), True, None),
    "running ones do not count": (FIVE[:4] + batches(None, status="inprogress"), True, None),
    "without an end it does not count": (FIVE[:4] + batches(None), True, None),
    "the other kind does not count": (FIVE[:4] + batches(1, full=False), True, None),
    "a kind that is not told does not count": (FIVE[:4] + batches(1, full=None), True, None),
    "five of each kind": (FIVE + batches(1, 2, 3, 4, 5, full=False), False, Usual(180, 84, 276, 5)),
    "no kind is told at all": (batches(1, 2, 3, 4, 5, full=None), None, Usual(180, 84, 276, 5)),
}


@pytest.mark.parametrize(("listed", "full", "expected"), CASES.values(), ids=CASES)
def test_usual_duration(listed, full, expected):
    assert usual_duration(History(tuple(listed)), full) == expected
