"""Whom both drivers trust: nobody unknown, a CA bundle that is named, or everybody where that was asked for."""

from __future__ import annotations

import pytest

from airflow_provider_atscale.exceptions import AtScaleConnectionError
from airflow_provider_atscale.testing import AtScaleEngine

from .conftest import Caller, server_context, settings_of, whatever_the_edition

pytestmark = whatever_the_edition


@pytest.fixture
def engine(edition, authority):
    with AtScaleEngine(edition, ssl_context=server_context(authority), build_seconds=60) as engine:
        yield engine


@pytest.fixture
def read(driver, engine):
    callers = []

    def read(verify):
        caller = Caller(driver, settings_of(engine.connection(), verify=verify))
        callers.append(caller)
        return caller.run(lambda edition: edition.models(), tries=1)

    yield read
    for caller in callers:
        caller.close()


def test_unknown_authority_is_refused_before_anything_is_sent(engine, read):
    with pytest.raises(AtScaleConnectionError, match=r"(?i)certificate.*verify setting") as caught:
        read(True)
    assert caught.value.sent is False
    assert engine.requests == []


def test_named_authority_is_trusted(engine, read, authority):
    assert len(read(str(authority / "ca.pem"))) == 3
    assert engine.url.startswith("https://")


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_authority_may_be_named_by_the_environment(read, authority, monkeypatch, name):
    monkeypatch.setenv(name, str(authority / "ca.pem"))
    assert len(read(True)) == 3


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_environment_does_not_bring_back_what_was_switched_off(read, monkeypatch, tmp_path):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    assert len(read(False)) == 3


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_everybody_is_trusted_on_demand(read):
    assert len(read(False)) == 3


@pytest.mark.parametrize("content", [None, "no certificate"], ids=["missing", "no certificate in it"])
def test_bundle_that_is_none_is_a_typed_error(engine, read, authority, tmp_path, content, monkeypatch):
    bundle = tmp_path / "bundle.pem"
    if content:
        bundle.write_text(content)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    with pytest.raises(AtScaleConnectionError, match="verify setting"):
        read(True)
    assert engine.requests == []
