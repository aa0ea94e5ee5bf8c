"""Every table of the documentation says what the sources say, and every promise has a test that keeps it."""

from __future__ import annotations

import ast
import importlib.util
import re
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import Connection

from airflow_provider_atscale.client.settings import parse_connection

from . import generate, page

TESTS = generate.ROOT / "tests"


def test_what_is_written_from_the_sources_is_up_to_date():
    """If not: ``python tests/readme/generate.py``."""
    assert generate.fill(page.TEXTS) == page.TEXTS


# --- arguments --------------------------------------------------------------------------------------------

CLASSES = {
    "AtScaleAggregateBuildOperator": ("operators/atscale.py", ()),
    "AtScaleAggregateCheckOperator": ("operators/checks.py", ()),
    "AtScaleBatchSensor": ("sensors/atscale.py", ("poke_interval", "timeout")),
    "AtScaleBuildEventTrigger": ("triggers/builds.py", ()),
}
every_class = pytest.mark.parametrize(
    ("module", "name", "inherited"),
    [(module, name, inherited) for name, (module, inherited) in CLASSES.items()],
    ids=CLASSES,
)


@every_class
def test_a_docstring_has_each_argument_in_its_order(module, name, inherited):
    node = generate.find_class(module, name)
    assert [*generate.described(node)] == [*generate.signature(node), *inherited]


def value(written: str | None) -> Any:
    """Return a default as a value."""
    return eval(str(written), {"timedelta": timedelta})


def spoken(meaning: str) -> list[Any]:
    """Return the defaults that a docstring speaks of."""
    found: list[Any] = [
        ast.literal_eval(word) for word in re.findall(r"\b(True|False)(?:, the default| \(default\))", meaning)
    ]
    found += re.findall(r"`(\w+)`(?:, the default| \(default\))", meaning)
    found += [float(number) for number in re.findall(r"Default: ([\d.]+)\.", meaning)]
    found += [timedelta(hours=float(number)) for number in re.findall(r"Default: ([\d.]+) hours", meaning)]
    return found


@every_class
def test_a_docstring_speaks_of_the_default_that_the_constructor_has(module, name, inherited):
    node = generate.find_class(module, name)
    defaults = generate.signature(node)
    heard = {
        argument: spoken(meaning)
        for argument, meaning in generate.described(node).items()
        if spoken(meaning) and argument in defaults
    }
    assert heard
    assert heard == {argument: [value(defaults[argument])] for argument in heard}


def test_a_default_that_changes_is_noticed():
    source = (
        "class C:\n"
        '    """\n    A class.\n\n    :param a: What. ``x``, the default, or ``y``.\n    """\n'
        '    def __init__(self, *, a: str = "y") -> None: ...\n'
    )
    [node] = ast.parse(source).body
    assert spoken(generate.described(node)["a"]) == ["x"]
    assert value(generate.signature(node)["a"]) == "y"


def test_the_standard_fields_are_those_of_the_form():
    info = generate.provider_info()["info"]["connection-types"][0]["ui-field-behaviour"]
    assert [field.strip("`") for field, _, _ in page.rows("Fields")] == list(info["relabeling"])


def test_the_default_of_a_field_is_what_the_provider_takes():
    conn = Connection(conn_id="c", conn_type="atscale", host="atscale.example.com", password="token")
    settings = parse_connection(conn)
    told = {cells[0].strip("`"): cells[2].strip("`") for cells in page.rows("Fields", 1)}
    taken = {name: getattr(settings, name) for name in told}
    # A token without a login is what it means here.
    taken["auth_type"] = "auto"
    assert {name for name in told if taken[name] is None or taken[name] == {}} == {
        name for name, default in told.items() if not default or " " in default
    }
    plain = {name: str(taken[name]).lower().removesuffix(".0") for name in told if taken[name]}
    assert {name: told[name] for name in plain} == plain
    assert told["engine_choice"] == str(taken["engine_choice"]).lower()


