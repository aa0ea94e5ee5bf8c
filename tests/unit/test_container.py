"""The container edition's calls, driven by hand: what is asked, and what is made of the answers."""

from __future__ import annotations

import pytest

from airflow_provider_atscale.api.models import Batch, HistoryUnavailable, ModelRef, Phase
from airflow_provider_atscale.api.start import LostReply, Refused, Started
from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleAuthenticationError,
    AtScaleConnectionError,
    AtScaleMalformedAnswerError,
    AtScaleNotFoundError,
    AtScalePermissionError,
    AtScaleStartError,
)

from .flows import (
    API_TOKEN,
    BATCH_ID,
    CATALOG_ID,
    CATALOGS,
    DATE,
    HISTORY,
    HOST,
    INSTANCES,
    KEYCLOAK,
    MODEL_ID,
    NOW,
    OTHER_ID,
    PASSWORD,
    REF,
    START,
    TOKEN,
    TOKENS,
    Journal,
    container,
    history,
    in_turn,
    instance,
    jwt,
    perform,
    refusal,
    reply,
    routes,
    row,
    started,
)

LISTED = [
    {
        "id": CATALOG_ID,
        "name": "sales_insights_main",
        "caption": "Sales Insights",
        "publishedAt": "2025-01-01T00:00:00Z",
        "models": [
            {"id": MODEL_ID, "name": "internet_sales", "caption": "Internet Sales"},
            {"id": OTHER_ID, "name": "reseller_sales", "caption": None},
            {"id": "p", "name": "a_perspective", "type": "perspective"},
        ],
    },
    {"id": "c2", "name": "finance_main", "caption": "Sales Insights (old)", "models": None},
]


def server(**answers):
    """Answer by a name of the call; tokens are exchanged for whoever wants one."""
    paths = {"history": HISTORY, "instances": INSTANCES, "catalogs": CATALOGS, "start": START, "token": TOKEN}
    return routes({**TOKENS, **{paths[name]: answer for name, answer in answers.items()}})


def pages(field: str, size: str, rows: list, total: bool = True, **values):
    """Serve rows page by page, as AtScale does."""

    def serve(request):
        page, limit = int(request.params["page"]), int(request.params[size])
        shown = rows[(page - 1) * limit : page * limit]
        return reply({field: shown, **({"total": len(rows)} if total else {}), **values})

    return serve


# --- catalogs and models ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("catalog", "model", "found"),
    [
        ("Sales Insights", "Internet Sales", (CATALOG_ID, MODEL_ID, "Sales Insights", "Internet Sales")),
        ("sales_insights_main", "internet_sales", (CATALOG_ID, MODEL_ID, "Sales Insights", "Internet Sales")),
        (CATALOG_ID, "reseller_sales", (CATALOG_ID, OTHER_ID, "Sales Insights", "reseller_sales")),
    ],
    ids=["captions", "names", "id and name"],
)
def test_a_model_is_found_by_what_people_call_it(catalog, model, found):
    journal = Journal()
    assert perform(container().resolve(catalog, model), server(catalogs=reply(LISTED)), journal) == ModelRef(
        *found
    )
    [request] = journal.requests
    assert request.headers["Authorization"] == f"Bearer {API_TOKEN}"


def test_two_ids_are_taken_as_they_are():
    ref = perform(container().resolve(BATCH_ID.upper(), MODEL_ID), in_turn())
    assert ref == ModelRef(BATCH_ID.upper(), MODEL_ID, BATCH_ID.upper(), MODEL_ID)


TWICE = [{**LISTED[0], "id": "a"}, {**LISTED[0], "id": "b"}]


@pytest.mark.parametrize(
    ("catalog", "model", "listed", "said"),
    [
        ("Sales", "x", LISTED, r"no catalog 'Sales' in https://atscale.example.com\. Deployed there: 'Sal"),
        ("Sales Insights", "Nope", LISTED, r"no model 'Nope' in .*: 'Internet Sales', 'reseller_sales'"),
        ("Sales Insights", "a_perspective", LISTED, r"no model 'a_perspective'"),
        ("finance_main", "x", LISTED, r"no model 'x' in catalog .* Deployed there: nothing"),
        ("Sales Insights", "x", [], r"no catalog 'Sales Insights' .* Deployed there: nothing"),
        ("Sales Insights", "x", TWICE, r"2 catalogs in .*: a \(Sales Insights\), b \(Sales Insights\)\. Use"),
        ("sales insights", "x", LISTED, r"exactly as shown"),
        ("x", "x", [{"id": str(n), "name": f"c{n:03}"} for n in range(80)], r"'c049' and 30 more\. Use"),
    ],
    ids=["catalog", "model", "perspective", "no models", "no catalogs", "ambiguous", "case", "many"],
)  # fmt: skip
def test_no_match_lists_what_there_is(catalog, model, listed, said):
    with pytest.raises(AtScaleNotFoundError, match=said):
        perform(container().resolve(catalog, model), server(catalogs=reply(listed)))


