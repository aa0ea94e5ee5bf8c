"""What only the installer edition has: two ports, three spellings of the start, an old list of batches."""

from __future__ import annotations

import pytest

from airflow_provider_atscale.api.models import ModelRef
from airflow_provider_atscale.api.start import LostReply, Refused, Started
from airflow_provider_atscale.exceptions import (
    AtScaleAuthenticationError,
    AtScaleConfigurationError,
    AtScaleMalformedAnswerError,
    AtScaleNotFoundError,
    AtScalePermissionError,
    AtScaleStartError,
)

from .conftest import posts, routes

pytestmark = pytest.mark.parametrize("edition", ["installer"], indirect=True)

ALL_FORMS = ("project_id", "literal", "environment")


@pytest.fixture
def by_key(make_caller):
    """Call with a client API key, and accept that the engine chooses the kind of build."""
    return make_caller("client_api_key", engine_choice=True)


# --- what is sent -----------------------------------------------------------------------------------------

# AtScale's own description, "Rebuilding Aggregates Using The REST API":
#   Endpoint: aggregate-batch/org_id/project_id    Query parameters: cubeID    HTTP method: POST
#   Each API call to the AtScale engine must pass in the client-api-key field in the HTTP request header.


def test_the_start_equals_the_documented_one(engine, by_key, ref):
    engine.settings(start_forms=["literal"])
    assert isinstance(by_key.start(ref), Started)
    start = posts(engine)[-1]
    assert (start.method, start.port, start.status) == ("POST", "engine", 201)
    assert start.path == f"/aggregate-batch/{engine.organization}/{ref.catalog_id}"
    assert start.query_string == f"cubeID={ref.model_id}"
    assert start.headers["client-api-key"] == engine.client_api_key
    assert "Authorization" not in start.headers
    assert start.body == ""


def test_a_client_api_key_is_all_that_is_needed(engine, by_key):
    ref = by_key.run(lambda edition: edition.resolve("Sales Insights", "Internet Sales"))
    outcome = by_key.start(ref)
    by_key.run(lambda edition: edition.batches(ref, [outcome.batch.id]))
    by_key.run(lambda edition: edition.instances(outcome.batch.id))
    assert {request.headers.get("client-api-key") for request in engine.requests} == {engine.client_api_key}
    assert {request.port for request in engine.requests} == {"engine"}
    assert {request.status for request in engine.requests} == {200, 201}


@pytest.mark.parametrize(("full", "text"), [(True, "true"), (False, "false")])
def test_the_start_of_recent_engines(engine, make_caller, ref, full, text):
    outcome = make_caller().start(ref, is_full_build=full)
    [start], [batch] = posts(engine), engine.batches
    assert start.path == f"/aggregate-batch/orgId/default/projectId/{ref.catalog_id}"
    assert start.query == {"cubeId": ref.model_id, "isFullBuild": text}
    assert start.headers["Authorization"].startswith("Bearer ")
    assert (outcome.batch.id, batch.is_full_build) == (batch.id, full)


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize("envelope", ["top", "response"])
@pytest.mark.parametrize("form", ALL_FORMS)
def test_every_spelling_starts_one_batch(engine, by_key, ref, form, envelope, status):
    engine.settings(start_forms=[form], batch_envelope=envelope, start_status=status)
    outcome = by_key.start(ref)
    [batch] = engine.batches
    assert outcome.batch.id == batch.id
    assert [post.status for post in posts(engine)] == [404] * ALL_FORMS.index(form) + [status]


@pytest.mark.parametrize("form", ["literal", "environment"])
def test_an_incremental_build_is_not_started_where_it_cannot_be_asked_for(engine, make_caller, ref, form):
    engine.settings(start_forms=[form])
    with pytest.raises(AtScaleConfigurationError, match="engine_choice to true"):
        make_caller("client_api_key").start(ref, is_full_build=False)
    assert not engine.batches
    assert len(posts(engine)) == 1


def test_a_full_build_is_started_where_the_kind_cannot_be_told(engine, make_caller, ref):
    engine.settings(start_forms=["literal"])
    make_caller("client_api_key").start(ref, is_full_build=True)
    assert len(engine.batches) == 1


