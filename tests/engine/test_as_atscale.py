"""What AtScale is known to do, or may do, and the setting of the engine that does it."""

from __future__ import annotations

import json

import pytest

from airflow_provider_atscale.testing import AtScaleEngine

from .conftest import ContainerCaller, InstallerCaller

CALLERS = {"container": ContainerCaller, "installer": InstallerCaller}


@pytest.fixture(params=list(CALLERS))
def caller(request):
    with AtScaleEngine(request.param, build_seconds=60, on_second_start="allow") as engine:
        yield CALLERS[request.param](engine)


def is_container(caller):
    return isinstance(caller, ContainerCaller)


def rows_of(caller, **params):
    body = caller.instances(**params).json()
    return body["data"] if is_container(caller) else body["response"]["data"]


def instances(caller, batch, **params):
    """Return (aggregate's number, status) of a batch's instances."""
    size = {"size": 100} if is_container(caller) else {}
    rows = rows_of(caller, batchId=batch.id, **size, **params)
    numbers = {aggregate.id: number for number, aggregate in enumerate(caller.model.aggregates)}
    key = "definitionId" if is_container(caller) else "definition_id"
    return [(numbers[row[key]], row["status"]) for row in rows]


def definitions(caller, **params):
    if is_container(caller):
        return caller.call("GET", "/v1/aggregates", caller.engine.api_token, params=params).json()["data"]
    return caller.engine_call("GET", "/aggregates/orgId/default", params=params).json()["response"]["data"]


def build(caller, seconds=61, **arguments):
    batch = caller.engine.start_batch(None, "Internet Sales", **arguments)
    caller.engine.advance(seconds)
    return batch


# ---- retries inside a batch


@pytest.mark.parametrize(
    ("rows", "failed", "repaired", "expected"),
    [
        ("same", 1, 2, [(n, "active") for n in range(5)] + [(5, "failed")]),
        (
            "new",
            1,
            2,
            [(0, "active"), (1, "active"), (2, "active")]
            + [(3, "failed"), (3, "active"), (4, "failed"), (4, "active")]
            + [(5, "failed")] * 3,
        ),
        # Five retries are left for the batch: two, two and one.
        ("new", 4, 0, [(0, "active"), (1, "active")] + [(n, "failed") for n in (2, 2, 2, 3, 3, 3, 4, 4, 5)]),
    ],
)
def test_retries_inside_a_batch(caller, rows, failed, repaired, expected):
    caller.engine.settings(retry_rows=rows)
    caller.engine.fail_next("Internet Sales", "done", failed, repaired_aggregates=repaired)
    batch = build(caller)
    assert instances(caller, batch) == expected


def test_each_attempt_has_ids_and_times_of_its_own(caller):
    caller.engine.settings(retry_rows="new", repaired_aggregates=1)
    batch = build(caller)
    stats = ("materializationStartTime", "materializationEndTime", "buildQueryId")
    if not is_container(caller):
        stats = ("materialization_start_time", "materialization_end_time", "build_query_id")
    *_, first, second = rows_of(caller, batchId=batch.id)
    assert (first["status"], second["status"]) == ("failed", "active")
    assert first["id"] != second["id"]
    assert first[stats[2]] != second[stats[2]]
    assert first["stats"][stats[0]] < first["stats"][stats[1]] <= second["stats"][stats[0]]


def test_an_attempt_has_no_row_before_it_begins(caller):
    caller.engine.settings(retry_rows="new", attempts_per_aggregate=2)
    caller.engine.fail_next("Internet Sales", failed_aggregates=6)
    batch = caller.engine.start_batch(None, "Internet Sales")
    caller.engine.advance(6 + 5)  # the first aggregate takes nine seconds, for both attempts
    assert instances(caller, batch)[:3] == [(0, "failed"), (0, "inprogress"), (1, "pending")]


# ---- failures that fail the batch


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"failed_aggregates": 0}, "done"),
        ({"failed_aggregates": 1}, "failed"),
        ({"failed_aggregates": 2, "max_failures": 1}, "failed"),
        ({"failed_aggregates": 2, "max_failures": 2}, "done"),
        ({"failed_aggregates": 6, "max_failures": None}, "done"),
        ({"repaired_aggregates": 6}, "done"),
    ],
)
def test_max_failures(caller, settings, status):
    caller.engine.settings(**settings)
    build(caller)
    assert caller.engine.batches[0].status == status


def test_a_scripted_end_goes_before_max_failures(caller):
    caller.engine.fail_next("Internet Sales", "done", failed_aggregates=2)
    build(caller)
    assert (caller.engine.batches[0].status, caller.engine.batches[0].failed_aggregates) == ("done", 2)


# ---- superseded instances