def test_a_catalog_that_is_listed_twice_is_one():
    ref = perform(
        container().resolve("Sales Insights", "Internet Sales"), server(catalogs=reply([LISTED[0]] * 2))
    )
    assert ref.catalog_id == CATALOG_ID


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (refusal(404), AtScaleNotFoundError, "Check host and api_prefix of the connection"),
        (refusal(401), AtScaleAuthenticationError, "Could not list the catalogs"),
        (refusal(403), AtScalePermissionError, "Could not list the catalogs"),
        (reply({"data": []}), AtScaleMalformedAnswerError, "is not a list"),
        (reply([{"name": "x"}]), AtScaleMalformedAnswerError, "has a catalog without id"),
        (reply([None]), AtScaleMalformedAnswerError, "has a catalog without id"),
        (reply("<html>"), AtScaleMalformedAnswerError, "is not JSON"),
    ],
    ids=["404", "401", "403", "object", "no id", "null", "html"],
)
def test_catalogs_that_cannot_be_listed(answer, kind, said):
    with pytest.raises(kind, match=said):
        perform(container().resolve("a", "b"), server(catalogs=answer))


def test_models_are_listed_of_one_catalog_or_of_all():
    listed = server(catalogs=reply([*LISTED, {"id": "c3", "name": "n", "models": [{"id": "m3"}, None, 7, {}]}]))
    assert [str(ref) for ref in perform(container().models(), listed)] == [
        "model 'Internet Sales' of catalog 'Sales Insights'",
        "model 'reseller_sales' of catalog 'Sales Insights'",
        "model 'm3' of catalog 'n'",
    ]
    assert [ref.model_id for ref in perform(container().models("n"), listed)] == ["m3"]


@pytest.mark.parametrize("prefix", ["/v1/public", "v1/public/"])
def test_the_public_api_may_be_elsewhere(prefix):
    journal = Journal()
    perform(container(api_prefix=prefix).models(), routes({"/v1/public/catalogs": reply([])}), journal)
    assert journal.paths == ["/v1/public/catalogs"]


# --- the history ------------------------------------------------------------------------------------------


def test_the_history_is_read_with_an_exchanged_token():
    journal = Journal()
    found = perform(container().history(REF), server(history=reply(history(row()))), journal)
    [request] = journal.sent(HISTORY)
    assert request.params == {"page": "1", "limit": "100", "catalogId": CATALOG_ID, "modelId": MODEL_ID}
    assert request.headers["Authorization"] == f"Bearer {jwt()}"
    assert [batch.id for batch in found.batches] == [BATCH_ID]
    assert found.server_time.timestamp() == NOW


def test_with_a_password_one_token_opens_everything():
    journal = Journal()
    answers = routes(
        {
            KEYCLOAK: reply({"access_token": jwt(), "expires_in": 300}),
            HISTORY: reply(history()),
            START: reply(started(), 201),
        }
    )
    edition = container(login="etl", password=PASSWORD)
    perform(edition.history(REF), answers, journal)
    perform(
        edition.start(REF, is_full_build=True, grace_period_overrides={}, before_post=lambda _: None),
        answers,
        journal,
    )
    assert journal.paths == [KEYCLOAK, HISTORY, START]
    assert journal.requests[0].form == {
        "grant_type": "password", "client_id": "atscale-ai-link", "username": "etl", "password": PASSWORD,
        "scope": "openid",
    }  # fmt: skip


def test_only_rebuilds_are_a_models_history():
    rows = [row("a"), row("b", batchType="materialize-pending-instances"), row("c", batchType=None)]
    found = perform(container().history(REF), server(history=reply(history(*rows))))
    assert [batch.id for batch in found.batches] == ["a", "c"]


