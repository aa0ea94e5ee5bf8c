"""What is known of batches: matched by id, wherever they are listed, and by their instances at last."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from airflow_provider_atscale.api.models import History, Phase
from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleAuthenticationError,
    AtScaleMalformedAnswerError,
    AtScalePermissionError,
)

from .conftest import listing, routes


@pytest.fixture
def start(engine, ref):
    """Start batches as somebody else does; each ends at once, so that the next one may be started."""

    def start(count=1, status="done", model=None):
        ids = []
        for _ in range(count):
            batch = engine.start_batch(None, model or ref.model_id)
            engine.end_batch(batch.id, status)
            ids.append(batch.id)
        return ids

    return start


@pytest.fixture
def look(caller, ref):
    def look(*wanted):
        return caller.run(lambda edition: edition.batches(ref, wanted))

    return look


def pages(engine, route):
    """Tell of each read of a list how it was paged."""
    names = ("page", "limit", "size", "offset")
    reads = [request.query for request in engine.requests if request.route == route]
    return [{name: query[name] for name in names if name in query} for query in reads]


# --- the history ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ("done", Phase.SUCCEEDED),
        ("success", Phase.SUCCEEDED),
        ("failed", Phase.FAILED),
        ("cancelled", Phase.FAILED),
        ("deleted", Phase.FAILED),
        ("inprogress", Phase.WAITING),
        ("active", Phase.UNKNOWN),
        ("sleeping", Phase.UNKNOWN),
    ],
)
def test_status_of_a_batch(start, look, status, phase):
    [batch_id] = start(status=status)
    batch = look(batch_id)[batch_id]
    assert (batch.status, batch.phase) == (status, phase)


def test_times_and_kind_of_a_batch(engine, look, ref):
    batch_id = engine.start_batch(None, ref.model_id, is_full_build=True).id
    running = look(batch_id)[batch_id]
    assert (running.is_full_build, running.ended, running.seconds) == (True, None, None)
    # An estimate of AtScale is not the duration, and the engine's is half of it.
    assert running.estimate_ms == 30_000
    engine.advance(61)
    ended = look(batch_id)[batch_id]
    assert 50 < ended.seconds <= 60
    assert ended.created == running.created


def test_batch_is_matched_by_id_not_by_position(engine, start, look):
    old, new = start(2)
    assert set(look(old)) == {old}
    assert set(look(new)) == {new}
    assert set(look(old, new)) == {old, new}
    assert look("nobody") == {}
    assert look("") == {}


def test_batches_of_other_models_are_not_in_it(start, look):
    [other] = start(model="Reseller Sales")
    assert look(other) == {}


def test_batch_that_the_history_shows_late(engine, caller, look, ref):
    engine.settings(history_delay=30)
    outcome = caller.start(ref)
    assert look(outcome.batch.id) == {}
    engine.advance(31)
    assert outcome.batch.id in look(outcome.batch.id)


def test_newest_batch_costs_one_short_read(engine, start, look):
    ids = start(60)
    look(ids[-1])
    assert routes(engine).count("history") == 1


def test_old_batch_is_searched_page_by_page(engine, start, look):
    ids = start(230)
    engine.clear_requests()
    assert set(look(ids[0], ids[-1])) == {ids[0], ids[-1]}
    assert 3 <= len(pages(engine, "history")) <= 5


def test_search_ends(engine, start, look):
    start(130)
    engine.clear_requests()
    assert look("nobody") == {}
    assert len(pages(engine, "history")) <= 4


PAGES = {
    "container": [
        {"page": "1", "limit": "20"},
        {"page": "1", "limit": "100"},
        {"page": "2", "limit": "100"},
    ],
    "installer": [{"limit": "20"}, {"limit": "100"}, {"limit": "100", "offset": "100"}],
}


def test_pages_of_a_history(engine, edition, start, look):
    ids = start(130)
    engine.clear_requests()
    look(ids[0])
    assert pages(engine, "history") == PAGES[edition]


def test_history_that_ignores_paging_does_not_run_for_ever(engine, edition, start, look):
    """Each page is the first one: a page that repeats known ids ends the search."""
    [batch_id] = start()
    row = {"id": batch_id, "status": "done"}
    engine.fault(200, route="history", times=None, body=listing(edition, [row] * 100, total=5000))
    assert look("nobody") == {}
    assert len(pages(engine, "history")) <= 3


def test_history_for_the_start(engine, caller, start, ref):
    ids = start(3)
    running = engine.start_batch(None, ref.model_id)
    history = caller.run(lambda edition: edition.history(ref))
    assert isinstance(history, History)
    assert [batch.id for batch in history.batches] == [running.id, *ids[::-1]]
    assert [batch.id for batch in history.running] == [running.id]
    assert history.newest.id == running.id
    assert abs(history.server_time.timestamp() - engine.now) < 3


def test_history_knows_the_servers_clock(engine, caller, ref):
    engine.settings(clock_offset=-7200)
    history = caller.run(lambda edition: edition.history(ref))
    assert abs(history.server_time.timestamp() - engine.now) < 3


def test_a_history_from_a_cache_tells_no_time(engine, edition, caller, ref):
    """A proxy between gives an old answer again: its ``Date`` is the time of that answer."""
    old = formatdate(engine.now - 3600, usegmt=True)
    headers = {"Date": old, "Age": "3600"}
    engine.fault(200, route="history", body=listing(edition, []), headers=headers, times=1)
    assert caller.run(lambda edition: edition.history(ref)) == History((), None)
    assert caller.run(lambda edition: edition.history(ref)).server_time is not None


# --- where the history may not be read --------------------------------------------------------------------

REFUSALS = {"unauthorized": 401, "forbidden": 403, "missing": 404}


class TestWithoutHistory:
    @pytest.fixture(params=REFUSALS)
    def refusal(self, request, engine):
        engine.settings(history_mode=request.param)
        return REFUSALS[request.param]

    @pytest.fixture
    def caller(self, make_caller):
        """An installer engine that is known to be old has another list, which is tried first."""
        return make_caller(environment="")

    def test_batch_is_judged_by_its_instances(self, engine, look, ref, refusal):
        batch_id = engine.start_batch(None, ref.model_id).id
        batch = look(batch_id)[batch_id]
        assert (batch.status, len(batch.instances)) == ("inprogress", 6)
        engine.advance(61)
        assert look(batch_id)[batch_id].status == "done"

    def test_batch_that_failed(self, engine, look, start, refusal):
        """Instances that were built make a batch that is done, as far as instances can show it."""
        engine.fail_next("Internet Sales", "failed", failed_aggregates=6)
        batch_id = engine.start_batch(None, "Internet Sales").id
        engine.advance(61)
        assert look(batch_id)[batch_id].status == "failed"

    def test_batch_without_instances_is_not_found(self, look, refusal):
        assert look("nobody") == {}

    def test_reason_is_told_before_a_start(self, caller, ref, refusal):
        history = caller.run(lambda edition: edition.history(ref))
        assert history.reason.startswith(f"HTTP {refusal}: ")

    def test_nothing_may_be_read(self, engine, look, refusal):
        engine.fault(403, route="instances", times=None)
        errors = {401: AtScaleAuthenticationError, 403: AtScalePermissionError, 404: AtScaleApiError}
        with pytest.raises(errors[refusal], match="the build history or the aggregate instances"):
            look("b1")

    def test_another_batchs_instances_are_not_taken(self, engine, look, ref, refusal):
        """A server that ignores the filter must not pass another batch's end off as ours."""
        engine.settings(instances_filter="ignored", instances_batch_id="present", on_second_start="allow")
        ours = engine.start_batch(None, ref.model_id).id
        engine.advance(61)
        other = engine.start_batch(None, ref.model_id).id
        found = look(ours, other, "nobody")
        assert {batch.id: (batch.status, len(batch.instances)) for batch in found.values()} == {
            ours: ("done", 6),
            other: ("inprogress", 6),
        }

    def test_a_list_that_may_go_on_judges_no_batch(self, engine, look, ref, refusal):
        """Ten are listed, as always where a server does not page, and all of them are built."""
        engine.settings(instances_paging="ignored")
        model = engine.add_model("Finance", "wide", aggregates=25)
        batch_id = engine.start_batch(None, model.id).id
        assert look(batch_id)[batch_id].status == "inprogress"
        engine.advance(50)
        with pytest.raises(AtScaleMalformedAnswerError, match="cannot list whether there are more"):
            look(batch_id)
        # Nor is it another's trouble, who is asked for in the same breath.
        other = engine.start_batch(None, ref.model_id).id
        found = look(batch_id, other)
        assert isinstance(found[batch_id], AtScaleMalformedAnswerError)
        assert found[other].status == "inprogress"


