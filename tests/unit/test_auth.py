"""How a request proves who sends it: tokens fetched late, kept, renewed early, never twice, never shown."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_atscale.api.auth import ApiTokenAuth, Area, JsonWebToken, PasswordAuth, call
from airflow_provider_atscale.api.errors import check, server_message
from airflow_provider_atscale.api.flow import Request
from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleAuthenticationError,
    AtScaleConnectionError,
    AtScaleMalformedAnswerError,
    AtScalePermissionError,
)
from airflow_provider_atscale.testing.pages import gateway_page, login_page

from .flows import (
    API_TOKEN,
    HOST,
    KEYCLOAK,
    NOW,
    PASSWORD,
    TOKEN,
    Clock,
    Journal,
    in_turn,
    jwt,
    perform,
    refusal,
    reply,
    routes,
)
from .test_models import JSON

RAW = {"Authorization": f"Bearer {API_TOKEN}"}
FORM = {"grant_type": "password", "client_id": "atscale-ai-link", "username": "etl", "password": PASSWORD}


def by_token(clock=lambda: NOW) -> ApiTokenAuth:
    return ApiTokenAuth(API_TOKEN, HOST + TOKEN, clock)


def by_password(clock=lambda: NOW) -> PasswordAuth:
    return PasswordAuth(HOST + KEYCLOAK, FORM, clock)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# --- tokens -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "lifetime", "fresh_until"),
    [
        ({"iat": NOW - 5000, "exp": NOW - 4400}, None, 540),
        ({"iat": 0, "exp": 100}, None, 90),
        ({}, 300.0, 270),
        ({}, 3600.0, 3540),
        ({}, None, None),
        ({"exp": NOW + 300}, None, None),
        ({"iat": NOW, "exp": NOW}, None, None),
        ({"iat": NOW, "exp": NOW - 10}, None, None),
        ({}, 0.0, None),
        ({"iat": True, "exp": True}, None, None),
        ({"iat": "0", "exp": "100"}, None, None),
        ({"iat": 0, "exp": float("nan")}, None, None),
        ({"iat": 0, "exp": float("inf")}, None, None),
        ({"iat": 0, "exp": 10**400}, None, None),
        ([1, 2, 3], None, None),
        (None, None, None),
    ],
    ids=[
        "ten minutes, on our clock", "a tenth early at most", "by expires_in", "a minute early", "unknown",
        "no time of issue", "no life", "negative life", "expires_in is 0", "booleans", "texts", "not a number",
        "endless", "huge", "a list", "null",
    ],
)  # fmt: skip
def test_when_a_token_is_renewed_early(claims, lifetime, fresh_until):
    token = JsonWebToken(jwt(claims), NOW, lifetime)
    if fresh_until is None:
        assert token.is_fresh(NOW + 1e9)
    else:
        assert token.is_fresh(NOW + fresh_until - 1)
        assert not token.is_fresh(NOW + fresh_until + 1)


@given(st.text(), st.none() | st.floats())
def test_no_token_whatever_breaks_the_reading_of_its_times(value, lifetime):
    assert JsonWebToken(value, NOW, lifetime).is_fresh(NOW) in (True, False)
    assert JsonWebToken(f"a.{value}.c", NOW).is_fresh(NOW)


def test_a_token_with_deep_claims_is_just_a_token():
    import base64

    deep = base64.urlsafe_b64encode(b"[" * 100_000).decode()
    assert JsonWebToken(f"a.{deep}.c", NOW).is_fresh(NOW)


# --- the API token ----------------------------------------------------------------------------------------


def test_the_public_api_gets_the_api_token_itself():
    assert perform(by_token().headers(Area.PUBLIC), in_turn()) == RAW


def test_the_private_api_gets_an_exchanged_token_once():
    auth, journal, token = by_token(), Journal(), jwt()
    server = in_turn(reply({"accessToken": token}, 201))
    assert perform(auth.headers(Area.PRIVATE), server, journal) == bearer(token)
    assert perform(auth.headers(Area.PRIVATE), server, journal) == bearer(token)
    [request] = journal.requests
    assert (request.method, request.url, request.json) == ("POST", HOST + TOKEN, {})
    assert request.headers["Authorization"] == RAW["Authorization"]
    assert journal.secrets == [token]


def test_a_token_is_renewed_before_it_ends():
    clock, journal = Clock(), Journal()
    auth = by_token(clock)
    first, second = jwt({"iat": 0, "exp": 600}, "first"), jwt({"iat": 0, "exp": 600}, "second")
    server = in_turn(reply({"accessToken": first}), reply({"accessToken": second}))
    assert perform(auth.headers(Area.PRIVATE), server, journal) == bearer(first)
    clock.now += 541
    assert perform(auth.headers(Area.PRIVATE), server, journal) == bearer(second)


def test_where_there_is_no_exchange_the_api_token_is_all_there_is():
    auth, journal = by_token(), Journal()
    server = in_turn(refusal(404, "Cannot POST /v1/token"))
    assert perform(auth.headers(Area.PRIVATE), server, journal) == RAW
    assert perform(auth.headers(Area.PRIVATE), server, journal) == RAW
    assert perform(auth.renew(Area.PRIVATE, RAW), server, journal) is False


def test_after_a_refusal_of_the_api_token_the_exchange_is_looked_for_again():
    auth, token = by_token(), jwt()
    server = in_turn(refusal(404), reply({"accessToken": token}))
    perform(auth.headers(Area.PRIVATE), server)
    perform(auth.renew(Area.PRIVATE, RAW), server)
    assert perform(auth.headers(Area.PRIVATE), server) == bearer(token)


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (refusal(401, "Invalid token format"), AtScaleAuthenticationError, "older than 90 days"),
        (refusal(403, "Forbidden"), AtScaleAuthenticationError, "Generate a new one in Design Center"),
        (refusal(500, "Oops"), AtScaleApiError, "Could not get a token: HTTP 500: Oops .* look at its logs"),
        (refusal(429), AtScaleApiError, "AtScale gets too many requests"),
        (reply({"accessToken": None}), AtScaleMalformedAnswerError, "carries no 'accessToken'"),
        (reply({"accessToken": ""}), AtScaleMalformedAnswerError, "carries no 'accessToken'"),
        (reply({"accessToken": 7}), AtScaleMalformedAnswerError, "carries no 'accessToken'"),
        (reply({"accessToken": "a\nb"}), AtScaleMalformedAnswerError, "carries no 'accessToken'"),
        (reply({"accessToken": "tökén"}), AtScaleMalformedAnswerError, "carries no 'accessToken'"),
        (reply([]), AtScaleMalformedAnswerError, "carries no 'accessToken'"),
        (reply("<html>Log in</html>"), AtScaleMalformedAnswerError, "not a proxy or a login page"),
        (reply(b""), AtScaleMalformedAnswerError, "not a proxy or a login page"),
        (AtScaleConnectionError("no answer"), AtScaleConnectionError, "no answer"),
    ],
    ids=[
        "401", "403", "500", "429", "null", "empty", "number", "two lines", "not ASCII", "list", "html",
        "nothing", "no answer",
    ],
)  # fmt: skip
def test_an_exchange_that_fails(answer, kind, said):
    with pytest.raises(kind, match=said) as error:
        perform(by_token().headers(Area.PRIVATE), in_turn(answer))
    assert type(error.value) is kind
    assert API_TOKEN not in str(error.value)


@pytest.mark.parametrize("body", [jwt(), f'{{"token": "{jwt()}"}}', f'["{jwt()}"'], ids=["text", "name", "cut"])
def test_a_token_under_another_name_is_not_shown(body):
    with pytest.raises(AtScaleMalformedAnswerError) as error:
        perform(by_token().headers(Area.PRIVATE), in_turn(reply(body)))
    assert jwt().split(".", maxsplit=1)[0] not in str(error.value)


# --- login and password -----------------------------------------------------------------------------------


def test_login_and_password_open_both_parts_with_one_token():
    auth, journal, token = by_password(), Journal(), jwt()
    server = in_turn(reply({"access_token": token, "expires_in": 300, "token_type": "Bearer"}))
    assert perform(auth.headers(Area.PUBLIC), server, journal) == bearer(token)
    assert perform(auth.headers(Area.PRIVATE), server, journal) == bearer(token)
    [request] = journal.requests
    assert (request.method, request.url, request.form, request.json) == ("POST", HOST + KEYCLOAK, FORM, None)
    assert journal.secrets == [token]


def test_a_login_is_renewed_by_the_lifetime_that_keycloak_tells():
    clock = Clock()
    auth = by_password(clock)
    answers = [reply({"access_token": jwt(name=name), "expires_in": 300}) for name in ("one", "two")]
    server = in_turn(*answers)
    perform(auth.headers(Area.PUBLIC), server)
    clock.now += 269
    assert perform(auth.headers(Area.PUBLIC), server) == bearer(jwt(name="one"))
    clock.now += 2
    assert perform(auth.headers(Area.PUBLIC), server) == bearer(jwt(name="two"))


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refused_login_says_what_to_check(status):
    answer = reply({"error": "invalid_grant", "error_description": "Invalid user credentials"}, status)
    with pytest.raises(
        AtScaleAuthenticationError,
        match=r"invalid_grant, Invalid user credentials; .*If the password is an API token, .* Check login, password",
    ):
        perform(by_password().headers(Area.PUBLIC), in_turn(answer))


# --- renewing ---------------------------------------------------------------------------------------------


def ask(auth, server, journal, *, repeatable=True):
    request = Request("GET", HOST + "/private", repeatable=repeatable)
    return perform(call(auth, Area.PRIVATE, request), server, journal)


def test_after_a_401_the_token_is_renewed_once_and_the_read_repeated_once():
    journal = Journal()
    server = routes(
        {
            TOKEN: [reply({"accessToken": "token-one"}), reply({"accessToken": "token-two"})],
            "/private": [refusal(401), reply("fine")],
        }
    )
    assert ask(by_token(), server, journal).text == "fine"
    assert [each.headers["Authorization"] for each in journal.sent("/private")] == [
        "Bearer token-one", "Bearer token-two",
    ]  # fmt: skip


def test_a_second_401_is_the_answer():
    journal = Journal()
    server = routes({TOKEN: reply({"accessToken": "token-one"}), "/private": refusal(401)})
    assert ask(by_token(), server, journal).status == 401
    assert journal.paths == [TOKEN, "/private", TOKEN, "/private"]


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_other_refusals_renew_nothing(status):
    journal = Journal()
    server = routes({TOKEN: reply({"accessToken": "token-one"}), "/private": refusal(status)})
    assert ask(by_token(), server, journal).status == status
    assert journal.paths == [TOKEN, "/private"]


def test_what_must_not_be_repeated_is_not():
    journal = Journal()
    server = routes({TOKEN: reply({"accessToken": "token-one"}), "/private": refusal(401)})
    assert ask(by_token(), server, journal, repeatable=False).status == 401
    assert journal.paths == [TOKEN, "/private"]


def test_a_token_that_another_waiter_has_renewed_is_not_dropped():
    auth = by_token()
    server = in_turn(reply({"accessToken": "token-new"}))
    fresh = perform(auth.headers(Area.PRIVATE), server)
    assert perform(auth.renew(Area.PRIVATE, bearer("token-old")), in_turn()) is True
    assert perform(auth.headers(Area.PRIVATE), in_turn()) == fresh


# --- the server's own words -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"statusCode": 400, "message": "Bad ids", "error": {"cause": "X"}}, "Bad ids"),
        ({"message": ["one", "two"]}, "one; two"),
        ({"status": {"message": "No cube"}, "response": {"error": "i/o timeout"}}, "No cube: i/o timeout"),
        ({"message": "same", "error": "same"}, "same"),
        ({"error": "e", "error_description": "why"}, "e: why"),
        ({"message": ""}, '{"message": ""}'),
        ({"message": 7}, '{"message": 7}'),
        ({"message": "a\n  b\x00"}, "a b?"),
        ([], "[]"),
        (b"", "empty answer"),
        (b"   ", "empty answer"),
        ("<html>\n<b>502</b>", "<html> <b>502</b>"),
        (gateway_page(502, "Bad Gateway"), "an HTML page '502 Bad Gateway' of nginx"),
        (login_page(), "an HTML page 'Sign in'"),
        (b"[" * 100_000, "[" * 200 + "..."),
        ({"message": "word " * 1000}, "word " * 100 + "..."),
    ],
    ids=[
        "container", "list", "installer", "twice", "keycloak", "empty text", "number", "lines", "json list",
        "nothing", "blanks", "html", "nginx", "login page", "deep", "long",
    ],
)  # fmt: skip
def test_what_the_server_says(body, said):
    assert server_message(reply(body, 500).to(Request("GET", HOST))) == said


@given(st.binary() | JSON, st.integers(100, 599))
def test_no_answer_whatever_breaks_the_check(body, status):
    response = reply(body, status).to(Request("GET", HOST))
    if 200 <= status < 300:
        assert check(response, "do it") is None
        return
    with pytest.raises(AtScaleApiError, match=f"Could not do it: .*{status}|redirects") as error:
        check(response, "do it", needs="the role boss")
    assert error.value.http_status_code == status
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (401, AtScaleAuthenticationError, "were not accepted. .*Check the connection's token or password"),
        (403, AtScalePermissionError, "permission denied. .* needs the role boss"),
        (404, AtScaleApiError, "HTTP 404: No .*/x\\). Check what AtScale's message names"),
        (429, AtScaleApiError, "HTTP 429: No .*/x\\). AtScale gets too many requests"),
        (500, AtScaleApiError, "HTTP 500: No .*/x\\). AtScale, or a proxy in front of it, has a problem"),
    ],
)  # fmt: skip
def test_each_refusal_names_cause_object_and_next_step(status, kind, said):
    with pytest.raises(kind, match=said) as error:
        check(refusal(status).to(Request("GET", HOST + "/x")), "do it", needs="the role boss")
    assert f"{HOST}/x" in str(error.value)


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://sso.example.com/login?token=secret", "redirects to https://sso.example.com/login and"),
        ("https://sso.example.com/login#access_token=secret", "redirects to https://sso.example.com/login and"),
        (None, "redirects to elsewhere and"),
    ],
)
def test_a_redirect_is_told_without_its_secrets(location, shown):
    answer = reply("", 302, **({"location": location} if location else {})).to(Request("GET", HOST))
    with pytest.raises(AtScaleApiError, match=re.escape(shown)) as error:
        check(answer, "do it")
    assert "secret" not in str(error.value)
