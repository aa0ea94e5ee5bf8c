from __future__ import annotations

import pytest

from airflow_provider_atscale.testing import AtScaleEngine

NOTHING = "0001-01-01T00:00:00Z"


def assert_refused(response, status):
    assert response.status_code == status
    body = response.json()
    assert set(body["status"]) == {"message", "i18n_message"}
    assert isinstance(body["response"]["message"], str)


def test_login(installer):
    response = installer.login()
    assert response.headers["Content-Type"].startswith("text/plain")
    assert response.text.strip().count(".") == 2
    assert installer.engine.stats.token_exchanges == 1


@pytest.mark.parametrize(
    ("changes", "status"), [({"login": "x"}, 401), ({"password": "x"}, 401), ({"org": "x"}, 404)]
)
def test_login_refused(installer, changes, status):
    assert_refused(installer.login(**changes), status)


@pytest.mark.parametrize("header", [None, "Basic", "Basic ???", "Bearer x"])
def test_login_needs_basic(installer, header):
    headers = {"Authorization": header} if header else {}
    # The session must not read credentials from anywhere else.
    assert_refused(installer.call("GET", "/default/auth", headers=headers), 401)


def test_the_ports_differ(installer):
    urls = installer.engine.urls
    assert urls["design_center"] != urls["engine"]
    assert_refused(installer.call("GET", "/version"), 404)
    assert installer.call("GET", "/version", role="engine").text.startswith("2024.2.1")
    assert installer.call("GET", "/default/auth", role="engine").status_code == 404
    ports = [request.port for request in installer.engine.requests]
    assert ports == ["design_center", "engine", "engine"]


@pytest.mark.parametrize(
    ("headers", "ok"),
    [
        ({"client-api-key": "local-engine-client-api-key"}, True),
        ({"client-api-key": "wrong"}, False),
        ({"Authorization": "Bearer local-engine-api-token"}, True),
        ({"Authorization": "Bearer wrong"}, False),
        ({}, False),
    ],
)
def test_what_opens_the_engine(installer, headers, ok):
    path = "/projects/published/orgId/default"
    response = installer.call("GET", path, role="engine", headers=headers)
    assert response.status_code == (200 if ok else 401)


def test_session_and_organizations(installer):
    jwt = installer.jwt()
    session = installer.call("GET", "/api/1.0/sessiontoken", jwt).json()["response"]
    assert session["user_id"] == "etl"
    assert set(session) == {"user_id", "generated_at"}
    assert installer.call("GET", "/api/1.0/orgs", jwt).json()["response"] == [
        {"id": "default", "name": "default"}
    ]


def test_published_projects(installer):
    rows = installer.engine_call("GET", "/projects/published/orgId/default").json()["response"]
    sales = [row for row in rows if row["name"] == "Sales Insights"]
    assert len({row["id"] for row in sales}) == 3
    usable = [row for row in sales if row["publishType"] == "normal_publish"]
    assert len(usable) == 2
    newest = max(usable, key=lambda row: row["publishedAt"])
    assert newest["id"] == installer.model.catalog_id
    assert newest["cubes"][0] == {
        "id": installer.model.id,
        "name": "internet_sales",
        "caption": "Internet Sales",
    }
    assert newest["linkedProjectId"] not in {row["id"] for row in rows}
    for row in sales:
        path = f"/aggregate-batch/orgId/default/projectId/{row['id']}?cubeId={installer.model.id}"
        status = 201 if row is newest else 404
        assert installer.engine_call("POST", path).status_code == status


def test_old_projects_list(installer):
    path = "/projects/orgId/default/envId/prod"
    projects = installer.engine_call("GET", path + "?includeCubes=true").json()["response"]["projects"]
    assert projects[0]["cubes"][0] == {"id": installer.model.id, "name": "Internet Sales"}
    assert "cubes" not in installer.engine_call("GET", path).json()["response"]["projects"][0]


@pytest.mark.parametrize("form", ["project_id", "literal", "environment"])
def test_start_forms(installer, form):
    engine = installer.engine
    engine.settings(start_forms=[form])
    for tried in ("project_id", "literal", "environment"):
        response = installer.start(tried)
        if tried == form:
            # The script of AtScale that sends the oldest form accepts 200 alone.
            assert response.status_code == (200 if form == "environment" else 201)
            assert response.json() == {"batch": {"id": engine.batches[0].id, "status": "new"}}
        else:
            assert_refused(response, 404)
    assert [request.route for request in engine.requests if request.method == "POST"] == ["start"] * 3


