"""Reads are repeated on trouble that passes; every request has a timeout, a name and our credentials alone."""

from __future__ import annotations

import dataclasses
import os
import time
from email.utils import formatdate

import pytest

from airflow_provider_atscale.client.retries import LONGEST_PAUSE, TRIES
from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleConfigurationError,
    AtScaleConnectionError,
    AtScaleMalformedAnswerError,
)
from airflow_provider_atscale.testing import AtScaleEngine
from airflow_provider_atscale.version import user_agent

from .conftest import TOKEN_ROUTE, Caller, routes, settings_of, whatever_the_edition


def read(caller, tries=TRIES):
    return caller.run(lambda edition: edition.models(), tries)


# --- repeating --------------------------------------------------------------------------------------------

PASSING = {
    "429": {"action": 429},
    "502": {"action": 502},
    "503": {"action": 503},
    "504": {"action": 504},
    "connection dropped": {"action": "drop"},
    "connection dropped after it was processed": {"action": "drop_after"},
    "connection cut in the middle of the answer": {"action": "cut"},
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("times", [1, TRIES - 1])
def test_passing_trouble_is_waited_out(engine, caller, fault, times):
    engine.fault(**fault, route="catalogs", times=times)
    assert len(read(caller)) == 3
    # aiohttp itself repeats a read whose connection broke, once and at once.
    assert len(caller.naps) in ((times, times // 2) if fault["action"] in ("drop", "drop_after") else (times,))
    assert all(0.5 <= nap <= 15.5 for nap in caller.naps)
    assert engine.stats.routes["catalogs"] == times + 1


@pytest.mark.parametrize(("action", "status"), [(429, 429), (503, 503)])
def test_lasting_trouble_is_an_error_in_the_end(engine, caller, action, status):
    engine.fault(action, route="catalogs", times=None)
    with pytest.raises(AtScaleApiError) as caught:
        read(caller)
    assert caught.value.http_status_code == status
    assert engine.stats.routes["catalogs"] == TRIES
    assert len(caller.naps) == TRIES - 1


def test_server_that_is_away_is_an_error_in_the_end(engine, caller):
    read(caller)
    engine.stop()
    caller.notice()
    with pytest.raises(AtScaleConnectionError, match="Check the connection's host"):
        read(caller)
    assert len(caller.naps) == TRIES - 1


def test_server_that_comes_back_is_read(engine, caller):
    read(caller)
    engine.stop()
    caller.notice()
    caller.on_nap = engine.start
    assert len(read(caller)) == 3


@pytest.mark.parametrize("status", [400, 500, 501])
def test_other_errors_are_not_repeated(engine, caller, status):
    engine.fault(status, route="catalogs", times=None)
    with pytest.raises(AtScaleApiError, match=f"HTTP {status}"):
        read(caller)
    assert engine.stats.routes["catalogs"] == 1


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("7", (7, 7)),
        ("0", (0, 0)),
        ("3600", (LONGEST_PAUSE, LONGEST_PAUSE)),
        ("in 30 seconds", (28, 31)),
        ("30 seconds ago", (0, 0)),
        ("a while", (0.5, 1.5)),
        ("-1", (0.5, 1.5)),
        ("²", (0.5, 1.5)),
        ("9" * 400, (LONGEST_PAUSE, LONGEST_PAUSE)),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", (0.5, 1.5)),
        ("Fri, 31 Dec 9999 23:59:59 -2359", (LONGEST_PAUSE, LONGEST_PAUSE)),
        ("Wed, 21 Oct 2015 07:28:00 +9999", (0.5, 1.5)),
        ("Wed, 21 Oct 2015 07:28:00", (0.5, 1.5)),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
@whatever_the_edition
def test_retry_after(engine, caller, status, asked, expected):
    dates = {"in 30 seconds": 30, "30 seconds ago": -30}
    engine.settings(clock_offset=-7200)  # a date is one of the server's clock
    header = formatdate(engine.now + dates[asked], usegmt=True) if asked in dates else asked
    engine.fault(status, route="catalogs", headers={"Retry-After": header})
    read(caller)
    [nap] = caller.naps
    assert expected[0] <= nap <= expected[1]


def test_single_try(engine, caller):
    engine.fault(503, route="catalogs")
    with pytest.raises(AtScaleApiError, match="HTTP 503"):
        read(caller, tries=1)
    assert caller.naps == []


# --- answers ----------------------------------------------------------------------------------------------

MALFORMED = {
    "a page": ({"action": "html"}, 'is not JSON. It begins with: "<!doctype html>'),
    "an empty answer": ({"action": "empty"}, "is not JSON. It begins with: ''"),
    "half of an answer": ({"action": "truncate"}, "is not JSON"),
    "another type": (
        {"action": 200, "body": {"id": 1}},
        {"container": "is not a list", "installer": "no list"},
    ),
    "null": ({"action": 200, "body": "null"}, {"container": "is not a list", "installer": "has no list"}),
    "an id that is null, bare": (
        {"action": 200, "body": [{"id": None}]},
        {"container": "has a catalog without id", "installer": "has no list"},
    ),
    "an id that is null, wrapped": (
        {"action": 200, "body": {"response": [{"id": None}]}},
        {"container": "is not a list", "installer": "has a project without id"},
    ),
}
PATH_OF_THE_LIST = {"container": "/v1/catalogs", "installer": "/projects/published/orgId/default"}


@pytest.mark.parametrize(("fault", "text"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_answers_are_typed_errors(engine, edition, caller, fault, text):
    engine.fault(**fault, route="catalogs", times=None)
    with pytest.raises(AtScaleMalformedAnswerError) as caught:
        read(caller)
    assert (text if isinstance(text, str) else text[edition]) in str(caught.value)
    assert PATH_OF_THE_LIST[edition] in str(caught.value)
    assert engine.stats.routes["catalogs"] == 1


@pytest.mark.parametrize("fault", ["html", "empty", "truncate"])
@pytest.mark.parametrize("call", ["history", "batches", "instances", "model_instances", "locate", "resolve"])
def test_no_call_takes_a_malformed_answer(engine, caller, ref, call, fault):
    calls = {
        "history": lambda edition: edition.history(ref),
        "batches": lambda edition: edition.batches(ref, ["b1"]),
        "instances": lambda edition: edition.instances("b1"),
        "model_instances": lambda edition: edition.model_instances(ref),
        "locate": lambda edition: edition.locate("b1"),
        "resolve": lambda edition: edition.resolve("Sales Insights", "Internet Sales"),
    }
    for route in ("history", "instances", "catalogs"):
        engine.fault(fault, route=route, times=None)
    with pytest.raises(AtScaleMalformedAnswerError):
        caller.run(calls[call])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(engine, caller, status):
    engine.fault(status, route="catalogs", headers={"Location": "https://elsewhere.invalid/login?token=abc"})
    with pytest.raises(AtScaleApiError, match=r"redirects to https://elsewhere\.invalid/login and") as caught:
        read(caller)
    assert "token=abc" not in str(caught.value)
    assert routes(engine).count("catalogs") == 1
    assert "unknown" not in routes(engine)


@whatever_the_edition
def test_each_request_has_a_timeout(engine, make_caller):
    caller = make_caller(timeout=0.2)
    engine.fault("delay", seconds=30, times=None)
    began = time.monotonic()
    with pytest.raises(AtScaleConnectionError, match="imeout"):
        read(caller, tries=1)
    assert time.monotonic() - began < 5


# --- what is sent -----------------------------------------------------------------------------------------


def all_calls(caller, ref):
    """Send every kind of request that there is."""
    caller.start(ref)
    caller.run(lambda edition: edition.resolve("Sales Insights", "Internet Sales"))
    found = caller.run(lambda edition: edition.history(ref))
    caller.run(lambda edition: edition.batches(ref, [found.newest.id]))
    caller.run(lambda edition: edition.instances(found.newest.id))


def test_every_request_has_our_name(engine, caller, edition, ref):
    all_calls(caller, ref)
    assert {"start", "catalogs", "history", "instances", TOKEN_ROUTE[edition]} <= set(routes(engine))
    assert {request.headers["User-Agent"] for request in engine.requests} == {user_agent()}
    assert user_agent().startswith("airflow-provider-atscale/")


def test_every_request_has_the_extra_headers(engine, make_caller, ref):
    all_calls(make_caller(headers={"X-Team": "data", "X-Number": 7}), ref)
    assert {request.headers.get("X-Team") for request in engine.requests} == {"data"}
    assert {request.headers.get("X-Number") for request in engine.requests} == {"7"}


def test_extra_headers_never_replace_those_of_the_call(engine, edition, make_caller, ref):
    """However they are written: two headers of one name would leave the choice to the server."""
    all_calls(make_caller(headers={"authorization": "Bearer other", "ACCEPT": "text/html"}), ref)
    for request in engine.requests:
        names = [name.lower() for name in request.headers]
        assert (names.count("authorization"), names.count("accept")) == (1, 1)
        assert request.headers["Authorization"] != "Bearer other"
        # The installer edition's login answers with plain text.
        is_plain = (edition, request.route) == ("installer", "login")
        assert request.headers["Accept"] == ("*/*" if is_plain else "application/json")


def test_the_user_may_name_itself(engine, make_caller):
    read(make_caller("api_token", headers={"user-agent": "my-airflow"}))
    [request] = engine.requests
    assert request.headers["User-Agent"] == "my-airflow"


@pytest.mark.parametrize("value", ["a\nb", "a\r", "a\x00", "\N{EN DASH}", "größe\N{EURO SIGN}"], ids=ascii)
def test_header_that_cannot_be_sent_is_a_configuration_error(engine, driver, value):
    """Checking the connection should have told; what the libraries say of it would show the token."""
    settings = settings_of(engine.connection("api_token"))
    caller = Caller(driver, dataclasses.replace(settings, password=f"my-token{value}"))
    with pytest.raises(AtScaleConfigurationError, match=r"'test'.*'Authorization'") as caught:
        read(caller)
    caller.close()
    assert "my-token" not in str(caught.value)
    assert engine.requests == []


def test_no_cookie_is_sent_back(engine, caller):
    engine.fault(503, route="catalogs", headers={"Set-Cookie": "session=abc; Path=/"})
    read(caller)
    first, second = (request for request in engine.requests if request.route == "catalogs")
    assert "Cookie" not in first.headers
    assert "Cookie" not in second.headers


def test_connections_are_kept(engine, caller, ref):
    all_calls(caller, ref)
    assert engine.stats.connections_opened <= len(engine.urls)


def test_netrc_never_replaces_our_credentials(engine, caller, ref, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password other\ndefault login other password other\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    all_calls(caller, ref)
    others = [r for r in engine.requests if "b3RoZXI6b3RoZXI=" in r.headers.get("Authorization", "")]
    assert others == []


def test_address_of_the_request_is_the_same_with_both_drivers(ref):
    """Ids and tokens are put into addresses by two libraries, which must not quote differently."""
    seen = []
    odd = type(ref)("a b/c", "d+e&f=g%2F?#ü", "", "")
    for driver in ("requests", "aiohttp"):
        with AtScaleEngine() as engine:
            caller = Caller(driver, settings_of(engine.connection()))
            caller.run(lambda edition: edition.batches(odd, ["x"]))
            caller.close()
            seen.append([(request.path, request.query) for request in engine.requests])
    assert seen[0] == seen[1]
    assert seen[0][-1][1]["modelId"] == odd.model_id


def test_environment_is_what_the_tests_think_it_is():
    assert not [name for name in os.environ if name.lower().endswith("_proxy")]
