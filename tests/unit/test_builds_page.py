"""What the page of builds makes of XComs and asset events, whatever they are."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_atscale.ui import page, plugin
from airflow_provider_atscale.ui.builds import PER_MODEL, Outcome, collect, reported
from airflow_provider_atscale.ui.records import Event, Pushed, TaskRun, parse

from .test_import_budget import modules_after

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
IDS = {"catalog_id": "c1", "model_id": "m1"}
NAMES = {"server": "https://atscale.example.com", "catalog": "Sales", "model": "Orders"}
URI = "atscale://atscale.example.com/Sales/Orders"


def report(batch_id="b1", **changes):
    return {
        "batch_id": batch_id,
        **IDS,
        **NAMES,
        "status": "done",
        "started": "2026-03-01T10:00:00+00:00",
        "seconds": 60.0,
        **changes,
    }


def pushed(xcoms, state="success", run="run", task="build", index=-1):
    return Pushed(TaskRun("dag", run, task, index), state, NOW, xcoms)


def event(extra, task=None, uri=URI):
    return Event(uri, NOW, extra, task)


def only_build(rows, events=()):
    [model] = collect(rows, events)
    [build] = model.builds
    return build


BATCH = {"batch_id": "b1", "catalog": "c1", "model": "m1"}
PROGRESS = {"batch_id": "b1", "status": "inprogress", "updated": "2026-03-01T11:01:00+00:00"}
FAILURES = [{"aggregate": "by_month", "message": "no table", "status": "failed"}]
LOST = "The task ended before it saw the end of the build. Its log says why."

OUTCOMES = {
    "a good batch": ({"batch_result": report()}, "success", "done", []),
    "aggregates are missing": (
        {"batch_result": report(failed_aggregates=1, failures=FAILURES)},
        "success",
        "incomplete",
        ["by_month: no table"],
    ),
    "failed": (
        {"batch_failure": report(status="failed", failures=FAILURES, error="Failed")},
        "failed",
        "failed",
        ["by_month: no table"],
    ),
    "failed, and the reasons are not known": (
        {"batch_failure": report(status="failed", failures=[], error="Failed: AtScale names no reason.")},
        "failed",
        "failed",
        ["Failed: AtScale names no reason."],
    ),
    "done, but the task demands all aggregates": (
        {"batch_failure": report(failed_aggregates=1, failures=FAILURES)},
        "failed",
        "failed",
        ["by_month: no table"],
    ),
    "an earlier try failed, and Airflow has left its XCom": (
        {"batch_failure": report("b0", status="failed"), "batch_result": report()},
        "success",
        "done",
        [],
    ),
    "a task that waits": ({"batch": BATCH}, "deferred", "running", []),
    "a task that waits, and cannot read": (
        {"batch": BATCH, "progress": {**PROGRESS, "problem": "HTTP 503"}},
        "running",
        "running",
        ["HTTP 503"],
    ),
    "a task between two tries": ({"batch": BATCH}, "up_for_retry", "running", []),
    "a task that does not wait": ({"batch": BATCH}, "success", "started", []),
    "a timeout": ({"batch": BATCH}, "failed", "unknown", [LOST]),
    "the end was seen, the task failed later": (
        {"batch": BATCH, "progress": {**PROGRESS, "status": "done"}},
        "failed",
        "done",
        [],
    ),
}


@pytest.mark.parametrize(("xcoms", "state", "outcome", "messages"), OUTCOMES.values(), ids=OUTCOMES)
def test_how_a_build_ended(xcoms, state, outcome, messages):
    build = only_build([pushed(xcoms, state)])
    assert (build.outcome.value, build.messages) == (outcome, messages)


EVENTS = {
    "of an outlet": report(),
    "of an asset alias": {**report(), "instances": '{"active": 6}', "failures": json.dumps([])},
    "of a watcher": {"from_trigger": True, "payload": report()},
    "of a watcher, as JSON": {"from_trigger": True, "payload": json.dumps(report())},
}


@pytest.mark.parametrize("extra", EVENTS.values(), ids=EVENTS)
def test_an_event_tells_of_a_build(extra):
    [model] = collect([], [event(extra)])
    assert (model.label, model.catalog, model.server) == ("Orders", "Sales", NAMES["server"])
    assert (model.newest.outcome, model.newest.seconds) == (Outcome.DONE, 60.0)


def test_failures_of_an_asset_alias_are_json():
    extra = {**report(failed_aggregates=1), "failures": json.dumps(FAILURES)}
    assert only_build([], [event(extra)]).messages == ["by_month: no table"]


@pytest.mark.parametrize("extra", [None, {}, {"batch_id": None}, [], "x", {"from_trigger": True}, {"a": 1}])
def test_an_event_of_something_else_is_left_out(extra):
    assert collect([], [event(extra)]) == []


def test_names_come_from_the_uri_if_the_report_has_none():
    [model] = collect([], [event({"batch_id": "b1", "status": "done"}, uri="atscale://host/A%2FB/My%20Model")])
    assert (model.catalog, model.label) == ("A/B", "My Model")


def test_a_batch_of_several_tasks_is_one_build():
    """One has started it, one has joined it, and a watcher has seen it."""
    rows = [pushed({"batch_result": report()}), pushed({"batch_result": report()}, task="joined")]
    build = only_build(rows, [event({"from_trigger": True, "payload": report()})])
    assert [task.task_id for task in build.tasks] == ["build", "joined"]


def test_a_failure_wins_over_an_event_of_the_same_batch():
    failed = pushed({"batch_failure": report(failed_aggregates=1, failures=FAILURES)}, "failed")
    assert only_build([failed], [event(report())]).outcome is Outcome.FAILED


def test_a_running_build_is_added_to_its_model():
    running = pushed({"batch": {**BATCH, "batch_id": "b2"}}, "running", run="second")
    [model] = collect([pushed({"batch_result": report()}), running], [])
    assert [build.batch_id for build in model.builds] == ["b2", "b1"]
    assert model.label == "Orders"


def test_a_running_build_of_a_model_on_two_servers_is_the_same_tasks():
    """The ids of a model that was copied to another server are the same."""
    test = {**report(), "server": "https://test.example.com"}
    rows = [
        pushed({"batch_result": report()}),
        pushed({"batch_result": {**test, "batch_id": "b2"}}, task="test"),
        pushed({"batch": {**BATCH, "batch_id": "b3"}}, "running", run="second", task="test"),
    ]
    models = {model.server: [build.batch_id for build in model.builds] for model in collect(rows, [])}
    assert models == {NAMES["server"]: ["b1"], "https://test.example.com": ["b3", "b2"]}


def test_the_first_build_of_a_model_has_ids_only():
    [model] = collect([pushed({"batch": BATCH}, "running")], [])
    assert model.label == "m1"


def of_model(name, batch_id="b1"):
    return {"batch_result": report(batch_id, model=name, model_id=name)}


SENSORS = {
    "the first wait of two sensors": (
        [],
        {"Unknown model of dag.first": ["b2"], "Unknown model of dag.second": ["b3"]},
    ),
    "each has waited for its model before": (
        [
            pushed(of_model("Orders"), task="first", run="0"),
            pushed(of_model("Returns", "b0"), task="second", run="0"),
        ],
        {"Orders": ["b1", "b2"], "Returns": ["b0", "b3"]},
    ),
    "one has waited for several models": (
        [
            pushed(of_model("Orders"), task="first", run="0"),
            pushed(of_model("Returns", "b0"), task="first", run="1"),
        ],
        {
            "Orders": ["b1"],
            "Returns": ["b0"],
            "Unknown model of dag.first": ["b2"],
            "Unknown model of dag.second": ["b3"],
        },
    ),
    "a task waits for one of the batches, too": (
        [pushed({"batch": {**BATCH, "batch_id": "b2"}}, "running", task="build")],
        {"m1": ["b2"], "Unknown model of dag.second": ["b3"]},
    ),
}


@pytest.mark.parametrize(("before", "models"), SENSORS.values(), ids=SENSORS)
def test_running_builds_that_sensors_wait_for(before, models):
    """A sensor pushes the batch's id, and neither ids nor names of the model."""
    waits = [
        pushed({"progress": {**PROGRESS, "batch_id": "b2"}}, "deferred", task="first"),
        pushed({"progress": {**PROGRESS, "batch_id": "b3"}}, "deferred", task="second"),
    ]
    found = collect([*waits, *before], [])
    assert {model.label: sorted(build.batch_id for build in model.builds) for model in found} == models


