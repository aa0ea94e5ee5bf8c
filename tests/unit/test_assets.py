"""``atscale://<host>/<catalog>/<model>``: one spelling for each model, and nonsense is rejected."""

from __future__ import annotations

import json
import warnings
from urllib.parse import unquote, urlsplit

import pytest
from airflow.providers.common.compat.sdk import Asset
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_atscale.assets.atscale import (
    convert_asset_to_openlineage,
    create_asset,
    model_asset,
    namespace,
    sanitize_uri,
)
from airflow_provider_atscale.get_provider_info import get_provider_info

URI = "atscale://atscale.example.com/Sales%20Insights/Internet%20Sales"

SPELLINGS = {
    "as it is": (URI, URI),
    "spaces": ("atscale://atscale.example.com/Sales Insights/Internet Sales", URI),
    "host in capitals": ("atscale://AtScale.Example.COM/Sales%20Insights/Internet%20Sales", URI),
    "scheme in capitals": ("ATSCALE://atscale.example.com/Sales%20Insights/Internet%20Sales", URI),
    "the port of https": ("atscale://atscale.example.com:443/Sales%20Insights/Internet%20Sales", URI),
    "a slash at the end": (URI + "/", URI),
    "spaces around names": ("atscale://atscale.example.com/ Sales Insights /Internet%20Sales%20", URI),
    "needless escapes": ("atscale://h/%53ales/m", "atscale://h/Sales/m"),
    "escapes in small letters": ("atscale://h/a%2fb/m", "atscale://h/a%2Fb/m"),
    "another port": ("atscale://h:8443/c/m", "atscale://h:8443/c/m"),
    "no port after the colon": ("atscale://h:/c/m", "atscale://h/c/m"),
    "IPv4": ("atscale://127.0.0.1:8080/c/m", "atscale://127.0.0.1:8080/c/m"),
    "IPv6": ("atscale://[::1]:8080/c/m", "atscale://[::1]:8080/c/m"),
    "letters beyond ASCII": ("atscale://h/Verkäufe/m", "atscale://h/Verk%C3%A4ufe/m"),
    "capitals in names differ": ("atscale://h/SALES/m", "atscale://h/SALES/m"),
}

NONSENSE = {
    "no host": ("atscale:///c/m", "host"),
    "no catalog": ("atscale://h", "one catalog and one model"),
    "no model": ("atscale://h/c", "one catalog and one model"),
    "an empty catalog": ("atscale://h//m", "one catalog and one model"),
    "too much": ("atscale://h/c/m/x", "one catalog and one model"),
    "blank model": ("atscale://h/c/%20", "not the name"),
    "dots for a name": ("atscale://h/../m", "not the name"),
    "a line break in a name": ("atscale://h/c/a%0Ab", "not the name"),
    "a query": ("atscale://h/c/m?x=1", "no query"),
    "login and password": ("atscale://user:secret@h/c/m", "must not contain login"),
    "login": ("atscale://user@h/c/m", "must not contain login"),
    "a port that is none": ("atscale://h:port/c/m", "[Pp]ort"),
    "a port out of range": ("atscale://h:99999/c/m", "[Pp]ort"),
    "spaces in the host": ("atscale://my host/c/m", "host"),
    "a half escape": ("atscale://h/100%/m", "%25"),
    "not UTF-8": ("atscale://h/%ff/m", "UTF-8"),
    "a template": ("atscale://h/{{ params.catalog }}/m", "template"),
}


def _table(cases):
    return pytest.mark.parametrize(("uri", "expected"), cases.values(), ids=cases)


@_table(SPELLINGS)
def test_spellings_of_one_model_are_one_uri(uri, expected):
    assert sanitize_uri(urlsplit(uri)).geturl() == expected
    assert sanitize_uri(urlsplit(expected)).geturl() == expected


