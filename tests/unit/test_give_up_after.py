"""``give_up_after``: builds that fail one after the other are not started for ever."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_atscale.api.models import AggregateInstance, Batch, History, HistoryUnavailable, Instances
from airflow_provider_atscale.arguments import optional_count
from airflow_provider_atscale.builds.failures import find_failed_series
from airflow_provider_atscale.builds.request import BuildRequest
from airflow_provider_atscale.builds.steps import RunningOther
from airflow_provider_atscale.exceptions import AtScaleApiError, AtScaleConfigurationError, AtScaleGaveUpError
from airflow_provider_atscale.tasks.build import BuildTask

from .builds import AtScale, Log, Store, builder
from .flows import NOW, Clock

STANDARD = BuildRequest(is_full_build=False, give_up_after=2)
FULL = replace(STANDARD, is_full_build=True)
GRACE = replace(STANDARD, overrides={"sales": 30})
T = datetime.fromtimestamp(NOW, timezone.utc)

#: Letters, the newest batch first: s/f standard/full that failed, S/F that ended well, u/U of an unknown kind,
#: c cancelled, d deleted, r running.
LETTERS = {
    "s": ("failed", False), "S": ("done", False), "f": ("failed", True), "F": ("done", True),
    "u": ("error", None), "U": ("done", None), "c": ("cancelled", False), "d": ("deleted", False),
    "r": ("inprogress", False),
}  # fmt: skip


def history(letters: str) -> History:
    made = [
        Batch(f"{letter}{number}", *LETTERS[letter], created=T - timedelta(minutes=number))
        for number, letter in enumerate(letters)
    ]
    # AtScale promises no order.
    return History(tuple(sorted(made, key=lambda each: each.id)), T)


@pytest.mark.parametrize(
    ("letters", "request_", "expected"),
    [
        ("", STANDARD, 0),
        ("S", STANDARD, 0),
        ("s", STANDARD, 1),
        ("sss", STANDARD, 3),
        ("ssS", STANDARD, 2),
        ("Sss", STANDARD, 0),
        # A full batch serves a standard request, so one that ended well shows that the model is sound.
        ("sFs", STANDARD, 1),
        ("sfs", STANDARD, 2),
        ("sfs", FULL, 1),
        ("fSf", FULL, 2),
        ("fFf", FULL, 1),
        ("uus", STANDARD, 3),
        ("uuf", FULL, 3),
        ("uU", FULL, 1),
        ("scsds", STANDARD, 3),
        ("rss", STANDARD, 2),
        ("sSs", GRACE, 1),
    ],
)
def test_how_many_have_failed_one_after_the_other(letters, request_, expected):
    failed = find_failed_series(history(letters), request_)
    assert len(failed) == expected
    assert failed == sorted(failed, key=lambda each: each.created, reverse=True)


@pytest.fixture
def server():
    server = AtScale(Clock())
    server.get_instances = lambda batch_id: Instances.of(
        [AggregateInstance(batch_id, "failed", f"no disk for {batch_id}", table_name=f"agg_{batch_id}")],
        is_truncated=False,
    )
    return server


def fail(server, *statuses):
    for number, status in enumerate(statuses):
        server.make(status=status, seconds=-600.0 + number)


def test_nothing_more_is_started_and_the_error_says_why(server):
    fail(server, "done", "failed", "failed")
    with pytest.raises(AtScaleGaveUpError) as raised:
        builder(server, Store(), Log(), STANDARD).obtain_batch()
    said = str(raised.value)
    assert "the last 2 incremental builds of model 'Internet Sales'" in said
    assert "give_up_after is 2" in said
    assert "batch b3 (failed, ended at an unknown time): agg_b3: no disk for b3; batch b2" in said
    assert "clear the task" in said
    assert isinstance(raised.value, AirflowFailException)
    assert server.posts == 0


@pytest.mark.parametrize("limit", [None, 3])
def test_too_few_have_failed(server, limit):
    fail(server, "done", "failed", "failed")
    step = builder(server, Store(), Log(), replace(STANDARD, give_up_after=limit)).obtain_batch()
    assert step.origin == "started"


def test_a_batch_that_runs_is_waited_for_first(server):
    fail(server, "failed", "failed", "inprogress")
    assert builder(server, Store(), Log(), STANDARD).obtain_batch() == RunningOther(server.batches[0])


@pytest.mark.parametrize(
    ("instances", "said"),
    [
        (AtScaleApiError("HTTP 503", 503), "its messages could not be read: HTTP 503"),
        (Instances(), "AtScale names no reason"),
    ],
    ids=["503", "none"],
)
def test_reasons_that_cannot_be_told(server, instances, said):
    def read(batch_id):
        if isinstance(instances, Exception):
            raise instances
        return instances

    server.get_instances = read
    fail(server, "failed", "failed", "failed", "failed", "failed")
    with pytest.raises(AtScaleGaveUpError, match=rf"{said}; .*; and 1 more\. Correct"):
        builder(server, Store(), Log(), replace(STANDARD, give_up_after=4)).obtain_batch()


def test_without_a_history_it_has_no_effect_and_says_so(server):
    log = Log()
    server.reads = [HistoryUnavailable("HTTP 403", 403)]
    assert builder(server, Store(), log, STANDARD).obtain_batch().origin == "started"
    assert log.has("warning", "give_up_after has no effect now, because the build history cannot be read")


# --- a clear passes ---------------------------------------------------------------------------------------

TRIES = {
    # retries, max_tries, try_number: asked?
    "the only try": (0, 0, 1, True),
    "the first of several": (3, 3, 1, True),
    "the last of several": (3, 3, 4, True),
    "cleared after its only try": (0, 1, 2, False),
    "cleared after its first try": (3, 4, 2, False),
    "a retry after that": (3, 4, 3, True),
    "cleared after all its tries": (3, 7, 5, False),
    "a retry after all of that": (3, 7, 6, True),
    "cleared before it ran": (3, 3, 1, True),
}


@pytest.mark.parametrize(("retries", "max_tries", "try_number", "asked"), TRIES.values(), ids=TRIES)
def test_the_first_try_after_a_clear_does_not_ask(retries, max_tries, try_number, asked):
    """A clear raises ``max_tries`` to the tries so far plus the retries."""
    operator = SimpleNamespace(give_up_after="2", retries=retries, log=Log())
    context = {"ti": SimpleNamespace(max_tries=max_tries, try_number=try_number)}
    task = BuildTask(operator, context, is_stopped=lambda: False)
    assert task._give_up_after() == (2 if asked else None)
    assert operator.log.has("info", "The task was cleared") is not asked


@pytest.mark.parametrize(
    ("value", "expected"), [(None, None), ("", None), ("None", None), (3, 3), ("3", 3), (1, 1)], ids=repr
)
def test_what_is_a_count(value, expected):
    assert optional_count(value, "give_up_after") == expected


@pytest.mark.parametrize("value", [0, -1, 1.5, "1.5", "often", True, [3]], ids=repr)
def test_what_is_no_count(value):
    with pytest.raises(AtScaleConfigurationError, match=r"give_up_after is .*; it must be a whole number"):
        optional_count(value, "give_up_after")