NO_MODEL = dict.fromkeys((*IDS, "catalog", "model"))


@pytest.mark.parametrize(
    ("before", "events", "labels"),
    [
        ([], [], {"Unknown model of dag.first": ["b1"], "Unknown model of dag.second": ["b2"]}),
        ([pushed({"batch": BATCH}, task="build")], [], {"m1": ["b1"], "Unknown model of dag.second": ["b2"]}),
        (
            [pushed({"batch_result": report()}, task="build")],
            [event(report("b2", **NO_MODEL), TaskRun("dag", "run", "second"))],
            {"Orders": ["b1", "b2"]},
        ),
    ],
    ids=["nothing else is known", "a task has started one", "others know the model"],
)
def test_reports_of_sensors_that_know_only_the_batch(before, events, labels):
    """A sensor may have ``batch_id`` alone."""
    rows = [
        pushed({"batch_result": report(batch, **NO_MODEL)}, task=task)
        for batch, task in (("b1", "first"), ("b2", "second"))
    ]
    assert reported(rows) == set()
    found: dict[str, list[str]] = {}
    for model in collect([*rows, *before], events):
        found.setdefault(model.label, []).extend(build.batch_id for build in model.builds)
    assert {label: sorted(batches) for label, batches in found.items()} == labels


def test_mapped_sensors_of_unknown_models_are_kept_apart():
    """Each may wait for another model; a later wait of the same one is for the same model."""
    rows = [
        pushed({"progress": {**PROGRESS, "batch_id": batch}}, "deferred", run=run, task="wait", index=index)
        for batch, run, index in (("b1", "first", 0), ("b2", "first", 1), ("b3", "second", 1))
    ]
    found = {model.label: [build.batch_id for build in model.builds] for model in collect(rows, [])}
    assert found == {"Unknown model of dag.wait[0]": ["b1"], "Unknown model of dag.wait[1]": ["b2", "b3"]}