@pytest.mark.parametrize(
    ("form", "full", "kind"),
    [
        ("project_id", "true", True),
        ("project_id", "false", False),
        ("project_id", None, False),
        ("literal", "true", True),
        ("environment", None, False),
    ],
)
def test_kind_of_build(installer, form, full, kind):
    assert installer.start(form, **({"isFullBuild": full} if full else {})).ok
    assert installer.engine.batches[0].is_full_build is kind


def test_shape_of_the_start_answer(installer):
    installer.engine.settings(start_status=200, batch_envelope="response")
    response = installer.start()
    assert response.status_code == 200
    assert response.json()["response"]["batch"]["id"] == installer.engine.batches[0].id
    assert set(response.json()["status"]) == {"i18n_message", "message"}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/aggregate-batch/orgId/default/projectId/{project}", 400),
        ("/aggregate-batch/orgId/default/projectId/{project}?cubeID={cube}", 400),
        ("/aggregate-batch/default/{project}?cubeId={cube}", 400),
        ("/aggregate-batch/orgId/default/projectId/{project}?cubeId={cube}&isFullBuild=yes", 400),
        ("/aggregate-batch/orgId/default/projectId/{project}?cubeId=unknown", 404),
        ("/aggregate-batch/orgId/other/projectId/{project}?cubeId={cube}", 404),
        ("/aggregate-batch/orgId/default/envId/other/{project}?cubeId={cube}", 404),
    ],
)
def test_wrong_start(installer, path, status):
    model = installer.model
    assert_refused(installer.engine_call("POST", path.format(project=model.catalog_id, cube=model.id)), status)


@pytest.mark.parametrize(("second", "status"), [("500", 500), ("409", 409)])
def test_second_start(installer, second, status):
    installer.engine.settings(on_second_start=second)
    installer.start()
    assert_refused(installer.start(), status)
    installer.engine.settings(on_second_start="allow")
    assert installer.start().ok


def test_history(installer):
    model = installer.model
    installer.start()
    installer.engine.start_batch(None, "General Ledger")
    body = installer.history(projectId=model.catalog_id, cubeId=model.id, limit=5).json()
    assert set(body["status"]) == {"i18n_message", "message"}
    response = body["response"]
    [row] = response.pop("data")
    assert response == {"limit": 5, "offset": 0, "force_pull": False}
    created = row.pop("createDate")
    assert created.endswith("Z")
    assert row == {
        "id": installer.engine.batches[0].id,
        "organizationId": "default",
        "projectId": model.catalog_id,
        "cubeId": model.id,
        "batchType": "aggregate_batch",
        "startTime": NOTHING,
        "endTime": NOTHING,
        "estimateTime": 30_000,
        "isFullBuild": False,
        "status": "new",
    }
    installer.engine.advance(61)
    row = installer.history(cubeId=model.id).json()["response"]["data"][0]
    assert row["status"] == "done"
    assert row["sumOfInstanceBuildTimes"] == "PT54S"
    assert NOTHING not in (row["startTime"], row["endTime"])


def test_history_paging(installer):
    installer.engine.settings(on_second_start="allow")
    ids = [installer.engine.start_batch(None, "Internet Sales").id for _ in range(120)][::-1]
    for params, expected in [
        ({}, ids[:10]),
        ({"limit": 3, "offset": 2}, ids[2:5]),
        ({"limit": 500}, ids[:101]),
        ({"limit": 100, "offset": 200}, []),
    ]:
        assert [row["id"] for row in installer.history(**params).json()["response"]["data"]] == expected


def test_latest_batches(installer):
    path = "/aggregate-batch/orgId/default/envId/prod"
    assert installer.engine_call("GET", path).json()["response"] == {"batches": []}
    installer.start()
    installer.engine.advance(61)
    installer.start()
    installer.engine.advance(30)
    [row] = installer.engine_call("GET", path).json()["response"]["batches"]
    assert (row["projectId"], row["cubeId"]) == (installer.model.catalog_id, installer.model.id)
    assert row["batch"] == {
        "id": installer.engine.batches[1].id,
        "status": "inprogress",
        "progressPercentage": 50,
    }


