"""
Both drivers and each edition against the local engine, over real sockets.

A test asks for ``caller`` and runs flows on it; it is run once for each driver and edition. No test waits: the
drivers are given a sleep that only notes how long it was to be.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import itertools
import json
import ssl
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from airflow_provider_atscale.api import installer_start
from airflow_provider_atscale.api.models import ModelRef
from airflow_provider_atscale.client import aiohttp_client, secrets
from airflow_provider_atscale.client.aiohttp_client import AsyncAtScaleClient
from airflow_provider_atscale.client.requests_client import AtScaleClient
from airflow_provider_atscale.client.retries import TRIES
from airflow_provider_atscale.client.settings import Settings, parse_connection
from airflow_provider_atscale.testing import AtScaleEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from airflow_provider_atscale.api.edition import Edition
    from airflow_provider_atscale.api.flow import Flow

EDITIONS = ["container", "installer"]
DRIVERS = ["requests", "aiohttp"]

#: For tests of what the container edition alone has.
of_the_container = pytest.mark.parametrize("edition", ["container"], indirect=True)
#: For tests of the drivers, in whose work no edition has a part: the other one would show nothing more.
whatever_the_edition = pytest.mark.parametrize("edition", ["container"], indirect=True)

#: The engine's name for the call that gives out short-lived tokens.
TOKEN_ROUTE = {"container": "token", "installer": "login"}


def at(edition: str, url: str) -> dict[str, str]:
    """Return the fields of a connection that lead an edition's requests to another address."""
    if edition == "container":
        return {"host": url}
    return {"host": url, "engine_url": url, "design_center_url": url}


def listing(edition: str, rows: list[Any], **more: Any) -> dict[str, Any]:
    """Return a list answer as an edition words it."""
    if edition == "container":
        return {"data": rows, "total": len(rows), **more}
    return {"status": {"code": 0, "message": "SUCCESS"}, "response": {"data": rows, **more}}


def settings_of(connection: dict[str, Any], **fields: Any) -> Settings:
    """Read a connection as the hook does; ``fields`` replace those of the connection, or of its extra."""
    standard = ("host", "port", "login", "password")
    extra = {**connection["extra"], **{name: fields.pop(name) for name in list(fields) if name not in standard}}
    values = {name: fields.get(name, connection.get(name)) for name in standard}
    return parse_connection(SimpleNamespace(conn_id="test", extra=json.dumps(extra), **values))


class Caller:
    """
    Run flows on one of the two drivers.

    :param driver: ``requests`` or ``aiohttp``.
    :param settings: Of the connection.
    """

    def __init__(self, driver: str, settings: Settings) -> None:
        self.naps: list[float] = []
        self.on_nap: Callable[[], Any] = lambda: None
        self.masked: list[str] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self.client: Any
        if driver == "requests":
            self.client = AtScaleClient(settings, mask=self.masked.append, sleep=self._note_nap)
        else:
            self._loop = asyncio.new_event_loop()
            self.client = AsyncAtScaleClient(settings, mask=self._mask, sleep=self._nap)

    async def _mask(self, value: str) -> None:
        self.masked.append(value)

    async def _nap(self, seconds: float) -> None:
        self._note_nap(seconds)

    def _note_nap(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.on_nap()

    @property
    def edition(self) -> Edition:
        return self.client.edition

    def run(self, call: Callable[[Any], Flow[Any]], tries: int = TRIES, *, until: float | None = None) -> Any:
        """Run the flow that a call of the edition is."""
        outcome = self.client.run(call(self.edition), tries, until=until)
        return outcome if self._loop is None else self._loop.run_until_complete(outcome)

    def start(self, ref: ModelRef, **arguments: Any) -> Any:
        wanted = {"is_full_build": False, "grace_period_overrides": {}, "before_post": lambda _: None}
        return self.run(lambda edition: edition.start(ref, **{**wanted, **arguments}))

    def notice(self) -> None:
        """Let the event loop, which stands still between two calls, see that connections were closed."""
        if self._loop is not None:
            self._loop.run_until_complete(asyncio.sleep(0.01))

    def close(self) -> None:
        outcome = self.client.aclose() if isinstance(self.client, AsyncAtScaleClient) else self.client.close()
        if self._loop is not None:
            self._loop.run_until_complete(outcome)
            self._loop.close()


@pytest.fixture(params=EDITIONS)
def edition(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def engine(edition: str) -> Iterator[AtScaleEngine]:
    """Run an engine whose batches take a minute, so that none ends by itself."""
    with AtScaleEngine(edition, build_seconds=60) as engine:
        yield engine


@pytest.fixture
def ref(engine: AtScaleEngine) -> ModelRef:
    model = engine.model("Internet Sales")
    return ModelRef(model.catalog_id, model.id, "Sales Insights", "Internet Sales")


@pytest.fixture
def make_caller(driver: str, engine: AtScaleEngine, new_process: None) -> Iterator[Callable[..., Caller]]:
    """Make a caller; its arguments are those of the engine's connection, or replace fields of it."""
    callers: list[Caller] = []

    def make(auth: str = "auto", **fields: Any) -> Caller:
        caller = Caller(driver, settings_of(engine.connection(auth), **fields))
        callers.append(caller)
        return caller

    yield make
    for caller in callers:
        caller.close()


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget that other tests of this process have received tokens, and known an engine, before."""
    monkeypatch.setattr(secrets, "_tokens_of_process", itertools.count())
    installer_start.known_variants.clear()


@pytest.fixture
def a_while_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody's failure to get a token stand for the next one."""
    for name in ("REFUSED_FOR", "NO_TOKEN_FOR"):
        monkeypatch.setattr(aiohttp_client, name, 0.0)


@pytest.fixture
def caller(make_caller: Callable[..., Caller]) -> Caller:
    return make_caller()


def posts(engine: AtScaleEngine) -> list[Any]:
    """List the start POSTs that have reached the engine."""
    return [request for request in engine.requests if request.route == "start"]


def routes(engine: AtScaleEngine) -> list[str]:
    """List which calls have reached the engine, in their order."""
    return [request.route for request in engine.requests]


async def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    """Wait for what happens in the engine's own thread."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.01)


# --- TLS --------------------------------------------------------------------------------------------------


def _certificate(subject, issuer, key, signer, *extensions):
    name = {who: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who)]) for who in (subject, issuer)}
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name[subject])
        .issuer_name(name[issuer])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
    )
    for extension, is_critical in extensions:
        builder = builder.add_extension(extension, critical=is_critical)
    return builder.sign(signer, hashes.SHA256())


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """Make a certificate authority, and a certificate of it for this machine."""
    folder = tmp_path_factory.mktemp("tls")
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    ca = _certificate(
        "Test CA",
        "Test CA",
        ca_key,
        ca_key,
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (usage, True),
        (x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), False),
    )
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    known_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    certificate = _certificate("Test server", "Test CA", key, ca_key, (here, False), (known_by, False))
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(ca.public_bytes(pem))
    (folder / "server.pem").write_bytes(
        certificate.public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder


def server_context(authority: Path) -> ssl.SSLContext:
    """Return what a server of this machine needs for TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority / "server.pem")
    return context