def test_a_model_has_its_name_if_any_report_has_it():
    """A task that was given ids, or a batch alone, has pushed the ids as names."""
    by_ids = report("b2", catalog=IDS["catalog_id"], model=IDS["model_id"])
    rows = [pushed({"batch_result": by_ids}, task="wait"), pushed({"batch_result": report()})]
    for each in (rows, rows[::-1]):
        [model] = collect(each, [])
        assert (model.catalog, model.label, len(model.builds)) == ("Sales", "Orders", 2)


def test_only_the_newest_builds_are_kept():
    began = datetime(2026, 1, 1, tzinfo=timezone.utc)
    reports = [report(f"b{day}", started=(began + timedelta(days=day)).isoformat()) for day in range(99)]
    rows = [pushed({"batch_result": each}, run=each["batch_id"]) for each in reports]
    [model] = collect(rows, [])
    assert len(model.builds) == PER_MODEL
    assert model.newest.batch_id == "b98"


@pytest.mark.parametrize(
    "xcoms",
    [
        {"batch": {"batch_id": "b1", "rows": 100}},
        {"progress": {"batch_id": "b1", "percent": 40}},
        {"batch_result": {"batch_id": "b1", "status": "done"}},
        {"batch_failure": {"batch_id": "b1", "status": "failed"}},
    ],
    ids=lambda xcoms: next(iter(xcoms)),
)
def test_batches_of_other_packages_are_left_out(xcoms):
    """The keys are common words, and so is ``batch_id``."""
    assert collect([pushed(xcoms)], []) == []


