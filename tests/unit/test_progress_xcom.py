"""The progress is written at a change and at the heartbeat, and at most once a minute."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import pytest

from airflow_provider_atscale.api.models import AggregateInstance, Batch
from airflow_provider_atscale.api.observation import Missing, Observation, ReadFailed, Seen
from airflow_provider_atscale.builds.usual import Expectation, Usual
from airflow_provider_atscale.waiting.policy import WaitPolicy
from airflow_provider_atscale.waiting.progress import HEARTBEAT
from airflow_provider_atscale.waiting.progress_xcom import MIN_INTERVAL, ProgressXCom, ended_value

NOON = datetime(2025, 2, 27, 12, 0, tzinfo=timezone.utc)
RUNNING = Batch("b", "inprogress", started=NOON)
NEW = replace(RUNNING, status="new")
DONE = replace(RUNNING, status="done", ended=NOON.replace(minute=41))
HALF = replace(
    RUNNING, instances=tuple(AggregateInstance(str(n), each) for n, each in enumerate(("active", "new")))
)


def writes(*steps: tuple[float, Batch | Observation]):
    """Return the seconds of the writes of a wait that polls at these seconds."""
    policy, xcom = WaitPolicy(NOON.timestamp(), 60.0), ProgressXCom(Expectation())
    written = []
    for seconds, seen in steps:
        now = NOON.timestamp() + seconds
        policy.observe(Seen(seen) if isinstance(seen, Batch) else seen, now, 0.5)
        if xcom.due(policy, now) is not None:
            written.append(seconds)
    return written


CASES = {
    "the first poll": ([(1, RUNNING)], [1]),
    "nothing changes": ([(1, RUNNING), (120, RUNNING)], [1]),
    "a change after a minute": ([(1, NEW), (1 + MIN_INTERVAL, RUNNING)], [1, 1 + MIN_INTERVAL]),
    "a change within a minute waits for its end": ([(1, NEW), (9, RUNNING), (60, RUNNING), (62, RUNNING)], [1, 62]),
    "the heartbeat": ([(1, RUNNING), (HEARTBEAT, RUNNING), (HEARTBEAT + 1, RUNNING)], [1, HEARTBEAT + 1]),
    "a read that failed": ([(1, RUNNING), (99, ReadFailed("HTTP 503"))], [1, 99]),
    "not listed yet": ([(1, Missing())], [1]),
    "more aggregates": ([(1, RUNNING), (99, HALF)], [1, 99]),
    "the end is the task's to write": ([(1, RUNNING), (99, DONE)], [1]),
}  # fmt: skip


@pytest.mark.parametrize(("steps", "expected"), CASES.values(), ids=CASES)
def test_when_progress_is_written(steps, expected):
    assert writes(*steps) == expected


def test_ten_changes_a_second_are_one_write_a_minute():
    steps = [(number / 10, NEW if number % 2 else RUNNING) for number in range(1800)]
    assert len(writes(*steps)) == 3


def test_what_is_written():
    policy = WaitPolicy(NOON.timestamp(), 60.0)
    expectation = Expectation(usual=Usual(median=2460.0, low=2100.0, high=3120.0, count=9))
    policy.observe(Seen(HALF), NOON.timestamp() + 720, 0.5)
    assert ProgressXCom(expectation).due(policy, NOON.timestamp() + 720) == {
        "batch_id": "b",
        "status": "inprogress",
        "since": "2025-02-27T12:00:00+00:00",
        "seconds": 720,
        "usual_seconds": 2460.0,
        "expected": "2025-02-27T12:41:00+00:00",
        "late": False,
        "aggregates": {"built": 1, "total": 2},
        "problem": None,
        "updated": "2025-02-27T12:12:00+00:00",
    }


def test_what_is_written_at_the_end():
    value = ended_value(DONE, Expectation(is_warned=True), NOON.timestamp() + 2500)
    assert (value["status"], value["seconds"], value["late"]) == ("done", 2460, True)
    assert value["updated"] == "2025-02-27T12:41:40+00:00"
