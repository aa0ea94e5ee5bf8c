"""The hook: what a ``@task`` of a user's DAG can call, with a connection that Airflow looks up."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from airflow_provider_atscale.api.models import History
from airflow_provider_atscale.api.observation import Seen
from airflow_provider_atscale.api.start import Started
from airflow_provider_atscale.exceptions import (
    AtScaleAuthenticationError,
    AtScaleConfigurationError,
    AtScaleConnectionError,
    AtScaleNotFoundError,
)
from airflow_provider_atscale.get_provider_info import CONNECTION_FIELDS, FIELD_BEHAVIOUR
from airflow_provider_atscale.hooks.atscale import AtScaleHook

from .conftest import posts, routes


@pytest.fixture
def connect(engine, monkeypatch):
    """Enter a connection to the engine, as a user does; its arguments go into the extra."""

    def connect(auth="auto", **extra):
        monkeypatch.setenv("AIRFLOW_CONN_ATSCALE_DEFAULT", engine.connection_json(auth, **extra))

    connect()
    return connect


@pytest.fixture
def hook(connect):
    hook = AtScaleHook()
    yield hook
    hook.close()


# --- calls ------------------------------------------------------------------------------------------------


def test_from_start_to_report(engine, hook, ref):
    found = hook.resolve_model("Sales Insights", "Internet Sales")
    assert (found.catalog_id, found.model_id) == (ref.catalog_id, ref.model_id)
    assert hook.get_history(ref).batches == ()

    outcome = hook.start_batch(ref, is_full_build=True)
    assert isinstance(outcome, Started)
    batch_id = outcome.batch.id
    assert hook.locate_batch(batch_id).model_id == ref.model_id
    assert hook.get_batches(ref, (batch_id,))[batch_id].is_running
    history = hook.get_history(ref)
    assert isinstance(history, History)
    assert [batch.id for batch in history.running] == [batch_id]

    engine.advance(61)
    assert hook.get_batches(ref, (batch_id,))[batch_id].status == "done"
    assert [row.status for row in hook.get_instances(batch_id)] == ["active"] * 6
    assert len(posts(engine)) == 1


@pytest.mark.parametrize(
    ("catalog", "expected"),
    [
        (None, ["Internet Sales", "Reseller Sales", "General Ledger"]),
        ("Sales Insights", ["Internet Sales", "Reseller Sales"]),
    ],
)
def test_list_models(hook, catalog, expected):
    rows = hook.list_models(catalog)
    assert [row["model"] for row in rows] == expected
    assert all(set(row) == {"catalog", "model"} for row in rows)


def test_each_model_that_is_listed_can_be_named_so(engine, hook):
    engine.add_model("Sales Insights", "internet_sales_eu", caption="Internet Sales")
    engine.add_model("Sales Insights", "Reseller Sales", caption="Resellers")
    rows = hook.list_models("Sales Insights")
    assert len({hook.resolve_model(**row).model_id for row in rows}) == len(rows) == 4


def test_list_models_of_no_catalog(hook):
    with pytest.raises(AtScaleNotFoundError):
        hook.list_models("Nothing")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, {"active": 6, "deleted": 11, "failed": 1}),
        ("active", {"active": 6}),
        ("FAILED", {"failed": 1}),
        ("deleted", {"deleted": 11}),
        ("pending", {}),
    ],
)
def test_list_instances_of_a_model(engine, hook, status, expected):
    """Of all its batches, and of no other model; also with a status that AtScale's filter does not know."""
    names = ("Sales Insights", "Internet Sales")
    engine.start_batch(*names, is_full_build=True, build_seconds=0)
    engine.start_batch("Sales Insights", "Reseller Sales", build_seconds=0)
    engine.start_batch(*names, is_full_build=True, build_seconds=0)
    third = engine.start_batch(*names, is_full_build=True)
    engine.end_batch(third.id, failed_aggregates=1)
    rows = hook.list_instances(*names, status=status)
    assert Counter(row.status for row in rows) == expected
    assert all(row.ended is not None for row in rows)
    assert not rows.is_truncated
    assert not any("status" in request.query for request in engine.requests if request.route == "instances")


def test_overrides_of_a_start(engine, hook, ref, edition):
    def start():
        return hook.start_batch(ref, is_full_build=False, grace_period_overrides={"factinternetsales": 30})

    if edition == "container":
        assert isinstance(start(), Started)
        assert engine.batches[0].grace_period_overrides == {"factinternetsales": 30}
    else:
        with pytest.raises(AtScaleConfigurationError, match="takes no such overrides"):
            start()
        assert engine.requests == []


# --- the connection ---------------------------------------------------------------------------------------


def test_making_one_costs_nothing(engine, monkeypatch):
    monkeypatch.delenv("AIRFLOW_CONN_ATSCALE_DEFAULT", raising=False)
    AtScaleHook("not_there").close()