def test_which_tasks_need_no_event():
    rows = [pushed({"batch_result": report()}), pushed({"batch": BATCH}, task="waits")]
    assert {task.task_id for task in reported(rows)} == {"build"}


PARSED = {
    '{"a": 1}': {"a": 1},
    '"{\\"a\\": 1}"': {"a": 1},
    '"https://a"': "https://a",
    "nonsense": None,
    "": None,
    '"{broken"': None,
    "[" * 100_000: None,
}


@pytest.mark.parametrize(("text", "value"), PARSED.items(), ids=lambda value: str(value)[:20])
def test_values_of_the_database(text, value):
    assert parse(text) == value


def test_a_value_that_is_no_text():
    assert parse(None) is None


# --- the list ---


def models_in_all_states():
    rows = []
    for name, changes, state in (
        ("Good", {}, "success"),
        ("Late", {"late": True, "usual_seconds": 10.0}, "success"),
        ("Incomplete", {"failed_aggregates": 1, "failures": FAILURES}, "success"),
    ):
        rows.append(
            pushed({"batch_result": report(name, model=name, model_id=name, **changes)}, state, run=name)
        )
    rows.append(
        pushed(
            {"batch_failure": report("f", model="Failed", model_id="Failed", status="failed")}, "failed", "f"
        )
    )
    rows.append(pushed({"batch": {"batch_id": "r", "catalog": "c1", "model": "Running"}}, "deferred", "r"))
    return collect(rows, [])


STATES = {
    "": ["Failed", "Running", "Incomplete", "Late", "Good"],
    "failed": ["Failed"],
    "late": ["Late"],
    "incomplete": ["Incomplete"],
    "running": ["Running"],
    "nonsense": ["Failed", "Running", "Incomplete", "Late", "Good"],
}


@pytest.mark.parametrize(("state", "labels"), STATES.items())
def test_what_needs_somebody_comes_first(state, labels):
    shown = page.select(models_in_all_states(), state=state)
    assert [model.label for model in shown.models] == labels
    assert shown.counts == {"": 5, "failed": 1, "late": 1, "incomplete": 1, "running": 1}


@pytest.mark.parametrize(("search", "found"), [("good", 1), ("SALES late", 1), ("no such", 0), (" ", 5)])
def test_search(search, found):
    assert page.select(models_in_all_states(), search=search).found == found


def many(count):
    rows = [
        pushed({"batch_result": report(f"b{n}", model=f"M{n:04}", model_id=f"m{n}")}, run=f"{n}")
        for n in range(count)
    ]
    return collect(rows, [])


@pytest.mark.parametrize(
    ("number", "first", "last"),
    [(1, "M0000", "M0049"), (3, "M0100", "M0119"), (99, "M0100", "M0119"), (-1, "M0000", "M0049")],
)
def test_pages(number, first, last):
    shown = page.select(many(120), number=number)
    assert (shown.models[0].label, shown.models[-1].label) == (first, last)
    assert (shown.pages, shown.found) == (3, 120)


def test_addresses_of_the_list_keep_what_was_chosen():
    shown = page.select(many(120), search="m", number=2)
    assert shown.query(p=3) == "?q=m&p=3"
    assert shown.query(show="late", p=1) == "?q=m&show=late"


# --- the time line ---


def test_heights_are_durations_and_the_line_is_the_usual_one():
    rows = [
        pushed({"batch_result": report("b1", seconds=100.0, usual_seconds=50.0)}, run="1"),
        pushed({"batch_result": report("b2", seconds=25.0, started="2026-03-01T11:00:00+00:00")}, run="2"),
    ]
    [model] = collect(rows, [])
    line = page.timeline(model, NOW)
    assert [bar["height"] for bar in line["bars"]] == [30.0, 7.5]
    assert [bar["usual"] for bar in line["bars"]] == [15.0, None]
    assert line["bars"][0]["title"] == "2026-03-01 10:00 UTC · done · 100.0 s · usually 50.0 s"