@pytest.mark.parametrize(
    ("ids", "is_ours"),
    [
        ({}, True),
        ({"modelId": MODEL_ID}, True),
        ({"modelId": MODEL_ID.upper(), "catalogId": CATALOG_ID}, True),
        ({"model_id": MODEL_ID}, True),
        ({"modelId": OTHER_ID}, False),
        ({"model_id": OTHER_ID}, False),
        ({"cubeId": OTHER_ID}, False),
    ],
    ids=str,
)
def test_a_server_that_ignores_the_filter_passes_no_other_models_batch_off(ids, is_ours):
    found = perform(container().history(REF), server(history=reply(history(row(**ids)))))
    assert [batch.id for batch in found.batches] == ([BATCH_ID] if is_ours else [])
    assert bool(found.running) is is_ours


@pytest.mark.parametrize("headers", [{"date": None}, {"age": "7"}], ids=["no Date", "from a cache"])
def test_without_a_date_header_of_this_answer_the_servers_clock_is_not_known(headers):
    found = perform(container().history(REF), server(history=reply(history(row()), **headers)))
    assert [batch.id for batch in found.batches] == [BATCH_ID]
    assert found.server_time is None


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_history_that_may_not_be_read_is_a_reason_and_no_error(status):
    unavailable = perform(container().history(REF), server(history=refusal(status, "Forbidden resource")))
    assert unavailable == HistoryUnavailable(f"HTTP {status}: Forbidden resource ({HOST}{HISTORY})", status)


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (refusal(500), AtScaleApiError, "Could not read the build history"),
        (refusal(503), AtScaleApiError, "Could not read the build history"),
        (reply("", 302, location="/login"), AtScaleApiError, "redirects are not followed"),
        (reply([]), AtScaleMalformedAnswerError, "has no list 'data'"),
        (reply({"data": None}), AtScaleMalformedAnswerError, "has no list 'data'"),
        (reply({"data": [{}]}), AtScaleMalformedAnswerError, "has a batch without id or status"),
        (reply(history(row(status=None))), AtScaleMalformedAnswerError, "has a batch without id or status"),
        (reply(history(row(None))), AtScaleMalformedAnswerError, "has a batch without id or status"),
        (reply("<html>Log in</html>"), AtScaleMalformedAnswerError, "<html>Log in</html>"),
        (AtScaleConnectionError("no answer"), AtScaleConnectionError, "no answer"),
    ],
    ids=["500", "503", "302", "list", "no data", "empty row", "no status", "no id", "html", "connection"],
)
def test_a_history_that_cannot_be_understood_is_an_error(answer, kind, said):
    with pytest.raises(kind, match=said):
        perform(container().history(REF), server(history=answer))


# --- looking for batches ----------------------------------------------------------------------------------


def many(count: int, **changes):
    return [row(f"b{number}", "done", **changes) for number in range(count)]


@pytest.mark.parametrize(
    ("count", "wanted", "requests"),
    [
        (5, "b3", [("1", "20")]),
        (20, "b19", [("1", "20")]),
        (30, "b19", [("1", "20")]),
        (30, "b25", [("1", "20"), ("1", "100")]),
        (230, "b199", [("1", "20"), ("1", "100"), ("2", "100")]),
        (230, "b229", [("1", "20"), ("1", "100"), ("2", "100"), ("3", "100")]),
        (5, "gone", [("1", "20")]),
        (130, "gone", [("1", "20"), ("1", "100"), ("2", "100")]),
    ],
)
@pytest.mark.parametrize("total", [True, False], ids=["with total", "without total"])
def test_a_batch_is_looked_for_page_by_page(count, wanted, requests, total):
    if not total and count % 20 == 0:
        requests = [*requests, ("1", "100")] if wanted == "gone" else requests
    journal = Journal()
    answers = server(history=pages("data", "limit", many(count), total))
    found = perform(container().batches(REF, {wanted}), answers, journal)
    assert [(each.params["page"], each.params["limit"]) for each in journal.sent(HISTORY)] == requests
    assert set(found) == ({wanted} if wanted != "gone" else set())


def test_many_batches_are_looked_for_in_one_read():
    journal = Journal()
    wanted = {"b1", "b7", "b19"}
    answers = server(history=pages("data", "limit", many(50)))
    assert set(perform(container().batches(REF, wanted), answers, journal)) == wanted
    assert len(journal.sent(HISTORY)) == 1


