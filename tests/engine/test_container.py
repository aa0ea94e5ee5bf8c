from __future__ import annotations

import re
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

import pytest

from airflow_provider_atscale.testing import AtScaleEngine

from .conftest import ContainerCaller

CAUSES = {
    400: "BadRequestException",
    401: "UnauthorizedException",
    403: "ForbiddenException",
    404: "NotFoundException",
    409: "ConflictException",
    500: "InternalServerErrorException",
}


def assert_refused(response, status):
    assert response.status_code == status
    body = response.json()
    assert body["statusCode"] == status
    assert body["error"]["cause"] == CAUSES[status]
    assert isinstance(body["message"], str)


def test_version_needs_no_authentication(container):
    response = container.call("GET", "/engine/version")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain")
    assert response.text == "C2026.5.1"


def test_catalogs(container):
    catalogs = container.catalogs().json()
    assert [c["caption"] for c in catalogs] == ["Sales Insights", "Finance"]
    assert set(catalogs[0]) == {"id", "name", "caption", "publishedAt", "publishedBy", "models"}
    assert [m["name"] for m in catalogs[0]["models"]] == ["internet_sales", "reseller_sales"]


def test_ids_are_the_same_in_every_engine(container):
    with AtScaleEngine() as other:
        assert other.model("internet_sales").id == container.model.id


def test_deployed_projects_need_a_jwt(container):
    path = "/wapi/p/projects/deployed"
    assert_refused(container.call("GET", path, container.engine.api_token), 401)
    rows = container.call("GET", path, container.jwt()).json()
    assert rows[0]["projects"][0]["models"][0]["id"] == container.model.id


@pytest.mark.parametrize(("full", "is_full"), [("true", True), ("false", False)])
def test_start(container, full, is_full):
    response = container.start(full, json={"gracePeriodOverrides": {"factinternetsales": 30}})
    assert response.status_code == 201
    body = response.json()
    assert body["success"] is True
    batch = body["batch"]
    created = datetime.strptime(batch.pop("createDate"), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    [record] = container.engine.batches
    assert abs(created.timestamp() - record.created) < 0.002
    assert batch == {
        "id": record.id,
        "catalogId": container.model.catalog_id,
        "modelId": container.model.id,
        "status": "new",
        "estimateTime": 30_000,
        "isFullBuild": is_full,
        "batchType": "aggregate_batch",
    }
    assert record.is_full_build is is_full
    assert record.grace_period_overrides == {"factinternetsales": 30}
    assert record.by == "api"


@pytest.mark.parametrize("full", [None, "", "True", "FALSE", "1", "yes"])
def test_start_needs_a_proper_kind(container, full):
    assert_refused(container.start(full), 400)
    assert container.engine.batches == []


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"x"',
        b'{"gracePeriodOverrides": [1]}',
        b'{"gracePeriodOverrides": {"a": "x"}}',
        b'{"gracePeriodOverrides": {"a": true}}',
    ],
)
def test_start_refuses_a_wrong_body(container, body):
    assert_refused(container.start(json=None, data=body), 400)


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_start_needs_no_overrides(container, body):
    assert container.start(json=None, data=body).status_code == 201


def test_start_refuses_unknown_ids(container):
    finance = container.engine.model("General Ledger")
    unknown = "00000000-0000-0000-0000-000000000000"
    for catalog, model in [
        (unknown, container.model.id),
        (container.model.catalog_id, unknown),
        (finance.catalog_id, container.model.id),
        ("sales_insights_main", "internet_sales"),
    ]:
        path = f"/v1/aggregates-batch/catalogs/{catalog}/models/{model}?isFullBuild=true"
        assert_refused(container.call("POST", path, container.engine.api_token, json={}), 404)


@pytest.mark.parametrize(("second", "status"), [("500", 500), (409, 409)])
def test_second_start_is_refused(container, second, status):
    container.engine.settings(on_second_start=second)
    container.start()
    assert_refused(container.start(), status)
    container.engine.advance(61)
    assert container.start().status_code == 201
    assert len(container.engine.batches) == 2