def test_an_example_is_run_from_the_airflow_on_that_is_told():
    source = (TESTS / "dags" / "test_examples.py").read_text()
    since = ast.literal_eval(re.search(r"^SINCE = (\{.*?\})$", source, re.MULTILINE | re.DOTALL)[1])
    told = {link: version for link, version, _ in page.rows("Examples")}
    assert told
    for link, version in told.items():
        file = re.search(r"example_dags/(\w+)\.py", link)[1]
        assert version == ".".join(map(str, since.get(file, (3, 0))))


# --- costs ------------------------------------------------------------------------------------------------

RESULTS = """
## One poll, 1,000 waiters on one loop

|  | AtScale | other | dbt Cloud |
| --- | ---: | ---: | ---: |
| CPU per poll, µs | 270 (258 to 288) | 1 | 1,532 (1 to 2) |

- MISSED: at most 2: 3
- reached: at least 1: 1
"""


def test_the_short_table_has_the_numbers_of_the_long_one():
    short = generate.costs(RESULTS)
    assert "| one poll of 1,000 waiters, CPU µs | 270 | 1,532 |  |" in short
    assert "1 of 2 measured goals were reached. Missed:" in short
    assert "- One poll, 1,000 waiters on one loop: at most 2: 3" in short


def test_results_of_another_form_are_noticed():
    with pytest.raises(ValueError, match="none of the tables"):
        generate.costs("# What waiting costs\n")


# --- messages ---------------------------------------------------------------------------------------------


@cache
def templates(folder: Path) -> tuple[str, ...]:
    """Return every text in the sources of a folder but for docstrings, with a gap where a value goes."""
    found = []
    for file in folder.rglob("*.py"):
        tree = ast.parse(file.read_text())
        docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
                found.append(re.sub(r"%[.\d]*[sdf]", "\0", node.value))
    return tuple(found)


def is_said(message: str, texts: tuple[str, ...]) -> bool:
    """Whether one of the texts has all parts of a message, in their order."""
    parts = ".*".join(re.escape(part) for part in message.split("…"))
    return any(re.search(parts, text, re.DOTALL) for text in texts)


MESSAGES = [message.strip("`") for message, _, _ in page.rows("Troubleshooting")]
#: What Airflow's web UI shows, and what its API says then: of a 400 the web UI shows only the reason.
AIRFLOWS = {
    "Bad Request": "The host or port to test differs from the stored connection",
    "Testing connections is disabled in Airflow configuration": (
        "Testing connections is disabled in Airflow configuration"
    ),
}


@pytest.mark.parametrize("message", [message for message in MESSAGES if message not in AIRFLOWS])
def test_a_message_is_what_the_package_says(message):
    assert is_said(message, templates(generate.PACKAGE))


@pytest.mark.parametrize(("shown", "message"), sorted(AIRFLOWS.items()))
def test_a_message_is_what_airflow_says(shown, message):
    assert shown in MESSAGES
    spec = importlib.util.find_spec("airflow")
    routes = Path(spec.submodule_search_locations[0]) / "api_fastapi/core_api/routes/public"
    if not routes.exists():
        pytest.skip("this Airflow has no such API")
    assert is_said(message, templates(routes))


@pytest.mark.parametrize(
    "message", ["the field … is the moon", "… could not be read for …; and the last", "Nobody says so"]
)
def test_a_message_that_nobody_says_is_noticed(message):
    assert not is_said(message, templates(generate.PACKAGE))


# --- promises ---------------------------------------------------------------------------------------------

