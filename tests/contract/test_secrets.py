"""No token, password or key is ever in an error, a result or a log, not even where a server sends it back."""

from __future__ import annotations

import json
import logging
import traceback
from urllib.parse import quote, quote_plus

import pytest

from airflow_provider_atscale.api.start import LostReply, Refused
from airflow_provider_atscale.exceptions import AtScaleError

from .conftest import TOKEN_ROUTE, settings_of

SECRET_HEADER = "an-extra-secret-header"


@pytest.fixture
def caller(make_caller):
    return make_caller(headers={"X-Api-Key": SECRET_HEADER, "X-Team": "data"})


@pytest.fixture
def secrets(engine, caller, ref):
    """Let the caller meet every secret that there is, and name them."""
    caller.run(lambda edition: edition.history(ref))
    token = engine.requests[-1].headers["Authorization"].removeprefix("Bearer ")
    connection = engine.connection()
    return {token, connection["password"], SECRET_HEADER}


CALLS = {
    "models": ("catalogs", lambda edition, ref: edition.models()),
    "history": ("history", lambda edition, ref: edition.history(ref)),
    "batches": ("history", lambda edition, ref: edition.batches(ref, ["b1"])),
    "instances": ("instances", lambda edition, ref: edition.instances("b1")),
    "start": (
        "start",
        lambda edition, ref: edition.start(
            ref, is_full_build=True, grace_period_overrides={}, before_post=lambda _: None
        ),
    ),
}


def everything_said(outcome):
    """Return all that a reader can see of an outcome: error, its causes and traceback, or value."""
    if isinstance(outcome, Refused):
        outcome = outcome.error
    if isinstance(outcome, LostReply):
        return outcome.reason
    if isinstance(outcome, BaseException):
        return "".join(traceback.format_exception(outcome)) + repr(outcome) + repr(outcome.__context__)
    return repr(outcome)


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 409, 500, 503])
@pytest.mark.parametrize("call", CALLS)
def test_server_that_sends_secrets_back(engine, caller, ref, secrets, caplog, call, status):
    route, flow = CALLS[call]
    sent = " ".join(sorted(secrets, key=len, reverse=True))
    bodies = [
        json.dumps({"message": f"you sent {sent}", "error": sent}),
        f"you sent {sent}",
        f"<html>{sent}</html>",
        # What an error shows of a body ends in the middle of a secret.
        "x" * 180 + sent,
        json.dumps({"message": "x" * 480 + sent}),
    ]
    for body in bodies:
        engine.clear_faults()
        for name in {route, "history", "instances"}:
            engine.fault(status, route=name, body=body, times=None, headers={"Location": "/?token=" + sent})
        with caplog.at_level(logging.DEBUG):
            try:
                outcome = caller.run(lambda edition: flow(edition, ref), tries=1)
            except AtScaleError as error:
                outcome = error
        said = everything_said(outcome) + caplog.text
        for secret in secrets:
            assert secret not in said
            assert secret[:16] not in said


def test_token_call_that_sends_secrets_back(engine, edition, make_caller, ref):
    caller = make_caller()
    password = engine.connection()["password"]
    for status in (200, 400, 401, 500):
        engine.fault(status, route=TOKEN_ROUTE[edition], body=json.dumps({"error": f"you sent {password}"}))
        with pytest.raises(AtScaleError) as caught:
            caller.run(lambda edition: edition.history(ref), tries=1)
        assert password not in everything_said(caught.value)


def test_settings_show_no_secret(engine):
    settings = settings_of(engine.connection(), headers={"Authorization": SECRET_HEADER})
    assert engine.connection()["password"] not in repr(settings)
    assert SECRET_HEADER not in repr(settings)
    assert SECRET_HEADER in settings.secrets


@pytest.mark.parametrize(
    "spell",
    [lambda text: json.dumps(text)[1:-1], quote, lambda text: quote(text, safe=""), quote_plus],
    ids=["json", "path", "part of a path", "form"],
)
def test_a_secret_is_hidden_however_the_server_spells_it(engine, make_caller, spell):
    caller = make_caller("password", password='quo"te & plus+ / <%>')
    sent = 'quo"te & plus+ / <%>'
    engine.fault(500, body=f"you sent {spell(sent)}", times=None)
    with pytest.raises(AtScaleError) as caught:
        caller.run(lambda edition: edition.models(), tries=1)
    assert spell(sent) not in everything_said(caught.value)