def test_the_spelling_that_worked_is_remembered(engine, make_caller, ref):
    """By the process, for each task of Airflow has a hook and a client of its own."""
    engine.settings(start_forms=["environment"], on_second_start="allow")
    for _ in range(2):
        make_caller("client_api_key", engine_choice=True).start(ref)
    # The oldest spelling answers 200, as the script of AtScale that sends it expects.
    assert [post.status for post in posts(engine)] == [404, 404, 200, 200]


def test_overrides_are_refused_without_a_request(engine, make_caller, ref):
    with pytest.raises(AtScaleConfigurationError, match="takes no such overrides"):
        make_caller("password").start(ref, grace_period_overrides={"factinternetsales": 30})
    assert not engine.requests


# --- what comes back --------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", ["500", "409"])
def test_a_second_start_is_refused_and_the_history_tells_why(engine, by_key, ref, second):
    engine.settings(on_second_start=second)
    running = engine.start_batch(None, "Internet Sales")
    assert isinstance(by_key.start(ref), Refused)
    history = by_key.run(lambda edition: edition.history(ref))
    assert [batch.id for batch in history.running] == [running.id]
    assert len(posts(engine)) == 1


# AtScale's description again: 400 - Bad Request, 401 - Unauthorized, 404 - Not Found, 500 - Server Error,
# 503 - Server Unavailable.
ANSWERS = {
    400: (AtScaleStartError, "Check what AtScale's message names"),
    401: (AtScaleAuthenticationError, "Check the key in the connection's password"),
    404: (AtScaleNotFoundError, "Check that engine_url of the connection is the engine"),
    500: (Refused, "No running batch of it was found that would explain it"),
    503: (LostReply, "HTTP 503"),
}


@pytest.mark.parametrize(("status", "outcome", "hint"), [(each, *ANSWERS[each]) for each in ANSWERS])
def test_what_the_documented_answers_mean(engine, by_key, ref, status, outcome, hint):
    """Each shows what AtScale said, which this edition puts under ``status``."""
    words = "the words of AtScale"
    engine.fault(status, route="start", times=None, body={"status": {"message": words}, "response": {}})
    if issubclass(outcome, Exception):
        with pytest.raises(outcome) as caught:
            by_key.start(ref)
        said = str(caught.value)
    else:
        came = by_key.start(ref)
        assert isinstance(came, outcome)
        said = came.reason if isinstance(came, LostReply) else str(came.error)
    assert f"HTTP {status}: {words}" in said
    assert hint in said
    # Only after a 404 is it known that nothing was started, and that another spelling may be the right one.
    assert len(posts(engine)) == (len(ALL_FORMS) if status == 404 else 1)


@pytest.mark.parametrize("form", ALL_FORMS)
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"action": "drop_after"}, id="connection lost"),
        pytest.param({"action": "cut"}, id="reply cut"),
        pytest.param({"action": "truncate"}, id="reply truncated"),
        pytest.param({"action": 503, "when": "after"}, id="503"),
        pytest.param({"action": "html", "when": "after"}, id="page"),
    ],
)
def test_after_a_lost_reply_nothing_more_is_sent(engine, by_key, ref, form, fault):
    engine.settings(start_forms=[form])
    path = {"project_id": "projectId", "literal": "^/aggregate-batch/default/", "environment": "envId"}[form]
    engine.fault(**fault, method="POST", path=path, times=None)
    assert isinstance(by_key.start(ref), LostReply)
    [batch] = engine.batches
    assert len(posts(engine)) == ALL_FORMS.index(form) + 1
    history = by_key.run(lambda edition: edition.history(ref))
    assert [each.id for each in history.running] == [batch.id]


@pytest.mark.parametrize("auth", ["password", "client_api_key"])
def test_a_user_who_may_not_build(engine, make_caller, ref, auth):
    engine.settings(can_manage=False)
    with pytest.raises(AtScalePermissionError, match='a role with the permission "Manage Aggregates"'):
        make_caller(auth).start(ref)
    assert not engine.batches