def test_a_full_build_supersedes_instances(caller):
    old = build(caller)
    caller.engine.fail_next("Internet Sales", failed_aggregates=1)
    new = build(caller, is_full_build=True)
    # What the full build could not build goes on serving queries.
    assert instances(caller, old) == [(n, "deleted") for n in range(5)] + [(5, "active")]
    assert instances(caller, new) == [(n, "active") for n in range(5)] + [(5, "failed")]
    assert instances(caller, old, status="deleted") == [(n, "deleted") for n in range(5)]


@pytest.mark.parametrize(
    ("full", "seconds", "settings"),
    [
        pytest.param(False, 61, {}, id="an incremental build"),
        pytest.param(True, 1, {}, id="a full build that has built nothing yet"),
        pytest.param(True, 61, {"superseded_instances": "kept"}, id="by the setting"),
    ],
)
def test_instances_are_kept(caller, full, seconds, settings):
    caller.engine.settings(**settings)
    old = build(caller)
    build(caller, seconds, is_full_build=full)
    assert instances(caller, old) == [(n, "active") for n in range(6)]


# ---- incremental builds by API


@pytest.mark.parametrize(
    ("mode", "full", "status", "built"),
    [
        ("allowed", "false", 201, [(False, {"f": 1})]),
        ("allowed", "true", 201, [(True, {"f": 1})]),
        ("refused", "false", 400, []),
        ("refused", "true", 201, [(True, {"f": 1})]),
        ("ignored", "false", 201, [(True, {})]),
        ("ignored", "true", 201, [(True, {})]),
    ],
)
def test_incremental_by_api(container, mode, full, status, built):
    container.engine.settings(incremental_by_api=mode)
    response = container.start(full, json={"gracePeriodOverrides": {"f": 1}})
    assert response.status_code == status
    assert [(b.is_full_build, b.grace_period_overrides) for b in container.engine.batches] == built
    if built:
        assert response.json()["batch"]["isFullBuild"] is built[0][0]
        assert container.history().json()["data"][0]["isFullBuild"] is built[0][0]


# ---- estimates


@pytest.mark.parametrize(("factor", "estimate"), [(None, 30_000), (0, 0), (1, 60_000), (20, 1_200_000)])
def test_the_estimate_is_wrong(caller, factor, estimate):
    if factor is not None:
        caller.engine.settings(estimate_factor=factor)
    caller.start()
    rows = caller.history().json()
    [row] = rows["data"] if is_container(caller) else rows["response"]["data"]
    assert row["estimateTime"] == estimate
    caller.engine.advance(61)
    rows = caller.history().json()
    [row] = rows["data"] if is_container(caller) else rows["response"]["data"]
    assert row["estimateTime"] == 0


# ---- lists of aggregates


def test_definitions(caller):
    caller.engine.settings(definitions_paging="normal", retry_rows="new")
    caller.engine.fail_next("Internet Sales", "done", failed_aggregates=1, repaired_aggregates=1)
    build(caller)
    model = caller.model
    names = {"id": "catalogId", "model": "modelId", "latest": "latestInstance", "active": "activeInstance"}
    if not is_container(caller):
        names = {
            "id": "project_id",
            "model": "cube_id",
            "latest": "latest_instance",
            "active": "active_instance",
        }
    which = {"modelId": model.id} if is_container(caller) else {"cubeId": model.id}
    rows = definitions(caller, **which)
    assert [row["id"] for row in rows] == [aggregate.id for aggregate in model.aggregates]
    assert {(row[names["id"]], row[names["model"]]) for row in rows} == {(model.catalog_id, model.id)}
    assert [row[names["latest"]]["status"] for row in rows] == ["active"] * 5 + ["failed"]
    assert [names["active"] in row for row in rows] == [True] * 5 + [False]


@pytest.mark.parametrize(
    ("params", "count"),
    [
        ({}, 6),
        ({"status": "active"}, 5),
        ({"status": "invalid"}, 1),
        ({"status": "pending"}, 0),
        ({"subtype": "demand_defined"}, 6),
        ({"subtype": "manual"}, 0),
    ],
)
def test_definitions_are_filtered(caller, params, count):
    caller.engine.fail_next("Internet Sales", "done", failed_aggregates=1)
    build(caller)
    which = {"modelId" if is_container(caller) else "cubeId": caller.model.id}
    assert len(definitions(caller, **which, **params)) == count
    assert [row["id"] for row in definitions(caller, id=caller.model.aggregates[2].id)] == [
        caller.model.aggregates[2].id
    ]