def test_a_running_build_grows():
    progress = {**PROGRESS, "since": "2026-03-01T11:00:00+00:00", "seconds": 60, "late": True}
    build = only_build([pushed({"batch": BATCH, "progress": progress}, "deferred")])
    assert page.describe(build, NOW) == "2026-03-01 11:00 UTC · running, late · 60 min"


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "just now"), (90, "1 min ago"), (600, "10 min ago"), (9000, "2 h ago")]
)
def test_how_long_ago(seconds, text):
    assert page.ago(NOW - timedelta(seconds=seconds), NOW) == text


@pytest.mark.parametrize(
    ("seconds", "usual", "text"),
    [(60, 40, "1.5 times the usual"), (60, 60, ""), (None, 60, ""), (60, None, ""), (1e9, 1, "over 1000")],
)
def test_a_duration_against_the_usual_one(seconds, usual, text):
    assert page.share(seconds, usual).startswith(text)
    assert bool(page.share(seconds, usual)) is bool(text)


# --- addresses ---


@pytest.mark.parametrize(
    ("task", "path"),
    [
        (TaskRun("a b", "run/1", "t"), "/dags/a%20b/runs/run%2F1/tasks/t"),
        (TaskRun("d", "r", "t", 3), "/dags/d/runs/r/tasks/t/mapped/3"),
    ],
)
def test_the_path_of_a_task(task, path):
    assert page.task_path(task) == path


LINKS = {
    "https://atscale.example.com/x": True,
    "http://localhost:10502": True,
    "javascript:alert(1)": False,
    "data:text/html,x": False,
    "//evil.example.com": False,
    "https://": False,
    "http://[": False,
    "https://atscale.example.com/\ud800": False,
}


@pytest.mark.parametrize(("link", "is_kept"), LINKS.items())
def test_only_links_to_web_pages_are_kept(link, is_kept):
    assert bool(page.safe_links({TaskRun("d", "r", "t"): link})) is is_kept


# --- whatever the database has ---

MARKUP = "<script>alert('x')</script>"
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text(max_size=20)
    | st.sampled_from([MARKUP, 10**400, 1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
times = st.sampled_from(["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-03-01", "2026-13-01T00:00:00Z"])
fields = st.sampled_from(
    [*report(), "failures", "error", "late", "usual_seconds", "aggregates", "since", "kind"]
)
reports = st.builds(
    lambda changes: {**report(updated="now"), **changes},
    st.dictionaries(fields, json_values | times, max_size=6),
)
xcoms = st.dictionaries(
    st.sampled_from(["batch", "progress", "batch_result", "batch_failure"]), reports | json_values, max_size=4
)
states = st.sampled_from([None, "success", "failed", "running", "deferred", "nonsense"])


def rendered(models):
    known = {"root": "", "prefix": "/atscale", "now": NOW}
    texts = [page.render("models.html", shown=page.select(models), states=page.STATES, **known)]
    for model in models:
        links = {task: f"https://atscale/{MARKUP}" for build in model.builds for task in build.tasks}
        texts.append(page.render("model.html", model=model, links=links, **known))
    return texts


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(xcoms, states), max_size=4), st.lists(reports | json_values, max_size=3))
def test_no_value_breaks_the_page(told, extras):
    rows = [pushed(each, state, run=str(number)) for number, (each, state) in enumerate(told)]
    for text in rendered(collect(rows, [event(extra) for extra in extras])):
        assert text.endswith("</html>")