@pytest.mark.parametrize(
    "total", [{}, {"total": 1000}, {"total": True}, {"total": -1}, {"total": "5"}], ids=str
)
def test_a_server_that_repeats_its_first_page_is_not_asked_for_ever(total):
    journal = Journal()
    answers = server(history=reply({"data": many(100), **total}))
    assert perform(container().batches(REF, {"gone"}), answers, journal) == {}
    assert len(journal.sent(HISTORY)) <= 3


def test_a_history_without_end_is_not_read_for_ever():
    journal = Journal()

    def endless(request):
        page = request.params["page"]
        return reply({"data": [row(f"{page}-{number}", "done") for number in range(100)]})

    assert perform(container().batches(REF, {"gone"}), server(history=endless), journal) == {}
    assert len(journal.sent(HISTORY)) == 51


@pytest.mark.parametrize("status", [None, "", 7, True, ["done"], {"status": "done"}], ids=str)
def test_a_status_that_cannot_be_read_is_one_that_nobody_knows(status):
    found = perform(container().batches(REF, {BATCH_ID}), server(history=reply(history(row(status=status)))))
    assert found[BATCH_ID].phase is Phase.UNKNOWN


def test_another_batchs_row_is_never_ours():
    rows = [
        row(OTHER_ID, "done"),
        row(BATCH_ID.upper(), "done"),
        row(BATCH_ID[:-1], "done"),
        row("", "done"),
        None,
    ]
    assert perform(container().batches(REF, {BATCH_ID}), server(history=reply(history(*rows)))) == {}


def test_a_broken_row_of_somebody_else_does_not_matter():
    rows = [None, {}, row(OTHER_ID, None), row(BATCH_ID, "done")]
    found = perform(container().batches(REF, {BATCH_ID}), server(history=reply(history(*rows))))
    assert found[BATCH_ID].phase is Phase.SUCCEEDED


# --- the second way ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403, 404])
def test_where_no_history_may_be_read_a_batch_is_seen_by_its_instances(status):
    journal = Journal()
    answers = server(
        history=refusal(status), instances=pages("data", "size", [instance(1), instance(2, "failed")])
    )
    found = perform(container().batches(REF, {BATCH_ID}), answers, journal)
    assert (found[BATCH_ID].phase, len(found[BATCH_ID].instances)) == (Phase.SUCCEEDED, 2)
    [request] = journal.sent(INSTANCES)
    assert request.params == {"batchId": BATCH_ID, "page": "1", "size": "100"}
    assert request.headers["Authorization"] == f"Bearer {API_TOKEN}"


@pytest.mark.parametrize(
    ("statuses", "phase"),
    [
        (["deleted", "deleted"], Phase.SUPERSEDED),
        (["deleted", "active"], Phase.SUCCEEDED),
        (["deleted", "failed"], Phase.FAILED),
        (["deleted", "inprogress"], Phase.WAITING),
    ],
    ids=str,
)
def test_deleted_instances_tell_nothing_of_a_batch(statuses, phase):
    """A later build deletes the instances that it has replaced, of a good batch too."""
    rows = [instance(number, status) for number, status in enumerate(statuses)]
    answers = server(history=refusal(403), instances=reply({"data": rows, "total": len(rows)}))
    assert perform(container().batches(REF, {BATCH_ID}), answers)[BATCH_ID].phase is phase


@pytest.mark.parametrize(
    "batch_id", [OTHER_ID, None, "", 7, BATCH_ID + "0"], ids=["another's", "null", "empty", "number", "longer"]
)
def test_instances_of_another_batch_do_not_count(batch_id):
    answers = server(history=refusal(403), instances=reply({"data": [instance(batch_id=batch_id)], "total": 1}))
    assert perform(container().batches(REF, {BATCH_ID}), answers) == {}


