"""What an Airflow connection of type atscale says, checked field by field before any request."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_atscale.api.auth import ApiTokenAuth, PasswordAuth
from airflow_provider_atscale.api.container import ContainerEdition
from airflow_provider_atscale.client import settings as settings_module
from airflow_provider_atscale.client.editions import make_edition
from airflow_provider_atscale.client.settings import DEFAULT_TIMEOUT, Settings, parse_connection
from airflow_provider_atscale.exceptions import AtScaleConfigurationError

from .flows import API_TOKEN, HOST, PASSWORD, connection
from .test_models import JSON


def parsed(**fields) -> Settings:
    return parse_connection(connection(**fields))


def test_host_and_token_are_enough():
    assert parsed() == Settings(
        conn_id="atscale_test", edition="container", base_url=HOST, auth_type="api_token", password=API_TOKEN
    )


@pytest.mark.parametrize(
    ("host", "port", "url"),
    [
        ("atscale.example.com", None, HOST),
        ("atscale.example.com", 8443, f"{HOST}:8443"),
        ("atscale.example.com", "8443", f"{HOST}:8443"),
        ("atscale.example.com", "", HOST),
        ("https://atscale.example.com/", None, HOST),
        ("atscale.example.com", 443, HOST),
        ("https://atscale.example.com:443/base", None, f"{HOST}/base"),
        ("http://atscale.example.com", 80, "http://atscale.example.com"),
        ("http://atscale.example.com", 443, "http://atscale.example.com:443"),
        ("https://[::443]:443", None, "https://[::443]"),
        ("https://atscale.example.com:8443", None, f"{HOST}:8443"),
        ("https://atscale.example.com:8443", 8443, f"{HOST}:8443"),
        ("https://atscale.example.com/base/", None, f"{HOST}/base"),
        (" https://ATSCALE.example.com ", None, HOST),
        ("https://[::1]", 8443, "https://[::1]:8443"),
    ],
)
def test_host_and_port_make_the_address(host, port, url):
    assert parsed(host=host, port=port).base_url == url


@pytest.mark.parametrize(
    ("host", "port", "url"),
    [
        ("atscale.example.com", 10502, HOST),
        ("http://atscale.example.com:10500", None, "http://atscale.example.com"),
        ("atscale.example.com", 443, f"{HOST}:443"),
    ],
)
def test_the_installers_usual_ports_make_no_other_server(host, port, url):
    """443 does: where the engine has a field of its own, it is the Design Center's port."""
    assert parsed(host=host, port=port, edition="installer").base_url == url


@pytest.mark.parametrize("edition", ["container", "installer", " Container ", ""])
@pytest.mark.parametrize(
    ("host", "url"), [("h", "https://h"), ("::1", "https://[::1]"), ("h:1", "https://h:1")]
)
def test_credentials_go_to_a_bare_host_by_tls_alone(edition, host, url):
    assert parsed(host=host, edition=edition).base_url == url


@pytest.mark.parametrize(
    ("fields", "auth_type"),
    [
        ({}, "api_token"),
        ({"login": "etl"}, "password"),
        ({"login": ""}, "api_token"),
        ({"login": "etl", "auth_type": "api_token"}, "api_token"),
        ({"auth_type": "AUTO"}, "api_token"),
        ({"edition": "installer", "auth_type": "client_api_key"}, "client_api_key"),
    ],
    ids=str,
)
def test_which_way_of_authentication_is_meant(fields, auth_type):
    assert parsed(**fields).auth_type == auth_type


