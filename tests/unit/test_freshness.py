"""A batch makes a model fresh if it ended well, not long ago, and built at least what is wanted."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from airflow_provider_atscale.api.models import Batch, History
from airflow_provider_atscale.builds.freshness import find_fresh, find_last_good
from airflow_provider_atscale.builds.request import BuildRequest

NOW = datetime(2025, 2, 27, 12, 0, tzinfo=timezone.utc)
HOUR = 3600.0


def batch(name: str, minutes: float | None, status: str = "done", full: bool | None = True) -> Batch:
    """Make a batch that ended so many minutes ago."""
    ended = None if minutes is None else NOW - timedelta(minutes=minutes)
    return Batch(name, status, full, ended=ended)


CASES = {
    "nothing was built": ([], True, None),
    "a moment ago": ([batch("a", 1)], True, "a"),
    "just young enough": ([batch("a", 59.9)], True, "a"),
    "exactly too old": ([batch("a", 60)], True, None),
    "too old": ([batch("a", 61)], True, None),
    "failed": ([batch("a", 1, "failed")], True, None),
    "cancelled": ([batch("a", 1, "cancelled")], True, None),
    "a word nobody knows": ([batch("a", 1, "finished?")], True, None),
    "still running": ([batch("a", None, "inprogress")], True, None),
    "another word for done": ([batch("a", 1, "SUCCESS")], True, "a"),
    "its end is not told": ([batch("a", None)], True, None),
    "incremental does not serve full": ([batch("a", 1, full=False)], True, None),
    "full serves incremental": ([batch("a", 1, full=True)], False, "a"),
    "incremental serves incremental": ([batch("a", 1, full=False)], False, "a"),
    "an unknown kind does not serve full": ([batch("a", 1, full=None)], True, None),
    "an unknown kind serves incremental": ([batch("a", 1, full=None)], False, "a"),
    "a later failure changes nothing": ([batch("b", 1, "failed"), batch("a", 5)], True, "a"),
    "the one that ended last": ([batch("a", 9), batch("b", 5), batch("c", 7)], True, "b"),
    "the younger is of the wrong kind": ([batch("b", 1, full=False), batch("a", 30)], True, "a"),
    "the server's clock is a little ahead": ([batch("a", -1)], True, "a"),
    "it ended in the future": ([batch("a", -1.1)], True, None),
    "it ended in a year": ([batch("a", -525_600)], True, None),
    "one ended in the future, another lately": ([batch("b", -60), batch("a", 30)], True, "a"),
    "one ended in the future, another long ago": ([batch("b", -60), batch("a", 90)], True, None),
}


@pytest.mark.parametrize(("batches", "full", "expected"), CASES.values(), ids=CASES)
def test_what_makes_a_model_fresh(batches, full, expected):
    found = find_fresh(History(tuple(batches)), is_full_build=full, within=HOUR, now=NOW)
    assert (found[0].id if found else None) == expected


def test_age_is_told_in_seconds():
    found = find_fresh(History((batch("a", 12),)), is_full_build=True, within=HOUR, now=NOW)
    assert found is not None
    assert found[1] == 720.0


def began(name: str, minutes: float | None, status: str = "done", full: bool | None = True) -> Batch:
    """Make a batch that began so many minutes ago."""
    created = None if minutes is None else NOW - timedelta(minutes=minutes)
    return Batch(name, status, full, created=created)


STANDARD, FULL = BuildRequest(is_full_build=False), BuildRequest(is_full_build=True)
GRACE = BuildRequest(is_full_build=False, overrides={"sales": 30})
LAST_GOOD = {
    "nothing was built": ([], FULL, None),
    "the one that began last": ([began("a", 9), began("b", 5), began("c", 7)], FULL, "b"),
    "not one that failed": ([began("b", 1, "failed"), began("a", 9)], FULL, "a"),
    "not one that runs": ([began("b", 1, "running"), began("a", 9)], FULL, "a"),
    "not one whose beginning is not told": ([began("b", None), began("a", 9)], FULL, "a"),
    "not one of less than is asked for": ([began("b", 1, full=False), began("a", 9)], FULL, "a"),
    "a full one serves standard requests": ([began("a", 9)], STANDARD, "a"),
    "and those with overrides": ([began("b", 1, full=False), began("a", 9)], GRACE, "a"),
    "of an unknown kind, for standard requests": ([began("a", 1, full=None)], STANDARD, "a"),
    "of an unknown kind, for full ones": ([began("a", 1, full=None)], FULL, None),
}


@pytest.mark.parametrize(("batches", "request_", "expected"), LAST_GOOD.values(), ids=LAST_GOOD)
def test_the_last_good_build(batches, request_, expected):
    found = find_last_good(History(tuple(batches)), request_)
    assert (found.id if found else None) == expected
