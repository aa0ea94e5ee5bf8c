"""Tokens: fetched once, kept, renewed early or after one refusal, hidden at once."""

from __future__ import annotations

from urllib.parse import parse_qs

import pytest

from airflow_provider_atscale.api.models import History
from airflow_provider_atscale.client.editions import make_edition
from airflow_provider_atscale.client.secrets import MAX_MASKED_TOKENS
from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleAuthenticationError,
    AtScaleConnectionError,
    AtScaleMalformedAnswerError,
)
from airflow_provider_atscale.testing import AtScaleEngine

from .conftest import TOKEN_ROUTE, Caller, of_the_container, posts, routes, settings_of


@pytest.fixture
def token_route(edition):
    return TOKEN_ROUTE[edition]


@pytest.fixture
def history(caller, ref):
    """Read the history, which needs a short-lived token; return the statuses of the answers."""

    def history(caller=caller):
        return caller.run(lambda edition: edition.history(ref))

    return history


class Clock:
    """Tell a time that only moves when it is told to."""

    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(engine, caller):
    clock = Clock()
    caller.client.edition = make_edition(settings_of(engine.connection()), clock)
    return clock


# --- short-lived tokens -----------------------------------------------------------------------------------


def test_token_is_fetched_once(engine, history):
    for _ in range(3):
        assert isinstance(history(), History)
    assert engine.stats.token_exchanges == 1


def test_token_is_hidden_before_it_is_used(engine, caller, history):
    history()
    used = engine.requests[-1].headers["Authorization"].removeprefix("Bearer ")
    assert used.count(".") == 2
    assert caller.masked == [used]


def test_a_process_that_runs_for_months_does_not_fill_airflows_masker(engine, caller, history):
    """Airflow keeps each value for ever, and pays for all of them at each; our own texts hide the rest."""
    for _ in range(MAX_MASKED_TOKENS + 10):
        engine.expire_tokens()
        history()
    assert engine.stats.token_exchanges == MAX_MASKED_TOKENS + 10
    assert len(set(caller.masked)) == MAX_MASKED_TOKENS
    last = engine.requests[-1].headers["Authorization"].removeprefix("Bearer ")
    assert last not in caller.masked
    engine.fault(500, route="history", body={"message": f"you sent {last}"})
    with pytest.raises(AtScaleApiError, match=r"you sent \*\*\*") as caught:
        history()
    assert last not in str(caught.value)


@pytest.mark.parametrize(("ttl", "renewed_at"), [(100, 90), (3600, 3540), (86400, 86340)])
def test_token_is_renewed_before_it_ends(engine, clock, history, ttl, renewed_at):
    engine.settings(token_ttl=ttl)
    history()
    clock.now += renewed_at - 1
    history()
    assert engine.stats.token_exchanges == 1
    clock.now += 2
    history()
    assert engine.stats.token_exchanges == 2
    assert {request.status for request in engine.requests} <= {200, 201}


def test_clock_of_the_server_does_not_matter(engine, clock, history):
    """A server whose clock is an hour behind gives tokens that have ended long ago, by ours."""
    engine.settings(token_ttl=600, clock_offset=-3600)
    history()
    history()
    assert engine.stats.token_exchanges == 1


def test_refused_token_is_renewed_and_the_read_repeated(engine, history, token_route):
    history()
    engine.expire_tokens()
    engine.clear_requests()
    assert isinstance(history(), History)
    assert routes(engine) == ["history", token_route, "history"]


def test_refused_token_is_renewed_once_only(engine, caller, history, token_route):
    engine.fault(401, route="history", times=None)
    assert "HTTP 401" in str(history())
    assert routes(engine) == [token_route, "history", token_route, "history"]
    assert caller.naps == []


def test_refusal_of_the_start_is_final(engine, caller, ref):
    """No renewal: the POST would have to be sent again."""
    engine.fault(401, route="start", times=None)
    with pytest.raises(AtScaleAuthenticationError):
        caller.start(ref)
    assert len(posts(engine)) == 1