@pytest.mark.parametrize(("mode", "status"), [("unauthorized", 401), ("forbidden", 403), ("missing", 404)])
def test_history_can_be_refused(installer, mode, status):
    installer.engine.settings(history_mode=mode)
    assert_refused(installer.history(), status)
    # Without the newer history, the old list is what remains.
    old = installer.engine_call("GET", "/aggregate-batch/orgId/default/envId/prod")
    assert old.status_code == (200 if mode == "missing" else status)


def test_instances(installer):
    installer.engine.fail_next("Internet Sales", "done", failed_aggregates=1)
    installer.start()
    installer.engine.advance(61)
    batch = installer.engine.batches[0]
    path = f"/aggregates/orgId/default/instances?batchId={batch.id}"
    body = installer.engine_call("GET", path).json()
    assert set(body["status"]) == {"code", "message"}
    rows = body["response"]["data"]
    assert [row["status"] for row in rows] == ["active"] * 5 + ["failed"]
    assert "batch_id" not in rows[0]
    assert rows[0]["table_schema"] == "atscale_aggregates"
    assert rows[0]["stats"]["build_duration"] == 9000
    active = installer.engine_call("GET", path + "&status=active").json()["response"]["data"]
    assert len(active) == 5
    installer.engine.settings(can_view=False)
    assert_refused(installer.engine_call("GET", path), 403)


@pytest.mark.parametrize(
    ("paging", "params", "count", "others"),
    [
        ("edition", {"limit": 5}, 25, {}),
        ("none", {"limit": 5}, 25, {}),
        ("normal", {}, 10, {"limit": 10, "offset": 0}),
        ("normal", {"limit": 20, "offset": 20}, 5, {"limit": 20, "offset": 20}),
        ("normal", {"limit": 500}, 25, {"limit": 101, "offset": 0}),
        ("ignored", {"limit": 20, "offset": 20}, 10, {}),
    ],
)
def test_instances_paging(installer, paging, params, count, others):
    engine = installer.engine
    engine.add_model("Finance", "wide", aggregates=25)
    batch = engine.start_batch("Finance", "wide")
    engine.settings(instances_paging=paging)
    response = installer.instances(batchId=batch.id, **params).json()["response"]
    assert len(response.pop("data")) == count
    assert response == others


@pytest.mark.parametrize(("instances_filter", "count"), [("normal", 6), ("ignored", 12)])
@pytest.mark.parametrize("named", ["edition", "absent", "present"])
def test_instances_of_which_batch(installer, instances_filter, count, named):
    engine = installer.engine
    batches = [engine.start_batch(None, model).id for model in ("Internet Sales", "General Ledger")]
    engine.settings(instances_filter=instances_filter, instances_batch_id=named)
    rows = installer.instances(batchId=batches[0]).json()["response"]["data"]
    assert len(rows) == count
    assert {row.get("batch_id") for row in rows} <= ({*batches} if named == "present" else {None})


def test_rights(installer):
    installer.engine.settings(can_manage=False)
    assert_refused(installer.start(), 403)


@pytest.mark.parametrize(
    ("auth", "login", "password"),
    [
        ("auto", "etl", "local-engine-password"),
        ("password", "etl", "local-engine-password"),
        ("api_token", None, "local-engine-api-token"),
        ("client_api_key", None, "local-engine-client-api-key"),
    ],
)
def test_connection(installer, auth, login, password):
    connection = installer.engine.connection(auth)
    urls = installer.engine.urls
    assert (connection.get("login"), connection["password"]) == (login, password)
    assert connection["host"] == urls["design_center"]
    assert connection["extra"] == {
        "edition": "installer",
        **({} if auth == "auto" else {"auth_type": auth}),
        "organization": "default",
        "environment": "prod",
        "design_center_url": urls["design_center"],
        "engine_url": urls["engine"],
        "build_history_url": f"{urls['design_center']}/_engine/history?batchId={{batch_id}}",
    }


def test_expired_token(installer):
    jwt = installer.jwt()
    path = "/projects/published/orgId/default"
    assert installer.engine_call("GET", path, jwt).ok
    installer.engine.expire_tokens()
    assert_refused(installer.engine_call("GET", path, jwt), 401)


def test_unknown_edition():
    with pytest.raises(ValueError, match="cloud"):
        AtScaleEngine("cloud")
    with AtScaleEngine("installer") as engine, pytest.raises(ValueError, match="kerberos"):
        engine.connection("kerberos")
