"""Every request that the package sends is in the table of calls, and every call of the table is sent."""

from __future__ import annotations

import ast
import contextlib
import re
from collections import Counter
from pathlib import Path

import pytest

from airflow_provider_atscale import api
from airflow_provider_atscale.api import calls, installer_start
from airflow_provider_atscale.api.calls import CALLS, HIGH, LOW, MEDIUM, Call
from airflow_provider_atscale.client.editions import make_edition
from airflow_provider_atscale.client.settings import parse_connection
from airflow_provider_atscale.exceptions import AtScaleError

from .flows import BATCH_ID, NOW, REF, Journal, connection, jwt, perform, reply

FOLDER = Path(api.__file__).parent


@pytest.fixture(autouse=True)
def new_process():
    installer_start.known_variants.clear()


def call_of(request, edition: str, prefix: str = "/v1") -> list[Call]:
    """Return the calls of the table that a request can be."""
    path = "/" + request.url.split("://", 1)[1].partition("/")[2]
    found = []
    for call in CALLS:
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(call.path.replace("{prefix}", prefix)))
        if (call.edition, call.method) == (edition, request.method) and re.fullmatch(pattern, path):
            found.append(call)
    return found


def sent_by(edition: str, answer, **fields) -> list:
    """Return what all calls of an edition send if every answer is the same one, tokens apart."""
    journal = Journal()

    def serve(request):
        if request.url.endswith(("/token", "/default/auth")):
            token = jwt()
            return reply(token if request.method == "GET" else {"accessToken": token, "access_token": token})
        return answer

    def run(make):
        with contextlib.suppress(AtScaleError):
            perform(make(), serve, journal)

    of = make_edition(parse_connection(connection(edition=edition, **fields)), lambda: NOW)
    for make in (
        lambda: of.resolve("a", "b"),
        lambda: of.models(),
        lambda: of.history(REF),
        lambda: of.batches(REF, [BATCH_ID]),
        lambda: of.instances(BATCH_ID),
        lambda: of.model_instances(REF),
        lambda: of.locate(BATCH_ID),
        *(lambda flow=flow: flow for _, flow in of.probe()),
        *(
            lambda full=full: of.start(
                REF, is_full_build=full, grace_period_overrides={}, before_post=lambda _: None
            )
            for full in (True, False)
        ),
    ):
        run(make)
    return journal.requests


NOT_FOUND, EMPTY = reply({"message": "no"}, 404), reply({"data": [], "response": {"data": []}})
INSTALLER = {"host": "atscale", "environment": "prod", "engine_choice": "true"}
CONNECTIONS = {
    "container, API token": ("container", {}),
    "container, password": ("container", {"login": "etl"}),
    "container, another prefix": ("container", {"api_prefix": "/v1/public"}),
    "installer, API token": ("installer", INSTALLER),
    "installer, password": ("installer", {**INSTALLER, "login": "etl"}),
}


@pytest.mark.parametrize("answer", [NOT_FOUND, EMPTY], ids=["404", "empty"])
@pytest.mark.parametrize(("edition", "fields"), CONNECTIONS.values(), ids=CONNECTIONS)
def test_every_request_is_one_call_of_the_table(edition, fields, answer):
    requests = sent_by(edition, answer, **fields)
    assert requests
    for request in requests:
        assert len(call_of(request, edition, fields.get("api_prefix", "/v1"))) == 1, request.url


def test_every_call_of_the_table_is_sent():
    seen = Counter()
    for edition, fields in CONNECTIONS.values():
        for answer in (NOT_FOUND, EMPTY):
            for request in sent_by(edition, answer, **fields):
                seen.update(call_of(request, edition, fields.get("api_prefix", "/v1")))
    assert set(seen) == set(CALLS)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.edition} {call.method} {call.path}")
def test_every_call_has_a_source_and_a_confidence(call):
    assert call.edition in ("container", "installer")
    assert call.purpose
    assert call.source
    assert call.confidence in (HIGH, MEDIUM, LOW)


def test_a_call_is_listed_once():
    assert max(Counter((call.edition, call.server, call.method, call.path) for call in CALLS).values()) == 1


def test_ids_are_quoted_and_the_prefix_is_not():
    url = calls.START.url("https://host", "/v1/public", catalog="a/b", model="c?d")
    assert url == "https://host/v1/public/aggregates-batch/catalogs/a%2Fb/models/c%3Fd"


def paths_in(source: str) -> list[str]:
    """Return the texts of a module that are a part of a URL."""
    constants = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return [node.value for node in constants if re.match(r"/\w", str(node.value))]


@pytest.mark.parametrize(
    "module",
    [path for path in sorted(FOLDER.glob("*.py")) if path.name != "calls.py"],
    ids=lambda path: path.name,
)
def test_no_other_module_has_a_path_of_its_own(module):
    """The prefix of the public API is a field of the connection, and its default is no path of a call."""
    assert [path for path in paths_in(module.read_text()) if path != "/v1"] == []


def test_the_search_for_paths_finds_them():
    assert paths_in('url = f"{base}/wapi/p/x"\ntext = "see /x or a/b"') == ["/wapi/p/x"]