@pytest.mark.parametrize("fault", [{"action": 503}, {"action": 429}], ids=["503", "429"])
def test_trouble_with_the_token_passes_like_any_other(engine, caller, history, token_route, fault):
    engine.fault(**fault, route=token_route, times=2)
    assert isinstance(history(), History)
    assert len(caller.naps) == 2


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"action": "html"}, AtScaleMalformedAnswerError),
        ({"action": "empty"}, AtScaleMalformedAnswerError),
        ({"action": 500}, AtScaleApiError),
        ({"action": 302, "headers": {"Location": "/login"}}, AtScaleApiError),
        ({"action": 401}, AtScaleAuthenticationError),
    ],
    ids=["a page", "nothing", "500", "a redirect", "401"],
)
def test_no_token_is_a_typed_error(engine, caller, history, token_route, fault, error):
    engine.fault(**fault, route=token_route, times=None)
    with pytest.raises(error) as caught:
        history()
    assert type(caught.value) is error
    assert "history" not in routes(engine)


@pytest.mark.usefixtures("a_while_later")
def test_failed_fetch_is_tried_again_by_the_next_call(engine, history, token_route):
    engine.fault(500, route=token_route)
    with pytest.raises(AtScaleApiError):
        history()
    assert isinstance(history(), History)


# --- the API token ----------------------------------------------------------------------------------------


@of_the_container
class TestApiToken:
    def test_public_calls_carry_it_as_it_is(self, engine, caller, ref):
        caller.run(lambda edition: edition.models())
        caller.start(ref)
        caller.run(lambda edition: edition.instances("b1"))
        assert {r.headers["Authorization"] for r in engine.requests} == {f"Bearer {engine.api_token}"}
        assert engine.stats.token_exchanges == 0

    def test_private_calls_carry_an_exchanged_one(self, engine, history):
        history()
        exchange, read = engine.requests
        assert (exchange.method, exchange.path) == ("POST", "/v1/token")
        assert exchange.headers["Authorization"] == f"Bearer {engine.api_token}"
        assert read.headers["Authorization"] not in (exchange.headers["Authorization"], "")

    def test_refused_one_is_not_repeated_and_says_where_to_get_another(self, engine, caller):
        engine.revoke_api_token()
        with pytest.raises(AtScaleAuthenticationError, match=r"profile > Account panel > API Token"):
            caller.run(lambda edition: edition.models())
        assert routes(engine) == ["catalogs"]

    def test_refused_exchange_says_why(self, engine, history):
        token = engine.api_token
        engine.rotate_api_token()
        with pytest.raises(AtScaleAuthenticationError, match="older than 90 days, or replaced") as caught:
            history()
        assert token not in str(caught.value)

    @pytest.mark.parametrize("status", [401, 403])
    def test_exchange_that_is_refused(self, engine, history, status):
        engine.fault(status, route="token")
        with pytest.raises(AtScaleAuthenticationError, match=f"HTTP {status}"):
            history()

    def test_without_an_exchange_the_token_itself_is_tried(self, engine, history):
        engine.settings(exchanges_tokens=False, wapi_accepts_api_token=True)
        assert isinstance(history(), History)
        assert isinstance(history(), History)
        assert routes(engine) == ["token", "history", "history"]

    @pytest.mark.usefixtures("a_while_later")
    def test_an_exchange_that_comes_back_is_found(self, engine, history):
        engine.settings(exchanges_tokens=False)
        assert "HTTP 401" in str(history())
        engine.settings(exchanges_tokens=True)
        assert isinstance(history(), History)


# --- login and password -----------------------------------------------------------------------------------


