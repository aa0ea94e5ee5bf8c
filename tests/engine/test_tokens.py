from __future__ import annotations

import base64
import json
import time

import pytest

FORM = {
    "grant_type": "password",
    "client_id": "atscale-ai-link",
    "username": "etl",
    "password": "local-engine-password",
    "scope": "openid",
}


def claims(token):
    head, payload, _ = (part + "=" * (-len(part) % 4) for part in token.split("."))
    assert json.loads(base64.urlsafe_b64decode(head)) == {"alg": "HS256", "typ": "JWT"}
    return json.loads(base64.urlsafe_b64decode(payload))


def test_exchange(container):
    container.engine.settings(token_ttl=120)
    response = container.call("POST", "/v1/token", container.engine.api_token, json={})
    assert response.status_code == 201
    assert list(response.json()) == ["accessToken"]
    read = claims(response.json()["accessToken"])
    assert read["exp"] - read["iat"] in (120, 121)
    assert abs(read["iat"] - time.time()) < 2
    assert container.engine.stats.token_exchanges == 1


@pytest.mark.parametrize("token", [None, "", "wrong"])
def test_exchange_refuses_a_wrong_token(container, token):
    response = container.call("POST", "/v1/token", token, json={})
    assert response.status_code == 401
    assert response.json() == {
        "statusCode": 401,
        "message": "Invalid token format",
        "error": {"cause": "UnauthorizedException"},
    }


def test_exchange_may_be_missing(container):
    container.engine.settings(exchanges_tokens=False)
    assert container.call("POST", "/v1/token", container.engine.api_token, json={}).status_code == 404


def test_what_opens_what(container):
    api, jwt, user = (
        container.engine.api_token,
        container.jwt(),
        container.keycloak(**FORM).json()["access_token"],
    )
    forged = jwt[:-3] + ("AAA" if jwt[-3:] != "AAA" else "BBB")

    def opened():
        return {
            name: (container.catalogs(token).ok, container.history(token).ok)
            for name, token in {"api": api, "jwt": jwt, "user": user, "forged": forged}.items()
        }

    normal = {"api": (True, False), "jwt": (True, True), "user": (True, True), "forged": (False, False)}
    assert opened() == normal
    container.engine.settings(v1_accepts_exchanged_jwt=False)
    assert opened() == normal | {"jwt": (False, True)}
    container.engine.settings(wapi_accepts_api_token=True)
    assert opened() == normal | {"jwt": (False, True), "api": (True, True)}


@pytest.mark.parametrize("ttl", [60, 0.5])
def test_jwt_expires(container, ttl):
    container.engine.settings(token_ttl=ttl)
    jwt = container.jwt()
    assert container.history(jwt).ok
    container.engine.advance(ttl + 1)
    assert container.history(jwt).status_code == 401
    assert container.history().ok


def test_all_tokens_can_be_expired(container):
    jwt = container.jwt()
    refresh = container.keycloak(**FORM).json()["refresh_token"]
    container.engine.expire_tokens()
    assert container.history(jwt).status_code == 401
    form = {"grant_type": "refresh_token", "client_id": "atscale-ai-link", "refresh_token": refresh}
    assert container.keycloak(**form).json()["error"] == "invalid_grant"
    assert container.history().ok


def test_api_token_is_revoked_and_rotated(container):
    old = container.engine.api_token
    container.engine.revoke_api_token()
    assert container.catalogs(old).status_code == 401
    new = container.engine.rotate_api_token()
    assert container.catalogs(new).ok
    assert container.engine.rotate_api_token("mine") == "mine"
    assert container.catalogs(new).status_code == 401
    assert container.engine.connection()["password"] == "mine"


def test_password_grant(container):
    body = container.keycloak(**FORM).json()
    assert claims(body["access_token"])["azp"] == "atscale-ai-link"
    assert (body["expires_in"], body["token_type"]) == (3600, "Bearer")
    # A refresh token is no access token.
    assert container.history(body["refresh_token"]).status_code == 401
    again = container.keycloak(
        grant_type="refresh_token", client_id="atscale-ai-link", refresh_token=body["refresh_token"]
    )
    assert container.history(again.json()["access_token"]).ok


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"password": "wrong"}, 401, "invalid_grant"),
        ({"username": "wrong"}, 401, "invalid_grant"),
        ({"client_id": "atscale-modeler"}, 401, "unauthorized_client"),
        ({"client_id": "atscale-public-api", "client_secret": "wrong"}, 401, "unauthorized_client"),
        ({"client_id": "unknown"}, 401, "invalid_client"),
        ({"grant_type": "client_credentials"}, 400, "unsupported_grant_type"),
        ({"grant_type": "refresh_token", "refresh_token": "wrong"}, 400, "invalid_grant"),
        ({"client_id": "atscale-modeler", "client_secret": "local-engine-client-secret"}, 200, None),
    ],
)
def test_password_grant_errors(container, changes, status, error):
    response = container.keycloak(**(FORM | changes))
    assert response.status_code == status
    assert response.json().get("error") == error
