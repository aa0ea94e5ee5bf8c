"""What AtScale's words and rows mean."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_atscale.api.models import (
    ALL_DELETED,
    AggregateInstance,
    AggregateSummary,
    Batch,
    History,
    Phase,
    aggregates_of,
    batch_phase,
    batch_to_json,
    instance_phase,
    instances_as_batch,
    normalize_status,
    parse_batch,
    parse_instance,
)
from airflow_provider_atscale.api.values import is_number, iso, parse_time

from .flows import BATCH_ID, CATALOG_ID, MODEL_ID, OTHER_ID, instance, row

SUCCEEDED, FAILED, WAITING, UNKNOWN = Phase.SUCCEEDED, Phase.FAILED, Phase.WAITING, Phase.UNKNOWN
SUPERSEDED = Phase.SUPERSEDED

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=12)
    | st.text(alphabet="a9\ud800\udfff", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("word", "of_batch", "of_instance"),
    [
        ("done", SUCCEEDED, SUCCEEDED),
        ("success", SUCCEEDED, SUCCEEDED),
        ("active", UNKNOWN, SUCCEEDED),
        ("failed", FAILED, FAILED),
        ("error", FAILED, FAILED),
        ("cancelled", FAILED, FAILED),
        ("invalid", FAILED, FAILED),
        ("unreliable", FAILED, FAILED),
        ("deleted", FAILED, SUPERSEDED),
        (ALL_DELETED, SUPERSEDED, UNKNOWN),
        ("superseded", UNKNOWN, UNKNOWN),
        ("new", WAITING, WAITING),
        ("pending", WAITING, WAITING),
        ("inprogress", WAITING, WAITING),
        ("running", WAITING, WAITING),
        ("In_Progress", WAITING, WAITING),
        ("IN-PROGRESS", WAITING, WAITING),
        (" Done ", SUCCEEDED, SUCCEEDED),
        ("DONE", SUCCEEDED, SUCCEEDED),
        ("", UNKNOWN, UNKNOWN),
        ("undone", UNKNOWN, UNKNOWN),
        ("done!", UNKNOWN, UNKNOWN),
        ("done.", UNKNOWN, UNKNOWN),
        ("doneish", UNKNOWN, UNKNOWN),
        ("not done", UNKNOWN, UNKNOWN),
        ("succeeded", UNKNOWN, UNKNOWN),
        ("successful", UNKNOWN, UNKNOWN),
        ("complete", UNKNOWN, UNKNOWN),
        ("ok", UNKNOWN, UNKNOWN),
        ("true", UNKNOWN, UNKNOWN),
        ("doné", UNKNOWN, UNKNOWN),
        ("ＤＯＮＥ", UNKNOWN, UNKNOWN),  # noqa: RUF001 - full width letters
        ("ſuccess", UNKNOWN, UNKNOWN),  # noqa: RUF001 - a long s
    ],
)
def test_a_status_word_has_one_meaning(word, of_batch, of_instance):
    assert (batch_phase(word), instance_phase(word)) == (of_batch, of_instance)


@given(st.text())
def test_only_two_words_are_success(word):
    if batch_phase(word) is SUCCEEDED:
        assert normalize_status(word) in ("done", "success")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-02-27T09:53:22.654Z", "2025-02-27T09:53:22.654000+00:00"),
        ("2025-02-27T09:53:22", "2025-02-27T09:53:22+00:00"),
        ("2025-02-27 09:53", "2025-02-27T09:53:00+00:00"),
        ("2025-02-27T09:53:22+05:30", "2025-02-27T04:23:22+00:00"),
        ("2025-02-27T09:53:22-0800", "2025-02-27T17:53:22+00:00"),
        ("2025-02-27T09:53:22.123456789Z", "2025-02-27T09:53:22.123456+00:00"),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00-05:00", None),
        ("0000-00-00T00:00:00Z", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("0002-01-01T00:00:00+00:30", None),
        ("9999-12-31T23:59:59Z", None),
        ("9999-12-31T23:59:59-14:00", None),
        ("9998-12-31T23:59:59-00:30", None),
        ("9998-12-31T23:59:59Z", "9998-12-31T23:59:59+00:00"),
        ("2025-02-27T09:53:22+24:00", None),
        ("2025-02-30T09:53:22Z", None),
        ("2025-02-27", None),
        ("09:53", None),
        ("now", None),
        ("PT3.232S", None),
        ("2025-02-27T09:53/2025-02-28T09:53", None),
        ("1740650002", None),
        ("", None),
    ],
)
def test_a_time_that_cannot_be_read_is_no_time(text, expected):
    moment = parse_time(text)
    assert (None if moment is None else moment.isoformat()) == expected


@pytest.mark.parametrize("zone", ["Z", "+14:00", "-14:00", "+23:59", "-23:59"])
@pytest.mark.parametrize("year", [1, 2, 9998, 9999])
@pytest.mark.parametrize("rest", ["01-01T00:00:00", "12-31T23:59:59.999999"])
def test_every_time_can_be_added_to_and_converted(year, rest, zone):
    moment = parse_time(f"{year:04}-{rest}{zone}")
    if moment is not None:
        assert moment + timedelta(days=30) > moment - timedelta(days=30)
        assert moment.astimezone(timezone(timedelta(hours=14))) == moment
        assert moment.utcoffset() == timedelta(0)


@given(
    st.from_regex(r"\A\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:?\d{2})?\Z")
    | st.text(max_size=30)
)
def test_any_time_can_be_compared_with_any_other(text):
    moment = parse_time(text)
    if moment is None:
        return
    other = datetime(2025, 2, 27, tzinfo=timezone.utc)
    assert (moment < other) is not (moment >= other)
    assert (Batch("x", "done", started=other, ended=moment).seconds or 0.0) >= 0.0
    assert parse_time(moment.isoformat()) == moment


#: Month, day, hour, minute and second, and a little more than there is of each.
clock = st.tuples(*(st.integers(0, most) for most in (13, 32, 24, 60, 60)))


@given(st.integers(0, 9999), clock, st.integers(0, 999_999), st.integers(0, 6))
def test_the_short_way_and_the_long_one_say_the_same(year, rest, fraction, digits):
    """AtScale's own form is read without pendulum; with its offset in figures it is read by it."""
    text = "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}".format(year, *rest)
    text += f".{fraction:06}"[: digits + 1] if digits else ""
    short, long = parse_time(text + "Z"), parse_time(text + "+00:00")
    assert short == long
    assert iso(short) == iso(long)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, True),
        (1053, True),
        (-1.5, True),
        (True, False),
        (float("nan"), False),
        (float("inf"), False),
        (10**400, False),
        ("1", False),
        (None, False),
    ],
)
def test_what_counts_as_a_number(value, expected):
    assert is_number(value) is expected