def test_client_is_kept_until_closed(hook):
    client = hook.get_conn()
    assert hook.get_conn() is client
    hook.close()
    assert hook.get_conn() is not client


def test_wrong_field_is_named_before_any_request(engine, hook, connect):
    connect(timeout="soon")
    with pytest.raises(AtScaleConfigurationError, match="'atscale_default': the field 'timeout' is 'soon'"):
        hook.list_models()
    assert engine.requests == []


@pytest.mark.usefixtures("new_process")
def test_tokens_are_hidden(engine, hook, ref, monkeypatch):
    hidden = []
    monkeypatch.setattr("airflow_provider_atscale.hooks.atscale.mask_secret", hidden.append)
    hook.get_history(ref)
    used = engine.requests[-1].headers["Authorization"].removeprefix("Bearer ")
    assert {engine.connection()["password"], used} <= set(hidden)


class TestRotatedToken:
    @pytest.fixture(autouse=True)
    def _by_token(self, connect):
        connect("api_token")

    def test_is_looked_up_again(self, engine, hook, connect):
        hook.list_models()
        engine.rotate_api_token()
        connect("api_token")
        engine.clear_requests()
        assert len(hook.list_models()) == 3
        assert [request.status for request in engine.requests] == [401, 200]

    def test_that_nobody_entered_is_an_error(self, engine, hook):
        hook.list_models()
        engine.rotate_api_token()
        engine.clear_requests()
        with pytest.raises(AtScaleAuthenticationError):
            hook.list_models()
        assert routes(engine) == ["catalogs"]

    def test_start_is_sent_once_more(self, engine, hook, connect, ref):
        """The refused POST has started nothing; the intent is stored before each POST."""
        hook.get_history(ref)
        engine.rotate_api_token()
        connect("api_token")
        before = []
        outcome = hook.start_batch(
            ref, is_full_build=True, before_post=lambda _: before.append(len(posts(engine)))
        )
        assert isinstance(outcome, Started)
        assert [post.status for post in posts(engine)] == [401, 201]
        assert before == [0, 1]
        assert len(engine.batches) == 1

    def test_start_is_sent_once_if_nobody_entered_it(self, engine, hook, ref):
        hook.get_history(ref)
        engine.rotate_api_token()
        with pytest.raises(AtScaleAuthenticationError):
            hook.start_batch(ref, is_full_build=True)
        assert len(posts(engine)) == 1

    def test_start_is_sent_twice_at_most(self, engine, hook, connect, ref):
        hook.get_history(ref)
        engine.rotate_api_token()
        connect("api_token")
        engine.fault(401, route="start", times=None)
        with pytest.raises(AtScaleAuthenticationError):
            hook.start_batch(ref, is_full_build=True)
        assert len(posts(engine)) == 2


def test_a_login_that_expired_is_renewed_for_the_start(engine, hook, connect, ref):
    connect("password")
    hook.list_models()
    engine.expire_tokens()
    assert isinstance(hook.start_batch(ref, is_full_build=True), Started)
    assert [post.status for post in posts(engine)] == [401, 201]


def test_a_login_that_is_refused_is_not_repeated_for_the_start(engine, edition, hook, connect, ref):
    connect("password")
    engine.fault(401, route="login", times=None)
    with pytest.raises(AtScaleAuthenticationError):
        hook.start_batch(ref, is_full_build=True)
    assert routes(engine) == ["login"]


@pytest.mark.parametrize(
    "call",
    [
        lambda hook, ref: hook.run(lambda edition: edition.models()),
        lambda hook, ref: hook.resolve_model("c", "m"),
        lambda hook, ref: hook.list_models(),
        lambda hook, ref: hook.get_history(ref),
        lambda hook, ref: hook.get_batches(ref, ["b"]),
        lambda hook, ref: hook.get_instances("b"),
        lambda hook, ref: hook.locate_batch("b"),
        lambda hook, ref: hook.start_batch(ref, is_full_build=True),
    ],
    ids=[
        "run",
        "resolve_model",
        "list_models",
        "get_history",
        "get_batches",
        "get_instances",
        "locate_batch",
        "start_batch",
    ],
)
def test_no_call_is_sent_after_the_deadline(engine, hook, ref, call):
    hook.until = 1.0
    with pytest.raises(AtScaleConnectionError, match="deadline"):
        call(hook, ref)
    assert engine.requests == []


def test_the_last_poll_takes_one_request_more(engine, hook, ref):
    """A wait polls for the last time at its deadline."""
    batch = engine.start_batch("Sales Insights", "Internet Sales")
    hook.until = time.time()
    assert isinstance(hook.observe_batch(ref, batch.id), Seen)
    assert hook.until <= time.time()