@pytest.mark.parametrize(
    ("rows", "total", "expected"),
    [
        # AtScale is known to ignore page and size somewhere: ten rows, always the same, and no total.
        (["active"] * 10, None, "cannot be told"),
        (["active"] * 9 + ["inprogress"], None, Phase.WAITING),
        (["active"] * 9, None, Phase.SUCCEEDED),
        (["active"] * 11, None, Phase.SUCCEEDED),
        (["active"] * 10, 10, Phase.SUCCEEDED),
        (["active"] * 10, 25, "cannot be told"),
        (["active"] * 3, 4, "cannot be told"),
    ],
    ids=["ten", "ten, one at work", "nine", "eleven", "ten of ten", "ten of more", "one is missing"],
)
def test_a_list_that_may_be_cut_shows_no_end(rows, total, expected):
    body = {"data": [instance(number, status) for number, status in enumerate(rows)]}
    if total is not None:
        body["total"] = total
    answers = server(history=refusal(403), instances=reply(body))
    if isinstance(expected, Phase):
        assert perform(container().batches(REF, {BATCH_ID}), answers)[BATCH_ID].phase is expected
        return
    with pytest.raises(AtScaleMalformedAnswerError, match=f"{expected}.* the role aggregates_view"):
        perform(container().batches(REF, {BATCH_ID}), answers)


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (401, 401, AtScaleAuthenticationError),
        (403, 403, AtScalePermissionError),
        (403, 404, AtScalePermissionError),
        (404, 401, AtScaleApiError),
        (403, 500, AtScaleApiError),
    ],
)
def test_where_neither_may_be_read_the_historys_refusal_is_the_error(first, second, kind):
    with pytest.raises(kind) as error:
        perform(container().batches(REF, {BATCH_ID}), server(history=refusal(first), instances=refusal(second)))
    assert error.value.http_status_code == (500 if second == 500 else first)


# --- the start --------------------------------------------------------------------------------------------


def start(answer, *, full=True, overrides=None, before_post=lambda _: None, journal=None):
    journal = Journal() if journal is None else journal
    answers = in_turn(*answer) if isinstance(answer, (list, tuple)) else in_turn(answer)
    flow = container().start(
        REF, is_full_build=full, grace_period_overrides=overrides or {}, before_post=before_post
    )
    return perform(flow, answers, journal)


@pytest.mark.parametrize(
    ("full", "overrides", "query"),
    [(True, {}, "true"), (False, {}, "false"), (False, {"factinternetsales": 30}, "false")],
    ids=["full", "incremental", "with grace periods"],
)
def test_the_start_is_the_documented_request(full, overrides, query):
    journal = Journal()
    outcome = start(reply(started(), 201), full=full, overrides=overrides, journal=journal)
    [request] = journal.requests
    assert (request.method, request.url) == ("POST", HOST + START)
    assert request.params == {"isFullBuild": query}
    assert request.json == {"gracePeriodOverrides": overrides}
    assert request.headers == {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Authorization": f"Bearer {API_TOKEN}",
    }
    assert not request.repeatable
    assert outcome.batch.id == BATCH_ID
    assert outcome.batch.estimate_ms == 1053


STARTED, LOST, REFUSED = Started, LostReply, Refused


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (reply(started(), 201), STARTED),
        (reply(started(), 200), STARTED),
        (reply({"batch": {"id": "x", "status": "new"}}), STARTED),
        (reply({"batch": {"id": "x"}}), STARTED),
        (reply({"response": {"batch": {"id": "x"}}, "status": {}}), STARTED),
        (reply({"batch": None, "response": {"batch": {"id": "x"}}}), STARTED),
        (reply(b"", 204), LOST),
        (reply(b"", 201), LOST),
        (reply(started(None), 201), LOST),
        (reply(started(""), 201), LOST),
        (reply(started("  "), 201), LOST),
        (reply(started(7), 201), LOST),
        (reply({"success": True}, 201), LOST),
        (reply({"id": BATCH_ID, "status": "new"}, 201), LOST),
        (reply({"batch": [{"id": BATCH_ID}]}, 201), LOST),
        (reply({"batch": BATCH_ID}, 201), LOST),
        (reply([started()], 201), LOST),
        (reply("<html>Log in</html>"), LOST),
        (reply(b'{"batch": {"id": "333'), LOST),
        (refusal(408), LOST),
        (refusal(502), LOST),
        (refusal(503), LOST),
        (refusal(504), LOST),
        (refusal(520), LOST),
        (refusal(524), LOST),
        (refusal(599), LOST),
        (AtScaleConnectionError("cut", sent=True), LOST),
        (refusal(409), REFUSED),
        (refusal(500), REFUSED),
        (reply({"success": False, "message": "Not now"}, 200), AtScaleStartError),
        (reply({"response": {"success": False}}, 200), AtScaleStartError),
        (refusal(400, "isFullBuild is missing"), AtScaleStartError),
        (refusal(405), AtScaleStartError),
        (refusal(429), AtScaleStartError),
        (refusal(501), AtScaleStartError),
        (reply("", 302, location="/login"), AtScaleStartError),
        (reply("", 304), AtScaleStartError),
        (refusal(401), AtScaleAuthenticationError),
        (refusal(403), AtScalePermissionError),
        (refusal(404), AtScaleNotFoundError),
    ],
)
def test_what_an_answer_to_the_start_means(answer, outcome):
    if issubclass(outcome, Exception):
        with pytest.raises(outcome) as error:
            start(answer)
        assert type(error.value) is outcome
        assert str(REF) in str(error.value)
    else:
        assert isinstance(start(answer), outcome)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (refusal(500, "A batch is already running"), "refused to build model.*already running.*engine log"),
        (refusal(404, "No such model"), "No such model.*Check that it is deployed.*Copy cURL"),
        (refusal(403, "Forbidden"), "Forbidden.*needs the role aggregates_manage"),
        (refusal(400, "Bad ids"), "Could not start a build of model 'Internet Sales'.*Bad ids.*Check what"),
        (reply({"success": False, "message": "Not now"}), "did not start a build.*Not now"),
    ],
)  # fmt: skip
def test_a_start_that_failed_says_so_in_atscales_words(answer, said):
    try:
        error = start(answer).error
    except AtScaleApiError as raised:
        error = raised
    assert pytest.raises(type(error), match=said)
    with pytest.raises(type(error), match=said):
        raise error


