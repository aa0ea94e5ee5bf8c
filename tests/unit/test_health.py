"""What a check finds in the aggregate instances of a model."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from airflow_provider_atscale.api.models import AggregateInstance, Instances
from airflow_provider_atscale.builds.health import (
    MAX_MISSES_SHOWN,
    Thresholds,
    describe_misses,
    make_check_report,
    read_health,
)

from .flows import REF

NOW = datetime(2026, 2, 27, 10, tzinfo=timezone.utc)


def made(definition: str | None, status: str, hours: float | None = 1, rows: int | None = 100, **more):
    """Make an instance that ended some hours ago."""
    return AggregateInstance(
        id=f"{definition}-{status}-{hours}",
        status=status,
        table_name=f"agg_{definition}",
        rows=rows,
        definition_id=definition,
        ended=None if hours is None else NOW - timedelta(hours=hours),
        **more,
    )


def report(instances, *, truncated=False, **thresholds):
    listed = Instances.of(instances, is_truncated=truncated)
    limits = Thresholds(**thresholds)
    return make_check_report(listed, limits, server="https://host", ref=REF, now=NOW.timestamp())


STATES = {
    "none": ([], (0, 0, 0)),
    "one that is active": ([made("a", "active")], (1, 0, 0)),
    "built in one of three attempts": (
        [made("a", "failed", 3), made("a", "failed", 2), made("a", "active", 1)],
        (1, 0, 0),
    ),
    "an old one whose rebuild failed": ([made("a", "failed", 1), made("a", "active", 30)], (1, 0, 0)),
    "one that never was built": ([made("a", "failed", 1), made("a", "failed", 2)], (0, 1, 0)),
    "deleted, then failed": ([made("a", "deleted", 2), made("a", "failed", 1)], (0, 1, 0)),
    "failed, then deleted": ([made("a", "failed", 2), made("a", "deleted", 1)], (0, 0, 0)),
    "replaced": ([made("a", "deleted", 2), made("a", "active", 1)], (1, 0, 0)),
    "deleted": ([made("a", "deleted")], (0, 0, 0)),
    "being built for the first time": ([made("a", "pending", None), made("b", "inprogress", None)], (0, 0, 2)),
    "being built again after a failure": ([made("a", "failed"), made("a", "pending", None)], (0, 1, 0)),
    "in an unknown status": ([made("a", "resting")], (0, 0, 1)),
    "invalid": ([made("a", "invalid")], (0, 1, 0)),
    "two without definition": ([made(None, "active", 1), made(None, "failed", 2)], (1, 1, 0)),
    "failed at an unknown time": ([made("a", "failed", None), made("a", "deleted", None)], (0, 1, 0)),
}


@pytest.mark.parametrize(("instances", "expected"), STATES.values(), ids=STATES)
@pytest.mark.parametrize("turned", [False, True])
def test_the_state_of_each_aggregate(instances, expected, turned):
    """In whichever order AtScale lists the instances."""
    health = read_health(instances[::-1] if turned else instances)
    assert tuple(map(len, (health.active, health.failed, health.pending))) == expected


GOOD, BAD = made("good", "active"), made("bad", "failed", message="No space", query_id="q-1")
OLD, EMPTY = made("old", "active", 30), made("empty", "active", rows=0)
MISSES = {
    "all is well": ([GOOD], {}, []),
    "nothing at all": ([], {}, ["0 aggregates are active (0 failed, 0 pending), and min_active is 1"]),
    "nothing, and none is needed": ([], {"min_active": 0}, []),
    "a failed one": ([GOOD, BAD], {}, ["agg_bad: failed: No space (query q-1)"]),
    "a failed one that is allowed": ([GOOD, BAD], {"max_failed": 1}, []),
    "failed ones are not counted": ([GOOD, BAD], {"max_failed": None}, []),
    "more than are allowed": (
        [GOOD, BAD, made("c", "error")],
        {"max_failed": 1},
        ["agg_bad: failed: No space (query q-1)", "agg_c: error: no message"],
    ),
    "too few": (
        [GOOD, BAD],
        {"min_active": 2, "max_failed": None},
        ["1 aggregates are active (1 failed, 0 pending), and min_active is 2"],
    ),
    "just enough": ([GOOD, OLD], {"min_active": 2}, []),
    "an old one": (
        [GOOD, OLD],
        {"max_age": 86400},
        ["agg_old: built 30.0 h ago, at 2026-02-26T04:00:00+00:00, and max_age is 24.0 h"],
    ),
    "just new enough": ([GOOD], {"max_age": 3600}, []),
    "built again since": ([OLD, made("old", "active", 2)], {"max_age": 86400}, []),
    "a rebuild failed": (
        [OLD, made("old", "failed", 1)],
        {"max_age": 86400},
        ["agg_old: built 30.0 h ago, at 2026-02-26T04:00:00+00:00, and max_age is 24.0 h"],
    ),
    "of unknown age": (
        [made("x", "active", None)],
        {"max_age": 86400},
        ["agg_x: AtScale does not say when it was built, and max_age is 24.0 h"],
    ),
    "of unknown age, which is not asked for": ([made("x", "active", None)], {}, []),
    "an empty one": ([GOOD, EMPTY], {"min_rows": 1}, ["agg_empty: has 0 rows, and min_rows is 1"]),
    "an empty one, which is not asked for": ([GOOD, EMPTY], {}, []),
    "just large enough": ([GOOD], {"min_rows": 100}, []),
    "of unknown size": (
        [made("x", "active", rows=None)],
        {"min_rows": 1},
        ["agg_x: AtScale does not say how many rows it has, and min_rows is 1"],
    ),
    "deleted ones are neither old nor empty": (
        [GOOD, made("gone", "deleted", 300, rows=0)],
        {"max_age": 86400, "min_rows": 1},
        [],
    ),
}


@pytest.mark.parametrize(("instances", "thresholds", "expected"), MISSES.values(), ids=MISSES)
def test_what_a_model_misses(instances, thresholds, expected):
    made = report(instances, **thresholds)
    assert describe_misses(made) == "; ".join(expected)
    assert len(made["misses"]) == len(expected)


def test_the_report():
    made = report([GOOD, OLD, BAD, EMPTY], truncated=True)
    del made["misses"]
    assert made == {
        "server": "https://host",
        "catalog": "Sales Insights",
        "model": "Internet Sales",
        "catalog_id": REF.catalog_id,
        "model_id": REF.model_id,
        "checked": "2026-02-27T10:00:00+00:00",
        "active": 3,
        "failed": 1,
        "pending": 0,
        "rows": 200,
        "oldest": "2026-02-26T04:00:00+00:00",
        "truncated": True,
    }


def test_a_long_error_refers_to_the_report():
    made_report = report([made(f"n{number}", "failed") for number in range(MAX_MISSES_SHOWN + 3)])
    text = describe_misses(made_report)
    # The first is the model's: none is active.
    assert text.count("failed: no message") == MAX_MISSES_SHOWN - 1
    assert text.endswith("; and 4 more, all of them in the XCom check_result")
    assert len(made_report["misses"]) == MAX_MISSES_SHOWN + 4
