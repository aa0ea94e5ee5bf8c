"""The commands as Airflow reads them: cheap for its other commands, and the same as those of ``python -m``."""

from __future__ import annotations

import logging
import sys

import airflow
import pytest
from airflow.cli.cli_config import ActionCommand, GroupCommand

from airflow_provider_atscale import exceptions
from airflow_provider_atscale.__main__ import make_parser
from airflow_provider_atscale.api.models import Batch
from airflow_provider_atscale.arguments import ON_RUNNING
from airflow_provider_atscale.cli import exit_codes, run
from airflow_provider_atscale.cli.check import explain_on_running
from airflow_provider_atscale.cli.definition import get_atscale_cli_commands
from airflow_provider_atscale.exceptions import AtScaleError
from airflow_provider_atscale.get_provider_info import get_provider_info

from .test_import_budget import modules_after

VERSION = tuple(int(part) for part in airflow.__version__.split(".")[:2])
NAMES = ["build", "builds", "check", "engine", "models", "watch"]


def commands() -> list[ActionCommand]:
    [group] = get_atscale_cli_commands()
    assert isinstance(group, GroupCommand)
    assert group.name == "atscale"
    return list(group.subcommands)


def test_there_are_six_commands():
    assert sorted(each.name for each in commands()) == NAMES


def test_reading_the_commands_loads_nothing_else_of_ours_and_nothing_heavy():
    before = modules_after("import airflow.cli.cli_config")
    more = (
        modules_after("import airflow_provider_atscale.cli.definition as d; d.get_atscale_cli_commands()")
        - before
    )
    package = "airflow_provider_atscale"
    # Airflow itself may have read the provider info before.
    assert more - {package} == {f"{package}.cli", f"{package}.cli.definition"}


def test_airflow_is_told_of_them():
    assert get_provider_info()["cli"] == [
        f"{get_atscale_cli_commands.__module__}.{get_atscale_cli_commands.__name__}"
    ]


@pytest.mark.skipif(VERSION < (3, 2), reason="only Airflow 3.2 and newer read the commands of providers")
def test_airflow_has_them():
    from airflow.cli.cli_parser import get_parser

    options = get_parser().parse_args(["atscale", "builds", "a", "b", "--json"])
    assert (options.catalog, options.model, options.json, options.limit) == ("a", "b", True, 10)


@pytest.mark.parametrize("each", commands(), ids=lambda each: each.name)
def test_python_m_has_the_same(each):
    positional = {"builds": ["c", "m"], "build": ["c", "m"], "watch": ["b"]}.get(each.name, [])
    options = make_parser().parse_args([each.name, *positional])
    assert options.func is each.func
    assert {"json", "debug"} <= set(vars(options))


class RedirectStdHandler(logging.StreamHandler):
    """As Airflow 2 logs to the terminal: whatever stdout is now, and no other stream can be set."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    stream = property(lambda self: sys.stdout)


@pytest.mark.parametrize("make", [RedirectStdHandler, lambda: logging.StreamHandler(sys.stdout)])
def test_logs_go_to_stderr_masked_as_before(make, monkeypatch, capsys):
    handler = make()
    handler.addFilter(lambda record: "secret" not in record.msg)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [handler])
    monkeypatch.setattr(root, "level", root.level)
    run.send_logs_to_stderr(is_debug=False)
    for text in ("the secret", "late"):
        logging.getLogger("x").warning(text)
    logging.getLogger("x").info("news")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "late\n")


def test_an_argument_that_is_wrong_is_exit_code_2(capsys):
    with pytest.raises(SystemExit) as ended:
        make_parser().parse_args(["builds", "only a catalog"])
    assert ended.value.code == exit_codes.USAGE
    assert "model" in capsys.readouterr().err


@pytest.mark.parametrize("is_full_build", [False, True])
@pytest.mark.parametrize("kind", [False, True, None])
@pytest.mark.parametrize("on_running", ON_RUNNING)
def test_each_value_of_on_running_is_explained(on_running, kind, is_full_build):
    batch = Batch("b", "inprogress", kind)
    assert explain_on_running(on_running, batch, is_full_build=is_full_build)


def test_attach_is_explained_by_the_kind_that_is_asked_for():
    incremental = Batch("b", "inprogress", is_full_build=False)
    assert "builds nothing" in explain_on_running("attach", incremental, is_full_build=False)
    assert "then starts a full build" in explain_on_running("attach", incremental, is_full_build=True)


#: Errors of tasks; no command raises them.
_OF_TASKS = {"AtScaleAggregateCheckError", "AtScaleEventError", "AtScaleTaskStoppedError"}
ERRORS = [
    each
    for each in vars(exceptions).values()
    if isinstance(each, type) and issubclass(each, AtScaleError) and each.__name__ not in _OF_TASKS
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda each: each.__name__)
def test_each_error_has_an_exit_code_of_its_kind(error):
    code = exit_codes.exit_code_of(error("text"))
    general = error.__name__ in ("AtScaleError", "AtScaleApiError")
    assert code in exit_codes.MEANINGS
    assert (code == exit_codes.OTHER) is general


def test_unknown_errors_have_one_too():
    assert exit_codes.exit_code_of(ValueError()) == exit_codes.OTHER