# --- batches ----------------------------------------------------------------------------------------------


def test_a_row_of_the_history():
    batch = parse_batch(row(status="In_Progress", isFullBuild=True, endTime="0001-01-01T00:00:00Z"))
    assert batch == Batch(
        id=BATCH_ID,
        status="In_Progress",
        is_full_build=True,
        batch_type="aggregate_batch",
        created=parse_time("2025-02-27T09:53:22.654Z"),
        started=parse_time("2025-02-27T09:53:23.100Z"),
        ended=None,
        estimate_ms=1053,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"id": None},
        {"id": ""},
        {"id": "  "},
        {"id": 7},
        {"id": [BATCH_ID]},
        {"status": None},
        {"status": ""},
        {"status": True},
        {"status": ["done"]},
        {"status": {"name": "done"}},
    ],
    ids=str,
)
def test_a_batch_without_id_or_status_is_none(changes):
    assert parse_batch({**row(), **changes}) is None


@pytest.mark.parametrize("value", [None, [], "done", 7, [row()]], ids=str)
def test_what_is_no_object_is_no_batch(value):
    assert parse_batch(value) is None
    assert parse_instance(value) is None


@pytest.mark.parametrize(
    ("changes", "attribute", "expected"),
    [
        ({"isFullBuild": None}, "is_full_build", None),
        ({"isFullBuild": "true"}, "is_full_build", None),
        ({"isFullBuild": 1}, "is_full_build", None),
        ({"is_full_build": True, "isFullBuild": None}, "is_full_build", True),
        ({"estimateTime": float("nan")}, "estimate_ms", None),
        ({"estimateTime": 10**400}, "estimate_ms", None),
        ({"estimateTime": "1053"}, "estimate_ms", None),
        ({"estimateTime": True}, "estimate_ms", None),
        ({"createDate": 1740650002}, "created", None),
        ({"createDate": "0001-01-01T00:00:00Z"}, "created", None),
        ({"batchType": 7}, "batch_type", None),
    ],
    ids=str,
)
def test_what_only_informs_is_left_out_where_it_cannot_be_read(changes, attribute, expected):
    batch = parse_batch({**row(), **changes})
    assert batch is not None
    assert getattr(batch, attribute) == expected