def test_second_start_can_be_allowed(container):
    container.engine.settings(on_second_start="allow")
    first = container.start().json()["batch"]["id"]
    container.start()
    assert [batch.overlapped_with for batch in container.engine.batches] == [[], [first]]


def test_models_dont_disturb_each_other(container):
    container.start()
    container.engine.start_batch("Sales Insights", "Reseller Sales")
    assert [batch.overlapped_with for batch in container.engine.batches] == [[], []]


def test_status_walk(container):
    batch_id = container.start().json()["batch"]["id"]
    walk = []
    for _ in range(4):
        [row] = container.history().json()["data"]
        assert row["id"] == batch_id
        walk.append((row["status"], "startTime" in row, "endTime" in row, row.get("sumOfInstanceBuildTimes")))
        container.engine.advance(20)
    assert walk == [
        ("new", False, False, None),
        ("inprogress", True, False, None),
        ("inprogress", True, False, None),
        ("done", True, True, "PT54S"),
    ]


def test_history_row_fields(container):
    container.start()
    container.engine.advance(61)
    [row] = container.history().json()["data"]
    assert set(row) == {
        "id",
        "status",
        "isFullBuild",
        "batchType",
        "createDate",
        "startTime",
        "endTime",
        "estimateTime",
        "sumOfInstanceBuildTimes",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["endTime"])


@pytest.mark.parametrize(
    ("style", "expected"),
    [("edition", "-"), ("absent", "-"), ("null", None), ("year1", "0001-01-01T00:00:00Z")],
)
def test_unset_times(container, style, expected):
    container.engine.settings(unset_times=style)
    container.start()
    [row] = container.history().json()["data"]
    assert row.get("endTime", "-") == expected


def test_status_words_can_be_spelled_otherwise(container):
    container.engine.settings(status_words={"new": "PENDING", "done": "success"})
    assert container.start().json()["batch"]["status"] == "PENDING"
    container.engine.advance(61)
    assert container.history().json()["data"][0]["status"] == "success"


def test_history_is_paged_newest_first(container):
    container.engine.settings(on_second_start="allow")
    ids = [container.engine.start_batch(None, "Internet Sales").id for _ in range(130)]
    container.engine.start_batch(None, "General Ledger")
    newest_first = ids[::-1]
    for params, expected in [
        ({}, newest_first[:10]),
        ({"limit": 5, "page": 2}, newest_first[5:10]),
        ({"limit": 1000}, newest_first[:101]),
        ({"limit": 100, "page": 2}, newest_first[100:]),
        ({"limit": 100, "page": 3}, []),
    ]:
        body = container.history(**params).json()
        assert [row["id"] for row in body["data"]] == expected
        assert body["total"] == 130
    assert_refused(container.history(limit="many"), 400)


def test_history_can_be_late(container):
    container.engine.settings(history_delay=30)
    container.start()
    assert container.history().json() == {"data": [], "total": 0}
    container.engine.advance(31)
    assert container.history().json()["total"] == 1


@pytest.mark.parametrize(("mode", "status"), [("unauthorized", 401), ("forbidden", 403), ("missing", 404)])
def test_history_can_be_refused(container, mode, status):
    container.engine.settings(history_mode=mode)
    assert_refused(container.history(), status)


@pytest.mark.parametrize("right", ["can_manage", "can_view"])
def test_rights(container, right):
    container.engine.settings(**{right: False})
    refused = {
        "can_manage": [container.start],
        "can_view": [container.history, container.instances],
    }
    for name, calls in refused.items():
        for call in calls:
            assert (call().status_code == 403) is (name == right)


def test_instances_while_building(container):
    batch_id = container.start().json()["batch"]["id"]
    assert {row["status"] for row in container.instances(batchId=batch_id).json()["data"]} == {"pending"}
    container.engine.advance(6 + 9 * 2 + 1)
    statuses = [row["status"] for row in container.instances(batchId=batch_id).json()["data"]]
    assert statuses == ["active"] * 2 + ["inprogress"] + ["pending"] * 3
    container.engine.advance(60)
    rows = container.instances(batchId=batch_id).json()["data"]
    assert {row["status"] for row in rows} == {"active"}
    assert set(rows[0]) == {
        "id",
        "status",
        "message",
        "tableName",
        "tableSchema",
        "batchId",
        "stats",
        "buildQueryId",
        "catalogId",
        "modelId",
        "definitionId",
        "connectionId",
    }
    assert rows[0]["stats"]["buildDuration"] == 9000
    assert rows[0]["stats"]["numberOfRows"] > 0