@pytest.mark.parametrize(
    ("auth", "text"),
    [
        ("client_api_key", "client-api-key"),
        ("api_token", "/jwt/get"),
        ("password", "refuses the login .*Check login and password"),
    ],
)
def test_wrong_credentials(engine, make_caller, ref, auth, text):
    with pytest.raises(AtScaleAuthenticationError, match=text) as caught:
        make_caller(auth, password="not-the-right-one").start(ref)
    assert "not-the-right-one" not in str(caught.value)
    assert not engine.batches


def test_a_wrong_organization(make_caller, ref):
    with pytest.raises(AtScaleConfigurationError, match="organization"):
        make_caller("password", organization="other").start(ref)


@pytest.mark.parametrize(
    ("project", "cube", "text"),
    [
        ("draft", None, "is the id of a draft; published it is "),
        ("43e78f1a-0000-4000-8000-000000000000", None, "lists no cube"),
        (None, "43e78f1a-0000-4000-8000-000000000000", "lists no cube"),
    ],
)
def test_ids_that_are_not_published(engine, by_key, ref, project, cube, text):
    if project == "draft":
        listing = by_key.run(lambda edition: edition._catalogs())
        project = next(each.draft_id for each in listing if each.id == ref.catalog_id)
    wrong = ModelRef(project or ref.catalog_id, cube or ref.model_id, "", "")
    with pytest.raises(AtScaleNotFoundError, match=text):
        by_key.start(wrong)
    assert not engine.batches


# --- logging in -------------------------------------------------------------------------------------------


def test_one_login_serves_both_reads_and_the_start(engine, make_caller, ref):
    caller = make_caller("password")
    caller.run(lambda edition: edition.models())
    caller.run(lambda edition: edition.history(ref))
    caller.start(ref)
    assert engine.stats.token_exchanges == 1
    assert routes(engine) == ["login", "catalogs", "history", "start"]
    assert any(len(value) > 100 for value in caller.masked)


def test_an_ended_token_is_renewed_by_the_read_before_the_start(engine, make_caller, ref):
    caller = make_caller("password")
    caller.run(lambda edition: edition.history(ref))
    engine.expire_tokens()
    caller.run(lambda edition: edition.history(ref))
    assert isinstance(caller.start(ref), Started)
    assert len(engine.batches) == 1
    assert routes(engine) == ["login", "history", "history", "login", "history", "start"]


def test_a_token_from_elsewhere_is_used_as_it_is(engine, make_caller, ref):
    assert isinstance(make_caller("api_token").start(ref), Started)
    assert engine.requests[0].headers["Authorization"] == f"Bearer {engine.api_token}"
    assert engine.stats.token_exchanges == 0


# --- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("project", "cube"), [("Sales Insights", "Internet Sales"), ("Sales Insights", "internet_sales")]
)
def test_of_several_published_versions_the_latest_is_meant(engine, by_key, ref, project, cube):
    found = by_key.run(lambda edition: edition.resolve(project, cube))
    assert (found.catalog_id, found.model_id) == (ref.catalog_id, ref.model_id)
    # Only that one can be built.
    assert isinstance(by_key.start(found), Started)


# --- waiting ----------------------------------------------------------------------------------------------

WAYS = {
    "history": ("normal", {}, {"history"}),
    "old list": ("missing", {}, {"history", "latest"}),
    "instances, no history": ("missing", {"environment": ""}, {"history", "instances"}),
}


