"""Every command and every snippet of the documentation does what it says."""

from __future__ import annotations

import ast
import configparser
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import DAG
from dags import runs

from airflow_provider_atscale.client.settings import Settings, parse_connection
from airflow_provider_atscale.hooks.atscale import AtScaleHook
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.operators.checks import AtScaleAggregateCheckOperator
from airflow_provider_atscale.testing import AtScaleEngine
from airflow_provider_atscale.testing.__main__ import parser
from airflow_provider_atscale.version import DISTRIBUTION

from . import generate, page

if TYPE_CHECKING:
    from collections.abc import Callable

    from .page import Block

if runs.VERSION < (3, 3):
    pytest.skip("the snippets are written for the newest Airflow", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("airflow_home")

BLOCKS = page.blocks()


def kind(block: Block) -> str:
    """Return what a block is, by what it says; each kind has its tests below."""
    if block.language != "python":
        return block.language
    if "pytest_plugins" in block.text:
        return "conftest"
    if re.search(r"^def test_", block.text, re.MULTILINE):
        return "tests"
    return "DAG file" if "@dag" in block.text else "tasks"


def of_kind(wanted: str) -> pytest.MarkDecorator:
    found = [block for block in BLOCKS if kind(block) == wanted]
    return pytest.mark.parametrize("block", found, ids=[block.id for block in found])


#: What is only shown: outputs, and what a snippet replaces.
SHOWN_ONLY = {"text", "ini"}


def test_every_block_is_of_a_kind_that_is_run():
    kinds = {kind(block) for block in BLOCKS}
    assert kinds - SHOWN_ONLY == {"bash", "json", "conftest", "tests", "DAG file", "tasks"}


# --- DAGs -------------------------------------------------------------------------------------------------

#: The builds of each DAG, and of each section's tasks, as AtScale sees them: whether they are full. Elsewhere the
#: tasks must be green, and there must be a build.
BUILDS: dict[str, list[bool]] = {
    "Build": [False],
    "Your first DAG": [False],
    "Grace periods": [False],
    "Reports and asset events": [],
    "A curl script or BashOperator": [False],
    "Full once a week, incremental each day": [datetime.now(timezone.utc).isoweekday() == 7],
    "Skip if built recently": [False],
    "The ready retry policy": [False],
}


def run(engine: AtScaleEngine, heading: str, dag: DAG) -> runs.Run:
    """Run a DAG, and check that it is green and that AtScale has built what it should."""
    done = runs.run(dag)
    assert done.state == "success", done.states
    builds = [(batch.status, batch.is_full_build) for batch in engine.batches]
    expected = [("done", full) for full in BUILDS.get(heading, ())]
    assert builds == expected if heading in BUILDS else builds
    return done


@of_kind("DAG file")
def test_a_dag_file_is_imported_and_runs_green(block, engine, tmp_path):
    from airflow.dag_processing.dagbag import DagBag

    (tmp_path / "snippet.py").write_text(block.text)
    bag = DagBag(str(tmp_path))
    assert not bag.import_errors
    [dag] = bag.dags.values()
    run(engine, block.heading, dag)


def skipped_while_recent(engine: AtScaleEngine, dag: DAG, done: runs.Run) -> None:
    assert runs.run(dag)["build"].state == "skipped"
    assert len(engine.batches) == 1


def not_retried_where_atscale_could_not_build(engine: AtScaleEngine, dag: DAG, done: runs.Run) -> None:
    engine.fail_next("Internet Sales")
    task = runs.run(dag)["build"]
    assert (task.state, task.tries) == ("failed", 1)


#: What else a section says of its tasks.
SAYS: dict[str, Callable[[AtScaleEngine, DAG, runs.Run], None]] = {
    "Skip if built recently": skipped_while_recent,
    "The ready retry policy": not_retried_where_atscale_could_not_build,
}


@of_kind("tasks")
def test_tasks_run_green_and_do_what_the_section_says(block, engine):
    name = re.sub(r"\W+", "_", block.heading).lower()
    with DAG(name, schedule=None, start_date=datetime(2024, 1, 1, tzinfo=timezone.utc)) as dag:
        exec(compile(block.text, block.heading, "exec"), {})
    done = run(engine, block.heading, dag)
    if block.heading in SAYS:
        SAYS[block.heading](engine, dag, done)


def test_every_section_of_the_tables_has_a_snippet():
    assert {*BUILDS, *SAYS} - {block.heading for block in BLOCKS} == set()


@of_kind("json")
def test_a_report_has_these_fields(block, engine):
    engine.fail_next("Internet Sales", status="done", failed_aggregates=1, message="Table not found")
    with DAG("report", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=timezone.utc)) as dag:
        model = {"catalog": "Sales Insights", "model": "Internet Sales"}
        build = AtScaleAggregateBuildOperator(task_id="build", **model)
        if block.page.name == "check-aggregates.md":
            build >> AtScaleAggregateCheckOperator(task_id="check", **model)
    done = runs.run(dag)
    xcoms = done["build"].xcoms
    told = json.loads(block.text)
    if block.page.name == "check-aggregates.md":
        assert shape(told) == shape(done["check"].xcoms["check_result"])
        return
    if block.heading == "Progress of a running build":
        # The values of a build that runs, and of one that has ended, differ.
        assert told.keys() == xcoms["progress"].keys()
        return
    assert shape(told) == shape(xcoms["batch_result"])


