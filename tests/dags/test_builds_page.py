"""The page of builds as Airflow's real API server serves it, from Airflow's real database."""

from __future__ import annotations

import html
import re
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import Asset

from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator

from . import builds_data, runs
from .conftest import MODEL, QUICK, new_dag

if runs.VERSION < (3, 1):
    pytest.skip("Airflow before 3.1 has no external views", allow_module_level=True)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = "/atscale/builds"
NOW = datetime.now(timezone.utc)
#: What can be asked for.
PATHS = (PAGE, f"{PAGE}/model?key=x", "/atscale/static/builds.css", "/atscale/static/builds.js")


@pytest.fixture(scope="module")
def get() -> Iterator[Callable[..., Any]]:
    """Ask the API server for a path, as a user or as nobody."""
    from airflow.api_fastapi.app import create_app, get_auth_manager, purge_cached_app
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from fastapi.testclient import TestClient

    with pytest.MonkeyPatch.context() as patch:
        manager = f"{__name__.rpartition('.')[0]}.rights.Rights"
        patch.setenv("AIRFLOW__CORE__AUTH_MANAGER", manager)
        patch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "of-this-test-only-" + "x" * 64)
        purge_cached_app()
        # As a browser sees it: an error is an answer.
        client = TestClient(create_app(apps="core"), raise_server_exceptions=False)

        def get(
            path: str,
            user: str | None = "viewer",
            role: str | None = "VIEWER",
            method: str = "GET",
            **headers: str,
        ) -> Any:
            client.cookies.clear()
            if user is not None:
                known = SimpleAuthManagerUser(username=user, role=role)
                client.cookies.set("_token", get_auth_manager().generate_jwt(known))
            return client.request(method, path, headers=headers)

        yield get
        purge_cached_app()


@pytest.fixture(autouse=True)
def _empty() -> None:
    """Begin without builds."""
    from airflow.models.asset import AssetEvent
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        session.query(XComModel).delete()
        session.query(AssetEvent).delete()


def told(model: str = "Orders", dag_id: str = "load", number: int = 0, **changes: Any) -> builds_data.Told:
    """Return a good build, with an event."""
    began = NOW - timedelta(hours=number)
    report = builds_data.make_report("Sales", model, began, 60.0, 55.0) | changes
    uri = f"atscale://atscale.example.com/Sales/{model}"
    xcoms = {"batch_result": report, "_link_AtScaleBuildHistoryLink": "https://atscale.example.com/history"}
    return builds_data.Told(
        dag_id, f"{model}-{number}-{time.monotonic_ns()}", began, "success", xcoms, report, uri
    )


def first_model(text: str) -> str:
    """Return the address of the first model of the list."""
    found = re.search(r'href="(builds/model\?key=[^"]+)"', text)
    assert found is not None
    return f"/atscale/{html.unescape(found[1])}"


# --- real tasks ---


def test_builds_of_real_tasks(engine, get):
    asset = Asset(uri="atscale://host/Sales%20Insights/Internet%20Sales")
    with new_dag() as good:
        AtScaleAggregateBuildOperator(task_id="build", outlets=[asset], **MODEL, **QUICK)
    with new_dag() as bad:
        AtScaleAggregateBuildOperator(task_id="build", **MODEL, **QUICK)
    assert runs.run(good)["build"].state == "success"
    engine.fail_next("Internet Sales", "failed", failed_aggregates=1, message="disk <b>quota</b>")
    assert runs.run(bad)["build"].state == "failed"
    listed = get(PAGE).text
    assert re.findall(r"builds/model\?", listed) == ["builds/model?"]
    assert "disk &lt;b&gt;quota&lt;/b&gt;" in listed
    shown = get(first_model(listed)).text
    assert [word for word in re.findall(r'badge (\w+)"', shown) if word != "late"] == ["failed", "done"]
    for dag in (good, bad):
        assert f"/dags/{dag.dag_id}/runs/" in shown
    assert shown.count("Build history in AtScale") == 2
    for batch in engine.batches:
        assert batch.id in shown


# --- access ---


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nonsense"}, {"Cookie": "_token=nonsense"}])
def test_without_login_there_is_nothing(get, path, headers):
    builds_data.store([told()])
    answer = get(path, user=None, **headers)
    assert answer.status_code == (403 if headers else 401)
    assert "Log in to Airflow" in answer.text
    assert "Orders" not in answer.text