class TestPassword:
    @pytest.fixture
    def caller(self, make_caller):
        return make_caller(auth="password")

    def test_one_token_opens_all_parts_of_the_server(self, engine, caller, ref, history):
        history()
        caller.run(lambda edition: edition.models())
        caller.start(ref)
        caller.run(lambda edition: edition.instances("b1"))
        assert routes(engine) == ["login", "history", "catalogs", "start", "instances"]
        assert len({request.headers["Authorization"] for request in engine.requests[1:]}) == 1

    def test_refused_token_is_renewed_whatever_is_asked(self, engine, caller):
        caller.run(lambda edition: edition.models())
        engine.expire_tokens()
        engine.clear_requests()
        assert len(caller.run(lambda edition: edition.models())) == 3
        assert routes(engine) == ["catalogs", "login", "catalogs"]

    def test_token_is_renewed_before_it_ends(self, engine, caller, history):
        clock = Clock()
        caller.client.edition = make_edition(settings_of(engine.connection("password")), clock)
        engine.settings(token_ttl=300)
        history()
        clock.now += 271
        history()
        assert engine.stats.token_exchanges == 2
        assert {request.status for request in engine.requests} == {200}

    def test_wrong_password(self, engine, make_caller, history):
        with pytest.raises(
            AtScaleAuthenticationError, match=r"refuses the login .*empty the connection's login.*Check login"
        ) as caught:
            history(make_caller(auth="password", password="not-the-right-one"))
        assert "not-the-right-one" not in str(caught.value)
        assert engine.stats.requests == 1

    def test_any_password_can_be_sent(self, driver, edition):
        password = "a+b &c=%20;ü\N{EURO SIGN}\"':"
        with AtScaleEngine(edition, password=password, login="jürgen@example.com") as engine:
            caller = Caller(driver, settings_of(engine.connection("password")))
            assert len(caller.run(lambda edition: edition.models())) == 3
            caller.close()

    def test_identity_service_that_is_away(self, engine, caller, history):
        engine.fault("drop", route="login", times=None)
        with pytest.raises(AtScaleConnectionError) as caught:
            history()
        assert engine.password not in str(caught.value)


@of_the_container
class TestPasswordGrant:
    @pytest.fixture
    def caller(self, make_caller):
        return make_caller(auth="password")

    def test_request(self, engine, history):
        history()
        login = engine.requests[0]
        assert (login.method, login.path) == ("POST", "/auth/realms/atscale/protocol/openid-connect/token")
        assert login.headers["Content-Type"].startswith("application/x-www-form-urlencoded")
        assert "Authorization" not in login.headers
        assert parse_qs(login.body) == {
            "grant_type": ["password"],
            "client_id": ["atscale-ai-link"],
            "username": [engine.login],
            "password": [engine.password],
            "scope": ["openid"],
        }

    @pytest.mark.parametrize(
        ("fields", "text"),
        [
            ({"password": "other"}, "invalid_grant, Invalid user credentials"),
            ({"client_id": "nobody"}, "invalid_client"),
            ({"client_id": "atscale-modeler"}, "unauthorized_client"),
            ({"client_id": "atscale-modeler", "client_secret": "other"}, "unauthorized_client"),
        ],
        ids=["wrong password", "unknown client", "client without its secret", "client with a wrong secret"],
    )
    def test_refused_login_says_what_to_check(self, engine, make_caller, history, fields, text):
        with pytest.raises(AtScaleAuthenticationError, match="Check login, password, realm") as caught:
            history(make_caller(auth="password", **fields))
        assert text in str(caught.value)
        assert engine.stats.requests == 1

    def test_unknown_realm(self, make_caller, history):
        with pytest.raises(AtScaleApiError, match=r"HTTP 404: .*realms/nowhere/"):
            history(make_caller(auth="password", realm="nowhere"))

    def test_confidential_client(self, engine, make_caller, history):
        caller = make_caller(
            auth="password", client_id="atscale-modeler", client_secret="local-engine-client-secret"
        )
        assert isinstance(history(caller), History)
