"""A batch makes a model fresh if it ended well, not long ago, and built at least what is wanted."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from airflow_provider_atscale.api.models import Batch, History
from airflow_provider_atscale.builds.freshness import find_fresh, find_last_good
from airflow_provider_atscale.builds.request import BuildRequest

NOW = datetime(2025, 2, 27, 12, 0, tzinfo=timezone.utc)
HOUR = 3600.0
STANDARD, FULL = BuildRequest(is_full_build=False), BuildRequest(is_full_build=True)
GRACE = BuildRequest(is_full_build=False, overrides={"sales": 30})


def batch(name: str, minutes: float | None, status: str = "done", full: bool | None = True) -> Batch:
    """Make a batch that ended so many minutes ago."""
    ended = None if minutes is None else NOW - timedelta(minutes=minutes)
    return Batch(name, status, full, ended=ended)


CASES = {
    "nothing was built": ([], FULL, None),
    "a moment ago": ([batch("a", 1)], FULL, "a"),
    "just young enough": ([batch("a", 59.9)], FULL, "a"),
    "exactly too old": ([batch("a", 60)], FULL, None),
    "too old": ([batch("a", 61)], FULL, None),
    "failed": ([batch("a", 1, "failed")], FULL, None),
    "cancelled": ([batch("a", 1, "cancelled")], FULL, None),
    "a word nobody knows": ([batch("a", 1, "finished?")], FULL, None),
    "still running": ([batch("a", None, "inprogress")], FULL, None),
    "another word for done": ([batch("a", 1, "SUCCESS")], FULL, "a"),
    "its end is not told": ([batch("a", None)], FULL, None),
    "incremental does not serve full": ([batch("a", 1, full=False)], FULL, None),
    "full serves incremental": ([batch("a", 1, full=True)], STANDARD, "a"),
    "incremental serves incremental": ([batch("a", 1, full=False)], STANDARD, "a"),
    "an unknown kind does not serve full": ([batch("a", 1, full=None)], FULL, None),
    "an unknown kind serves incremental": ([batch("a", 1, full=None)], STANDARD, "a"),
    "a later failure changes nothing": ([batch("b", 1, "failed"), batch("a", 5)], FULL, "a"),
    "the one that ended last": ([batch("a", 9), batch("b", 5), batch("c", 7)], FULL, "b"),
    "the younger is of the wrong kind": ([batch("b", 1, full=False), batch("a", 30)], FULL, "a"),
    "the server's clock is a little ahead": ([batch("a", -1)], FULL, "a"),
    "it ended in the future": ([batch("a", -1.1)], FULL, None),
    "it ended in a year": ([batch("a", -525_600)], FULL, None),
    "one ended in the future, another lately": ([batch("b", -60), batch("a", 30)], FULL, "a"),
    "one ended in the future, another long ago": ([batch("b", -60), batch("a", 90)], FULL, None),
    "incremental does not serve overrides": ([batch("a", 1, full=False)], GRACE, None),
    "an unknown kind does not serve overrides": ([batch("a", 1, full=None)], GRACE, None),
    "full serves overrides": ([batch("b", 1, full=False), batch("a", 5, full=True)], GRACE, "a"),
}


@pytest.mark.parametrize(("batches", "request_", "expected"), CASES.values(), ids=CASES)
def test_what_makes_a_model_fresh(batches, request_, expected):
    found = find_fresh(History(tuple(batches)), request_, within=HOUR, now=NOW)
    assert (found[0].id if found else None) == expected


def test_age_is_told_in_seconds():
    found = find_fresh(History((batch("a", 12),)), FULL, within=HOUR, now=NOW)
    assert found is not None
    assert found[1] == 720.0


def began(name: str, minutes: float | None, status: str = "done", full: bool | None = True) -> Batch:
    """Make a batch that began so many minutes ago."""
    created = None if minutes is None else NOW - timedelta(minutes=minutes)
    return Batch(name, status, full, created=created)


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