def test_a_start_has_its_whole_request_timeout(engine, hook, ref):
    """To cut it at the deadline would lose its reply."""
    hook.list_models()
    engine.fault("delay", seconds=0.7, route="start")
    hook.until = time.time() + 0.3
    assert isinstance(hook.start_batch(ref, is_full_build=True), Started)
    assert time.time() > hook.until


@pytest.mark.parametrize(
    ("template", "batch_id", "expected"),
    [
        (None, "b1", "{url}"),
        ("https://dc.invalid/#/history", "b1", "https://dc.invalid/#/history"),
        (
            "https://dc.invalid/{catalog_id}/{model_id}?b={batch_id}",
            "b/1",
            "https://dc.invalid/{ref.catalog_id}/{ref.model_id}?b=b%2F1",
        ),
        ("https://dc.invalid/{batch_id}", None, "https://dc.invalid/"),
    ],
    ids=["not configured", "a page", "with its ids", "without a batch"],
)
def test_history_url(engine, hook, connect, ref, template, batch_id, expected):
    if template:
        connect(build_history_url=template)
    url = hook.history_url(ref, batch_id)
    if template is None:
        assert url.startswith(tuple(engine.urls.values()))
    else:
        assert url == expected.format(ref=ref)
    assert engine.requests == []


# --- the connection test ----------------------------------------------------------------------------------


def test_connection_works(engine, hook, edition):
    is_good, said = hook.test_connection()
    assert is_good, said
    assert f"({edition} edition) works" in said
    assert {"container": "3 models are deployed", "installer": "3 cubes are deployed"}[edition] in said


PROBLEMS = {
    "host is away": (lambda engine: engine.stop(), "the step 'reach the {host}' failed"),
    "token is wrong": (lambda engine: engine.rotate_api_token(), "but the step 'use the credentials' failed"),
    "role is missing": (
        lambda engine: engine.settings(can_view=False),
        "but the step 'read the build history' is not allowed",
    ),
    "server is ill": (
        lambda engine: engine.fault(500, times=None, route="history"),
        "but the step 'read the build history' failed",
    ),
    "a page answers": (lambda engine: engine.fault("html", times=None, route="catalogs"), "is not JSON"),
}


#: What each edition calls what is reached first, and the right to see aggregates.
WORDS = {"container": ("host", "the role aggregates_view"), "installer": ("engine", '"View Aggregates"')}


@pytest.mark.parametrize(("spoil", "text"), PROBLEMS.values(), ids=PROBLEMS)
def test_connection_says_which_step_failed(engine, edition, hook, connect, spoil, text):
    host, right = WORDS[edition]
    connect("api_token")
    spoil(engine)
    is_good, said = hook.test_connection()
    assert not is_good
    assert text.format(host=host) in said
    assert (right in said) is ("not allowed" in said)


@pytest.mark.parametrize(
    ("extra", "text"),
    [({"edition": "other"}, "'edition' is 'other'"), ({"verify": "/nowhere"}, "'verify' is '/nowhere'")],
)
def test_connection_that_cannot_be_used(hook, connect, extra, text):
    connect(**extra)
    is_good, said = hook.test_connection()
    assert not is_good
    assert text in said


def test_connection_that_is_not_there():
    is_good, said = AtScaleHook("not_there").test_connection()
    assert not is_good
    assert "not_there" in said


# --- the form of Airflow before 3.2 -----------------------------------------------------------------------


def test_form_is_declared_once():
    assert AtScaleHook.get_ui_field_behaviour() == {
        "hidden_fields": FIELD_BEHAVIOUR["hidden-fields"],
        "relabeling": FIELD_BEHAVIOUR["relabeling"],
        "placeholders": FIELD_BEHAVIOUR["placeholders"],
    }


def test_form_widgets():
    pytest.importorskip("flask_appbuilder", reason="only the web servers of Airflow before 3.2 have it")
    assert list(AtScaleHook.get_connection_form_widgets()) == list(CONNECTION_FIELDS)


# --- the look-up of the connection ------------------------------------------------------------------------


def test_a_connection_that_does_not_exist():
    with pytest.raises(AtScaleConfigurationError, match="There is no Airflow connection 'nowhere'"):
        AtScaleHook("nowhere").list_models()


def test_a_connection_that_cannot_be_read(monkeypatch):
    def down(conn_id):
        raise RuntimeError("the secrets backend is down")

    hook = AtScaleHook()
    monkeypatch.setattr(hook, "get_connection", down)
    with pytest.raises(AtScaleConnectionError, match="secrets backend is down"):
        hook.list_models()


def test_a_second_look_up_that_fails_does_not_hide_what_atscale_said(engine, hook, connect, monkeypatch):
    def down(conn_id):
        raise RuntimeError("the secrets backend is down")

    connect("api_token")
    hook.list_models()
    engine.revoke_api_token()
    monkeypatch.setattr(hook, "get_connection", down)
    with pytest.raises(AtScaleAuthenticationError, match="credentials were not accepted"):
        hook.list_models()