#: What keeps each promise of the table "What happens when ...": tests by file, and cases of the e2e suite.
KEPT = {
    "the start times out": (
        "unit/test_build_start.py::test_lost_and_the_batch_appears",
        "e2e: reply to the POST cut",
    ),
    "the connection was refused": ("contract/test_start.py::test_refused_connection_is_an_error_in_the_end",),
    "a batch of the model runs already": (
        "dags/test_on_running.py::test_attach",
        "dags/test_on_running.py::test_join_is_what_is_done_by_default",
    ),
    "a joined batch fails": (
        "unit/test_join.py::test_retries_after_a_joined_batch_that_failed_share_one_further_build",
    ),
    "two DAG runs": ("e2e: two runs of the DAG at once on one model",),
    "the worker dies before the start": ("e2e: before the POST",),
    "the worker dies between start and reply": ("e2e: between reply and store", "e2e: before the reply"),
    "the worker dies while waiting": (
        "e2e: while waiting",
        "unit/test_build_start.py::test_below_airflow_3_3_a_retry_meets_its_own_batch_as_a_running_one",
    ),
    "the triggerer dies while waiting": ("e2e: triggerer killed",),
    "the scheduler dies while waiting": ("e2e: scheduler killed while waiting, and restarted",),
    "Airflow fails after the batch was judged": ("dags/test_retries.py::test_after_a_death",),
    "the batch failed, and the task is retried": (
        "dags/test_failures.py::test_failed_batch_is_built_again_by_a_retry",
    ),
    "the task is cleared": ("e2e: cleared while waiting", "e2e: cleared when green"),
    "the connection points to another host": ("unit/test_build_state.py::test_how_a_try_goes_on",),
    "`is_full_build` or `grace_period_overrides` has changed": (
        "unit/test_build_state.py::test_how_a_try_goes_on",
        "dags/test_retries.py::test_after_the_overrides_were_changed",
    ),
    "`timeout` or `execution_timeout` passes": (
        "dags/test_deadlines.py::test_timeout",
        "dags/test_retries.py::test_after_a_timeout",
    ),
    "the task is stopped": (
        "e2e: marked failed while waiting",
        "contract/test_trigger.py::test_on_kill_tells_the_truth",
    ),
    "AtScale is down": (
        "unit/test_wait_policy.py::test_giving_up_says_why",
        "e2e: engine restarted while waiting",
    ),
    "the token expires": ("e2e: token expired while waiting",),
    "the API token is revoked": ("e2e: token revoked while waiting, rotated in the connection",),
    "the batch is not in the history yet": (
        "dags/test_sensor.py::test_batch_that_never_shows",
        "unit/test_build_start.py::test_a_batch_that_had_gone_missing_and_is_listed_by_now_is_attached_to",
    ),
    "AtScale shows a status": (
        "contract/test_trigger.py::test_status_that_nobody_knows",
        "unit/test_models.py::test_only_two_words_are_success",
    ),
    "the user has no permission to read the build history": (
        "unit/test_wait_policy.py::test_an_end_that_only_instances_show_must_stay",
        "unit/test_wait_policy.py::test_once_the_history_has_listed_a_batch_only_the_history_ends_it",
    ),
    "AtScale answers 500": (
        "unit/test_build_start.py::test_a_500_after_which_there_is_a_batch_all_the_same_is_adopted_by_a_retry",
        "unit/test_build_start.py::test_refused_asks_on_running_again",
    ),
    "some aggregates of a batch": ("dags/test_failures.py::test_failed_aggregates",),
    "the model has no aggregates": ("engine/test_container.py::test_model_without_aggregates_is_done_at_once",),
    "the model's or catalog's name": ("contract/test_models.py::test_what_fits_none_lists_what_there_is",),
}

