"""Worker and triggerer read the same environment in the same way, and show no credentials of a proxy."""

from __future__ import annotations

import base64
import json
import queue
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from airflow_provider_atscale.api.start import LostReply, Started
from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleConfigurationError,
    AtScaleConnectionError,
    AtScaleError,
)
from airflow_provider_atscale.testing import AtScaleEngine

from .conftest import Caller, posts, server_context, settings_of, whatever_the_edition

pytestmark = [
    whatever_the_edition,
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),
]

VARIABLES = [
    spelled
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    for spelled in (name, name.lower())
]


class Proxy:
    """Run the proxy of ``proxy.py``."""

    def __init__(self, upstream: int, credentials: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name("proxy.py")), str(upstream), credentials]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.address = f"127.0.0.1:{int(self._process.stdout.readline())}"
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._lines.put(line)

    def requests(self) -> list[dict[str, str]]:
        """Return the requests since the last call."""
        found = []
        while True:
            try:
                found.append(json.loads(self._lines.get(timeout=0.05)))
            except queue.Empty:
                return found

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture(params=["http", "https"])
def scheme(request):
    return request.param


@pytest.fixture
def engine(scheme, edition, authority):
    context = server_context(authority) if scheme == "https" else None
    with AtScaleEngine(edition, ssl_context=context, build_seconds=60) as engine:
        yield engine


@pytest.fixture
def start_proxy(engine):
    proxies = []

    def start(credentials=""):
        proxies.append(Proxy(int(engine.url.rpartition(":")[2]), credentials))
        return proxies[-1]

    yield start
    for proxy in proxies:
        proxy.close()


