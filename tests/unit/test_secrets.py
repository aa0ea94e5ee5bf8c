"""Tokens and passwords never reach an error, a value or a reason, also where a server sends them back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_atscale.client.settings import parse_connection
from airflow_provider_atscale.exceptions import AtScaleError

from .flows import (
    API_TOKEN,
    BATCH_ID,
    PASSWORD,
    REF,
    TOKEN,
    ScriptedClient,
    connection,
    jwt,
    refusal,
    reply,
    routes,
)

#: A token of a realistic length: an error shows less than that of an answer.
JWT = jwt({"sub": "u" * 600, "iat": 0, "exp": 600})
SECRETS = (API_TOKEN, PASSWORD, JWT)


def calls(edition):
    return {
        "resolve": edition.resolve("c", "m"),
        "models": edition.models(),
        "history": edition.history(REF),
        "batches": edition.batches(REF, (BATCH_ID,)),
        "instances": edition.instances(BATCH_ID),
        "locate": edition.locate(BATCH_ID),
        "start": edition.start(REF, is_full_build=True, grace_period_overrides={}, before_post=lambda _: None),
        **dict(edition.probe()),
    }


def everything_said(answer, **fields) -> str:
    """Return all that any call says about an answer: the texts of its errors, and its values."""
    said = []
    client = ScriptedClient(parse_connection(connection(**fields)), lambda _: None)
    exchanged = reply({"accessToken": JWT, "access_token": JWT})
    paths = {TOKEN: exchanged, "/auth/realms/atscale/protocol/openid-connect/token": exchanged}

    def serve(request):
        if request.url.endswith("/engine/version"):
            # It is asked without credentials, so nothing can be sent back.
            return reply("2026.5.1")
        return exchanged if request.url.endswith(tuple(paths)) else answer

    client._server = serve
    for flow in calls(client.edition).values():
        try:
            said.append(repr(client.run(flow)))
        except AtScaleError as error:
            said.append(f"{error} {error!r} {error.args} {error.__cause__}")
    return " ".join(said)


def parts(secret: str) -> list[str]:
    """Return what would be recognized of a secret: it, its halves, and its first letters."""
    return [secret, secret[: len(secret) // 2], secret[len(secret) // 2 :], secret[:16]]


ECHOES = {
    "message": lambda secret: refusal(500, f"Invalid token: {secret}"),
    "long message": lambda secret: refusal(400, f"{'word ' * 30}{secret}"),
    "just over the edge": lambda secret: refusal(400, "x " * 95 + secret),
    "forbidden": lambda secret: refusal(403, f"Bearer {secret} may not"),
    "unauthorized": lambda secret: refusal(401, f"Bearer {secret}"),
    "not found": lambda secret: refusal(404, secret),
    "lost": lambda secret: refusal(503, f"upstream said {secret}"),
    "html": lambda secret: reply(f"<html><body>{'<p>' * 40}{secret}</body></html>", 502),
    "html, as if all were well": lambda secret: reply(f"<html><body>{'<p>' * 40}{secret}</body></html>"),
    "JSON, as if all were well": lambda secret: reply({"token": secret}),
    "redirect": lambda secret: reply("", 302, location=f"https://x.example.com/?token={secret}"),
}  # fmt: skip


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
@pytest.mark.parametrize("secret", [API_TOKEN, JWT], ids=["API token", "exchanged token"])
def test_a_token_that_a_server_sends_back_is_not_shown(echo, secret):
    said = everything_said(echo(secret))
    assert not [part for part in parts(secret) if part in said]


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
def test_a_password_that_a_server_sends_back_is_not_shown(echo):
    assert PASSWORD not in everything_said(echo(PASSWORD), login="etl", password=PASSWORD)


@pytest.mark.parametrize(
    "answer",
    [
        refusal(401, f"Token {API_TOKEN} is unknown"),
        refusal(500, API_TOKEN),
        reply(API_TOKEN),
        reply({"x": JWT}),
        reply(JWT),
    ],
    ids=["401", "500", "itself", "another name", "plain text"],
)
def test_an_exchange_that_shows_tokens_is_not_repeated(answer):
    client = ScriptedClient(parse_connection(connection()), routes({TOKEN: answer}))
    with pytest.raises(AtScaleError) as error:
        client.run(client.edition.history(REF))
    assert not [part for secret in SECRETS for part in parts(secret) if part in str(error.value)]


@given(
    st.text(max_size=300),
    st.sampled_from([API_TOKEN, JWT]),
    st.text(max_size=300),
    st.sampled_from([200, 400, 401, 403, 404, 429, 500, 503]),
    st.sampled_from(["text", "message", "data"]),
)
def test_wherever_a_token_stands_in_an_answer(before, secret, after, status, shape):
    text = f"{before} {secret} {after}"
    body = text if shape == "text" else json.dumps({shape: text})
    said = everything_said(reply(body.encode("utf-8", "replace"), status))
    assert not [part for part in parts(secret) if part in said]