@pytest.mark.parametrize(("mode", "fields", "asked"), WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("failed", [0, 6])
def test_every_way_to_see_a_batch(engine, make_caller, ref, mode, fields, asked, failed):
    engine.settings(history_mode=mode, build_seconds=100)
    caller = make_caller("client_api_key", **fields)
    if failed:
        engine.fail_next("Internet Sales", "failed", failed_aggregates=failed)
    batch_id = caller.start(ref).batch.id
    engine.clear_requests()

    def look():
        return caller.run(lambda edition: edition.batches(ref, [batch_id]))

    engine.advance(50)
    running = look()
    assert set(running) == {batch_id}
    assert running[batch_id].is_running
    engine.advance(51)
    assert look()[batch_id].status == ("failed" if failed else "done")
    assert set(routes(engine)) == asked


def test_the_old_list_tells_the_progress_and_the_aggregates_who_was_overtaken(engine, by_key, ref):
    engine.settings(history_mode="missing", build_seconds=100)
    first = engine.start_batch(None, "Internet Sales").id
    engine.advance(50)
    assert by_key.run(lambda edition: edition.batches(ref, [first]))[first].progress == 50
    engine.advance(51)
    second = engine.start_batch(None, "Internet Sales").id
    found = by_key.run(lambda edition: edition.batches(ref, [first, second]))
    assert {each.id: each.status for each in found.values()} == {first: "done", second: "new"}
    # An engine that is known to be old is not asked for its history again.
    assert list(dict.fromkeys(routes(engine))) == ["history", "latest", "instances"]
    assert routes(engine).count("history") == 1


@pytest.mark.parametrize(("mode", "text"), [("forbidden", '"View Aggregates"'), ("missing", "environment")])
def test_a_history_that_may_not_be_read(engine, make_caller, ref, mode, text):
    engine.settings(history_mode=mode)
    history = make_caller("client_api_key", environment="").run(lambda edition: edition.history(ref))
    assert text in history.reason


@pytest.mark.parametrize("style", ["edition", "null", "absent", "year1"])
def test_a_time_that_is_not_there_is_none(engine, by_key, ref, style):
    engine.settings(unset_times=style)
    engine.start_batch(None, "Internet Sales")
    [batch] = by_key.run(lambda edition: edition.history(ref)).batches
    assert (batch.started, batch.ended, batch.seconds) == (None, None, None)


# --- instances --------------------------------------------------------------------------------------------


def test_instances_of_a_batch(engine, by_key, ref):
    engine.fail_next("Internet Sales", "done", failed_aggregates=2)
    batch_id = by_key.start(ref).batch.id
    engine.advance(61)
    instances = by_key.run(lambda edition: edition.instances(batch_id))
    assert [each.status for each in instances] == ["active"] * 4 + ["failed"] * 2
    assert all(each.rows and each.table_schema for each in instances[:4])
    assert instances[-1].message.startswith("Failed to build the aggregate")
    assert by_key.run(lambda edition: edition.locate(batch_id)).model_id == ref.model_id
    assert by_key.run(lambda edition: edition.locate("unknown")) is None


@pytest.mark.parametrize("what", ["instances", "locate", "batches"])
def test_a_server_that_does_not_tell_batches_apart(engine, make_caller, ref, what):
    """Its rows name no batch either, so nothing is taken from it: neither a report, nor an end."""
    engine.settings(instances_filter="ignored", history_mode="missing", on_second_start="allow")
    engine.start_batch(None, ref.model_id)
    engine.advance(61)
    batch_id = engine.start_batch(None, ref.model_id).id
    calls = {
        "instances": lambda edition: edition.instances(batch_id),
        "locate": lambda edition: edition.locate(batch_id),
        "batches": lambda edition: edition.batches(ref, [batch_id]),
    }
    with pytest.raises(AtScaleMalformedAnswerError, match="even for a batch that does not exist"):
        make_caller("client_api_key", environment="").run(calls[what])


# --- testing a connection ---------------------------------------------------------------------------------


@pytest.mark.parametrize("auth", ["client_api_key", "password", "api_token"])
@pytest.mark.parametrize(
    ("changes", "fields", "said"),
    [
        ({}, {}, "the build history can be read"),
        ({"history_mode": "missing"}, {}, "the build history can be read"),
        ({"history_mode": "missing"}, {"environment": ""}, "aggregates can be read"),
    ],
)
def test_probe(engine, make_caller, auth, changes, fields, said):
    engine.settings(**changes)
    caller = make_caller(auth, **fields)
    steps = [caller.run(lambda _, flow=flow: flow) for _, flow in caller.edition.probe()]
    assert steps[0] == "the engine answers (version 2024.2.1.8888)"
    assert steps[1] == "the credentials are accepted (3 cubes are deployed)"
    assert steps[2].startswith(said)


def test_probe_names_the_permission_that_lacks(engine, by_key):
    engine.settings(can_view=False)
    *_, (what, flow) = by_key.edition.probe()
    assert what == "read the build history"
    with pytest.raises(AtScalePermissionError, match='a role with the permission "View Aggregates"'):
        by_key.run(lambda _: flow)
