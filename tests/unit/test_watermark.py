"""Each batch that ends after watching began is reported once, by any number of processes."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_atscale.api.models import Batch, History
from airflow_provider_atscale.waiting.watermark import MAX_KNOWN, Watermark, parse_watermark

START = datetime(2025, 2, 27, 12, 0, tzinfo=timezone.utc)
SERVER = "https://atscale.example.com"


def at(minute: float) -> datetime:
    return START + timedelta(minutes=minute)


def advance(mark: Watermark, read: History) -> tuple[Watermark, list[Batch]]:
    """Report all that a read shows."""
    news = mark.new_batches(read)
    return mark.add(each.id for each in news), news


def batch(name: str, status: str = "done", ended: float | None = 1.0) -> Batch:
    return Batch(name, status, created=at(-9), ended=None if ended is None else at(ended))


def history(*newest_first: Batch) -> History:
    return History(newest_first, START)


CASES = {
    "nothing": ([], []),
    "it had ended before": ([batch("old", ended=-5)], []),
    "it is new": ([batch("new"), batch("old", ended=-5)], ["new"]),
    "it was running": ([batch("running", ended=2)], ["running"]),
    "it runs on": ([batch("running", "inprogress", None)], []),
    "it failed": ([batch("new", "failed")], ["new"]),
    "it was cancelled": ([batch("new", "cancelled")], ["new"]),
    "it is in a status that nobody knows": ([batch("new", "finished?")], []),
    "several, in the order of their ends": (
        [batch("c", ended=3), batch("b", ended=1), batch("a", ended=2)],
        ["b", "a", "c"],
    ),
    "the end is not told": ([batch("new", ended=None)], ["new"]),
    "it ended at the first read, by a clock that is behind the server's": ([batch("new", ended=-0.1)], ["new"]),
    "it comes late and had ended before others": ([batch("hidden", ended=-6)], []),
}


@pytest.mark.parametrize(("now", "expected"), CASES.values(), ids=CASES)
def test_which_batches_are_new(now, expected):
    begun = Watermark.begin(SERVER, history(batch("running", "inprogress", None), batch("old", ended=-5)))
    after, news = advance(begun, history(*now))
    assert [each.id for each in news] == expected
    # Neither the next read nor the next triggerer reports it again.
    assert advance(after, history(*now)) == (after, [])
    restarted = parse_watermark(json.loads(json.dumps(after.to_json())))
    assert restarted == after


def test_nothing_is_reported_again_after_an_empty_history():
    mark, news = advance(Watermark.begin(SERVER, history()), history(batch("a")))
    assert len(news) == 1
    mark, _ = advance(mark, history())
    assert mark.new_batches(history(batch("a"))) == []


def test_merged_watermarks_know_what_either_knew():
    """An asset that was not watched for a while has an old one."""
    old = Watermark(SERVER, at(0), ("a",))
    new = Watermark(SERVER, at(0), ("a", "b"))
    for merged in (old.merge(new), new.merge(old)):
        assert merged.new_batches(history(batch("b"), batch("a"))) == []
        assert [each.id for each in merged.new_batches(history(batch("c")))] == ["c"]


def test_the_number_of_known_batches_is_limited():
    mark = Watermark.begin(SERVER, history())
    for number in range(2 * MAX_KNOWN):
        mark, news = advance(mark, history(batch(f"batch {number}", ended=number)))
        assert len(news) == 1
    assert len(mark.known) == MAX_KNOWN
    assert mark.known[-1] == f"batch {2 * MAX_KNOWN - 1}"


@pytest.mark.parametrize(
    "stored",
    [
        None,
        [],
        "text",
        {},
        {"version": 2, "server": SERVER, "since": None, "known": []},
        {"version": 1, "server": None, "since": None, "known": []},
        {"version": 1, "server": SERVER, "since": None, "known": "abc"},
        {"version": 1, "server": SERVER, "since": None, "known": [1]},
    ],
    ids=str,
)
def test_any_other_value_is_no_watermark(stored):
    assert parse_watermark(stored) is None


@given(
    ends=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    reads=st.lists(st.integers(0, 40), min_size=1, max_size=12).map(sorted),
    restarts=st.sets(st.integers(0, 11)),
)
def test_exactly_once(ends, reads, restarts):
    """Batches end and reads come at any time, and each read may be another process's."""

    def seen_at(minute: int) -> History:
        return history(
            *(
                batch(f"{number}", ended=end) if end <= minute else batch(f"{number}", "inprogress", None)
                for number, end in reversed(list(enumerate(ends)))
            )
        )

    mark = Watermark.begin(SERVER, seen_at(-1))
    told: list[str] = []
    for number, minute in enumerate(reads):
        if number in restarts:
            mark = parse_watermark(json.loads(json.dumps(mark.to_json())))
        mark, news = advance(mark, seen_at(minute))
        told += [each.id for each in news]
    assert sorted(told) == sorted(str(number) for number, end in enumerate(ends) if end <= reads[-1])
