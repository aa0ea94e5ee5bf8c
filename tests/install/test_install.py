"""
What holds of the installed package on every Airflow: it is listed, imports cleanly, shows its form, runs a DAG.

Each look is taken in a process of its own with an Airflow home of its own, as Airflow's components take it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from airflow_provider_atscale.get_provider_info import CONNECTION_FIELDS, FIELD_BEHAVIOUR
from airflow_provider_atscale.testing import AtScaleEngine

PACKAGE = "airflow-provider-atscale"
AIRFLOW = tuple(int(part) for part in version("apache-airflow").split(".")[:2])
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """An Airflow of its own, with a database."""
    home = tmp_path_factory.mktemp("airflow")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTEST"))}
    env = kept | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(HERE / "dags"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    run_in(env, "-m", "airflow", "db", "migrate")
    return env


def run_in(env, *arguments):
    """Run this Python in the site, and return what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{' '.join(arguments)}:\n{done.stdout[-6000:]}{done.stderr[-6000:]}"
    return done.stdout


def told_by(env, script, *arguments):
    """Run a script that prints JSON as its last line, and return it."""
    return json.loads(run_in(env, str(HERE / script), *arguments).splitlines()[-1])


def test_this_is_the_airflow_that_was_meant():
    """The matrix names the version; elsewhere there is nothing to compare."""
    assert version("apache-airflow") == os.environ.get("EXPECTED_AIRFLOW", version("apache-airflow"))


def test_airflow_lists_the_provider(site):
    listed = run_in(site, "-m", "airflow", "providers", "list", "-o", "json")
    providers = json.loads(listed[listed.index("[{") :])
    assert [each["version"] for each in providers if each["package_name"] == PACKAGE] == [version(PACKAGE)]


def test_every_module_imports_without_a_warning_of_ours(site):
    found = told_by(site, "import_all.py")
    assert "airflow_provider_atscale.operators.atscale" in found["modules"]
    assert found["warnings"] == []
    # What an Airflow version lacks is said so, by the error that Airflow has for it.
    needed = {"policies": (3, 3), "triggers.builds": (3, 0), "ui.app": (3, 0), "ui.rows": (3, 0)}
    assert found["refused"] == [
        f"airflow_provider_atscale.{name}" for name, oldest in needed.items() if oldest > AIRFLOW
    ]


def test_the_connection_form_shows_every_field(site):
    form = told_by(site, "form.py")
    assert form["labels"] == {name: field["label"] for name, field in CONNECTION_FIELDS.items()}
    assert form["descriptions"] == {name: field["description"] for name, field in CONNECTION_FIELDS.items()}
    secret = {name for name, field in CONNECTION_FIELDS.items() if field["schema"].get("format") == "password"}
    assert set(form["secret"]) == secret
    choices = {
        name: field["schema"]["enum"] for name, field in CONNECTION_FIELDS.items() if "enum" in field["schema"]
    }
    assert form["choices"] == choices


def test_the_connection_form_relabels_the_standard_fields(site):
    form = told_by(site, "form.py")
    assert form["relabeling"] == FIELD_BEHAVIOUR["relabeling"]
    assert form["placeholders"] == FIELD_BEHAVIOUR["placeholders"]
    assert "schema" in form["hidden"]


@pytest.mark.parametrize("mode", ["waits_in_the_worker", "waits_in_the_triggerer"])
def test_a_dag_builds_waits_and_warns_of_nothing(site, mode):
    with AtScaleEngine(build_seconds=0.3) as engine:
        env = site | {"AIRFLOW_CONN_ATSCALE_DEFAULT": engine.connection_json()}
        told = told_by(env, "dags/build_and_wait.py", mode)
        assert told["state"] == "success"
        assert told["tasks"] == {"build": "success", "wait": "success"}
        assert [(batch.status, batch.is_full_build) for batch in engine.batches] == [("done", True)]
        assert told["batch_id"] == engine.batches[0].id
        assert told["link"].endswith(engine.batches[0].id)


@pytest.mark.skipif(AIRFLOW < (3, 0), reason="triggerers of Airflow 2 have no channel to a supervisor")
def test_masking_leaves_a_triggerers_channel_in_step(site):
    told = told_by(site, "channel.py")
    assert told == {"heard": [*["MaskSecret"] * 3, "GetVariable"], "answer": "VariableResult"}