@pytest.mark.parametrize(
    ("fields", "auth"), [({}, ApiTokenAuth), ({"login": "etl"}, PasswordAuth)], ids=["token", "password"]
)
def test_a_connection_makes_its_editions_calls(fields, auth):
    edition = make_edition(parsed(**fields))
    assert isinstance(edition, ContainerEdition)
    assert isinstance(edition._auth, auth)


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"host": None}, "host", "is empty"),
        ({"host": "  "}, "host", "is empty"),
        ({"host": "ftp://x"}, "host", "must begin with http:// or https://"),
        ({"host": "http://"}, "host", "is not an address"),
        ({"host": "a b"}, "host", "is not an address"),
        ({"host": "https://x:99999"}, "host", "is not an address"),
        ({"host": "https://x?a=b"}, "host", "must not have a query"),
        ({"host": "https://etl:geheim@x"}, "host", "must not contain login or password"),
        ({"host": "etl:geheim@x"}, "host", "must not contain login or password"),
        ({"host": "https://etl:ge/heim-geheim@x"}, "host", "must not contain login or password"),
        ({"host": "https://etl:12/geheim@x"}, "host", "must not contain login or password"),
        ({"host": "https//etl:geheim"}, "host", "is not an address"),
        ({"host": "https://etl:geheim"}, "host", "is not an address"),
        ({"host": "etl-geheim://x"}, "host", "must begin with http:// or https://"),
        ({"host": "https://geheim..x"}, "host", "is not an address"),
        ({"engine_url": "https://etl:geheim@x"}, "engine_url", "must not contain login or password"),
        ({"password": "geheim\ud800", "login": "etl"}, "password", "has a character that cannot be sent"),
        ({"port": "http"}, "port", "must be a number"),
        ({"port": 0}, "port", "from 1 to 65535"),
        ({"port": 70_000}, "port", "from 1 to 65535"),
        ({"host": "https://x:1", "port": 2}, "port", "the host has another port"),
        ({"password": None}, "password", "auth_type 'api_token' needs the API token there"),
        ({"password": ""}, "password", "is empty"),
        ({"password": " \n"}, "password", "is empty"),
        ({"password": "a\nb"}, "password", "has characters that no token or key has"),
        ({"password": "tökén"}, "password", "has characters that no token or key has"),
        ({"password": None, "login": "etl"}, "password", "auth_type 'password' needs the password there"),
        ({"auth_type": "password"}, "login", "needs the user's name there"),
        ({"auth_type": "client_api_key"}, "auth_type", "exists only on the installer edition"),
        ({"auth_type": "kerberos"}, "auth_type", "must be one of auto, api_token, password, client_api_key"),
        ({"auth_type": 7}, "auth_type", "must be a text, not int"),
        ({"edition": "cloud"}, "edition", "must be one of container, installer"),
        ({"edition": None}, None, None),
        ({"timeout": "soon"}, "timeout", "must be a number of seconds"),
        ({"timeout": 0}, "timeout", "must be a number of seconds"),
        ({"timeout": -1}, "timeout", "must be a number of seconds"),
        ({"timeout": 86_401}, "timeout", "at most 86400"),
        ({"timeout": True}, "timeout", "must be a number of seconds"),
        ({"timeout": "nan"}, "timeout", "must be a number of seconds"),
        ({"timeout": 10**400}, "timeout", "must be a number of seconds"),
        ({"verify": "/nowhere/ca.pem"}, "verify", "the path of an existing CA bundle"),
        ({"verify": "x" * 5000}, "verify", "the path of an existing CA bundle"),
        ({"verify": "a\0b"}, "verify", "the path of an existing CA bundle"),
        ({"verify": 7}, "verify", "must be true, false or a path"),
        ({"headers": "X-Team: data"}, "headers", "must be a JSON object"),
        ({"headers": "[1]"}, "headers", "must be a JSON object"),
        ({"headers": "[" * 100_000}, "headers", "must be a JSON object"),
        ({"headers": {"X": None}}, "headers", "has a value for 'X' that is not a text"),
        ({"headers": {"X": True}}, "headers", "has a value for 'X' that is not a text"),
        ({"headers": {"": "a"}}, "headers", "characters that a header cannot have"),
        ({"headers": {"X Y": "a"}}, "headers", "characters that a header cannot have"),
        ({"headers": {"X:": "a"}}, "headers", "characters that a header cannot have"),
        ({"headers": {"X": "a\r\nY: b"}}, "headers", "characters that a header cannot have"),
        ({"headers": {"X": "日本"}}, "headers", "characters that a header cannot have"),
        ({"engine_url": "engine:10502"}, "engine_url", "must be a whole address with its scheme"),
        ({"design_center_url": "ftp://x"}, "design_center_url", "must begin with http:// or https://"),
        ({"build_history_url": "/history"}, "build_history_url", "must be a whole address with its scheme"),
        ({"build_history_url": "javascript://x"}, "build_history_url", "must begin with http"),
        ({"engine_choice": "maybe"}, "engine_choice", "must be true or false"),
        ({"realm": 7}, "realm", "must be a text, not int"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_wrong_field_is_named(fields, field, said):
    if field is None:
        assert parsed(**fields)
        return
    with pytest.raises(AtScaleConfigurationError, match=f"'{field}' .*{re.escape(said)}") as error:
        parsed(**fields)
    assert "Connection 'atscale_test'" in str(error.value)
    assert "geheim" not in str(error.value)


@pytest.mark.parametrize("extra", ["{", "[]", "7", "null", '"x"', "[" * 100_000])
def test_extras_must_be_an_object(extra):
    conn = connection()
    conn.extra = extra
    with pytest.raises(AtScaleConfigurationError, match="the field 'extra' is not"):
        parse_connection(conn)


@pytest.mark.parametrize(
    ("fields", "attribute", "expected"),
    [
        ({"timeout": "30"}, "timeout", 30.0),
        ({"timeout": 2.5}, "timeout", 2.5),
        ({"timeout": ""}, "timeout", DEFAULT_TIMEOUT),
        ({"verify": "false"}, "verify", False),
        ({"verify": False}, "verify", False),
        ({"verify": "True"}, "verify", True),
        ({"verify": None}, "verify", True),
        ({"verify": ""}, "verify", True),
        ({"verify": __file__}, "verify", __file__),
        ({"headers": {"X-Team": "data", "X-Size": 7}}, "headers", {"X-Team": "data", "X-Size": "7"}),
        ({"headers": '{"X-Team": " data "}'}, "headers", {"X-Team": "data"}),
        ({"headers": ""}, "headers", {}),
        ({"api_prefix": "v1/public/"}, "api_prefix", "/v1/public"),
        ({"api_prefix": "/"}, "api_prefix", ""),
        ({"api_prefix": ""}, "api_prefix", "/v1"),
        ({"realm": "  "}, "realm", "atscale"),
        ({"client_secret": ""}, "client_secret", None),
        ({"environment": "prod"}, "environment", "prod"),
        ({"engine_choice": "true"}, "engine_choice", True),
        ({"engine_url": "https://e:10502/"}, "engine_url", "https://e:10502"),
        ({"extra__atscale__realm": "other"}, "realm", "other"),
        ({"password": f" {API_TOKEN}\n"}, "password", API_TOKEN),
        ({"login": "etl", "password": " with blanks "}, "password", " with blanks "),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_field_is_read(fields, attribute, expected):
    assert getattr(parsed(**fields), attribute) == expected


def test_a_realm_is_part_of_a_path_and_no_more():
    edition = make_edition(parsed(login="etl", realm="a/b?c"))
    assert edition._auth._token_url == f"{HOST}/auth/realms/a%2Fb%3Fc/protocol/openid-connect/token"


FIELDS = [
    "edition", "auth_type", "organization", "realm", "client_id", "client_secret", "api_prefix", "engine_url",
    "design_center_url", "environment", "engine_choice", "verify", "timeout", "headers", "build_history_url",
]  # fmt: skip


#: Short ones are part of many words; the long ones are part of no other value that is drawn.
PASSWORDS = st.text(max_size=11) | st.text().map("secret-of-this-test".__add__)


@given(
    st.none() | st.text(),
    st.none() | st.integers() | st.text(max_size=6),
    st.none() | st.text(),
    st.none() | PASSWORDS,
    st.dictionaries(st.sampled_from(FIELDS), JSON),
)
def test_no_connection_whatever_is_more_than_a_configuration_error(host, port, login, password, extra):
    conn = connection(host, port, login, password)
    conn.extra = json.dumps(extra)
    try:
        settings = parse_connection(conn)
    except AtScaleConfigurationError as error:
        said = str(error)
    else:
        said = repr(settings)
        assert settings.base_url.startswith(("https://", "http://"))
        assert not settings.base_url.endswith("/")
        assert settings.password
    assert not password or len(password) < 12 or password not in said


# --- what has no effect -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"time_out": 7}, "'time_out' is not known and is ignored; did you mean 'timeout'?"),
        ({"tokn": "geheim"}, "'tokn' is not known and is ignored; did you mean 'password'?"),
        ({"orgnization": "x"}, "'orgnization' is not known and is ignored; did you mean 'organization'?"),
        ({"colour": "red"}, "'colour' is not known and is ignored; known are edition, auth_type,"),
        ({"extra__atscale__realm": "other", "edition": "container"}, None),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_unknown_extra_is_told_once(caplog, monkeypatch, extra, said):
    monkeypatch.setattr(settings_module, "_warned", set())
    for _ in range(3):
        parsed(**extra)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (said is not None)
    assert said is None or said in told[0]
    assert "geheim" not in caplog.text


@pytest.mark.parametrize(("conn_type", "count"), [("http", 1), ("atscale", 0), (None, 0), ("", 0)])
def test_a_connection_of_another_type_is_told_once(caplog, monkeypatch, conn_type, count):
    monkeypatch.setattr(settings_module, "_warned", set())
    conn = connection()
    conn.conn_type = conn_type
    for _ in range(3):
        parse_connection(conn)
    assert caplog.text.count("it has the type 'http' and is used nevertheless") == count


# --- secrets ----------------------------------------------------------------------------------------------

SECRET = "s3cr3t-of-the-client"
HEADER = "k3y-in-a-header"


def secretive(**changes) -> Settings:
    fields = {
        "login": "etl",
        "password": PASSWORD,
        "client_secret": SECRET,
        "headers": {"X-Api-Key": HEADER, "X-Team": "data"},
        **changes,
    }
    return parsed(**fields)


def test_nothing_secret_shows_in_a_representation():
    shown = f"{secretive()!r} {secretive()}"
    assert not [secret for secret in (PASSWORD, SECRET, HEADER) if secret in shown]


def test_what_must_be_hidden_is_told():
    assert set(secretive().secrets) == {PASSWORD, SECRET, HEADER}


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        ("X-Api-Key", True),
        ("Authorization", True),
        ("Cookie", True),
        ("x-token", True),
        ("Proxy-Password", True),
        ("X-Team", False),
        ("Accept", False),
    ],
)
def test_which_headers_are_secret(name, is_secret):
    assert ("value-of-it" in parsed(headers={name: "value-of-it"}).secrets) is is_secret


@pytest.mark.parametrize(
    "changes",
    [{"password": "other"}, {"client_secret": "other"}, {"headers": {"X-Api-Key": "other"}}, {"login": "other"},
     {"timeout": 7}, {"host": "other"}],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_settings_differ_with_every_field(changes):
    assert secretive() == secretive()
    assert secretive(**changes) != secretive()


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed().timeout = 1.0