@pytest.mark.parametrize(
    ("paging", "params", "count", "others"),
    [
        ("edition", {}, 10, {"total": 25, "size": 10, "page": 1, "offset": 0}),
        ("normal", {}, 10, {"total": 25, "size": 10, "page": 1, "offset": 0}),
        ("normal", {"page": 3}, 5, {"total": 25, "size": 10, "page": 3, "offset": 20}),
        ("normal", {"page": 4}, 0, {"total": 25, "size": 10, "page": 4, "offset": 30}),
        ("normal", {"size": 500}, 25, {"total": 25, "size": 101, "page": 1, "offset": 0}),
        ("ignored", {"page": 3, "size": 20}, 10, {}),
        ("none", {}, 25, {}),
    ],
)
def test_instances_paging(container, paging, params, count, others):
    engine = container.engine
    engine.add_model("Finance", "wide", aggregates=25)
    batch = engine.start_batch("Finance", "wide")
    engine.settings(instances_paging=paging)
    body = container.instances(batchId=batch.id, **params).json()
    assert len(body.pop("data")) == count
    assert body == others


def test_instances_filters(container):
    first = container.engine.start_batch(None, "Internet Sales")
    container.engine.start_batch(None, "General Ledger")
    assert container.instances().json()["total"] == 12
    assert container.instances(modelId=first.model_id).json()["total"] == 6
    assert container.instances(batchId=first.id, catalogId=first.catalog_id).json()["total"] == 6
    assert container.instances(batchId="unknown").json()["total"] == 0
    assert container.instances(batchId=first.id, status="pending").json()["total"] == 6
    assert container.instances(batchId=first.id, status="active").json()["total"] == 0
    assert_refused(container.instances(status="failed"), 400)


@pytest.mark.parametrize(("instances_filter", "count"), [("normal", 6), ("ignored", 12)])
@pytest.mark.parametrize("named", ["edition", "absent", "present"])
def test_instances_of_which_batch(container, instances_filter, count, named):
    engine = container.engine
    batches = [engine.start_batch(None, model).id for model in ("Internet Sales", "General Ledger")]
    engine.settings(instances_filter=instances_filter, instances_batch_id=named)
    rows = container.instances(batchId=batches[0], size=100).json()["data"]
    assert len(rows) == count
    assert {row.get("batchId") for row in rows} <= ({None} if named == "absent" else {*batches})


def test_model_without_aggregates_is_done_at_once(container):
    container.engine.add_model("Finance", "empty", aggregates=0)
    batch = container.engine.start_batch("Finance", "empty")
    assert batch.status == "done"
    assert container.instances(batchId=batch.id).json()["total"] == 0


@pytest.mark.parametrize("status", ["failed", "cancelled", "error", "invalid", "done", "anything"])
def test_scripted_end(container, status):
    container.engine.fail_next("Internet Sales", status, failed_aggregates=2, message="no space")
    batch_id = container.start().json()["batch"]["id"]
    container.engine.advance(61)
    assert container.history().json()["data"][0]["status"] == status
    rows = container.instances(batchId=batch_id).json()["data"]
    assert [row["status"] for row in rows] == ["active"] * 4 + ["failed"] * 2
    assert rows[-1]["message"] == "no space"
    assert container.engine.batches[0].failed_aggregates == 2


def test_failing_models_and_aggregates(container):
    container.engine.settings(failing_models={"Internet Sales": "failed"}, failed_aggregates=1)
    container.engine.start_batch(None, "Internet Sales")
    container.engine.start_batch(None, "General Ledger")
    container.engine.advance(61)
    # AtScale's aggregates.batch.max.failures is 0 by default, so one missing aggregate fails any batch.
    assert [(b.status, b.failed_aggregates) for b in container.engine.batches] == [("failed", 1), ("failed", 1)]