@pytest.mark.parametrize("key", ["batch_result", "batch_failure"])
def test_markup_is_shown_as_text(key):
    texts = dict.fromkeys((*report(), "kind", "error"), MARKUP) | {"batch_id": f"b{MARKUP}"}
    failures = [{"aggregate": MARKUP, "message": MARKUP}]
    rows = [pushed({key: {**texts, "failures": failures}}, run=MARKUP, task=MARKUP)]
    rows.append(pushed({"batch": {"batch_id": MARKUP, "catalog": MARKUP, "model": MARKUP}}, run="second"))
    for text in [*rendered(collect(rows, [])), page.render("error.html", code=404, detail=MARKUP, prefix="")]:
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert" in text


def test_a_page_without_builds_says_what_to_do():
    text = page.render(
        "models.html", shown=page.select([]), states=page.STATES, root="", prefix="/atscale", now=NOW
    )
    assert "No builds yet" in text
    assert "AtScaleAggregateBuildOperator" in text


def test_models_of_one_name_are_told_apart_by_their_servers():
    other = report("b2", server="https://test.example.com")
    rows = [pushed({"batch_result": report()}), pushed({"batch_result": other}, task="test")]
    rows.append(pushed({"batch_result": report("b3", model="Returns", model_id="m3")}, task="returns"))
    [listed, *_] = rendered(collect(rows, []))
    below = re.findall(r'</a><span class="dim">(.*?)</span></th>', listed)
    assert below == ["Sales · https://atscale.example.com", "Sales · https://test.example.com", "Sales"]


@pytest.mark.parametrize(
    ("xcoms", "state", "reloads"),
    [({"batch": BATCH}, "deferred", True), ({"batch_result": report()}, "success", False)],
)
def test_pages_reload_while_a_build_runs(xcoms, state, reloads):
    for text in rendered(collect([pushed(xcoms, state)], [])):
        assert ('data-reload="60"' in text) is reloads


# --- the plugin ---


def test_the_plugin_loads_nothing_that_airflow_has_not_loaded():
    """Schedulers and workers load it, too."""
    before = modules_after("import airflow, airflow.plugins_manager, airflow.configuration")
    more = modules_after("import airflow.plugins_manager, airflow_provider_atscale.ui.plugin") - before
    assert more <= {
        "airflow_provider_atscale",
        "airflow_provider_atscale.ui",
        "airflow_provider_atscale.ui.plugin",
    }


@pytest.mark.parametrize(
    ("version", "option", "has_page"),
    [
        ("2.11.0", None, False),
        ("3.0.6", None, False),
        ("3.1.0", None, True),
        ("3.10.1", None, True),
        ("3.3.0", "False", False),
        ("3.3.0", "True", True),
    ],
)
def test_which_airflow_has_the_page(monkeypatch, version, option, has_page):
    monkeypatch.setattr(plugin, "__version__", version)
    if option is not None:
        monkeypatch.setenv("AIRFLOW__ATSCALE__BUILDS_PAGE", option)
    assert plugin._has_page() is has_page


def test_a_wrong_option_hides_the_page_and_is_an_error_in_the_log(monkeypatch, caplog):
    """Every process of Airflow imports the plugin: it must not fail there."""
    monkeypatch.setattr(plugin, "__version__", "3.3.0")
    monkeypatch.setenv("AIRFLOW__ATSCALE__BUILDS_PAGE", "maybe")
    assert plugin._has_page() is False
    [record] = [each for each in caplog.records if each.name == plugin.__name__]
    assert record.levelname == "ERROR"
    assert "[atscale] builds_page is 'maybe'; it must be True or False" in record.getMessage()


def test_the_address_has_the_path_of_airflow():
    code = (
        "import os; os.environ['AIRFLOW__API__BASE_URL'] = 'https://example.com/team/airflow/'\n"
        "from airflow_provider_atscale.ui.plugin import AtScaleBuildsPlugin as p\n"
        "print('href:', *(view['href'] for view in getattr(p, 'external_views', [])), flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    shown = done.stdout.partition("href:")[2].split()
    assert shown == (["/team/airflow/atscale/builds"] if plugin._has_page() else [])