@pytest.mark.parametrize("status", [500, 502])
def test_trouble_with_the_history_is_no_reason_to_look_elsewhere(engine, look, status):
    engine.fault(status, route="history", times=None)
    with pytest.raises(AtScaleApiError, match=f"HTTP {status}"):
        look("b1")
    assert "instances" not in routes(engine)


# --- instances --------------------------------------------------------------------------------------------


@pytest.fixture
def instances(engine, caller):
    """Build a model of many aggregates and read the batch's instances."""

    def instances(aggregates=6, failed=0):
        model = engine.add_model("Finance", "wide", aggregates=aggregates)
        engine.fail_next(model.id, "done", failed_aggregates=failed, message="no space left")
        batch = engine.start_batch(None, model.id)
        engine.advance(61)
        engine.clear_requests()
        return caller.run(lambda edition: edition.instances(batch.id))

    return instances


def test_instances(instances):
    rows = instances(aggregates=6, failed=2)
    assert [row.status for row in rows] == ["active"] * 4 + ["failed"] * 2
    assert {row.message for row in rows[4:]} == {"no space left"}
    assert all(row.rows and row.table_name and row.table_schema for row in rows[:4])


@pytest.mark.parametrize(
    ("paging", "aggregates", "expected", "most"),
    [
        ("normal", 0, 0, 1),
        ("normal", 100, 100, 1),
        ("normal", 101, 101, 2),
        ("normal", 250, 250, 3),
        ("ignored", 25, 10, 2),
        ("none", 250, 250, 2),
    ],
    ids=["no instances", "a full page", "one more", "three pages", "each page is the first", "all at once"],
)
def test_all_pages_of_instances_are_read(engine, edition, instances, paging, aggregates, expected, most):
    engine.settings(instances_paging=paging)
    rows = instances(aggregates)
    assert len({row.id for row in rows}) == len(rows) == expected
    # The installer's documented call has no paging and no total: it is first made without any, and an empty
    # page ends it. Its rows do not name their batch: a question about no batch shows that it tells them apart.
    extra = 0 if edition == "container" or not expected else 3
    assert len(pages(engine, "instances")) <= most + extra


def test_rows_that_name_their_batch_are_filtered_whatever_the_server_does(engine, instances):
    engine.start_batch(None, "Internet Sales")
    engine.settings(instances_filter="ignored", instances_batch_id="present")
    assert len(instances(aggregates=8)) == 8


def test_instance_without_id_is_an_error(engine, edition, caller):
    engine.fault(200, route="instances", body=listing(edition, [{"id": None, "status": "active"}]))
    with pytest.raises(AtScaleMalformedAnswerError):
        caller.run(lambda edition: edition.instances("b1"))


def test_model_of_a_batch(engine, caller, ref):
    batch = engine.start_batch(None, ref.model_id)
    found = caller.run(lambda edition: edition.locate(batch.id))
    assert (found.catalog_id, found.model_id) == (ref.catalog_id, ref.model_id)
    assert caller.run(lambda edition: edition.locate("nobody")) is None