@pytest.fixture
def caller(driver, scheme, engine, monkeypatch):
    """Make a caller for a host that only a proxy knows."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    settings = settings_of(engine.connection(), host=f"{scheme}://atscale.invalid", verify=False, timeout=10)
    caller = Caller(driver, settings)
    yield caller
    caller.close()


def read(caller):
    return caller.run(lambda edition: edition.models(), tries=1)


#: An environment, and the credentials that reach the proxy at {0}. {1} is HTTP or HTTPS.
USED = {
    "a whole address": ({"{1}_PROXY": "http://{0}"}, None),
    "in lower case": ({"{1}_proxy": "http://{0}"}, None),
    "without a scheme": ({"{1}_PROXY": "{0}"}, None),
    "with a slash and blanks": ({"{1}_PROXY": " http://{0}/ "}, None),
    "scheme in upper case": ({"{1}_PROXY": "HTTP://{0}"}, None),
    "for all schemes": ({"ALL_PROXY": "{0}"}, None),
    "the scheme before all": ({"{1}_PROXY": "{0}", "ALL_PROXY": "socks5://{0}"}, None),
    "credentials": ({"{1}_PROXY": "http://me:secret@{0}"}, "me:secret"),
    "credentials without a scheme": ({"{1}_PROXY": "me:secret@{0}"}, "me:secret"),
    "credentials for all schemes": ({"ALL_PROXY": "me:secret@{0}"}, "me:secret"),
    "quoted credentials": ({"{1}_PROXY": "http://m%65:s%40e%2Fc%3Aret@{0}"}, "me:s@e/c:ret"),
    "an @ that is not quoted": ({"{1}_PROXY": "http://me:sec@ret@{0}"}, "me:sec@ret"),
    "a slash that is not quoted": ({"{1}_PROXY": "http://me:sec/ret@{0}"}, "me:sec/ret"),
    "umlauts": ({"{1}_PROXY": "http://me:s%C3%A9cret@{0}"}, "me:s\xe9cret"),
    "another host needs none": ({"{1}_PROXY": "{0}", "NO_PROXY": "other.invalid"}, None),
}


@pytest.mark.parametrize(("environment", "credentials"), USED.values(), ids=USED)
def test_a_proxy_that_is_used(engine, scheme, start_proxy, caller, monkeypatch, environment, credentials):
    proxy = start_proxy(credentials or "")
    for name, value in environment.items():
        monkeypatch.setenv(name.format("", scheme.upper()), value.format(proxy.address))
    assert len(read(caller)) == 3
    [request] = proxy.requests()
    assert request["request"].startswith(
        "CONNECT atscale.invalid:443 " if scheme == "https" else "GET http://atscale.invalid/v1/catalogs"
    )
    expected = credentials and f"Basic {base64.b64encode(credentials.encode('latin-1')).decode()}"
    assert request["authorization"] == expected
    [received] = engine.requests
    assert received.headers["Authorization"] == f"Bearer {engine.api_token}"
    assert "Basic" not in str(received.headers) or scheme == "http"


NOT_USED = {
    "no proxy": {},
    "of the other scheme": {"{2}_PROXY": "http://{0}"},
    "empty": {"{1}_PROXY": ""},
    "not for this host": {"{1}_PROXY": "http://{0}", "NO_PROXY": "atscale.invalid"},
    "not for its domain": {"{1}_PROXY": "http://{0}", "no_proxy": "x.example.com, .invalid"},
    "not for any host": {"ALL_PROXY": "http://{0}", "NO_PROXY": "*"},
    "a SOCKS proxy, but not for this host": {"ALL_PROXY": "socks5://{0}", "NO_PROXY": "atscale.invalid"},
}


@pytest.mark.parametrize("environment", NOT_USED.values(), ids=NOT_USED)
def test_a_proxy_that_is_not_used(scheme, start_proxy, caller, monkeypatch, environment):
    proxy = start_proxy()
    other = {"http": "HTTPS", "https": "HTTP"}[scheme]
    for name, value in environment.items():
        monkeypatch.setenv(name.format("", scheme.upper(), other), value.format(proxy.address))
    with pytest.raises(AtScaleConnectionError, match=r"atscale\.invalid"):
        read(caller)
    assert proxy.requests() == []


#: An environment, and what the error says.
REFUSED = {
    "socks5": ({"ALL_PROXY": "socks5://me:secret@{0}"}, "a socks5 proxy; only http and https"),
    "socks5h": ({"{1}_PROXY": "socks5h://me:secret@{0}"}, "a socks5h proxy; only http and https"),
    "socks4": ({"all_proxy": "SOCKS4://me:secret@{0}"}, "a socks4 proxy; only http and https"),
    "another kind": ({"ALL_PROXY": "me:secret://{0}"}, "a proxy of another kind; only http and https"),
    "no host": ({"ALL_PROXY": "http://me:secret@"}, "a proxy whose address cannot be read"),
    "no port": ({"ALL_PROXY": "http://me:secret@127.0.0.1:port"}, "a proxy whose address cannot be read"),
    "letters": ({"ALL_PROXY": "http://me:secret\N{EURO SIGN}@{0}"}, "has characters that cannot be sent"),
}


@pytest.mark.parametrize(("environment", "text"), REFUSED.values(), ids=REFUSED)
def test_a_proxy_that_cannot_be_used(scheme, start_proxy, caller, monkeypatch, environment, text):
    proxy = start_proxy()
    for name, value in environment.items():
        monkeypatch.setenv(name.format("", scheme.upper()), value.format(proxy.address))
    with pytest.raises(AtScaleConfigurationError) as caught:
        read(caller)
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)
    assert proxy.requests() == []


@pytest.mark.parametrize("form", ["http://me:proxy-secret@{0}", "me:proxy-secret@{0}"], ids=["whole", "bare"])
@pytest.mark.parametrize("trouble", ["refuses connections", "has another password", "is not known"])
def test_its_password_is_in_no_error(start_proxy, caller, ref, scheme, monkeypatch, form, trouble):
    proxy = start_proxy("me:another")
    address = "nowhere.invalid:3128" if trouble == "is not known" else proxy.address
    if trouble == "refuses connections":
        proxy.close()
    monkeypatch.setenv("ALL_PROXY", form.format(address))
    by_request = scheme == "http" and trouble == "has another password"
    with pytest.raises(AtScaleApiError if by_request else AtScaleConnectionError) as caught:
        read(caller)
    assert "proxy-secret" not in str(caught.value)
    # No POST has reached AtScale, and both clients know it.
    with pytest.raises(AtScaleError) as caught:
        caller.start(ref)
    assert getattr(caught.value, "sent", False) is False
    assert "proxy-secret" not in str(caught.value)


def test_a_start_through_a_proxy(engine, start_proxy, caller, ref, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", f"me:secret@{start_proxy('me:secret').address}")
    assert isinstance(caller.start(ref), Started)
    engine.fault("drop", route="start")
    outcome = caller.start(ref)
    assert isinstance(outcome, LostReply)
    assert "secret" not in outcome.reason
    assert len(posts(engine)) == 2