@given(st.dictionaries(st.sampled_from([*row(), "progressPercentage", "batch_type"]), JSON))
def test_no_row_whatever_breaks_the_parser(changes):
    batch = parse_batch({**row(), **changes})
    if batch is not None:
        assert batch.id
        assert batch.status
        assert parse_batch(json.loads(json.dumps(batch_to_json(batch)))) == batch


@pytest.mark.parametrize(
    ("batch_type", "expected"),
    [
        (None, True),
        ("", True),
        ("aggregate_batch", True),
        ("AGGREGATE_BATCH", True),
        ("aggregate-batch", True),
        ("materialize-pending-instances", False),
        ("something_new", False),
    ],
)
def test_which_batches_are_rebuilds(batch_type, expected):
    assert Batch("x", "done", batch_type=batch_type).is_rebuild is expected


@pytest.mark.parametrize(
    ("created", "started", "ended", "seconds"),
    [
        ("2025-02-27T09:00:00Z", "2025-02-27T09:00:10Z", "2025-02-27T09:01:00Z", 50.0),
        ("2025-02-27T09:00:00Z", None, "2025-02-27T09:01:00Z", 60.0),
        (None, None, "2025-02-27T09:01:00Z", None),
        ("2025-02-27T09:00:00Z", None, None, None),
        ("2025-02-27T09:00:00Z", "2025-02-27T09:02:00Z", "2025-02-27T09:01:00Z", 0.0),
    ],
    ids=["began", "never began", "no beginning", "no end", "clocks disagree"],
)
def test_how_long_a_batch_took(created, started, ended, seconds):
    times = [None if each is None else parse_time(each) for each in (created, started, ended)]
    batch = Batch("x", "done", created=times[0], started=times[1], ended=times[2])
    assert batch.seconds == seconds


@pytest.mark.parametrize(
    ("status", "ended", "in_the_way"),
    [
        ("new", None, True),
        ("pending", None, True),
        ("inprogress", None, True),
        ("running", None, True),
        ("inprogress", "2025-02-27T09:01:00Z", True),
        ("active", None, True),
        ("active", "2025-02-27T09:01:00Z", False),
        ("archived", None, True),
        ("archived", "2025-02-27T09:01:00Z", False),
        ("done", None, False),
        ("failed", None, False),
    ],
)
def test_an_old_batch_in_an_odd_status_does_not_block_its_model(status, ended, in_the_way):
    batch = Batch("x", status, ended=None if ended is None else parse_time(ended))
    assert (batch in History((batch,)).running) is in_the_way


@pytest.mark.parametrize(
    ("times", "newest"),
    [
        (["2025-02-27T09:00:00Z", "2025-02-27T10:00:00Z"], 1),
        (["2025-02-27T10:00:00Z", "2025-02-27T09:00:00Z"], 0),
        ([None, "2025-02-27T09:00:00Z"], 0),
        (["2025-02-27T09:00:00+02:00", "2025-02-27T08:00:00Z"], 1),
    ],
    ids=["oldest first", "newest first", "a time is missing", "in different zones"],
)
def test_the_newest_batch(times, newest):
    batches = tuple(
        Batch(str(number), "done", created=None if time is None else parse_time(time))
        for number, time in enumerate(times)
    )
    assert History(batches).newest == batches[newest]
    assert History(()).newest is None


# --- instances --------------------------------------------------------------------------------------------


