"""The commands against the local engine: what they print, what they exit with, and that they start nothing."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet

from airflow_provider_atscale.__main__ import main
from airflow_provider_atscale.arguments import ON_RUNNING
from airflow_provider_atscale.hooks.atscale import AtScaleHook

from .conftest import of_the_container, posts

if TYPE_CHECKING:
    from airflow_provider_atscale.testing import AtScaleEngine

MODEL = ("Sales Insights", "Internet Sales")
QUICK = ("--poll-interval", "0.1")


@pytest.fixture(autouse=True)
def _connection(engine: AtScaleEngine, monkeypatch: pytest.MonkeyPatch, new_process: None) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ATSCALE_DEFAULT", engine.connection_json())
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    # Without one, Airflow 2 warns.
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", Fernet.generate_key().decode())
    # The commands change them.
    root = logging.getLogger()
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(root, "handlers", list(root.handlers))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command; return its exit code, what it printed, and its errors."""
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments: str) -> tuple[Any, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


@pytest.fixture
def run_json(run: Any) -> Any:
    def run_json(*arguments: str) -> tuple[Any, Any]:
        code, out, _ = run(*arguments, "--json")
        return code, json.loads(out)

    return run_json


# --- check ---


def test_check_finds_all_in_order(run, engine):
    code, out, err = run("check", *MODEL)
    # Airflow 3.0 masks each field of a connection's extra, and warns once of one that is too short for that.
    assert (code, [line for line in err.splitlines() if "secrets_masker" not in line]) == (0, [])
    words = [line.split()[:2] for line in out.splitlines() if not line.startswith(" ")]
    assert words == [
        ["connection", "ok"],
        ["host", "ok"],
        ["clock", "ok"],
        ["credentials", "ok"],
        ["history", "ok"],
        ["start", "not"],
        ["model", "ok"],
        ["running", "ok"],
        ["usual", "not"],
        ["usual", "not"],
    ]
    assert engine.batches == []
    assert posts(engine) == []


def test_check_needs_no_model(run_json):
    code, found = run_json("check")
    assert code == 0
    assert [each["step"] for each in found["steps"]] == [
        "connection", "host", "clock", "credentials", "history", "start"
    ]  # fmt: skip


def test_check_says_what_each_on_running_does_about_a_running_batch(run_json, engine):
    batch = engine.start_batch(*MODEL)
    code, found = run_json("check", *MODEL)
    assert code == 0
    assert found["running"]["batch_id"] == batch.id
    assert list(found["running"]["on_running"]) == list(ON_RUNNING)
    assert len(posts(engine)) == 0


def test_check_knows_the_usual_duration(run_json, engine):
    for seconds in (10, 20, 30, 40, 50):
        engine.start_batch(*MODEL, build_seconds=seconds)
        engine.advance(60)
    _, found = run_json("check", *MODEL)
    assert set(found["usual_seconds"]) == {"incremental"}
    usual = found["usual_seconds"]["incremental"]
    assert usual["builds"] == 5
    # A tenth of the time a batch waits to begin.
    assert usual["median"] == pytest.approx(27, abs=0.1)
    assert usual["p90"] == pytest.approx(41.4, abs=0.1)


@pytest.mark.parametrize(
    ("ahead", "outcome", "text"),
    [
        (0, "ok", "is that of this machine"),
        (30, "ok", "ahead of"),
        (3600, "warning", "60 min ahead of"),
        (-300, "warning", "5 min behind"),
    ],
)
@of_the_container
def test_check_compares_the_clocks(run_json, engine, ahead, outcome, text):
    engine.settings(clock_offset=ahead)
    code, found = run_json("check")
    [clock] = [each for each in found["steps"] if each["step"] == "clock"]
    assert code == 0
    assert (clock["outcome"], text in clock["text"]) == (outcome, True), clock
    assert found["clock_difference"] == pytest.approx(ahead, abs=2)


CHECKS_THAT_FAIL = {
    "no such connection": (lambda engine: None, ("--conn-id", "nowhere"), 2, "connection"),
    "no such host": (lambda engine: engine.stop(), (), 3, "host"),
    "wrong credentials": (lambda engine: engine.revoke_api_token(), (), 4, "credentials"),
    "no right to read": (lambda engine: engine.settings(can_view=False), (), 5, "history"),
    "no such catalog": (lambda engine: None, ("Sales", "Internet Sales"), 6, "model"),
    "no such model": (lambda engine: None, ("Sales Insights", "Internet"), 6, "model"),
}


@pytest.mark.parametrize(
    ("happens", "arguments", "code", "step"), CHECKS_THAT_FAIL.values(), ids=CHECKS_THAT_FAIL
)
@of_the_container
def test_check_stops_at_what_fails(run, engine, happens, arguments, code, step):
    happens(engine)
    ended, out, err = run("check", *arguments)
    assert ended == code
    assert out.splitlines()[-1].split()[:2] == [step, "failed"]
    # Before it, Airflow 2 logs that the database of this test has no connections.
    said = re.search(r"^Error: .*", err, re.MULTILINE | re.DOTALL)[0]
    assert "Traceback" not in out + said
    assert len(said.splitlines()) == 1


@of_the_container
def test_an_error_is_in_the_document_too(run_json):
    code, found = run_json("check", "Sales", "x")
    assert code == found["error"]["exit_code"] == 6
    assert found["error"]["type"] == "AtScaleNotFoundError"
    assert "'Sales Insights'" in found["error"]["message"]


@pytest.mark.parametrize("command", ["builds", "check"])
@of_the_container
def test_debug_shows_the_traceback(run, command):
    _, _, err = run(command, "Sales", "x", "--debug")
    assert "Traceback" in err


@of_the_container
def test_a_command_in_a_process_prints_only_its_document_to_stdout():
    """With Airflow's logging as a user has it, which differs between versions of Airflow."""
    command = [sys.executable, "-m", "airflow_provider_atscale", "models", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [each["model"] for each in json.loads(done.stdout)]


def test_what_nobody_expected_is_one_sentence_too(run, monkeypatch):
    monkeypatch.setattr(AtScaleHook, "resolve_model", lambda *_: 1 / 0)
    code, out, err = run("builds", *MODEL)
    assert (code, out) == (1, "")
    assert err == "Error: ZeroDivisionError: division by zero. --debug shows the traceback.\n"


# --- models, builds ---


def test_models(run, run_json, engine):
    _, listed = run_json("models")
    known = engine.model("Internet Sales")
    assert {
        "catalog": MODEL[0],
        "model": MODEL[1],
        "catalog_id": known.catalog_id,
        "model_id": known.id,
    } in listed
    code, out, _ = run("models", "Sales Insights")
    assert code == 0
    assert known.id in out
    assert "Finance" not in out


def test_builds(run, run_json, engine):
    engine.start_batch(*MODEL, build_seconds=1)
    engine.advance(10)
    engine.fail_next("Internet Sales", status="done", failed_aggregates=2)
    engine.start_batch(*MODEL, is_full_build=True, build_seconds=1)
    engine.advance(10)
    running = engine.start_batch(*MODEL)
    code, rows = run_json("builds", *MODEL)
    assert code == 0
    assert [(each["kind"], each["status"]) for each in rows] == [
        ("incremental", running.status), ("full", "done"), ("incremental", "done")
    ]  # fmt: skip
    assert [each["failed_aggregates"] for each in rows] == [0, 2, 0]
    assert rows[1]["aggregates"] == 6
    code, out, _ = run("builds", *MODEL, "--limit", "2")
    assert code == 0
    assert "2 of 6" in out
    assert out.count("incremental") == 1


def test_builds_of_a_model_without_any(run):
    code, out, _ = run("builds", *MODEL)
    assert code == 0
    assert out.startswith("There is no build of model 'Internet Sales'")


@of_the_container
def test_builds_needs_the_right_to_read_the_history(run, engine):
    engine.settings(can_view=False)
    code, _, err = run("builds", *MODEL)
    assert code == 5
    assert "aggregates_view" in err


@of_the_container
def test_names_are_text_and_no_markup(run, engine):
    engine.add_model("Sales Insights", "odd", "[bold]odd[/bold]")
    _, out, _ = run("models")
    assert "[bold]odd[/bold]" in out


# --- watch ---


@pytest.fixture
def ends_once_seen(engine: AtScaleEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let running batches end after the first look at their aggregates."""
    get_instances = AtScaleHook.get_instances

    def end_after_the_first_look(self: AtScaleHook, *arguments: Any) -> Any:
        seen = get_instances(self, *arguments)
        engine.advance(60)
        return seen

    monkeypatch.setattr(AtScaleHook, "get_instances", end_after_the_first_look)


@pytest.mark.parametrize("named", [(), MODEL], ids=["by its id", "with its model"])
@pytest.mark.usefixtures("ends_once_seen")
def test_watch_shows_progress_until_the_end(run, engine, named):
    batch = engine.start_batch(*MODEL)
    engine.advance(30)
    code, out, err = run("watch", batch.id, *named, *QUICK)
    assert (code, err) == (0, "")
    assert out.startswith("Running")
    assert "2 of 6 aggregates built" in out
    assert out.splitlines()[-1].startswith("Done in 54.0 s: 6 aggregates")


ENDS = {
    "failed": ("failed", 0, (), 7),
    "cancelled": ("cancelled", 0, (), 7),
    "done with aggregates missing": ("done", 1, (), 0),
    "done with aggregates missing, which is not enough": ("done", 1, ("--failed-aggregates", "fail"), 7),
}


@pytest.mark.parametrize(("status", "missing", "options", "code"), ENDS.values(), ids=ENDS)
@of_the_container
def test_watch_tells_by_its_exit_code(run, engine, status, missing, options, code):
    batch = engine.start_batch(*MODEL)
    engine.end_batch(batch.id, status, failed_aggregates=missing)
    assert run("watch", batch.id, *MODEL, *QUICK, *options)[0] == code


@of_the_container
def test_watch_ends_in_time(run, engine):
    batch = engine.start_batch(*MODEL)
    code, _, err = run("watch", batch.id, *MODEL, *QUICK, "--timeout", "0.2")
    assert code == 8
    assert "The build goes on in AtScale." in err


@of_the_container
def test_watch_of_a_batch_that_is_not_there(run):
    code, _, err = run("watch", "00000000-0000-0000-0000-000000000000")
    assert code == 6
    assert "give catalog and model" in err


# --- build ---


def test_build_builds_as_the_operator_does(run_json, engine):
    engine.settings(build_seconds=0.3)
    code, report = run_json("build", *MODEL, "--yes", *QUICK)
    assert code == 0
    [batch] = engine.batches
    assert (report["batch_id"], report["status"], report["start"]) == (batch.id, "done", "started")
    assert not batch.is_full_build
    assert len(posts(engine)) == 1


@of_the_container
def test_build_passes_its_options_on(run_json, engine):
    code, started = run_json("build", *MODEL, "--yes", "--no-wait", "--grace-period", "factinternetsales=30")
    [batch] = engine.batches
    assert code == 0
    assert started["batch_id"] == batch.id
    assert batch.grace_period_overrides == {"factinternetsales": 30}
    engine.end_batch(batch.id)
    run_json("build", *MODEL, "--yes", "--no-wait", "--full")
    assert engine.batches[-1].is_full_build


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code", "builds"), [("y", 0, 1), ("n", 2, 0), ("", 2, 0)])
@of_the_container
def test_build_asks(run, engine, monkeypatch, answer, code, builds):
    monkeypatch.setattr("sys.stdin", _Terminal(answer + "\n"))
    ended, _, err = run("build", *MODEL, "--no-wait")
    assert ended == code
    assert "Incremental build of model 'Internet Sales'" in err
    assert len(engine.batches) == builds


@of_the_container
def test_build_starts_nothing_if_nobody_can_be_asked(run, engine, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, _, err = run("build", *MODEL)
    assert code == 2
    assert "Give --yes" in err
    assert posts(engine) == []


@pytest.mark.parametrize("on_running", ["skip", "fail"])
@of_the_container
def test_build_starts_nothing_beside_a_running_batch(run, engine, on_running):
    engine.start_batch(*MODEL)
    assert run("build", *MODEL, "--yes", "--on-running", on_running)[0] == 9
    assert len(engine.batches) == 1


@pytest.mark.usefixtures("ends_once_seen")
@of_the_container
def test_build_waits_for_a_running_batch(run, engine):
    other = engine.start_batch(*MODEL)
    code, out, _ = run("build", *MODEL, "--yes", "--on-running", "wait", "--no-wait", *QUICK)
    assert code == 0
    assert f"Waiting for batch {other.id}" in out
    assert engine.batches[0].status == "done"
    assert engine.batches[1].overlapped_with == []


@of_the_container
def test_build_waits_no_longer_than_asked(run, engine):
    engine.start_batch(*MODEL)
    code, _, err = run("build", *MODEL, "--yes", "--on-running", "wait", "--timeout", "1", *QUICK)
    assert code == 8
    assert "this command has started nothing" in err
    assert len(engine.batches) == 1


BUILDS_THAT_FAIL = {
    "no right": (lambda engine: engine.settings(can_manage=False), 5),
    "the engine refuses": (lambda engine: engine.fault(400, route="start"), 10),
    "the build fails": (lambda engine: engine.fail_next("Internet Sales"), 7),
}


@pytest.mark.parametrize(("happens", "code"), BUILDS_THAT_FAIL.values(), ids=BUILDS_THAT_FAIL)
@of_the_container
def test_build_tells_by_its_exit_code(run, engine, happens, code):
    engine.settings(build_seconds=0.2)
    happens(engine)
    ended, _, err = run("build", *MODEL, "--yes", *QUICK)
    assert ended == code
    assert "Traceback" not in err


@of_the_container
def test_build_whose_start_may_be_lost_says_what_to_do_before_the_next(run, engine):
    """No retry of a task follows, so nothing searches again."""
    engine.settings(can_view=False)
    engine.fault("cut", route="start")
    code, _, err = run("build", *MODEL, "--yes", *QUICK)
    assert code == 11
    assert "look into the build history before you run the command again" in err
    assert "a retry" not in err


@pytest.mark.parametrize(
    "wrong",
    [("--on-running", "hope"), ("--grace-period", "x"), ("--timeout", "soon"), ("--failed-aggregates", "cry")],
)
@of_the_container
def test_build_checks_its_options_before_it_starts(run, engine, wrong):
    code, _, err = run("build", *MODEL, "--yes", *wrong)
    assert code == 2
    assert wrong[0] in err
    assert posts(engine) == []


# --- engine ---


def test_engine_says_how_to_connect(run_json, monkeypatch):
    # It runs until a signal comes.
    monkeypatch.setattr(threading.Event, "wait", lambda *_: True)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    code, told = run_json("engine", "--port", "0", "--engine-port", "0")
    assert code == 0
    assert told["connection"]["conn_type"] == "atscale"