@pytest.mark.parametrize(
    ("edition", "paging", "params", "count", "has_total"),
    [
        ("container", "edition", {"size": 3}, 10, False),
        ("container", "normal", {"size": 3, "page": 7}, 3, True),
        ("container", "normal", {"size": 3, "page": 8}, 1, True),
        ("installer", "edition", {"limit": 12}, 12, False),
        ("installer", "edition", {}, 10, False),
        ("installer", "ignored", {"limit": 12}, 10, False),
    ],
)
def test_paging_of_definitions(edition, paging, params, count, has_total):
    with AtScaleEngine(edition, definitions_paging=paging) as engine:
        engine.add_model("Finance", "small", aggregates=4)  # with the three others that makes 22
        caller = CALLERS[edition](engine)
        if edition == "container":
            body = caller.call("GET", "/v1/aggregates", engine.api_token, params=params).json()
        else:
            body = caller.engine_call("GET", "/aggregates/orgId/default", params=params).json()["response"]
        assert len(body["data"]) == count
        assert ("total" in body) is has_total


@pytest.mark.parametrize("params", [{"status": "failed"}, {"subtype": "odd"}])
def test_the_container_refuses_unknown_filters(container, params):
    response = container.call("GET", "/v1/aggregates", container.engine.api_token, params=params)
    assert response.status_code == 400


# ---- time filters


@pytest.mark.parametrize(
    ("start", "end", "numbers"),
    [
        (None, None, [0, 1, 2, 3, 4, 5]),
        (15, None, [1, 2, 3, 4, 5]),
        (None, 33, [0, 1, 2]),
        (15, 33, [1, 2]),
        (100, None, []),
    ],
)
def test_instances_of_a_time(caller, start, end, numbers):
    """Building begins after six seconds, and each aggregate takes nine."""
    batch = build(caller, 120)
    created = int(caller.engine.batches[0].created) + 1

    def written(seconds):
        from datetime import datetime, timezone

        moment = datetime.fromtimestamp(created + seconds, tz=timezone.utc)
        # The installer edition documents times without an offset.
        return moment.strftime("%Y-%m-%dT%H:%M:%S" + ("Z" if is_container(caller) else ""))

    given = {"startTime": start, "endTime": end}
    params = {
        name: written(value - 1 if name == "startTime" else value)
        for name, value in given.items()
        if value is not None
    }
    assert [number for number, _ in instances(caller, batch, **params)] == numbers


def test_a_time_must_be_one(caller):
    assert caller.instances(startTime="yesterday").status_code == 400


# ---- words of the answers


@pytest.mark.parametrize(("newline", "end"), [(False, ""), (True, "\n")])
def test_login_answer(installer, newline, end):
    installer.engine.settings(login_newline=newline)
    text = installer.login().text
    assert text == text.strip() + end


@pytest.mark.parametrize("form", ["project_id", "literal", "environment"])
def test_start_status_can_be_set(installer, form):
    installer.engine.settings(start_status=202)
    assert installer.start(form).status_code == 202


def test_installer_envelopes(installer):
    design_center = installer.call("GET", "/api/1.0/orgs", installer.jwt()).json()
    assert design_center["status"] == {"i18n_message": "response.ok", "message": "OK"}
    for path in ("/aggregates/orgId/default/instances", "/aggregates/orgId/default"):
        body = installer.engine_call("GET", path).json()
        assert body["status"] == {"code": 0, "message": "200 OK"}
        assert set(body) == {"status", "responseCreated", "response"}


@pytest.mark.parametrize(
    ("method", "path", "told"),
    [
        ("POST", "/v1/catalogs/deploy", "Cannot POST /v1/public/catalogs/deploy"),
        ("GET", "/v1/public/x", "Cannot GET /v1/public/x"),
        ("GET", "/wapi/p/x", "Cannot GET /wapi/p/x"),
    ],
)
def test_a_404_names_the_inner_route(container, method, path, told):
    response = container.call(method, path)
    assert (response.status_code, response.json()["message"]) == (404, told)


@pytest.mark.parametrize(
    ("full", "told"),
    [
        (None, "Validation failed. isFullBuild: Expected boolean, received undefined"),
        ("yes", "Validation failed. isFullBuild: Expected boolean, received string"),
    ],
)
def test_a_400_is_one_string(container, full, told):
    body = container.start(full).json()
    assert body == {"statusCode": 400, "message": told, "error": {"cause": "BadRequestException"}}


@pytest.mark.parametrize(("edition", "is_installer"), [("container", False), ("installer", True)])
def test_atscales_client_reads_the_edition_from_the_version(edition, is_installer):
    """AI-Link takes a version that starts with 202 for the installer edition, any other for the container."""
    with AtScaleEngine(edition) as engine:
        caller = CALLERS[edition](engine)
        path = "/engine/version" if edition == "container" else "/version"
        text = caller.call("GET", path, role=None if edition == "container" else "engine").text
    assert text.startswith("202") is is_installer


def test_the_login_page_names_the_organizations(installer):
    text = installer.call("GET", "/login").text
    assert json.loads(text[text.index("[") : text.rindex("]") + 1])[0]["id"] == "default"
