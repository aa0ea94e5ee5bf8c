"""Whom both drivers trust: nobody unknown, a CA bundle that is named, or everybody where that was asked for."""

from __future__ import annotations

import datetime
import ipaddress
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from airflow_provider_atscale.exceptions import AtScaleConnectionError
from airflow_provider_atscale.testing import AtScaleEngine

from .conftest import Caller, settings_of, whatever_the_edition

pytestmark = whatever_the_edition


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


@pytest.fixture(scope="module")
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


@pytest.fixture
def engine(edition, authority):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority / "server.pem")
    with AtScaleEngine(edition, ssl_context=context, build_seconds=60) as engine:
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