@of_kind("ini")
def test_an_option_of_a_snippet_is_one_of_the_provider(block):
    parser = configparser.ConfigParser()
    parser.read_string(block.text)
    known = generate.provider_info()["info"]["config"]
    for section in parser.sections():
        assert set(parser[section]) <= set(known[section]["options"])


def shape(value: Any) -> Any:
    """Return names and types of JSON values, and of a list what its first entry is."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    return [shape(value[0])] if isinstance(value, list) else type(value)


# --- included files ---------------------------------------------------------------------------------------

#: The pages whose Python comes from the example DAGs alone.
HOW_TO = (
    "howto/operator",
    "howto/sensor",
    "howto/hook",
    "howto/trigger",
    "guides/check-aggregates",
    "guides/watchers",
)


@pytest.mark.parametrize("name", HOW_TO)
def test_a_how_to_shows_only_code_of_tested_files(name):
    file = generate.ROOT / "docs" / f"{name}.md"
    assert "```{literalinclude} ../../example_dags/" in page.TEXTS[file]
    assert [block.id for block in BLOCKS if block.page == file and block.language == "python"] == []


def test_what_is_included_is_there():
    """Sphinx checks it again when it builds the site."""
    included = 0
    for file, text in page.TEXTS.items():
        for name, options in re.findall(
            r"^```{literalinclude} (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
        ):
            source = (file.parent / name).read_text()
            for mark in re.findall(r'^:(?:start-after|end-before|start-at): "(.+)"$', options, re.MULTILINE):
                assert source.count(mark) == 1, (file, mark)
                included += 1
    assert included > 10


# --- the engine -------------------------------------------------------------------------------------------


@of_kind("tests")
def test_tests_of_ones_own_dags(block, airflow_home, tmp_path):
    """The three files, as the documentation shows them, in a temporary folder."""
    [conftest] = [each for each in BLOCKS if kind(each) == "conftest"]
    [dag_file, *same] = [each for each in BLOCKS if each.text.startswith("# dags/sales.py")]
    assert {each.text for each in same} == {dag_file.text}
    for each in (block, conftest, dag_file):
        file = tmp_path / re.match(r"# ([\w/.]+\.py)", each.text)[1]
        file.parent.mkdir(exist_ok=True)
        file.write_text(each.text)
    home = tmp_path / "airflow"
    home.mkdir()
    # Not a copy of the file: what was written last is in a file beside it (SQLite's write-ahead log).
    with (
        closing(sqlite3.connect(airflow_home / "airflow.db")) as source,
        closing(sqlite3.connect(home / "airflow.db")) as copy,
    ):
        source.backup(copy)
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
    }
    command = [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, env={**os.environ, **settings}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    count = len(re.findall(r"^def test_", block.text, re.MULTILINE))
    assert f"{count} passed" in done.stdout, done.stdout


def test_what_can_be_done_to_the_engine(engine):
    """Each call of the table is made, and changes what it says."""
    calls = [call.strip("`") for call, _ in page.rows("Calls of the engine")]
    assert len(calls) > 5
    for call in calls:
        eval(call, {"atscale_engine": engine})
    named = set(re.findall(r"`(\w+)\(\)`", page.section("Testing your own DAGs")))
    assert {name for name in named if not callable(getattr(AtScaleEngine, name, None))} == set()


# --- commands ---------------------------------------------------------------------------------------------


def commands(block: Block) -> list[list[str]]:
    """Return the commands of a block, split as a shell does, comments left out."""
    text = block.text.replace("\\\n", " ")
    lines = re.findall(r"(?:[^\n']|'[^']*')+", text)
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


TARGETS = dict(
    re.findall(r"^([a-z0-9-]+)(?: [a-z ]+)?:.*## (.*)$", (generate.ROOT / "Makefile").read_text(), re.MULTILINE)
)
#: What only continuous integration has the time for; ``tests/e2e`` runs what ``make airflow`` does, and the
#: other targets are run by hand.
IN_CI = ("demo", "test", "docs", "e2e", "test-matrix")


def check_make(arguments: list[str], _: Any) -> None:
    target, *variables = arguments
    assert target in TARGETS
    makefile = (generate.ROOT / "Makefile").read_text()
    for variable in variables:
        name, _, value = variable.partition("=")
        assert re.search(rf"^{name} \?=", makefile, re.MULTILINE)
        known = " ".join(TARGETS.values())
        assert name == "PYTEST" or value in known or (name == "PORT" and value.isdigit())
    done = subprocess.run(
        ["make", "-n", *arguments], cwd=generate.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for script in re.findall(r"\S+\.py\b", done.stdout):
        assert (generate.ROOT / script).exists(), script
    if target in IN_CI:
        assert re.search(rf"^make {target}\b", (generate.ROOT / ".ci" / "run").read_text(), re.MULTILINE)


def check_pip(arguments: list[str], _: Any) -> None:
    verb, requirement = arguments
    name, _, extra = requirement.rstrip("]").partition("[")
    assert verb == "install"
    assert name in (".", DISTRIBUTION)
    assert not extra or re.search(
        rf"^{extra} = \[", (generate.ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )


def check_airflow(arguments: list[str], _: Any) -> None:
    """Add the connection as a user would, and read it back as a task would; parse other commands."""
    from airflow.cli.cli_parser import get_parser
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session

    if arguments[:2] != ["connections", "add"]:
        get_parser().parse_args(arguments)
        return
    variables = ("$ATSCALE_API_TOKEN", "the-token"), ("$ATSCALE_API_KEY", "the-key")
    for variable, secret in variables:
        arguments = [each.replace(variable, secret) for each in arguments]
    given = get_parser().parse_args(arguments)
    given.func(given)
    with create_session() as session:
        stored_one = session.query(Connection).filter(Connection.conn_id == given.conn_id).one()
        settings = parse_connection(stored_one)
        session.delete(stored_one)
    kinds = {"the-token": ("container", "api_token"), "the-key": ("installer", "client_api_key")}
    assert (settings.edition, settings.auth_type) == kinds[str(settings.password)]
    assert settings.base_url == "https://atscale.example.com"


#: What each connection of the documentation comes to, by its secret.
CONNECTIONS: dict[str, dict[str, Any]] = {
    "the-api-token": {
        "edition": "container",
        "auth_type": "api_token",
        "base_url": "https://atscale.example.com",
        "timeout": 30,
    },
    "secret": {
        "edition": "container",
        "auth_type": "password",
        "base_url": "https://atscale.example.com",
        "login": "etl_user",
        "realm": "atscale",
    },
    "the-client-api-key": {
        "edition": "installer",
        "auth_type": "client_api_key",
        "base_url": "http://atscale.example.com",
        "organization": "default",
    },
}


def check_export(arguments: list[str], bundle: str) -> None:
    """Let Airflow read the variable, and the provider the connection."""
    settings = read_connection(arguments, bundle)
    expected = CONNECTIONS[str(settings.password)]
    assert {name: getattr(settings, name) for name in expected} == expected
    assert settings.verify in (True, bundle)


def read_connection(arguments: list[str], bundle: str) -> Settings:
    [assignment] = arguments
    name, _, value = assignment.partition("=")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, value.replace("/etc/ssl/certs/company.pem", bundle))
        return AtScaleHook("atscale_default").settings


def check_python(arguments: list[str], _: Any) -> None:
    """Run the module as it is told, but on a free port, until it says that it is ready."""
    command = [sys.executable, *arguments]
    if arguments[:2] != ["-m", "airflow_provider_atscale.testing"]:
        assert arguments[0] == "-m"
        done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return
    if "--help" in arguments:
        assert "usage" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return
    assert parser().parse_args(arguments[2:]).build_seconds == 20
    process = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
    with closing(process.stdout):
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    [variable] = shlex.split(lines[-1])
    assert read_connection([variable], "").base_url.startswith("http://127.0.0.1:")


def check_developer(arguments: list[str], _: Any) -> None:
    """Check that what is run from the project's environment is there; the suites themselves run it."""
    files = [each for each in arguments if each.endswith(".py") or each.startswith("tests/")]
    assert files
    assert [each for each in files if not (generate.ROOT / each).exists()] == []