@_table(NONSENSE)
def test_nonsense_is_rejected(uri, expected):
    with pytest.raises(ValueError, match=expected) as error:
        sanitize_uri(urlsplit(uri))
    assert "secret" not in str(error.value)


@_table({name: case for name, case in SPELLINGS.items() if name != "letters beyond ASCII"})
def test_airflow_asks_the_normaliser(uri, expected):
    asset = Asset(uri)
    # Airflow 2 keeps what was written as the URI.
    assert getattr(asset, "normalized_uri", asset.uri) == expected


def test_airflow_rejects_nonsense():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Airflow 2 only warns, unless it is told to be strict.
        with pytest.raises((ValueError, UserWarning), match="one catalog and one model"):
            Asset("atscale://h/only-a-catalog")


NAMES = st.text(
    st.characters(categories=["L", "N", "P", "S"], include_characters=" /%?#"), min_size=1, max_size=30
).filter(lambda name: name.strip() not in ("", ".", "..") and "{{" not in name and "{%" not in name)


@given(catalog=NAMES, model=NAMES)
def test_every_name_can_be_written_and_read_back(catalog, model):
    asset = create_asset(host="atscale.example.com:8443", catalog=catalog, model=model)
    assert asset.uri.isascii()
    assert Asset(asset.uri).uri == asset.uri
    _, *names = urlsplit(asset.uri).path.split("/")
    assert [unquote(name) for name in names] == [catalog.strip(), model.strip()]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("atscale.example.com", "atscale://atscale.example.com/c/m"),
        ("https://atscale.example.com", "atscale://atscale.example.com/c/m"),
        ("https://atscale.example.com:443", "atscale://atscale.example.com/c/m"),
        ("https://atscale.example.com:8443/base", "atscale://atscale.example.com:8443/c/m"),
        ("http://atscale.example.com:80", "atscale://atscale.example.com/c/m"),
        ("http://atscale.example.com:10502", "atscale://atscale.example.com:10502/c/m"),
        ("http://[::1]:8080", "atscale://[::1]:8080/c/m"),
    ],
)
def test_host_is_given_as_the_connection_has_it(host, expected):
    assert create_asset(host=host, catalog="c", model="m").uri == expected
    assert create_asset(host=host, catalog="c", model="m", extra={"team": "sales"}).extra == {"team": "sales"}


@pytest.mark.parametrize(("host", "catalog"), [("", "c"), ("h", ""), ("h", " "), ("h", "{{ var.value.x }}")])
def test_no_asset_is_made_of_nonsense(host, catalog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"host|name|template|catalog"):
            create_asset(host=host, catalog=catalog, model="m")


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("atscale.example.com", None, "atscale://atscale.example.com/Sales%20Insights/Internet%20Sales"),
        ("https://AtScale.example.com", 443, "atscale://atscale.example.com/Sales%20Insights/Internet%20Sales"),
        ("atscale.example.com", 8443, "atscale://atscale.example.com:8443/Sales%20Insights/Internet%20Sales"),
    ],
)
def test_asset_of_a_connections_model(monkeypatch, host, port, expected):
    connection = {"conn_type": "atscale", "host": host, "port": port, "password": "a-token"}
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps(connection))
    asset = model_asset("Sales Insights", "Internet Sales", atscale_conn_id="other")
    assert asset.uri == expected


def test_the_provider_declares_the_scheme_for_airflow_2_and_3():
    info = get_provider_info()
    assert info["asset-uris"] == info["dataset-uris"]
    [declared] = info["asset-uris"]
    assert declared["schemes"] == ["atscale"]


def test_openlineage_knows_a_model_by_its_server_and_its_names():
    pytest.importorskip("openlineage.client", reason="the OpenLineage provider is not installed")
    dataset = convert_asset_to_openlineage(Asset(URI), lineage_context=None)
    assert dataset.namespace == "atscale://atscale.example.com" == namespace("https://atscale.example.com/base")
    assert dataset.name == "Sales Insights/Internet Sales"