def test_a_row_of_the_instances():
    found = parse_instance(instance(3, "failed", message="No space"))
    assert found == AggregateInstance(
        id="instance-3",
        status="failed",
        message="No space",
        batch_id=BATCH_ID,
        table_name="as_agg_3",
        table_schema="aggregates",
        rows=100,
        catalog_id=CATALOG_ID,
        model_id=MODEL_ID,
        definition_id="definition-3",
        query_id="query-3",
        ended=datetime(2025, 2, 27, 9, 53, 23, 336000, tzinfo=timezone.utc),
    )
    assert found.label == "aggregates.as_agg_3"


def test_the_installer_writes_the_same_in_snake_case():
    found = parse_instance(
        {
            "id": "i",
            "status": "active",
            "batch_id": BATCH_ID,
            "table_name": "t",
            "table_schema": "s",
            "project_id": "p",
            "cube_id": "c",
            "definition_id": "d",
            "build_query_id": "q",
            "stats": {"number_of_rows": 5, "build_duration": 7},
        }
    )
    assert found == AggregateInstance(
        "i", "active", None, BATCH_ID, "t", "s", 5, "p", "c", definition_id="d", query_id="q"
    )


@given(st.dictionaries(st.sampled_from([*instance(), "batch_id", "cubeId"]), JSON))
def test_no_instance_whatever_breaks_the_parser(changes):
    found = parse_instance({**instance(), **changes})
    if found is not None:
        assert found.label
        assert isinstance(found.phase, Phase)


def _instances(*statuses):
    return [parse_instance(instance(number, status)) for number, status in enumerate(statuses)]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["active", "inprogress"], WAITING),
        (["failed", "pending"], WAITING),
        (["active", "archived"], UNKNOWN),
        (["archived", "inprogress"], WAITING),
        (["active", "active"], SUCCEEDED),
        (["done", "failed"], SUCCEEDED),
        (["deleted", "active"], SUCCEEDED),
        (["failed", "failed"], FAILED),
        (["deleted"], SUPERSEDED),
        (["deleted", "Deleted"], SUPERSEDED),
        (["deleted", "failed"], FAILED),
        (["deleted", "pending"], WAITING),
        (["deleted", "archived"], UNKNOWN),
        (["deleted", "cancelled"], FAILED),
        (["active", "cancelled"], FAILED),
        (["cancelled", "active", "inprogress"], WAITING),
    ],
    ids=str,
)
def test_a_batch_as_its_instances_show_it(statuses, expected):
    batch = instances_as_batch(OTHER_ID, _instances(*statuses))
    assert (batch.id, batch.phase, len(batch.instances)) == (OTHER_ID, expected, len(statuses))
    # A trigger's event carries no instances, and the status must mean the same without them.
    assert parse_batch(batch_to_json(batch)).phase is expected


def test_a_batch_without_instances_cannot_be_seen():
    assert instances_as_batch(OTHER_ID, []) is None


@given(st.lists(st.sampled_from(["active", "done", "failed", "new", "deleted", "odd", "cancelled"])))
def test_instances_are_never_success_without_one_that_is(statuses):
    batch = instances_as_batch(OTHER_ID, _instances(*statuses))
    if batch is not None and batch.phase is SUCCEEDED:
        assert {"active", "done"} & set(statuses)
        assert not {"new", "odd", "cancelled"} & set(statuses)


def _container_row(number, definition, status):
    return instance(number, status, definitionId=definition)


def _installer_row(number, definition, status):
    row = {"id": f"instance-{number}", "status": status, "build_query_id": f"query-{number}"}
    return row if definition is None else {**row, "definition_id": definition}


