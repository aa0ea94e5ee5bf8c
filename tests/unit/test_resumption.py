"""What a try did with an earlier try's build, in the words of Airflow's own metrics."""

from __future__ import annotations

import pytest

from airflow_provider_atscale.builds.resumption import resumption_events
from airflow_provider_atscale.builds.state import (
    AlreadyDone,
    Reattach,
    SearchHistory,
    StartIntent,
    StartNew,
    StoredBuild,
)
from airflow_provider_atscale.builds.steps import OwnBatch

EARLIER = StoredBuild({}, StartIntent(1.0), "b1")
UNKNOWN = StoredBuild({}, StartIntent(1.0))
STARTED, JOINED = OwnBatch("b2", "started"), OwnBatch("b2", "joined")


@pytest.mark.parametrize(
    ("decision", "step", "expected"),
    [
        (StartNew(), STARTED, "fresh_submit"),
        (StartNew("the task was cleared, which means: build again", cleared=True), STARTED, "fresh_submit"),
        (
            StartNew("the batch of an earlier try failed", failed=True),
            STARTED,
            "reconnect_attempt terminal_resubmit",
        ),
        (StartNew("the batch of an earlier try failed", failed=True), JOINED, "reconnect_attempt"),
        (StartNew(), JOINED, ""),
        (StartNew(), OwnBatch("b2", "attached"), ""),
        (Reattach(EARLIER), OwnBatch("b1", "attached"), "reconnect_attempt reconnect_success"),
        (Reattach(EARLIER), STARTED, "reconnect_attempt terminal_resubmit"),
        (Reattach(EARLIER), JOINED, "reconnect_attempt"),
        (
            AlreadyDone(EARLIER),
            OwnBatch("b1", "attached", is_finished=True),
            "reconnect_attempt already_succeeded",
        ),
        (SearchHistory(UNKNOWN), OwnBatch("b1", "adopted"), "reconnect_attempt reconnect_success"),
        (SearchHistory(UNKNOWN), STARTED, "reconnect_attempt fresh_submit"),
        (SearchHistory(UNKNOWN), JOINED, "reconnect_attempt"),
    ],
)
def test_what_is_counted(decision, step, expected):
    assert " ".join(resumption_events(decision, step)) == expected