SETTINGS = ("aggregate.batch.gracePeriodOverrides.enabled", "aggregate.batch.cube.gracePeriodOverrides.enabled")


@pytest.mark.parametrize(
    ("full", "status", "names_settings"),
    [(False, 400, True), (True, 400, False), (False, 500, False), (False, 404, False), (False, 403, False)],
)
def test_a_refused_incremental_start_names_the_settings_that_allow_it(full, status, names_settings):
    """Both are off by default."""
    try:
        error = start(refusal(status, "Not allowed"), full=full).error
    except AtScaleApiError as raised:
        error = raised
    text = str(error)
    assert "Not allowed" in text
    assert [setting in text for setting in SETTINGS] == [names_settings] * 2
    assert ("an AtScale administrator sets" in text and "the model's owner sets" in text) is names_settings


def test_a_refused_connection_may_be_tried_again_for_nothing_was_sent():
    journal, fences = Journal(), []
    refused = AtScaleConnectionError("refused", sent=False)
    outcome = start(
        [refused, refused, reply(started(), 201)], before_post=lambda _: fences.append(1), journal=journal
    )
    assert isinstance(outcome, Started)
    assert (journal.pauses, len(fences)) == ([0.5, 2.0], 3)


def test_a_connection_that_is_refused_for_good_is_an_error_that_nothing_was_sent():
    refused = AtScaleConnectionError("refused", sent=False)
    with pytest.raises(AtScaleConnectionError) as error:
        start([refused] * 3)
    assert error.value.sent is False


def test_a_reply_that_is_lost_at_the_second_try_ends_the_tries():
    outcome = start([AtScaleConnectionError("refused", sent=False), AtScaleConnectionError("cut", sent=True)])
    assert outcome == LostReply("cut")


def test_nothing_is_sent_where_the_fence_does_not_hold():
    journal = Journal()

    def fence(_):
        raise RuntimeError("the store is down")

    with pytest.raises(RuntimeError, match="the store is down"):
        start([], before_post=fence, journal=journal)
    assert journal.requests == []


@pytest.mark.parametrize("status", [401, 500, 503])
def test_the_start_is_sent_once_whatever_comes(status):
    journal = Journal()
    try:
        start([refusal(status)], journal=journal)
    except AtScaleAuthenticationError:
        assert status == 401
    assert len(journal.requests) == 1


def test_the_status_in_the_reply_to_the_start_is_only_news():
    assert start(reply(started(), 201)).batch == Batch(
        BATCH_ID,
        "new",
        is_full_build=True,
        batch_type="aggregate_batch",
        created=start(reply(started(), 201)).batch.created,
        estimate_ms=1053,
    )


