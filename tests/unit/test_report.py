"""The one way out of a wait: a report, or the typed error that says what to do."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_atscale.api.models import (
    ALL_DELETED,
    AggregateInstance,
    Batch,
    Instances,
    ModelRef,
    Phase,
    parse_batch,
)
from airflow_provider_atscale.builds.report import (
    MAX_FAILURE_MESSAGE,
    MAX_FAILURES_SHOWN,
    describe_failures,
    summarize,
)
from airflow_provider_atscale.builds.usual import Expectation, Usual
from airflow_provider_atscale.exceptions import (
    AtScaleAggregatesFailedError,
    AtScaleApiError,
    AtScaleBatchFailedError,
    AtScaleBatchNotFoundError,
    AtScaleBatchSupersededError,
    AtScaleConnectionError,
    AtScaleTimeoutError,
    AtScaleWaitError,
)
from airflow_provider_atscale.tasks import conclusion
from airflow_provider_atscale.tasks.conclusion import WaitContext, conclude
from airflow_provider_atscale.waiting.policy import Ended, GaveUp, TimedOut

from .builds import Log
from .flows import BATCH_ID, CATALOG_ID, HOST, MODEL_ID, REF, row

SUBJECT = WaitContext(
    HOST,
    REF,
    BATCH_ID,
    is_full_build=False,
    next_step="A retry of the task attaches to it.",
    history_url=HOST + "/history",
)
BUILT = AggregateInstance("1", "active", rows=100, table_name="t1", table_schema="s")
NOT_BUILT = AggregateInstance("2", "failed", "No space left", table_name="t2", table_schema="s")
REPLACED = AggregateInstance("3", "deleted", table_name="t3")


@pytest.fixture
def log(monkeypatch):
    kept = Log()
    monkeypatch.setattr(conclusion, "log", kept)
    return kept


def ended(status="done", **values) -> Ended:
    return Ended(parse_batch(row(status=status, endTime="2025-02-27T09:54:23.100Z", **values)))


def end(verdict, *instances, subject=SUBJECT, **changes):
    return conclude(verdict, replace(subject, **changes), lambda: instances)


def unreadable():
    raise AtScaleApiError("Could not read the instances.", 500)


def test_a_batch_that_is_done_is_reported():
    assert end(ended(), BUILT, NOT_BUILT, REPLACED) == {
        "batch_id": BATCH_ID,
        "server": HOST,
        "catalog": "Sales Insights",
        "model": "Internet Sales",
        "catalog_id": CATALOG_ID,
        "model_id": MODEL_ID,
        "status": "done",
        "kind": "incremental",
        "requested_kind": "incremental",
        "start": "started",
        "joined_at": None,
        "created": "2025-02-27T09:53:22.654000+00:00",
        "started": "2025-02-27T09:53:23.100000+00:00",
        "ended": "2025-02-27T09:54:23.100000+00:00",
        "seconds": 60.0,
        "usual_seconds": None,
        "late": None,
        "instances": {"active": 1, "deleted": 1, "failed": 1},
        "rows": 100,
        "aggregates": 3,
        "failed_aggregates": 1,
        "repaired_attempts": 0,
        "failures": [{"aggregate": "s.t2", "status": "failed", "message": "No space left", "query_id": None}],
    }


@pytest.mark.parametrize(
    ("policy", "instances", "outcome"),
    [
        ("warn", [BUILT], None),
        ("fail", [BUILT], None),
        ("ignore", [BUILT], None),
        ("warn", [BUILT, NOT_BUILT], "warning"),
        ("ignore", [BUILT, NOT_BUILT], None),
        ("fail", [BUILT, NOT_BUILT], AtScaleAggregatesFailedError),
        ("fail", [BUILT, REPLACED], None),
        ("fail", [], None),
        ("warn", None, "warning"),
        ("ignore", None, "warning"),
        ("fail", None, AtScaleWaitError),
    ],
    ids=[
        "warn, all",
        "fail, all",
        "ignore, all",
        "warn, one missing",
        "ignore, one missing",
        "fail, one missing",
        "a replaced one is not missing",
        "no aggregates",
        "warn, unreadable",
        "ignore, unreadable",
        "fail, unreadable",
    ],
)
@pytest.mark.parametrize("known", [False, True], ids=["read", "known from the batch"])
def test_what_missing_aggregates_of_a_batch_mean(policy, instances, outcome, known, log):
    verdict = ended()
    read = unreadable if instances is None else lambda: instances
    if known and instances is not None:
        verdict, read = Ended(replace(verdict.batch, instances=tuple(instances))), unreadable
    if isinstance(outcome, type):
        with pytest.raises(outcome) as error:
            conclude(verdict, replace(SUBJECT, failed_aggregates=policy), read)
        assert type(error.value) is outcome
        return
    report = conclude(verdict, replace(SUBJECT, failed_aggregates=policy), read)
    assert report["status"] == "done"
    assert (report["instances"] is None) is (instances is None)
    assert bool(log.lines) is (outcome == "warning")


def attempt(number, status, definition):
    return AggregateInstance(
        number,
        status,
        f"message {number}",
        table_name=f"t{definition}",
        definition_id=definition,
        query_id=f"q{number}",
    )


@pytest.mark.parametrize("policy", ["warn", "fail", "ignore"])
def test_a_repaired_aggregate_is_not_missing(policy, log):
    """AtScale retries an aggregate inside a batch: a failed attempt is no missing aggregate."""
    rows = [attempt("1", "failed", "a"), attempt("2", "active", "a"), attempt("3", "active", "b")]
    report = end(ended(), *rows, failed_aggregates=policy)
    assert (report["aggregates"], report["failed_aggregates"], report["repaired_attempts"]) == (2, 0, 1)
    assert log.lines == []
    assert "1 failed attempt repaired by AtScale" in summarize(report)


def test_an_aggregate_that_failed_in_every_attempt_is_missing_once():
    rows = [attempt("1", "failed", "a"), attempt("2", "failed", "a"), attempt("3", "active", "b")]
    said = "1 of 2 aggregates were not built: ta: message 2 (failed, query q2)."
    with pytest.raises(AtScaleAggregatesFailedError, match=re.escape(said)):
        end(ended(), *rows, failed_aggregates="fail")


def test_a_batch_of_another_kind_than_asked_for_is_logged(log):
    report = end(Ended(replace(ended().batch, is_full_build=True)))
    assert (report["kind"], report["requested_kind"]) == ("full", "incremental")
    assert log.has("warning", "AtScale reports the batch as full, but the task asked for incremental")


def test_a_joined_full_batch_is_no_surprise_to_an_incremental_request(log):
    report = end(Ended(replace(ended().batch, is_full_build=True)), origin="joined")
    assert (report["kind"], report["requested_kind"]) == ("full", "incremental")
    assert log.lines == []


@pytest.mark.parametrize(
    ("policy", "rows", "is_truncated", "outcome"),
    [
        ("warn", [BUILT], True, "warning"),
        ("ignore", [BUILT], True, None),
        ("fail", [BUILT], True, AtScaleWaitError),
        ("fail", [BUILT, NOT_BUILT], True, AtScaleAggregatesFailedError),
        ("fail", [BUILT], False, None),
        ("fail", [], True, None),
    ],
    ids=["warn", "ignore", "fail", "fail, one missing among them", "all listed", "a batch without aggregates"],
)
def test_what_it_means_that_not_all_aggregates_may_be_listed(policy, rows, is_truncated, outcome, log):
    def listed():
        return Instances.of(rows, is_truncated=is_truncated)

    if isinstance(outcome, type):
        with pytest.raises(outcome) as error:
            conclude(ended(), replace(SUBJECT, failed_aggregates=policy), listed)
        assert type(error.value) is outcome
        return
    assert conclude(ended(), replace(SUBJECT, failed_aggregates=policy), listed)["status"] == "done"
    assert any("cannot list whether there are more" in line for line in map(str, log.lines)) is bool(outcome)


@pytest.mark.parametrize("word", ["failed", "error", "cancelled", "invalid", "unreliable", "deleted"])
@pytest.mark.parametrize("policy", ["warn", "fail", "ignore"])
def test_a_batch_that_failed_is_an_error_under_every_policy(word, policy):
    with pytest.raises(AtScaleBatchFailedError) as error:
        end(ended(word), BUILT, failed_aggregates=policy)
    assert type(error.value) is AtScaleBatchFailedError


@pytest.mark.parametrize("policy", ["warn", "fail", "ignore"])
@pytest.mark.parametrize("instances", [None, (REPLACED,)], ids=["by an event", "seen here"])
def test_a_superseded_batch_is_neither_success_nor_failure(instances, policy):
    batch = Batch(BATCH_ID, ALL_DELETED, instances=instances)
    with pytest.raises(AtScaleBatchSupersededError, match=r"cannot be judged.*a later build") as error:
        end(Ended(batch), REPLACED, failed_aggregates=policy)
    assert not isinstance(error.value, AtScaleBatchFailedError)


@pytest.mark.parametrize("word", ["inprogress", "new", "active", "archived", "undone", "don"])
def test_what_has_not_ended_well_is_never_reported_as_if_it_had(word):
    with pytest.raises(AtScaleBatchFailedError):
        end(Ended(Batch(BATCH_ID, word)), BUILT)


@given(st.text(min_size=1))
def test_only_success_is_reported(word):
    if Batch(BATCH_ID, word).phase not in (Phase.SUCCEEDED, Phase.SUPERSEDED):
        with pytest.raises(AtScaleBatchFailedError):
            end(Ended(Batch(BATCH_ID, word)), BUILT)


WHERE = f"Batch {BATCH_ID} of model 'Internet Sales' of catalog 'Sales Insights' at {HOST}"


@pytest.mark.parametrize(
    ("verdict", "changes", "kind", "said"),
    [
        (
            TimedOut("timeout", 21_600.0, "inprogress"),
            {},
            AtScaleTimeoutError,
            "Internet Sales (Sales Insights) did not end within timeout, 6.0 h after the wait began. Its last "
            "status was 'inprogress'. The build goes on in AtScale. A retry of the task attaches to it. "
            f"{WHERE}.",
        ),
        (
            TimedOut("execution_timeout", 90.0),
            {"batch_id": None},
            AtScaleTimeoutError,
            "Not found: a batch of Internet Sales (Sales Insights) was not seen within execution_timeout, 90.0 s "
            "after the wait began. If the build runs, it goes on in AtScale. A retry of the task attaches to it. "
            f"The newest batch of model 'Internet Sales' of catalog 'Sales Insights' at {HOST}.",
        ),
        (
            TimedOut("timeout", 600.0, None, "the build history does not list it"),
            {},
            AtScaleTimeoutError,
            "Not found: a batch of Internet Sales (Sales Insights) was not seen within timeout, 10 min after the "
            "wait began. The last poll: the build history does not list it. If the build runs, it goes on in "
            f"AtScale. A retry of the task attaches to it. {WHERE}.",
        ),
        (
            TimedOut("timeout", 600.0, None, "the build history does not list it"),
            {"origin": "watched", "ref": None, "next_step": "Raise the sensor's timeout."},
            AtScaleTimeoutError,
            f"Not found: batch {BATCH_ID} was not seen within timeout, 10 min after the wait began. The last poll: "
            "the build history does not list it. If the build runs, it goes on in AtScale. Check batch_id, catalog "
            f"and model: the batch may belong to another one. See {HOST}/history. Batch {BATCH_ID} at {HOST}.",
        ),
        (
            TimedOut("timeout", 600.0, "done", "HTTP 403"),
            {},
            AtScaleTimeoutError,
            "Internet Sales (Sales Insights) did not end within timeout, 10 min after the wait began. Its last "
            "status was 'done'. The last poll: HTTP 403. The build goes on in AtScale.",
        ),
        (
            GaveUp("missing", "Batch b has not been in the build history for 5 minutes"),
            {},
            AtScaleBatchNotFoundError,
            f"Batch b has not been in the build history for 5 minutes. Look for it at {HOST}/history: it may "
            f"belong to another model or server, or the history may have dropped it. {WHERE}.",
        ),
        (
            GaveUp("trouble", "Batch b could not be read for 30 minutes"),
            {},
            AtScaleWaitError,
            "Batch b could not be read for 30 minutes. If the build runs, it goes on in AtScale. A retry of the "
            f"task attaches to it. {WHERE}.",
        ),
        (
            GaveUp("unknown", "Batch b has been in an unknown status for 30 minutes: its status is 'archived'"),
            {"ref": None},
            AtScaleWaitError,
            "Batch b has been in an unknown status for 30 minutes: its status is 'archived'. If the build runs, it "
            "goes on in AtScale.",
        ),
        (
            ended("failed"),
            {},
            AtScaleBatchFailedError,
            "Failed after 60.0 s: 1 of 2 aggregates were not built: s.t2: No space left (failed). The build ended "
            f"as 'failed'. See {HOST}/history; a retry of the task builds again. {WHERE}.",
        ),
        (
            ended("Cancelled"),
            {"origin": "watched", "history_url": None},
            AtScaleBatchFailedError,
            "Failed after 60.0 s: 1 of 2 aggregates were not built: s.t2: No space left (failed). The build ended "
            f"as 'Cancelled'. See {HOST}; to build again, clear the task that started it. {WHERE}.",
        ),
        (
            Ended(Batch(BATCH_ID, ALL_DELETED)),
            {"origin": "watched"},
            AtScaleBatchSupersededError,
            "A build of Internet Sales (Sales Insights) cannot be judged: all its aggregates are deleted, most "
            "likely because a later build has replaced them, and there is no permission to read the build "
            f"history. Look for the later build at {HOST}/history: if it ended well, mark the task as success; else "
            "to build again, clear the task that started it. To avoid this, let the user of the connection read the "
            "build history.",
        ),
        (
            ended(),
            {"failed_aggregates": "fail"},
            AtScaleAggregatesFailedError,
            "Built, but not complete: 1 of 2 aggregates were not built: s.t2: No space left (failed). "
            f'failed_aggregates="fail" makes this an error. See {HOST}/history; a retry of the task builds '
            f"again. {WHERE}.",
        ),
    ],
    ids=[
        "timeout",
        "execution_timeout",
        "timeout, never seen",
        "timeout of a sensor, never seen",
        "timeout, last poll uncertain",
        "missing",
        "trouble",
        "unknown",
        "failed",
        "watched",
        "superseded",
        "incomplete",
    ],
)  # fmt: skip
def test_each_error_names_cause_object_and_next_step(verdict, changes, kind, said):
    with pytest.raises(kind, match=re.escape(said)):
        end(verdict, BUILT, NOT_BUILT, **changes)


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (unreadable, "ended as 'failed'. The reasons could not be read: Could not read the instances. See"),
        (
            lambda: (),
            "Failed after 60.0 s: Internet Sales (Sales Insights) ended as 'failed'. AtScale names no reason. See",
        ),
        (
            lambda: (BUILT,),
            "Failed after 60.0 s: Internet Sales (Sales Insights) ended as 'failed'. AtScale names no reason. See",
        ),
    ],
    ids=["unreadable", "no instances", "none failed"],
)
def test_a_failure_without_reasons_is_a_failure_all_the_same(read, said):
    with pytest.raises(AtScaleBatchFailedError, match=re.escape(said)):
        conclude(ended("failed"), SUBJECT, read)


@pytest.mark.parametrize(
    ("ref", "begins"),
    [
        (ModelRef("c", "m", "finance", "internet_sales"), "internet_sales (finance) did not end"),
        (ModelRef("c", "m", "finance", ""), "A model of finance did not end"),
        (None, "Batch b1 did not end"),
    ],
    ids=["a name", "no name", "no model"],
)
def test_an_error_begins_with_a_capital_and_changes_no_name(ref, begins):
    with pytest.raises(AtScaleTimeoutError) as error:
        conclude(TimedOut("timeout", 60.0, "inprogress"), replace(SUBJECT, ref=ref, batch_id="b1"), lambda: ())
    assert str(error.value).startswith(begins)


def test_what_could_not_be_read_is_the_cause():
    with pytest.raises(AtScaleWaitError, match="A retry of the task reads them again") as error:
        conclude(ended(), replace(SUBJECT, failed_aggregates="fail"), unreadable)
    assert isinstance(error.value.__cause__, AtScaleApiError)


def test_an_error_that_is_not_ours_is_not_swallowed():
    def broken():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        conclude(ended(), SUBJECT, broken)


def test_without_a_connection_the_report_lacks_only_the_aggregates(log):
    def cut():
        raise AtScaleConnectionError("no answer")

    report = conclude(ended(), SUBJECT, cut)
    assert (report["instances"], report["rows"], report["failed_aggregates"], report["failures"]) == (
        None,
        None,
        0,
        [],
    )
    assert log.has("warning", "its aggregates could not be read: no answer")


def test_of_many_failures_the_first_few_are_named():
    failed = [replace(NOT_BUILT, id=str(n), table_name=f"t{n}") for n in range(MAX_FAILURES_SHOWN + 3)]
    report = SUBJECT.report(ended("failed").batch, failed)
    assert (report["failed_aggregates"], len(report["failures"])) == (8, 5)
    assert describe_failures(report).endswith("s.t4: No space left (failed); and 3 more.")


@pytest.mark.parametrize(
    "message", ["SELECT\n" * 10_000, "x" * 100_000, "nul \x00 and bell \x07"], ids=["sql", "x", "nul"]
)
def test_a_message_of_any_length_fits_into_a_log_and_into_a_database(message):
    report = SUBJECT.report(ended("failed").batch, [replace(NOT_BUILT, message=message)])
    said = report["failures"][0]["message"]
    assert len(said) <= MAX_FAILURE_MESSAGE + 3
    assert said.isprintable()


@pytest.mark.parametrize(
    ("status", "missing"),
    [
        ("failed", True),
        ("cancelled", True),
        ("Error", True),
        ("deleted", False),
        ("active", False),
        ("done", False),
        ("inprogress", False),
        ("archived", False),
    ],
)
def test_which_aggregates_a_batch_that_is_done_lacks(status, missing):
    assert bool(SUBJECT.report(ended().batch, [AggregateInstance("1", status)])["failures"]) is missing


@pytest.mark.parametrize(
    ("of_batch", "asked", "kind"),
    [
        (True, None, "full"),
        (False, True, "incremental"),
        (None, True, "full"),
        (None, False, "incremental"),
        (None, None, "build"),
    ],
)
def test_the_kind_is_what_the_batch_says_or_else_what_was_asked_for(of_batch, asked, kind):
    batch = Batch(BATCH_ID, "done", is_full_build=of_batch)
    assert replace(SUBJECT, is_full_build=asked).report(batch, [])["kind"] == kind


USUAL = Usual(median=41.0, low=35.0, high=52.0, count=9)


@pytest.mark.parametrize(
    ("expectation", "usual", "late"),
    [
        (Expectation(), None, None),
        (Expectation(usual=USUAL), 41.0, True),
        (Expectation(usual=replace(USUAL, high=60.0)), 41.0, False),
        (Expectation(warn_after=61.0, usual=USUAL), 41.0, False),
        (Expectation(warn_after=59.0), None, True),
    ],
    ids=["nothing is known", "late", "in time", "the user waits longer", "the user waits shorter"],
)
def test_the_report_says_whether_the_batch_was_late(expectation, usual, late):
    """It took 60 seconds."""
    report = replace(SUBJECT, expectation=expectation).report(ended().batch, [])
    assert (report["usual_seconds"], report["late"]) == (usual, late)


@pytest.mark.parametrize(
    ("origin", "instances", "said"),
    [
        (
            "started",
            [BUILT, NOT_BUILT],
            "Done in 60.0 s: 1 of 2 aggregates, 100 rows, incremental, started by this task",
        ),
        ("adopted", [], "Done in 60.0 s: 0 aggregates, 0 rows, incremental, adopted"),
        (
            "adopted",
            [replace(BUILT, rows=1_234_567)],
            "Done in 60.0 s: 1 aggregate, 1.2 M rows, incremental, adopted",
        ),
        ("watched", None, "Done in 60.0 s: incremental, watched"),
    ],
)
def test_a_report_fits_on_a_line(origin, instances, said):
    assert summarize(replace(SUBJECT, origin=origin).report(ended().batch, instances)) == said


@given(
    st.builds(
        AggregateInstance,
        st.text(min_size=1),
        st.text(min_size=1),
        st.none() | st.text(),
        rows=st.none() | st.integers(),
    ),
    st.text(min_size=1),
)
def test_a_report_is_json_whatever_atscale_says(instance, status):
    report = SUBJECT.report(Batch(BATCH_ID, status), [instance])
    assert json.loads(json.dumps(report)) == report
    assert summarize(report)
    assert isinstance(describe_failures(report), str)