@pytest.mark.parametrize(("user", "role"), [("no_assets", "ADMIN"), ("nobody", "")])
@pytest.mark.parametrize("path", PATHS)
def test_who_cannot_read_assets_sees_nothing(get, path, user, role):
    builds_data.store([told()])
    answer = get(path, user=user, role=role)
    assert answer.status_code == 403
    assert "needs the permission to read assets" in answer.text
    assert "Orders" not in answer.text


def test_a_viewer_sees_all(get):
    builds_data.store([told("Orders", "load"), told("Returns", "only_this")])
    text = get(PAGE).text
    assert "Orders" in text
    assert "Returns" in text


def test_who_cannot_read_a_dag_sees_nothing_of_it(get):
    builds_data.store([told("Orders", "load"), told("Returns", "only_this")])
    text = get(PAGE, user="one_dag").text
    assert "Orders" not in text
    assert "Returns" in text
    path = first_model(get(f"{PAGE}?q=orders").text)
    assert get(path).status_code == 200
    refused = get(path, user="one_dag")
    assert refused.status_code == 404
    assert "Orders" not in refused.text


def test_a_build_of_two_dags_shows_the_one_that_can_be_read(get):
    shared = told("Orders", "load").xcoms
    builds = [told("Orders", "load"), told("Orders", "only_this")]
    for each in builds:
        each.xcoms = shared
        each.extra = None
    builds_data.store(builds)
    text = get(first_model(get(PAGE, user="one_dag").text), user="one_dag").text
    assert "/dags/only_this/" in text
    assert "/dags/load/" not in text


def test_who_can_read_no_dag_sees_events_of_no_dag_only(get):
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session

    builds_data.store([told("Orders"), told("Returns")])
    assert "No builds yet" in get(PAGE, user="no_dags").text
    with create_session() as session:
        event = session.query(AssetEvent).first()
        shown = event.extra["model"]
        event.source_dag_id = event.source_task_id = event.source_run_id = None
    text = get(PAGE, user="no_dags").text
    assert {"Orders": "Orders" in text, "Returns": "Returns" in text} == {
        "Orders": shown == "Orders",
        "Returns": shown == "Returns",
    }


def test_who_cannot_read_xcoms_sees_what_events_tell(get):
    without_event = told("Returns")
    without_event.extra = None
    builds_data.store([told("Orders"), without_event])
    text = get(PAGE, user="no_xcoms").text
    assert "Orders" in text
    assert "Returns" not in text
    assert "Build history in AtScale" not in get(first_model(text), user="no_xcoms").text
    assert "Build history in AtScale" in get(first_model(text)).text


def test_xcoms_can_be_allowed_for_one_dag(get):
    builds = [told("Orders", "load"), told("Returns", "only_this"), told("Targets", "load")]
    for each in builds[:2]:
        each.extra = None
    builds_data.store(builds)
    text = get(PAGE, user="xcoms_of_one_dag").text
    assert "Orders" not in text
    assert "Returns" in text
    assert "Targets" in text
    links = {
        name: "Build history in AtScale"
        in get(first_model(get(f"{PAGE}?q={name}").text), user="xcoms_of_one_dag").text
        for name in ("Returns", "Targets")
    }
    assert links == {"Returns": True, "Targets": False}


# --- what is sent ---


def test_nothing_of_other_hosts_is_loaded(get):
    builds_data.store([told()])
    listed = get(PAGE)
    policy = listed.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    for text in (listed.text, get("/atscale/static/builds.css").text, get("/atscale/static/builds.js").text):
        assert not re.search(r"(src|href)=.?https?:|url\(|@import|import\(", text)
    assert listed.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (PAGE, 200),
        (f"{PAGE}?p=0&show=x&q=%00", 200),
        (f"{PAGE}?p=x", 422),
        (f"{PAGE}/model", 422),
        (f"{PAGE}/model?key=x", 404),
        ("/atscale/static/..%2Fapp.py", 404),
        ("/atscale/static/app.py", 404),
        ("/atscale/docs", 404),
        ("/atscale/openapi.json", 404),
    ],
)
def test_addresses(get, path, status):
    answer = get(path)
    assert answer.status_code == status
    assert "text/html" in answer.headers["content-type"]


