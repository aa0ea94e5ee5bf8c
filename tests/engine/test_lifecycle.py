from __future__ import annotations

import ast
import json
import os
import shlex
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import requests

from airflow_provider_atscale.hooks.atscale import AtScaleHook
from airflow_provider_atscale.testing import AtScaleEngine, EngineControl
from airflow_provider_atscale.testing.__main__ import main

from .conftest import ContainerCaller, InstallerCaller

ROOT = Path(__file__).parents[2]


@contextmanager
def run(*arguments):
    """Run the command and read what it prints up to the connection."""
    with subprocess.Popen(
        [sys.executable, "-m", "airflow_provider_atscale.testing", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            lines = []
            for line in process.stdout:
                lines.append(line.strip())
                if line.startswith("AIRFLOW_CONN_ATSCALE_DEFAULT="):
                    break
            yield process, lines, json.loads(shlex.split(lines[-1])[0].split("=", 1)[1])
        finally:
            process.kill()


def test_state_stays_when_started_again():
    engine = AtScaleEngine(build_seconds=60).start()
    caller = ContainerCaller(engine)
    url, jwt = engine.url, caller.jwt()
    caller.start()
    engine.stop()
    engine.stop()
    with pytest.raises(requests.ConnectionError):
        caller.catalogs()
    with engine:
        assert engine.url == url
        assert caller.history(jwt).json()["total"] == 1
        with pytest.raises(RuntimeError):
            engine.start()


def test_state_file(tmp_path):
    file = tmp_path / "state.json"
    with AtScaleEngine(state_file=file, build_seconds=60) as engine:
        caller = ContainerCaller(engine)
        old = caller.jwt()
        engine.expire_tokens()
        jwt = caller.jwt()
        token = engine.rotate_api_token()
        engine.add_catalog("new")
        engine.add_model("new", "m")
        engine.fail_next("m", "error")
        caller.start(json={"gracePeriodOverrides": {"f": 1}})
        engine.end_batch(engine.batches[0].id, "cancelled")
        caller.engine.start_batch(None, "Internet Sales")
        engine.advance(30)
        batches = engine.batches
    with AtScaleEngine(state_file=file, build_seconds=60) as engine:
        caller = ContainerCaller(engine)
        assert engine.batches == batches
        assert engine.api_token == token
        assert caller.history(jwt).json()["total"] == 2
        assert caller.history(old).status_code == 401
        engine.start_batch("new", "m")
        engine.advance(61)
        assert [batch.status for batch in engine.batches] == ["cancelled", "done", "error"]


def test_killed_process_keeps_batches_and_tokens(tmp_path):
    file = str(tmp_path / "state.json")
    with run("--state-file", file, "--build-seconds", "60") as (process, _, connection):
        url = connection["host"]
        bearer = {"Authorization": f"Bearer {connection['password']}"}
        jwt = requests.post(url + "/v1/token", headers=bearer, json={}, timeout=5).json()["accessToken"]
        batch = EngineControl(url).start_batch(None, "Internet Sales")
        process.kill()
    with run("--state-file", file) as (process, _, connection):
        history = requests.get(
            connection["host"] + "/wapi/p/aggregate/batch-history",
            headers={"Authorization": f"Bearer {jwt}"},
            timeout=5,
        )
        assert [row["id"] for row in history.json()["data"]] == [batch.id]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_command_runs_the_installer_edition():
    options = ["--edition", "installer", "--engine-port", "0", "--fail-aggregates", "1", "--login", "it's me"]
    with run(*options) as (process, lines, connection):
        extra = connection["extra"]
        assert connection["conn_type"] == "atscale"
        assert connection["login"] == "it's me"
        assert extra["edition"] == "installer"
        assert any(extra["engine_url"] in line for line in lines)
        assert requests.get(extra["engine_url"] + "/version", timeout=5).text.startswith("2024")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def ipv6():
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


@pytest.mark.skipif(not ipv6(), reason="this machine has no ::1")
@pytest.mark.parametrize("edition", ["container", "installer"])
def test_the_package_accepts_a_connection_to_an_ipv6_address(edition, monkeypatch):
    with AtScaleEngine(edition, host="::1") as engine:
        connection = json.loads(engine.connection_json())
        assert connection["host"].startswith("http://[::1]:")
        assert all(url.startswith("http://[::1]:") for url in engine.urls.values())
        assert EngineControl(connection["host"]).stats.requests == 0
        monkeypatch.setenv("AIRFLOW_CONN_ATSCALE_DEFAULT", engine.connection_json())
        worked, message = AtScaleHook().test_connection()
        assert worked, message


@pytest.mark.skipif(not ipv6(), reason="this machine has no ::1")
def test_the_command_prints_an_ipv6_address_in_brackets():
    with run("--host", "::1") as (_, lines, connection):
        assert connection["host"].startswith("http://[::1]:")
        assert connection["host"] in lines[0]
        assert requests.get(connection["host"] + "/engine/version", timeout=5).ok


def test_command_says_when_the_port_is_taken(capsys):
    with AtScaleEngine() as engine:
        assert main(["--port", engine.url.rsplit(":", 1)[1]]) == 1
    assert "Cannot listen" in capsys.readouterr().err


def test_command_has_help(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--state-file" in capsys.readouterr().out


def test_tls(tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate, key = self_signed(tmp_path)
    context.load_cert_chain(certificate, key)
    with AtScaleEngine("installer", ssl_context=context) as engine:
        assert engine.url.startswith("https://")
        assert engine.connection()["extra"]["verify"] is False
        assert engine.connection(verify=str(certificate))["extra"]["verify"] == str(certificate)
        caller = InstallerCaller(engine)
        with pytest.raises(requests.exceptions.SSLError):
            caller.login()
        caller.session.verify = str(certificate)
        assert caller.login().ok
        assert EngineControl(engine.url, verify=str(certificate)).stats.requests == 1


def self_signed(folder):
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(timezone.utc)
    import ipaddress

    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "cert.pem", folder / "key.pem"


def test_plugin(tmp_path):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["airflow_provider_atscale.testing.plugin"]\n')
    (tmp_path / "test_it.py").write_text(
        """
import json, os
import pytest

def test_default(atscale_engine):
    connection = json.loads(os.environ["AIRFLOW_CONN_ATSCALE_DEFAULT"])
    assert connection["host"] == atscale_engine.url
    assert atscale_engine.start_batch(None, "Internet Sales").status == "new"
    assert atscale_engine.current.build_seconds == 0.3

@pytest.mark.atscale_engine(edition="installer", build_seconds=1)
def test_marker(atscale_engine):
    connection = json.loads(os.environ["AIRFLOW_CONN_ATSCALE_DEFAULT"])
    assert connection["extra"]["edition"] == "installer"
    assert atscale_engine.current.build_seconds == 1

def test_gone():
    assert "AIRFLOW_CONN_ATSCALE_DEFAULT" not in os.environ
"""
    )
    env = {name: value for name, value in os.environ.items() if name != "AIRFLOW_CONN_ATSCALE_DEFAULT"}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider", str(tmp_path)],
        env=env | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert "3 passed" in result.stdout, result.stdout


def imports_of(module):
    """Return the modules of the package that a module of the engine imports, for type checking too."""
    nodes = [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.ImportFrom)]
    names = [f"{node.module}.{alias.name}" for node in nodes for alias in node.names]
    ours = [name for name in names if name.startswith("airflow")]
    assert all(name.startswith("airflow_provider_atscale.testing.") for name in ours), module.name
    return {name.split(".")[2] for name in ours}


def test_the_engine_imports_nothing_else_of_the_package_and_has_no_circle():
    folder = ROOT / "airflow_provider_atscale" / "testing"
    graph = {module.stem: imports_of(module) for module in folder.glob("*.py") if module.stem != "__init__"}
    # Raises an error that names the circle, if there is one.
    assert set(TopologicalSorter(graph).static_order()) >= set(graph)


def test_importing_needs_no_airflow():
    code = (
        "import sys; import airflow_provider_atscale.testing, airflow_provider_atscale.testing.__main__;"
        "assert not any(name.split('.')[0] == 'airflow' for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