#: What shows each line of the table of Airflow versions.
SHOWN = {
    "operator and sensor": ("install/test_install.py::test_a_dag_builds_waits_and_warns_of_nothing",),
    "names of mapped tasks": ("dags/test_mapping.py::test_builds_are_called_by_catalog_and_model",),
    "a retry knows its own batch": (
        "dags/test_retries.py::test_after_a_death_before_the_id_was_stored",
        "unit/test_build_start.py::test_below_airflow_3_3_a_retry_meets_its_own_batch_as_a_running_one",
    ),
    "an orphaned process": (
        "unit/test_build_crashes.py::test_without_the_fence_an_orphan_would_build_beside_the_retry",
    ),
    "a sensor in `reschedule` mode": ("dags/test_sensor.py::test_trouble_that_lasts",),
    "a running task that is stopped": ("dags/test_events.py::test_killed_while_it_waits",),
    "a deferred task that is stopped": ("contract/test_trigger.py::test_on_kill_tells_the_truth",),
    "events of assets": ("dags/test_outlets.py::test_each_event_carries_the_report",),
    "asset watcher": (
        "dags/test_watcher.py::test_each_batch_is_one_event_however_often_the_triggerer_is_killed",
        "unit/test_event_trigger.py::test_airflow_2_says_what_it_lacks_and_what_to_do_instead",
    ),
    "watchers of one model": (
        "dags/test_watcher.py::test_triggers_of_one_model_share_one_read",
        "unit/test_event_trigger.py::test_before_airflow_3_3_each_polls_for_itself",
    ),
    "the page *AtScale builds*": (
        "dags/test_builds_page.py::test_builds_of_real_tasks",
        "unit/test_builds_page.py::test_which_airflow_has_the_page",
    ),
    "`@task.atscale_build`": ("dags/test_decorator.py::test_what_the_function_returns_is_built",),
    "the web UI shows": ("dags/test_state_store.py::test_a_build_reads_well",),
    "[retry policies]": (
        "dags/test_policies.py::test_what_the_policy_decides",
        "unit/test_policies.py::test_an_older_airflow_says_what_it_lacks_and_what_to_do_instead",
    ),
    "*Test* button": ("contract/test_hook.py::test_connection_works",),
    "fields of the connection form": ("install/test_install.py::test_the_connection_form_shows_every_field",),
}


def keepers(table: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(row, keeper) for row, all_of_them in table.items() for keeper in all_of_them]


def unmatched(table: dict[str, tuple[str, ...]], rows: list[str]) -> list[str]:
    """Return the rows that not exactly one entry is about, and the entries that are about no row."""
    odd = [row for row in rows if sum(row.startswith(entry) for entry in table) != 1]
    return odd + [entry for entry in table if not any(row.startswith(entry) for row in rows)]


def test_every_promise_has_a_keeper():
    assert unmatched(KEPT, [situation for situation, _ in page.rows("What happens when ...")]) == []


def test_every_line_on_versions_is_shown_by_a_test():
    lines = [cells[0] for cells in page.rows("Airflow versions") if cells[0] != "Python"]
    assert unmatched(SHOWN, lines) == []


@pytest.mark.parametrize(("row", "keeper"), keepers(KEPT) + keepers(SHOWN), ids=lambda each: each[:60])
def test_a_keeper_is_there(row, keeper):
    if keeper.startswith("e2e: "):
        from e2e.cases import CASES

        assert any(keeper.removeprefix("e2e: ") in case.title for case in CASES)
        return
    file, name = keeper.split("::")
    assert re.search(rf"^(async )?def {name}\(", (TESTS / file).read_text(), re.MULTILINE)


def test_the_pythons_of_each_airflow_are_those_that_it_is_tested_with():
    pythons: dict[str, list[int]] = {}
    for file in (generate.ROOT / "requirements").glob("constraints-airflow-*.txt"):
        airflow, minor = re.match(r"constraints-airflow-([\d.]+)-py3\.(\d+)", file.name).groups()
        pythons.setdefault(airflow, []).append(int(minor))
    expected = [f"3.{min(pythons[each])} to 3.{max(pythons[each])}" for each in sorted(pythons)]
    assert page.rows("Airflow versions")[0] == ["Python", *expected]
    [head] = re.findall(r"^\| \|(.*)\|$", page.section("Airflow versions"), re.MULTILINE)
    assert [cell.strip() for cell in head.split("|")] == sorted(pythons)