@pytest.mark.parametrize(
    ("status", "instances"),
    [
        ("cancelled", ["active", "active", "cancelled", "cancelled", "cancelled", "failed"]),
        ("failed", ["active"] * 5 + ["failed"]),
        ("done", ["active"] * 5 + ["failed"]),
    ],
)
def test_end_by_hand(container, status, instances):
    batch = container.engine.start_batch(None, "Internet Sales")
    container.engine.advance(6 + 9 * 2 + 1)
    ended = container.engine.end_batch(batch.id, status, failed_aggregates=1)
    assert (ended.status, ended.failed_aggregates) == (status, 1)
    assert [row["status"] for row in container.instances(batchId=batch.id).json()["data"]] == instances
    with pytest.raises(ValueError, match="already ended"):
        container.engine.end_batch(batch.id)


def test_date_header_is_the_servers_clock(container):
    container.engine.settings(clock_offset=-7200)
    response = container.catalogs()
    behind = datetime.now(timezone.utc) - parsedate_to_datetime(response.headers["Date"])
    assert 7199 < behind.total_seconds() < 7205


@pytest.mark.parametrize("path", ["/v1/nothing", "/wapi/p/aggregate", "/v1/aggregates/instances/"])
def test_unknown_path(container, path):
    assert_refused(container.call("GET", path, container.engine.api_token), 404)


def test_wrong_method(container):
    assert_refused(container.call("GET", container.start_path(), container.engine.api_token), 404)


def test_prefix_and_realm_can_differ():
    with AtScaleEngine(api_prefix="/v1/public", realm="other") as engine:
        caller = ContainerCaller(engine)
        assert caller.call("GET", "/v1/public/catalogs", engine.api_token).status_code == 200
        assert caller.call("GET", "/v1/catalogs", engine.api_token).status_code == 404
        form = {"client_id": "atscale-ai-link", "grant_type": "password"}
        form |= {"username": engine.login, "password": engine.password}
        assert caller.keycloak("other", **form).status_code == 200
        assert caller.keycloak("atscale", **form).status_code == 404
        assert engine.connection()["extra"] == {
            "edition": "container",
            "realm": "other",
            "api_prefix": "/v1/public",
            "build_history_url": f"{engine.url}/_engine/history?batchId={{batch_id}}",
        }


@pytest.mark.parametrize(
    ("auth", "login", "password"),
    [
        ("auto", None, "local-engine-api-token"),
        ("api_token", None, "local-engine-api-token"),
        ("password", "etl", "local-engine-password"),
    ],
)
def test_connection(container, auth, login, password):
    connection = container.engine.connection(auth, timeout=3)
    assert connection["conn_type"] == "atscale"
    assert connection["host"] == container.engine.url
    assert connection.get("login") == login
    assert connection["password"] == password
    assert connection["extra"] == {
        "edition": "container",
        **({} if auth == "auto" else {"auth_type": auth}),
        "timeout": 3,
        "build_history_url": f"{container.engine.url}/_engine/history?batchId={{batch_id}}",
    }
    with pytest.raises(ValueError, match="client_api_key"):
        container.engine.connection("client_api_key")


def test_wrong_settings_change_nothing(container):
    for wrong in [{"nothing": 1}, {"history_mode": "odd"}, {"start_forms": ["odd"]}]:
        with pytest.raises(ValueError, match=r"nothing|odd"):
            container.engine.settings(build_seconds=1, **wrong)
    assert container.engine.current.build_seconds == 60


def test_names_must_be_unique_to_be_found(container):
    engine = container.engine
    engine.add_model("Finance", "internet_sales")
    with pytest.raises(ValueError, match="2 models"):
        engine.model("internet_sales")
    assert engine.model("internet_sales", "Finance").catalog_id != container.model.catalog_id
    with pytest.raises(ValueError, match="0 catalogs"):
        engine.add_model("Nowhere", "x")
    with pytest.raises(ValueError, match="already"):
        engine.add_catalog("finance_main")