def check_apt(arguments: list[str], _: Any) -> None:
    assert arguments[0] == "install"
    assert all(package in TARGETS["e2e-celery"] for package in arguments[1:])


CHECKS: dict[str, Callable[[list[str], Any], None]] = {
    "make": check_make,
    "pip": check_pip,
    "airflow": check_airflow,
    "export": check_export,
    "python": check_python,
    ".venv/bin/python": check_developer,
    "apt-get": check_apt,
}


@of_kind("bash")
def test_a_command_does_what_it_says(block, tmp_path):
    (tmp_path / "company.pem").touch()
    found = commands(block)
    assert found
    for program, *arguments in found:
        CHECKS[program](arguments, str(tmp_path / "company.pem"))


def test_every_connection_of_the_table_is_in_the_documentation():
    texts = "".join(block.text for block in BLOCKS if block.language == "bash")
    assert [secret for secret in CONNECTIONS if secret not in texts] == []


# --- the page ---------------------------------------------------------------------------------------------


every_page = pytest.mark.parametrize(
    "file", page.TEXTS, ids=lambda each: str(each.relative_to(generate.ROOT)).replace("/", "_")
)


@every_page
def test_links_lead_somewhere(file):
    """As they stand, in the repository; Sphinx checks them again on the site."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.prose(page.TEXTS[file])):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        leads_to = (file.parent / target).resolve() if target else file
        assert leads_to.exists(), link
        if anchor:
            assert anchor in {page.slug(each) for each in page.headings(page.TEXTS[leads_to])}, link


@every_page
def test_no_heading_is_there_twice(file):
    headings = page.headings(page.TEXTS[file])
    assert len(set(headings)) == len(headings)


def test_the_readme_fits_on_two_screens():
    assert len((generate.ROOT / "README.md").read_text().splitlines()) <= 200


@pytest.mark.parametrize(
    ("file", "mark"),
    [
        ("pyproject.toml", "once it is known"),
        ("docs/conf.py", "once it is known"),
        ("SECURITY.md", "TO FILL IN"),
    ],
)
def test_the_release_checklist_names_each_place_to_fill_in(file, mark):
    """After it is filled in, the mark goes, and so does its line here."""
    assert (generate.ROOT / file).read_text().count(mark) == 1
    assert f"`{file}`" in page.section("Once, before the first release")


def test_the_description_on_a_package_index_has_no_relative_link():
    """The index cannot follow them: pyproject.toml leaves their text alone, or makes them absolute."""
    hook = pytest.importorskip("tomllib").loads((generate.ROOT / "pyproject.toml").read_text())
    text = (generate.ROOT / "README.md").read_text()
    for change in hook["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    assert "What is stable" in text
    assert [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("https://")] == []


def test_every_public_name_is_in_the_reference():
    """The public modules are those that the page "What is stable" lists."""
    reference = (generate.ROOT / "docs" / "reference.md").read_text()
    missing = []
    for module, names in page.rows("Public names"):
        path = module.strip("`")
        whole = f".. automodule:: airflow_provider_atscale.{path}\n   :members:\n" in reference
        for name in public_names(path) if names.startswith("all") else re.findall(r"`(\w+)`", names):
            listed = re.search(
                rf"airflow_provider_atscale\.{re.escape(path)}\.{name}\n|:members:.*\b{name}\b", reference
            )
            if not (whole or listed):
                missing.append(f"{path}.{name}")
    assert missing == []


def public_names(path: str) -> list[str]:
    file = generate.PACKAGE / path.replace(".", "/")
    tree = ast.parse((file / "__init__.py" if file.is_dir() else file.with_suffix(".py")).read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]


def test_every_class_that_is_named_after_atscale_is_public():
    for module, names in page.rows("Public names"):
        classes = {name for name in public_names(module.strip("`")) if name.startswith("AtScale")}
        assert names.startswith("all") or classes <= set(re.findall(r"`(\w+)`", names)), module


def test_every_module_that_airflow_learns_of_is_public():
    info = generate.provider_info()["info"]
    kinds = ("operators", "sensors", "hooks", "triggers")
    modules = {name for kind in kinds for entry in info[kind] for name in entry["python-modules"]}
    told = {f"airflow_provider_atscale.{module.strip('`')}" for module, _ in page.rows("Public names")}
    assert modules - told == set()


@pytest.mark.parametrize(
    "image", sorted(Path(generate.ROOT / "docs" / "images").glob("*.png")), ids=lambda each: each.name
)
def test_a_picture_is_one(image):
    assert image.read_bytes().startswith(b"\x89PNG\r\n")