#: Total, built, missing and repaired attempts (by their queries), superseded.
VERDICTS = {
    "nothing listed": ([], (0, 0, [], [], 0)),
    "all built": ([("D1", "active"), ("D2", "done")], (2, 2, [], [], 0)),
    "one failed": ([("D1", "active"), ("D2", "failed")], (2, 1, ["query-2"], [], 0)),
    "one repaired": ([("D1", "failed"), ("D1", "active"), ("D2", "active")], (2, 2, [], ["query-1"], 0)),
    "repaired at the third attempt": (
        [("D1", "failed"), ("D1", "error"), ("D1", "done")],
        (1, 1, [], ["query-1", "query-2"], 0),
    ),
    "listed newest first": ([("D1", "active"), ("D1", "failed")], (1, 1, [], ["query-2"], 0)),
    "failed in every attempt": (
        [("D1", "failed"), ("D1", "failed"), ("D1", "invalid"), ("D2", "active")],
        (2, 1, ["query-3"], [], 0),
    ),
    "one repaired and one failed": (
        [("D1", "failed"), ("D2", "failed"), ("D1", "active"), ("D2", "failed")],
        (2, 1, ["query-4"], ["query-1"], 0),
    ),
    "no definitions: one by one": (
        [(None, "failed"), (None, "active"), (None, "active")],
        (3, 2, ["query-1"], [], 0),
    ),
    "some definitions": ([("D1", "failed"), (None, "active"), ("D1", "active")], (2, 2, [], ["query-1"], 0)),
    "an instance is called like a definition": (
        [("instance-2", "failed"), (None, "active")],
        (2, 1, ["query-1"], [], 0),
    ),
    "superseded": ([("D1", "deleted"), ("D2", "active")], (2, 1, [], [], 1)),
    "deleted is neither good nor bad": (
        [("D1", "deleted"), ("D1", "active"), ("D2", "deleted"), ("D2", "failed")],
        (2, 1, ["query-4"], [], 0),
    ),
    "all superseded": ([("D1", "deleted"), ("D2", "deleted"), (None, "deleted")], (3, 0, [], [], 3)),
    "not ended": ([("D1", "pending"), ("D2", "archived"), ("D3", "active")], (3, 1, [], [], 0)),
    "failed, and tried again just now": ([("D1", "failed"), ("D1", "inprogress")], (1, 0, ["query-1"], [], 0)),
    "cancelled": ([("D1", "cancelled"), ("D2", "unreliable")], (2, 0, ["query-1", "query-2"], [], 0)),
}


@pytest.mark.parametrize("edition", [_container_row, _installer_row], ids=["container", "installer"])
@pytest.mark.parametrize(("rows", "expected"), VERDICTS.values(), ids=VERDICTS)
def test_aggregates_are_judged_by_their_definitions(rows, expected, edition):
    """AtScale tries an aggregate up to three times in a batch; each attempt may be an instance."""
    listed = [parse_instance(edition(number, *row)) for number, row in enumerate(rows, 1)]
    found = aggregates_of(listed)
    missing, repaired = ([each.query_id for each in group] for group in (found.missing, found.repaired))
    assert (found.total, found.built, missing, repaired, found.superseded) == expected
    assert found.repaired_attempts == len(repaired)


@given(
    st.lists(
        st.tuples(st.sampled_from(["D1", "D2", None]), st.sampled_from(["active", "failed", "deleted", "new"]))
    )
)
def test_no_aggregate_is_both_built_and_missing(rows):
    listed = [parse_instance(_container_row(number, *row)) for number, row in enumerate(rows)]
    found = aggregates_of(listed)
    assert isinstance(found, AggregateSummary)
    assert found.built + len(found.missing) + found.superseded <= found.total <= len(rows)
    built = {each.definition_id for each in listed if each.phase is SUCCEEDED} - {None}
    assert not built & {each.definition_id for each in found.missing}


@pytest.mark.parametrize("text", ["\ud800", "a\udfff", "\ud83d\ud83d"], ids=ascii)
def test_half_a_character_is_no_id_and_can_be_sent_on(text):
    """JSON may hold lone surrogates, which no log, file or request can carry."""
    assert parse_batch(row(batch_id=text)) is None
    assert parse_instance({**instance(), "id": text}) is None
    batch = parse_batch(row(status=text))
    assert batch.phase is UNKNOWN
    assert batch.status.encode()
    assert all(
        value.encode()
        for value in asdict(parse_instance(instance(message=text, tableName=text, batch_id=text))).values()
        if isinstance(value, str)
    )


def test_a_time_can_be_calculated_with():
    """As a retry does that compares a batch with a stored intent."""
    moment = parse_time("2026-11-24T19:21:38+02:00")
    assert (moment - timedelta(seconds=1)).isoformat() == "2026-11-24T17:21:37+00:00"