@pytest.mark.parametrize("path", PATHS)
def test_another_method_is_told_which_one_is_allowed(get, path):
    answer = get(path, method="POST")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("path", [PAGE, f"{PAGE}/model?key=x"])
def test_an_error_is_a_page_that_says_where_to_look(get, monkeypatch, path):
    from sqlalchemy.exc import OperationalError

    def read(*_: Any) -> None:
        raise OperationalError("SELECT xcom.value", {}, Exception("no connection to db.example.com"))

    monkeypatch.setattr("airflow_provider_atscale.ui.rows.read_pushed", read)
    answer = get(path)
    assert answer.status_code == 500
    assert "The log of the API server says why" in answer.text
    assert not re.search(r"SELECT|db\.example\.com|Traceback", answer.text)
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_page_without_builds(get):
    assert "No builds yet" in get(PAGE).text


ODD: list[Any] = [None, 7, "text", "<b>", [], {}, [1], {"batch_id": 5}, {"batch_id": "b"}, 1e308, "{", "\u0000"]


def test_values_that_make_no_sense_are_left_out(get):
    builds = [told()]
    for number, odd in enumerate(ODD):
        for key in ("batch", "progress", "batch_result", "batch_failure", "_link_AtScaleBuildHistoryLink"):
            each = told("Odd", "odd", number)
            each.state, each.run_id, each.extra = "running", f"{key}-{number}", {"extra": odd}
            each.xcoms = {"batch": {"batch_id": f"b{number}"}, key: odd}
            builds.append(each)
        builds.append(
            told(f"Field{number}", "odd", number, **dict.fromkeys(("seconds", "started", "failures"), odd))
        )
    builds_data.store(builds)
    listed = get(PAGE)
    assert listed.status_code == 200
    assert "Orders" in listed.text
    for path in set(re.findall(r'href="(builds/model\?key=[^"]+)"', listed.text)):
        assert get(f"/atscale/{html.unescape(path)}").status_code == 200


def test_a_value_that_is_no_json_is_left_out(get):
    from airflow.utils.session import create_session
    from sqlalchemy import text

    builds_data.store([told("Orders"), told("Returns")])
    with create_session() as session:
        session.execute(text("update xcom set value = '{no json' where run_id like 'Returns%'"))
        session.execute(text("update asset_event set extra = 'no json' where source_run_id like 'Returns%'"))
    answer = get(PAGE)
    assert answer.status_code == 200
    assert "Orders" in answer.text
    assert "Returns" not in answer.text


# --- a large site ---


def test_large_xcoms_of_other_tasks_are_not_loaded(get):
    """The keys are common words: others may push a megabyte under them."""
    from airflow.utils.session import create_session

    from airflow_provider_atscale.ui import rows

    other = told("Other", "other")
    other.xcoms, other.extra = {"batch": {"batch_id": "b", "rows": ["x" * 1000] * 1000}}, None
    longest = told(error="é" * 4000, failures=[{"message": "é" * 500, "aggregate": "é" * 200}] * 5)
    builds_data.store([longest, other])
    with create_session() as session:
        values = {each.task.dag_id: each.values for each in rows.read_pushed(session, {"load", "other"})}
    assert values["other"] == {"batch": None}
    assert values["load"]["batch_result"]["error"] == "é" * 4000
    assert "Unknown model" not in get(PAGE).text


def test_a_task_with_many_runs_is_read_in_part(get):
    from airflow.utils.session import create_session

    from airflow_provider_atscale.ui import rows

    builds_data.store([told(number=number) for number in range(70)])
    with create_session() as session:
        pushed = rows.read_pushed(session, {"load"})
        assert len(pushed) == rows.PER_TASK
        newest = sorted(NOW - timedelta(hours=number) for number in range(70))[-rows.PER_TASK :]
        assert {each.values["batch_result"]["started"] for each in pushed} == {
            each.isoformat() for each in newest
        }
        events = rows.read_events(session, {"load"})
        assert sorted(each.timestamp for each in events) == newest


def test_500_models(get):
    builds_data.store(builds_data.builds(500, 20))
    answer = get(PAGE)
    assert answer.text.count("builds/model?") == 50
    assert "Page 1 of 10, 500 models" in answer.text
    assert len(answer.content) < 300_000
    began = time.process_time()
    assert get(f"{PAGE}?p=10").status_code == 200
    # Processor time, which other work on the machine does not change much: about a second.
    assert time.process_time() - began < 8