# --- instances --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "total", "requests"),
    [(0, True, 1), (0, False, 1), (3, True, 1), (3, False, 1), (100, True, 1), (250, True, 3), (250, False, 4)],
)
def test_all_pages_of_instances_are_read(count, total, requests):
    journal = Journal()
    rows = [instance(number) for number in range(count)]
    answers = server(instances=pages("data", "size", rows, total))
    found = perform(container().instances(BATCH_ID), answers, journal)
    assert [each.id for each in found] == [each["id"] for each in rows]
    assert len(journal.requests) == requests


def test_a_server_that_ignores_filter_and_paging_is_not_asked_for_ever():
    journal = Journal()
    rows = [instance(n, batch_id=(BATCH_ID, OTHER_ID, None)[n % 3]) for n in range(12)]
    found = perform(container().instances(BATCH_ID), server(instances=reply({"data": rows})), journal)
    assert [each.id for each in found] == [f"instance-{n}" for n in (0, 2, 3, 5, 6, 8, 9, 11)]
    assert len(journal.requests) == 2


@pytest.mark.parametrize("bad", [None, {}, instance(status=None), {**instance(), "id": None}], ids=str)
def test_an_instance_that_cannot_be_read_is_an_error(bad):
    answers = server(instances=reply({"data": [instance(1), bad], "total": 2}))
    with pytest.raises(AtScaleMalformedAnswerError, match="has an instance without id or status"):
        perform(container().instances(BATCH_ID), answers)


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([instance(1)], ModelRef(CATALOG_ID, MODEL_ID, CATALOG_ID, MODEL_ID)),
        ([], None),
        ([instance(1, batch_id=OTHER_ID)], None),
        ([instance(1, modelId=None)], None),
    ],
    ids=["found", "none yet", "another's", "no model"],
)
def test_a_batchs_model_is_found_through_its_instances(rows, found):
    assert perform(container().locate(BATCH_ID), server(instances=reply({"data": rows}))) == found


# --- testing a connection, and the link -------------------------------------------------------------------

VERSION = {"/engine/version": reply("2026.5.1")}


def probe(answers):
    done = []
    for step, flow in container().probe():
        try:
            done.append(perform(flow, routes({**TOKENS, **VERSION, **answers})))
        except AtScaleApiError as error:
            return [*done, (step, type(error))]
    return done


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (
            {CATALOGS: reply(LISTED), HISTORY: reply(history())},
            [
                "the host answers (version 2026.5.1)",
                "the credentials are accepted (2 models are deployed)",
                "the build history can be read",
            ],
        ),
        (
            {CATALOGS: reply([]), INSTANCES: reply({"data": []}), "/engine/version": reply("<html>" * 50)},
            [
                "the host answers",
                "the credentials are accepted (0 models are deployed)",
                "aggregates can be read (no model is known, so no build history was read)",
            ],
        ),
        (
            {TOKEN: refusal(401)},
            ["the host answers (version 2026.5.1)", ("use the credentials", AtScaleAuthenticationError)],
        ),
        (
            {CATALOGS: reply(LISTED), HISTORY: refusal(403)},
            [
                "the host answers (version 2026.5.1)",
                "the credentials are accepted (2 models are deployed)",
                ("read the build history", AtScalePermissionError),
            ],
        ),
    ],
    ids=["all is well", "nothing is deployed", "wrong token", "no role"],
)
def test_the_steps_of_a_connection_test(answers, expected):
    assert probe(answers) == expected


@pytest.mark.parametrize(
    ("fields", "ref", "batch_id", "url"),
    [
        ({}, REF, BATCH_ID, HOST + "/"),
        ({"build_history_url": HOST + "/h"}, REF, BATCH_ID, HOST + "/h"),
        (
            {"build_history_url": HOST + "/c/{catalog_id}/m/{model_id}?b={batch_id}"},
            ModelRef("a b", "m/1", "", ""),
            None,
            HOST + "/c/a%20b/m/m%2F1?b=",
        ),
        ({"build_history_url": HOST + "/{model_id}/{other}"}, None, "x", HOST + "//{other}"),
    ],
    ids=["not configured", "fixed", "filled in", "unknown"],
)
def test_where_people_see_the_history(fields, ref, batch_id, url):
    assert container(**fields).history_url(ref, batch_id) == url


def test_dates_of_the_helper_are_what_the_engine_says():
    assert reply({}).headers["date"] == DATE
