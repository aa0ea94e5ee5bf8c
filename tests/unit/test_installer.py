"""The installer edition's flows, driven by scripted answers: what is asked, in which order, what it means."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_atscale.api import installer_start
from airflow_provider_atscale.api.auth import BasicAuth, FixedAuth
from airflow_provider_atscale.api.history import MAX_PAGES
from airflow_provider_atscale.api.installer import InstallerEdition
from airflow_provider_atscale.api.models import ALL_DELETED, Batch, History, HistoryUnavailable, ModelRef, Phase
from airflow_provider_atscale.api.start import LostReply, Refused, Started
from airflow_provider_atscale.client.editions import make_edition
from airflow_provider_atscale.client.settings import parse_connection
from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleAuthenticationError,
    AtScaleConfigurationError,
    AtScaleConnectionError,
    AtScaleError,
    AtScaleMalformedAnswerError,
    AtScaleNotFoundError,
    AtScalePermissionError,
    AtScaleStartError,
)

from .flows import NOW, Journal, Reply, connection, perform, reply

if TYPE_CHECKING:
    from airflow_provider_atscale.api.flow import Request

ENGINE, CENTER = "https://atscale:10502", "https://atscale:10500"
PROJECT, CUBE = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
DRAFT, OLDER = "33333333-3333-4333-8333-333333333333", "44444444-4444-4444-8444-444444444444"
BATCH, OTHER = "55555555-5555-4555-8555-555555555555", "66666666-6666-4666-8666-666666666666"
REF = ModelRef(PROJECT, CUBE, "Sales", "Internet Sales")

LISTING = "GET /projects/published/orgId/default"
OLD_LISTING = "GET /projects/orgId/default/envId/prod"
HISTORY = "GET /aggregate-batch/orgId/default/history"
LATEST = "GET /aggregate-batch/orgId/default/envId/prod"
INSTANCES = "GET /aggregates/orgId/default/instances"
LOGIN = "GET /default/auth"
BY_PROJECT_ID = f"POST /aggregate-batch/orgId/default/projectId/{PROJECT}"
LITERAL = f"POST /aggregate-batch/default/{PROJECT}"
BY_ENVIRONMENT = f"POST /aggregate-batch/orgId/default/envId/prod/{PROJECT}"


@pytest.fixture(autouse=True)
def new_process() -> None:
    """Forget what other tests of this process have found out about the engine."""
    installer_start.known_variants.clear()


# --- a scripted server ------------------------------------------------------------------------------------


def wrapped(response: Any, status: int = 200) -> Reply:
    """Make an answer in the engine's envelope."""
    return reply({"status": {"i18n_message": "SUCCESS", "message": "SUCCESS"}, "response": response}, status)


def refusal(status: int, message: str = "words of AtScale") -> Reply:
    """Make an error as the installer edition words it."""
    return reply({"status": {"message": message, "i18n_message": "x"}, "response": {}}, status)


def rows(*rows: Any, **more: Any) -> Reply:
    return wrapped({"data": list(rows), **more})


def batch_row(batch_id: str = BATCH, status: str = "done", **more: Any) -> dict[str, Any]:
    return {"id": batch_id, "status": status, "projectId": PROJECT, "cubeId": CUBE, **more}


def latest_row(batch_id: str = BATCH, status: str = "done", **more: Any) -> dict[str, Any]:
    batch = {"id": batch_id, "status": status, "progressPercentage": 40}
    return {"projectId": PROJECT, "cubeId": CUBE, "batch": batch, **more}


def instance_row(number: int = 0, status: str = "active", **more: Any) -> dict[str, Any]:
    return {"id": f"instance-{number}", "status": status, **more}


LOST = AtScaleConnectionError("no answer", sent=True)
NOT_SENT = AtScaleConnectionError("no connection", sent=False)


class Server:
    """Answers requests in the order of a script, and fails where another one comes."""

    def __init__(self, script: list[tuple[str, Any]]) -> None:
        self.script = script
        self.journal = Journal()

    def run(self, flow: Any) -> Any:
        return perform(flow, self._answer, self.journal)

    def _answer(self, request: Request) -> Any:
        came = f"{request.method} {request.url.removeprefix(CENTER).removeprefix(ENGINE)}"
        assert self.script, f"{came} was not expected"
        expected, answer = self.script.pop(0)
        assert came == expected
        return answer

    @property
    def asked(self) -> list[Request]:
        return self.journal.requests

    @property
    def posts(self) -> list[Request]:
        return [request for request in self.asked if request.method == "POST"]


class Endless(Server):
    """
    Answers a path in the same way again and again, as soon as the script is over.

    :param script: what comes before that.
    :param then: the answers by path.
    """

    def __init__(self, script: list[tuple[str, Any]], then: dict[str, Any]) -> None:
        super().__init__(script)
        self.then = then

    def _answer(self, request: Request) -> Any:
        if self.script:
            return super()._answer(request)
        return self.then[f"{request.method} {request.url.removeprefix(CENTER).removeprefix(ENGINE)}"]


def edition(auth: Any = None, engine_url: str = ENGINE, **options: Any) -> InstallerEdition:
    auth = auth or FixedAuth({"client-api-key": "the-key"}, "Look for the key.")
    return InstallerEdition(engine_url, CENTER, auth, **options)


def basic_bearer() -> FixedAuth:
    return FixedAuth({"Authorization": "Bearer t"}, "Get another token.")


def basic() -> BasicAuth:
    return BasicAuth(f"{CENTER}/default/auth", "etl", "secret", lambda: 1000.0)


def ask(flow: Any, *script: tuple[str, Any]) -> Any:
    server = Server(list(script))
    value = server.run(flow)
    assert not server.script, f"never asked: {server.script}"
    return value


def start(
    server: Server, of: InstallerEdition, full: bool = False, overrides: Any = None, fence: Any = None
) -> Any:
    return server.run(
        of.start(
            REF,
            is_full_build=full,
            grace_period_overrides=overrides or {},
            before_post=fence or (lambda _: None),
        )
    )


# --- projects and cubes -----------------------------------------------------------------------------------


def version(
    identity: str = PROJECT, published: str | None = "2026-05-01T00:00:00Z", **more: Any
) -> dict[str, Any]:
    cubes = [{"id": CUBE, "name": "internet_sales", "caption": "Internet Sales"}]
    row = {"id": identity, "name": "Sales", "linkedProjectId": DRAFT, "publishType": "normal_publish"}
    return {**row, "publishedAt": published, "cubes": cubes, **more}


OLD_VERSION = version(OLDER, "2026-04-01T00:00:00Z")
SOFT = version("soft", "2026-06-01T00:00:00Z", publishType="soft_publish")
OTHER_DRAFT = version("another", name="Sales", linkedProjectId="another draft")


@pytest.mark.parametrize(
    ("versions", "project", "cube", "expected"),
    [
        pytest.param([version()], "Sales", "internet_sales", PROJECT, id="names"),
        pytest.param([version()], "Sales", "Internet Sales", PROJECT, id="caption of the cube"),
        pytest.param(
            [version(caption="S&I")], "S&I", CUBE, PROJECT, id="caption of the project, id of the cube"
        ),
        pytest.param([version()], PROJECT, "internet_sales", PROJECT, id="id of the project"),
        pytest.param([OLD_VERSION, version(), SOFT], "Sales", CUBE, PROJECT, id="latest, soft one skipped"),
        pytest.param([version(), OLD_VERSION], "Sales", CUBE, PROJECT, id="latest, whatever the order"),
        pytest.param([OLD_VERSION, version()], OLDER, "internet_sales", OLDER, id="older version by its id"),
        pytest.param([OLD_VERSION, version()], DRAFT, "internet_sales", PROJECT, id="id of the draft"),
        pytest.param(
            [version(published="0001-01-01T00:00:00Z")], "Sales", CUBE, PROJECT, id="one version without time"
        ),
        pytest.param([version(cubes=None)], "Sales", CUBE, PROJECT, id="cubes are not listed, cube by id"),
        pytest.param([version(), version("x", name="Other")], "Other", CUBE, "x", id="two names of one draft"),
    ],
)
def test_names(versions, project, cube, expected):
    ref = ask(edition().resolve(project, cube), (LISTING, wrapped(versions)))
    assert (ref.catalog_id, ref.model_id) == (expected, CUBE)


@pytest.mark.parametrize(
    ("versions", "project", "cube", "text"),
    [
        pytest.param(
            [version()], "Nope", CUBE, "no project 'Nope' .* Deployed there: 'Sales'", id="no project"
        ),
        pytest.param([version()], "Sales", "Nope", "no cube 'Nope' .*'Internet Sales'", id="no cube"),
        pytest.param([version(), OTHER_DRAFT], "Sales", CUBE, "2 projects .* 'Sales'", id="two of that name"),
        pytest.param([SOFT], "Sales", CUBE, "Deployed there: nothing", id="only a soft publish"),
        pytest.param(
            [version(published=None), OLD_VERSION],
            "Sales",
            CUBE,
            "2 projects",
            id="times do not tell the latest",
        ),
        pytest.param([version(cubes=None)], "Sales", "Internet Sales", "no cube", id="cubes are not listed"),
    ],
)
def test_names_that_do_not_fit(versions, project, cube, text):
    with pytest.raises(AtScaleNotFoundError, match=text):
        ask(edition().resolve(project, cube), (LISTING, wrapped(versions)))


def test_two_ids_need_no_list():
    assert ask(edition().resolve(PROJECT, CUBE)) == ModelRef(PROJECT, CUBE, PROJECT, CUBE)


def test_models_are_those_of_the_latest_versions():
    listing = (
        LISTING,
        wrapped([OLD_VERSION, version(), SOFT, version("f", name="Finance", linkedProjectId="f")]),
    )
    assert [(ref.catalog_id, ref.catalog) for ref in ask(edition().models(), listing)] == [
        (PROJECT, "Sales"),
        ("f", "Finance"),
    ]
    assert [ref.catalog_id for ref in ask(edition().models("Finance"), listing)] == ["f"]


def test_an_old_engine_has_another_list_of_projects():
    old = wrapped(
        {"projects": [{"id": PROJECT, "name": "Sales", "cubes": [{"id": CUBE, "name": "Internet Sales"}]}]}
    )
    ref = ask(
        edition(environment="prod").resolve("Sales", "Internet Sales"),
        (LISTING, refusal(404)),
        (OLD_LISTING, old),
    )
    assert (ref.catalog_id, ref.model_id) == (PROJECT, CUBE)


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (refusal(404), AtScaleNotFoundError, "engine_url .*ids"),
        (refusal(401), AtScaleAuthenticationError, "words of AtScale.* Look for the key"),
        (refusal(403), AtScalePermissionError, '"View Aggregates"'),
        (refusal(500), AtScaleApiError, "HTTP 500: words of AtScale"),
        (reply(b"<html>"), AtScaleMalformedAnswerError, "is not JSON"),
        (wrapped(None), AtScaleMalformedAnswerError, "has no list"),
        (wrapped([{"name": "Sales"}]), AtScaleMalformedAnswerError, "project without id"),
    ],
)
def test_a_list_of_projects_that_cannot_be_read(answer, error, text):
    with pytest.raises(error, match=text):
        ask(edition().resolve("Sales", CUBE), (LISTING, answer))


# --- the start --------------------------------------------------------------------------------------------

CREATED = reply(status=201, body={"batch": {"id": BATCH, "status": "new"}})


@pytest.mark.parametrize("full", [True, False])
def test_the_start_of_recent_engines(full):
    server = Server([(BY_PROJECT_ID, CREATED)])
    assert start(server, edition(), full) == Started(Batch(BATCH, "new"))
    [post] = server.posts
    assert post.params == {"cubeId": CUBE, "isFullBuild": "true" if full else "false"}
    assert post.headers == {"Accept": "application/json", "client-api-key": "the-key"}
    assert (post.json, post.form, post.repeatable) == (None, None, False)


def test_the_start_as_documented():
    server = Server([(BY_PROJECT_ID, refusal(404)), (LITERAL, CREATED)])
    assert start(server, edition(engine_choice=True)) == Started(Batch(BATCH, "new"))
    post = server.posts[-1]
    assert post.params == {"cubeID": CUBE}
    assert post.headers["client-api-key"] == "the-key"


def test_the_start_of_old_engines():
    server = Server([(BY_PROJECT_ID, refusal(404)), (LITERAL, refusal(404)), (BY_ENVIRONMENT, CREATED)])
    assert start(server, edition(engine_choice=True, environment="prod")) == Started(Batch(BATCH, "new"))
    assert server.posts[-1].params == {"cubeId": CUBE}


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(reply({"batch": {"id": BATCH}}), id="200"),
        pytest.param(reply({"batch": {"id": BATCH, "status": "new"}}, 201), id="201, top level"),
        pytest.param(wrapped({"batch": {"id": BATCH, "status": "new"}}, 201), id="201, under response"),
        pytest.param(wrapped({"batch": {"id": BATCH, "status": "new"}}, 200), id="200, under response"),
    ],
)
def test_answers_that_are_a_start(answer):
    assert start(Server([(BY_PROJECT_ID, answer)]), edition()) == Started(Batch(BATCH, "new"))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(LOST, id="connection lost after sending"),
        pytest.param(refusal(408), id="408"),
        pytest.param(refusal(502), id="502"),
        pytest.param(refusal(503), id="503"),
        pytest.param(refusal(504), id="504"),
        pytest.param(reply(b"<html>", 201), id="201 with a page"),
        pytest.param(reply(b"", 201), id="201 without body"),
        pytest.param(reply({"batch": {"id": None}}), id="200 without id"),
    ],
)
@pytest.mark.parametrize("before", [[], [(BY_PROJECT_ID, refusal(404))]], ids=["first form", "second form"])
def test_after_a_lost_answer_nothing_more_is_sent(before, answer):
    path = LITERAL if before else BY_PROJECT_ID
    server = Server([*before, (path, answer)])
    outcome = start(server, edition(engine_choice=True, environment="prod"))
    assert isinstance(outcome, LostReply)
    assert len(server.posts) == len(before) + 1


@pytest.mark.parametrize(
    ("status", "error", "text"),
    [
        (400, AtScaleStartError, "HTTP 400: words of AtScale"),
        (401, AtScaleAuthenticationError, "words of AtScale.* Look for the key"),
        (
            403,
            AtScalePermissionError,
            'words of AtScale.* needs a role with the permission "Manage Aggregates"',
        ),
        (405, AtScaleStartError, "HTTP 405: words of AtScale"),
        (302, AtScaleStartError, "redirects"),
    ],
)
def test_answers_that_are_an_error(status, error, text):
    server = Server([(BY_PROJECT_ID, refusal(status))])
    with pytest.raises(error, match=text):
        start(server, edition(engine_choice=True, environment="prod"))
    assert len(server.posts) == 1


@pytest.mark.parametrize("status", [500, 409])
def test_a_batch_that_runs_already_is_a_refusal(status):
    outcome = start(Server([(BY_PROJECT_ID, refusal(status))]), edition())
    assert isinstance(outcome, Refused)
    assert "words of AtScale" in str(outcome.error)


def test_503_shows_what_atscale_said():
    outcome = start(Server([(BY_PROJECT_ID, refusal(503, "Design Center APIs not enabled"))]), edition())
    assert "HTTP 503: Design Center APIs not enabled" in outcome.reason


NONE_LISTED = (LISTING, wrapped([]))
LISTED = (LISTING, wrapped([version()]))
NO_LIST = (LISTING, refusal(404))


@pytest.mark.parametrize(
    ("options", "script", "error", "text"),
    [
        pytest.param(
            {},
            [(BY_PROJECT_ID, refusal(404)), LISTED],
            AtScaleConfigurationError,
            "^No incremental build .* was started: .*HTTP 404: words of AtScale.* engine_choice to true",
            id="the form that tells the kind is missing",
        ),
        pytest.param(
            {},
            [(BY_PROJECT_ID, refusal(404)), NONE_LISTED],
            AtScaleNotFoundError,
            f"lists no cube {CUBE} in a published project {PROJECT}.*Triggers shows both ids",
            id="the cube is missing",
        ),
        pytest.param(
            {},
            [
                (BY_PROJECT_ID, refusal(404)),
                (LISTING, wrapped([version("published", linkedProjectId=PROJECT)])),
            ],
            AtScaleNotFoundError,
            "is the id of a draft; published it is published",
            id="the project id is the draft's",
        ),
        pytest.param(
            {},
            [(BY_PROJECT_ID, refusal(404)), NO_LIST],
            AtScaleConfigurationError,
            "engine_choice to true.* Check engine_url .* and the ids, too",
            id="form or cube, nobody can tell",
        ),
        pytest.param(
            {"engine_choice": True},
            [(BY_PROJECT_ID, refusal(404)), (LITERAL, refusal(404)), LISTED],
            AtScaleNotFoundError,
            "engine_url .* environment",
            id="no form is there",
        ),
        pytest.param(
            {"engine_choice": True, "environment": "prod"},
            [
                (BY_PROJECT_ID, refusal(404)),
                (LITERAL, refusal(404)),
                (BY_ENVIRONMENT, refusal(404)),
                (LISTING, AtScaleConnectionError("gone")),
            ],
            AtScaleNotFoundError,
            "cannot build",
            id="no form is there, and the list cannot be read",
        ),
    ],
)
def test_a_start_that_is_not_there(options, script, error, text):
    server = Server(script)
    with pytest.raises(error, match=text):
        start(server, edition(**options), full=False)
    assert not server.script


def test_an_incremental_start_is_not_sent_where_it_cannot_be_told():
    server = Server([(BY_PROJECT_ID, refusal(404)), LISTED])
    with pytest.raises(AtScaleConfigurationError):
        start(server, edition(environment="prod"), full=False)
    assert len(server.posts) == 1


def test_a_full_start_is_what_a_rebuild_without_kind_means():
    server = Server([(BY_PROJECT_ID, refusal(404)), (LITERAL, CREATED)])
    assert start(server, edition(), full=True) == Started(Batch(BATCH, "new"))
    assert server.posts[-1].params == {"cubeID": CUBE}


@pytest.mark.parametrize(
    "answer", [CREATED, refusal(500), LOST, refusal(502)], ids=["started", "a batch runs", "lost", "502"]
)
def test_the_form_that_worked_is_remembered(answer):
    """Each hook has an edition of its own, and all of a process know."""
    start(Server([(BY_PROJECT_ID, refusal(404)), (LITERAL, answer)]), edition(engine_choice=True))
    start(Server([(LITERAL, CREATED)]), edition(basic_bearer(), engine_choice=True))
    start(Server([(LITERAL, refusal(404)), (BY_PROJECT_ID, CREATED)]), edition(engine_choice=True))
    start(Server([(BY_PROJECT_ID, CREATED)]), edition(engine_choice=True))


@pytest.mark.parametrize("answer", [400, 401, 403, 404], ids=str)
def test_a_form_that_did_not_work_is_not_remembered(answer):
    script = [(BY_PROJECT_ID, refusal(404)), (LITERAL, refusal(answer))]
    with pytest.raises(AtScaleError):
        start(Server([*script, NO_LIST]), edition(engine_choice=True))
    start(Server([(BY_PROJECT_ID, CREATED)]), edition())


@pytest.mark.parametrize(
    "other", [{"organization": "acme"}, {"environment": "prod"}, {"engine_url": "http://other:10502"}], ids=str
)
def test_what_is_known_of_one_engine_is_not_taken_for_another(other):
    start(Server([(BY_PROJECT_ID, refusal(404)), (LITERAL, CREATED)]), edition(engine_choice=True))
    elsewhere = BY_PROJECT_ID.replace("default", other.get("organization", "default"))
    elsewhere = elsewhere.replace("POST ", f"POST {other.get('engine_url', '')}")
    start(Server([(elsewhere, CREATED)]), edition(engine_choice=True, **other))


def test_a_form_that_hides_the_kind_is_not_used_for_an_incremental_build_though_it_is_known():
    """It is asked anew for the call that tells the kind, so the error has the engine's own words."""
    start(Server([(BY_PROJECT_ID, refusal(404)), (LITERAL, CREATED)]), edition(), full=True)
    server = Server([(BY_PROJECT_ID, refusal(404)), LISTED])
    with pytest.raises(AtScaleConfigurationError, match=r"was started: HTTP 404: words of AtScale"):
        start(server, edition(), full=False)
    assert len(server.posts) == 1
    # And where the engine has that call by now, it is used.
    start(Server([(BY_PROJECT_ID, CREATED)]), edition(), full=False)


def test_the_intent_is_written_before_every_post():
    server = Server([(BY_PROJECT_ID, refusal(404)), (LITERAL, NOT_SENT), (LITERAL, CREATED)])
    seen: list[int] = []
    start(server, edition(engine_choice=True), fence=lambda _: seen.append(len(server.posts)))
    assert seen == [0, 1, 2]
    assert server.journal.pauses == [0.5]


@pytest.mark.parametrize("before", [0, 1])
def test_without_the_intent_nothing_is_sent(before):
    server = Server([(BY_PROJECT_ID, refusal(404))][:before])
    fence_calls = iter([None] * before)

    def fence(_: bool) -> None:
        try:
            next(fence_calls)
        except StopIteration:
            raise AtScaleError("the store is away") from None

    with pytest.raises(AtScaleError, match="the store is away"):
        start(server, edition(engine_choice=True), fence=fence)
    assert len(server.posts) == before


def test_grace_period_overrides_are_refused_before_any_request():
    of = edition(basic())
    with pytest.raises(AtScaleConfigurationError, match=r"'factinternetsales': 30.*container edition only"):
        start(Server([]), of, overrides={"factinternetsales": 30})
    with pytest.raises(AtScaleConfigurationError):
        of.check_overrides({"factinternetsales": 30})
    of.check_overrides({})


def test_ids_and_organization_are_quoted():
    server = Server([("POST /aggregate-batch/orgId/a%2Fb/projectId/p%3Fq", CREATED)])
    of = edition(organization="a/b")
    server.run(
        of.start(
            ModelRef("p?q", "c&d", "", ""),
            is_full_build=True,
            grace_period_overrides={},
            before_post=lambda _: None,
        )
    )
    assert server.posts[0].params["cubeId"] == "c&d"


# --- authentication ---------------------------------------------------------------------------------------

TOKEN, NEW_TOKEN = "eyJ.old.sig", "eyJ.new.sig"
LOGS_IN = (LOGIN, reply(f"{TOKEN}\n".encode()))
LOGS_IN_AGAIN = (LOGIN, reply(f"{NEW_TOKEN}\n".encode()))


def test_login_and_password():
    server = Server([LOGS_IN, (HISTORY, rows())])
    server.run(edition(basic()).history(REF))
    login, read = server.asked
    assert login.headers == {"Accept": "*/*", "Authorization": "Basic ZXRsOnNlY3JldA=="}
    assert read.headers["Authorization"] == f"Bearer {TOKEN}"
    assert TOKEN in server.journal.secrets


def test_a_token_is_used_as_long_as_it_is_accepted():
    of = edition(basic())
    ask(of.history(REF), LOGS_IN, (HISTORY, rows()))
    ask(of.history(REF), (HISTORY, rows()))


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_renewed_once(status):
    server = Server([LOGS_IN, (HISTORY, refusal(status)), LOGS_IN_AGAIN, (HISTORY, rows())])
    assert isinstance(server.run(edition(basic()).history(REF)), History)
    assert server.asked[-1].headers["Authorization"] == f"Bearer {NEW_TOKEN}"


@pytest.mark.parametrize(
    ("status", "error"), [(401, AtScaleAuthenticationError), (403, AtScalePermissionError)]
)
def test_a_new_token_that_is_refused_is_an_error(status, error):
    script = [LOGS_IN, (LISTING, refusal(status)), LOGS_IN_AGAIN, (LISTING, refusal(status))]
    with pytest.raises(error, match="words of AtScale"):
        ask(edition(basic()).models(), *script)


@pytest.mark.parametrize(
    ("status", "error"), [(401, AtScaleAuthenticationError), (403, AtScalePermissionError)]
)
def test_a_refused_start_is_not_sent_again(status, error):
    server = Server([LOGS_IN, (BY_PROJECT_ID, refusal(status))])
    with pytest.raises(error, match="words of AtScale"):
        start(server, edition(basic(), engine_choice=True))
    assert len(server.posts) == 1


def test_a_lacking_permission_is_no_reason_to_log_in_at_every_poll():
    of = edition(basic())
    forbidden = (HISTORY, refusal(403))
    ask(of.history(REF), LOGS_IN, forbidden, LOGS_IN_AGAIN, forbidden)
    ask(of.history(REF), forbidden)
    # Another call that the same token was good for, and is not any more: the token has ended.
    ask(of.instances(BATCH), (INSTANCES, refusal(403)), LOGS_IN, (INSTANCES, rows()))


@pytest.mark.parametrize("header", [{"client-api-key": "k"}, {"Authorization": "Bearer t"}])
def test_credentials_that_cannot_be_renewed(header):
    server = Server([(LISTING, refusal(401))])
    with pytest.raises(AtScaleAuthenticationError, match="Ask the admin"):
        server.run(edition(FixedAuth(header, "Ask the admin.")).models())
    assert server.asked[0].headers == {"Accept": "application/json", **header}


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (refusal(401), AtScaleAuthenticationError, "words of AtScale.*SSO users .*/jwt/get"),
        (refusal(403), AtScaleAuthenticationError, "refuses the login"),
        (refusal(404), AtScaleConfigurationError, "organization.*design_center_url"),
        (refusal(503), AtScaleApiError, "Could not log in: .*HTTP 503: words of AtScale"),
        (reply(b"", 302, location="/login?x=1"), AtScaleApiError, "redirects to /login and"),
        (reply(b""), AtScaleMalformedAnswerError, "is not a token"),
        (reply(b"<html>secret-page</html>"), AtScaleMalformedAnswerError, "is not a token"),
        (reply(b'{"token": "secret"}'), AtScaleMalformedAnswerError, "is not a token"),
        (reply(b"two words"), AtScaleMalformedAnswerError, "is not a token"),
        (reply(b"\xff\xfe"), AtScaleMalformedAnswerError, "is not a token"),
        (LOST, AtScaleConnectionError, "no answer"),
    ],
)
def test_a_login_that_fails(answer, error, text):
    with pytest.raises(error, match=text) as caught:
        ask(edition(basic()).models(), (LOGIN, answer))
    if isinstance(caught.value, AtScaleMalformedAnswerError):
        assert "secret" not in str(caught.value)


# --- the history ------------------------------------------------------------------------------------------


def test_history():
    server = Server(
        [
            (
                HISTORY,
                rows(
                    batch_row(
                        OTHER,
                        "inprogress",
                        batchType="aggregate_batch",
                        isFullBuild=True,
                        createDate="2026-05-01T10:00:00.5Z",
                        startTime="2026-05-01T10:00:01Z",
                        endTime="0001-01-01T00:00:00Z",
                        estimateTime=1053,
                    ),
                    batch_row(BATCH, "done", isFullBuild=False, createDate="2026-05-01T09:00:00Z"),
                    batch_row("m", "done", batchType="materialize-pending-instances"),
                    batch_row("c", "new", cubeId="another cube"),
                    limit=100,
                    offset=0,
                    force_pull=False,
                ),
            )
        ]
    )
    history = server.run(edition().history(REF))
    assert server.asked[0].params == {"limit": "100", "projectId": PROJECT, "cubeId": CUBE}
    assert [batch.id for batch in history.batches] == [OTHER, BATCH]
    running = history.batches[0]
    assert (running.is_full_build, running.estimate_ms, running.ended) == (True, 1053, None)
    assert running.started.isoformat() == "2026-05-01T10:00:01+00:00"
    assert history.server_time.timestamp() == NOW


@pytest.mark.parametrize(
    ("options", "script", "text"),
    [
        ({}, [(HISTORY, refusal(401))], "HTTP 401: words of AtScale .*; Look for the key"),
        ({}, [(HISTORY, refusal(403))], 'HTTP 403: words of AtScale .*; it takes .*"View Aggregates"'),
        ({}, [(HISTORY, refusal(404))], "HTTP 404: words of AtScale .*; .*environment"),
        ({"environment": "prod"}, [(HISTORY, refusal(404)), (LATEST, refusal(403))], "HTTP 403"),
        ({"environment": "prod"}, [(HISTORY, refusal(403))], "HTTP 403"),
    ],
)
def test_a_history_that_may_not_be_read_is_a_reason(options, script, text):
    unavailable = ask(edition(**options).history(REF), *script)
    assert isinstance(unavailable, HistoryUnavailable)
    assert re.search(text, unavailable.reason)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(reply(b"<html>"), id="page"),
        pytest.param(reply(b""), id="empty"),
        pytest.param(reply(b'{"response": {"data": ['), id="truncated"),
        pytest.param(reply([]), id="list"),
        pytest.param(wrapped(None), id="no response"),
        pytest.param(wrapped({"data": None}), id="no data"),
        pytest.param(rows(None), id="row is null"),
        pytest.param(rows({"id": None, "status": "done"}), id="id is null"),
        pytest.param(rows({"id": BATCH}), id="no status"),
    ],
)
def test_a_history_that_is_none(answer):
    with pytest.raises(AtScaleMalformedAnswerError):
        ask(edition().history(REF), (HISTORY, answer))


@pytest.mark.parametrize(
    ("latest", "expected"),
    [
        pytest.param([latest_row()], [BATCH], id="ours"),
        pytest.param([latest_row(cubeId="another cube")], [], id="another cube"),
        pytest.param(
            [latest_row(OTHER, projectId="older version"), latest_row()], [BATCH], id="versions share a cube"
        ),
        pytest.param([latest_row(batch=None)], [], id="never built"),
        pytest.param([], [], id="nothing was ever built"),
    ],
)
def test_the_old_list_has_the_last_batch_of_each_cube(latest, expected):
    of = edition(environment="prod")
    old = (LATEST, wrapped({"batches": latest}))
    history = ask(of.history(REF), (HISTORY, refusal(404)), old)
    assert [batch.id for batch in history.batches] == expected
    # From then on the engine is known to be old, until that list is gone as well.
    ask(of.history(REF), old)
    ask(of.history(REF), (LATEST, refusal(404)))
    ask(of.history(REF), (HISTORY, rows()))


@pytest.mark.parametrize(
    ("ids", "is_ours"),
    [
        ({"cubeId": CUBE}, True),
        ({"cubeId": CUBE.upper()}, True),
        ({"cubeId": None}, True),
        ({"cubeId": None, "cube_id": CUBE}, True),
        ({"cubeId": OTHER}, False),
        ({"cubeId": None, "cube_id": OTHER}, False),
    ],
)
def test_whose_batch_a_row_of_the_history_is(ids, is_ours):
    """Servers may ignore the filter, and people may paste ids in capitals, which AtScale takes."""
    history = ask(edition().history(REF), (HISTORY, rows(batch_row(**ids))))
    assert [batch.id for batch in history.batches] == ([BATCH] if is_ours else [])


@pytest.mark.parametrize("ref", [REF, replace(REF, catalog_id=PROJECT.upper(), model_id=CUBE.upper())])
def test_the_old_list_has_the_batch_of_a_cube_however_its_id_is_written(ref):
    of = edition(environment="prod")
    history = ask(of.history(ref), (HISTORY, refusal(404)), (LATEST, wrapped({"batches": [latest_row()]})))
    assert [batch.id for batch in history.batches] == [BATCH]


@pytest.mark.parametrize(
    ("full", "replies", "tells"),
    [
        (False, [(BY_PROJECT_ID, CREATED)], True),
        (True, [(BY_PROJECT_ID, refusal(404)), (LITERAL, CREATED)], False),
    ],
    ids=["with isFullBuild", "without it"],
)
def test_the_fence_knows_whether_the_start_tells_the_kind(full, replies, tells):
    """It is stored before the POST, for a retry in another process."""
    of, known = edition(), []
    start(Server(replies), of, full=full, fence=known.append)
    assert known[-1] is tells


@pytest.mark.parametrize(
    ("options", "form", "kind"),
    [
        pytest.param({}, None, True, id="kinds are told"),
        pytest.param({"engine_choice": True}, None, True, id="nothing was started yet"),
        pytest.param({"engine_choice": True}, LITERAL, None, id="the engine has chosen"),
        pytest.param({}, LITERAL, None, id="the engine has chosen for a full build"),
        pytest.param({"engine_choice": True}, BY_PROJECT_ID, True, id="the engine was told"),
    ],
)
def test_a_kind_that_the_engine_chose_does_not_tell_whose_batch_it_is(options, form, kind):
    of = edition(**options)
    if form == LITERAL:
        start(Server([(BY_PROJECT_ID, refusal(404)), (LITERAL, CREATED)]), of, full=True)
    elif form == BY_PROJECT_ID:
        start(Server([(BY_PROJECT_ID, CREATED)]), of)
    page = (HISTORY, rows(batch_row(isFullBuild=True)))
    assert ask(of.history(REF), page).batches[0].is_full_build is kind
    # A report says what was built in any case.
    assert ask(of.batches(REF, [BATCH]), page)[BATCH].is_full_build is True


# --- waiting for batches ----------------------------------------------------------------------------------


def page_of(first: int, count: int, **more: Any) -> Reply:
    return rows(*(batch_row(f"b{number}") for number in range(first, first + count)), **more)


@pytest.mark.parametrize(
    ("pages", "wanted", "found", "asked"),
    [
        pytest.param([page_of(0, 20)], ["b3"], ["b3"], [(20, None)], id="among the newest"),
        pytest.param([page_of(0, 3)], ["x"], [], [(20, None)], id="a short list without it"),
        pytest.param(
            [page_of(0, 20), page_of(0, 100), page_of(100, 30)],
            ["b3", "b120"],
            ["b120", "b3"],
            [(20, None), (100, None), (100, "100")],
            id="on the second page",
        ),
        pytest.param(
            [page_of(0, 10, limit=10), page_of(0, 10, limit=10), page_of(10, 10, limit=10), page_of(20, 2)],
            ["x"],
            [],
            [(20, None), (100, None), (100, "10"), (100, "20")],
            id="the server has a limit of its own",
        ),
        pytest.param(
            [page_of(0, 20), page_of(0, 100), page_of(0, 100)],
            ["x"],
            [],
            [(20, None), (100, None), (100, "100")],
            id="the server does not page",
        ),
    ],
)
def test_batches_are_looked_for_by_id(pages, wanted, found, asked):
    server = Server([(HISTORY, page) for page in pages])
    assert sorted(server.run(edition().batches(REF, wanted))) == found
    sent = [(int(request.params["limit"]), request.params.get("offset")) for request in server.asked]
    assert sent == asked


@pytest.mark.parametrize(
    ("latest", "instances", "expected"),
    [
        pytest.param(latest_row(status="inprogress"), [], {BATCH: "inprogress"}, id="ours"),
        pytest.param(
            latest_row(OTHER),
            [(INSTANCES, rows({"id": "i", "status": "active", "batch_id": BATCH}))],
            {BATCH: "done"},
            id="ours was overtaken: its aggregates tell",
        ),
        pytest.param(
            latest_row(OTHER),
            [(INSTANCES, rows({"id": "i", "status": "inprogress", "batch_id": BATCH}))],
            {BATCH: "inprogress"},
            id="ours was overtaken and goes on",
        ),
        pytest.param(
            latest_row(OTHER), [(INSTANCES, rows())], {}, id="ours was overtaken, and has no aggregates"
        ),
        pytest.param(
            latest_row(OTHER), [(INSTANCES, refusal(404))], {}, id="ours was overtaken, and nothing tells of it"
        ),
    ],
)
def test_waiting_at_an_old_engine(latest, instances, expected):
    script = [(HISTORY, refusal(404)), (LATEST, wrapped({"batches": [latest]})), *instances]
    found = ask(edition(environment="prod").batches(REF, [BATCH]), *script)
    assert {batch_id: batch.status for batch_id, batch in found.items()} == expected
    assert all(batch.progress == 40 for batch in found.values() if batch.instances is None)


NONE = rows()
ACTIVE = [instance_row(number) for number in range(2)]


@pytest.mark.parametrize(
    ("instances", "control", "expected"),
    [
        pytest.param(ACTIVE, NONE, "done", id="no batch ids, the server filters"),
        pytest.param(ACTIVE, refusal(404), "done", id="no batch ids, the server knows no such batch"),
        pytest.param(ACTIVE, refusal(400), "done", id="no batch ids, the server wants a batch"),
        pytest.param(ACTIVE, rows(*ACTIVE), None, id="no batch ids, the server filters not"),
        pytest.param(
            [instance_row(0), instance_row(1, "inprogress")],
            rows(*ACTIVE),
            None,
            id="nor does it tell of a wait",
        ),
        pytest.param([instance_row(0, batch_id=BATCH)], None, "done", id="our batch id"),
        pytest.param([instance_row(0, batch_id=OTHER)], None, "missing", id="another batch id"),
        pytest.param(
            [instance_row(0, batch_id=OTHER), instance_row(1, "failed", batch_id=BATCH)],
            None,
            "failed",
            id="ours and another's",
        ),
        pytest.param([instance_row(0), instance_row(1, "pending")], NONE, "inprogress", id="some wait"),
        pytest.param([], None, "missing", id="none yet"),
        pytest.param(
            [instance_row(0, "deleted", batch_id=BATCH), instance_row(1, "deleted", batch_id=BATCH)],
            None,
            ALL_DELETED,
            id="a later build has replaced all",
        ),
        pytest.param(
            [instance_row(0, "deleted", batch_id=BATCH), instance_row(1, batch_id=BATCH)],
            None,
            "done",
            id="a later build has replaced one",
        ),
    ],
)
@pytest.mark.parametrize("status", [401, 403, 404])
def test_waiting_without_a_history(status, instances, control, expected):
    script = [(HISTORY, refusal(status)), (INSTANCES, rows(*instances))]
    if control is not None:
        script.append((INSTANCES, control))
    server = Server(script)
    flow = edition().batches(REF, [BATCH])
    if expected is None:
        with pytest.raises(AtScaleMalformedAnswerError, match="even for a batch that does not exist"):
            server.run(flow)
        return
    found = server.run(flow)
    assert not server.script
    assert (found[BATCH].status if found else "missing") == expected


def test_that_the_server_filters_needs_no_second_proof():
    of = edition()
    ask(of.instances(BATCH), (INSTANCES, rows(*ACTIVE)), (INSTANCES, NONE))
    ask(of.instances(BATCH), (INSTANCES, rows(*ACTIVE)))


@pytest.mark.parametrize(
    ("listed", "control", "expected"),
    [
        pytest.param(ACTIVE, NONE, 2, id="no cube ids, the server filters"),
        pytest.param(ACTIVE, refusal(404), 2, id="no cube ids, the server knows no such cube"),
        pytest.param(ACTIVE, rows(*ACTIVE), None, id="no cube ids, the server does not filter"),
        pytest.param(
            [instance_row(0, cube_id=CUBE), instance_row(1, cube_id=OTHER)], None, 1, id="ours and another's"
        ),
        pytest.param([instance_row(0, cube_id=CUBE.upper())], None, 1, id="in upper case"),
        pytest.param([], None, 0, id="none"),
    ],
)
def test_the_instances_of_a_cube(listed, control, expected):
    server = Server([(INSTANCES, rows(*listed)), *([] if control is None else [(INSTANCES, control)])])
    if expected is None:
        with pytest.raises(AtScaleMalformedAnswerError, match="even for a cube that does not exist"):
            server.run(edition().model_instances(REF))
    else:
        assert len(server.run(edition().model_instances(REF))) == expected
    assert not server.script
    first, *more = (request.params for request in server.asked)
    assert first == {"projectId": PROJECT, "cubeId": CUBE}
    assert all(params["projectId"] == PROJECT and params["cubeId"] != CUBE for params in more)


def test_the_control_question_is_about_no_batch():
    server = Server([(INSTANCES, rows(*ACTIVE)), (INSTANCES, NONE)])
    server.run(edition().instances(BATCH))
    first, control = (request.params for request in server.asked)
    assert first == {"batchId": BATCH}
    assert control["batchId"] != BATCH
    assert len(control["batchId"]) == len(BATCH)


@pytest.mark.parametrize(
    ("script", "error", "text"),
    [
        ([(HISTORY, refusal(500))], AtScaleApiError, "HTTP 500"),
        ([(HISTORY, reply(b"<html>"))], AtScaleMalformedAnswerError, "is not JSON"),
        ([(HISTORY, refusal(403)), (INSTANCES, refusal(403))], AtScalePermissionError, '"View Aggregates"'),
        (
            [(HISTORY, refusal(404)), (INSTANCES, refusal(404))],
            AtScaleApiError,
            "or the aggregate instances.*404",
        ),
        ([(HISTORY, refusal(404)), (INSTANCES, refusal(500))], AtScaleApiError, "HTTP 500"),
        (
            [(HISTORY, refusal(404)), (INSTANCES, rows(*ACTIVE)), (INSTANCES, refusal(500))],
            AtScaleApiError,
            "HTTP 500",
        ),
    ],
)
def test_waiting_with_trouble(script, error, text):
    with pytest.raises(error, match=text):
        ask(edition().batches(REF, [BATCH]), *script)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["done", "success", BATCH, OTHER, "active"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["response", "data", "batches", "batch", "id", "status", "batch_id", "limit", "cubeId"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.sampled_from([BATCH, OTHER, None, 7, ""]),
            "status": st.sampled_from(["done", "success", "active", "new", "DONE ", "odd", None, 1]),
            "batch_id": st.sampled_from([BATCH, OTHER, None]),
            "cubeId": st.sampled_from([CUBE, "x"]),
        },
    ),
    max_size=4,
)
BODIES = (
    JSON
    | st.builds(lambda rows: {"response": {"data": rows}}, ROWS)
    | st.builds(lambda rows: {"response": {"batches": [{"cubeId": CUBE, "batch": row} for row in rows]}}, ROWS)
)


def _says_done(body: Any) -> bool:
    """Whether somewhere in it the batch itself, by its id, is in a status of success."""
    if isinstance(body, dict):
        good = isinstance(body.get("status"), str) and body["status"].strip().lower() in ("done", "success")
        return (body.get("id") == BATCH and good) or any(map(_says_done, body.values()))
    return isinstance(body, list) and any(map(_says_done, body))


@given(body=BODIES, environment=st.booleans())
def test_no_history_makes_a_batch_good_that_it_does_not_call_done(body, environment):
    of = edition(environment="prod" if environment else None)
    script = [(HISTORY, reply(body))]
    if environment:
        script = [(HISTORY, refusal(404)), (LATEST, reply(body))]
    try:
        found = Endless(script, {HISTORY: reply(body), INSTANCES: refusal(404)}).run(of.batches(REF, [BATCH]))
    except AtScaleError:
        return
    if any(batch.phase is Phase.SUCCEEDED for batch in found.values()):
        assert _says_done(body)


@given(body=BODIES)
def test_no_server_that_ignores_the_filter_makes_a_batch_good(body):
    script = [(HISTORY, refusal(404))] + [(INSTANCES, reply(body))] * 60
    try:
        found = Server(script).run(edition().batches(REF, [BATCH]))
    except AtScaleError:
        return
    if any(batch.phase is Phase.SUCCEEDED for batch in found.values()):
        # Then every instance that counted names the batch.
        assert all(each.batch_id == BATCH for batch in found.values() for each in batch.instances)


# --- instances --------------------------------------------------------------------------------------------


def test_instances_in_the_engines_spelling():
    row = {
        "id": "i1",
        "status": "active",
        "message": "Normal aggregate activated",
        "table_name": "as_agg_1",
        "table_schema": "aggs",
        "stats": {
            "materialization_start_time": "2026-05-01T10:00:00Z",
            "materialization_end_time": "0001-01-01T00:00:00Z",
            "build_duration": 236,
            "number_of_rows": 42,
        },
        "build_query_id": BATCH,
        "project_id": PROJECT,
        "cube_id": CUBE,
        "definition_id": "d1",
        "connection_id": "con1",
    }
    script = [(INSTANCES, rows(row)), (INSTANCES, NONE)]
    [instance] = ask(edition().instances(BATCH), *script)
    assert (instance.label, instance.rows) == ("aggs.as_agg_1", 42)
    assert (instance.catalog_id, instance.model_id, instance.batch_id) == (PROJECT, CUBE, None)
    assert (instance.definition_id, instance.query_id) == ("d1", BATCH)
    assert ask(edition().locate(BATCH), *script) == ModelRef(PROJECT, CUBE, PROJECT, CUBE)


def test_a_batch_without_instances_cannot_be_located():
    assert ask(edition().locate(BATCH), (INSTANCES, NONE)) is None
    assert ask(edition().locate(BATCH), (INSTANCES, rows(instance_row(batch_id=OTHER, cube_id=CUBE)))) is None


def instances(first: int, count: int) -> Reply:
    return rows(*(instance_row(number, batch_id=BATCH) for number in range(first, first + count)))


@pytest.mark.parametrize(
    ("pages", "count", "offsets"),
    [
        pytest.param([instances(0, 9)], 9, [None], id="fewer than any page has"),
        pytest.param([instances(0, 60), instances(0, 60)], 60, [None, "60"], id="all at once, no paging"),
        pytest.param([instances(0, 60), refusal(400)], 60, [None, "60"], id="paging is refused"),
        pytest.param([instances(0, 60), NONE], 60, [None, "60"], id="nothing more"),
        pytest.param(
            [instances(0, 10), instances(10, 100), instances(110, 3)], 113, [None, "10", "110"], id="pages"
        ),
    ],
)
def test_all_instances_are_read(pages, count, offsets):
    server = Server([(INSTANCES, page) for page in pages])
    assert len(server.run(edition().instances(BATCH))) == count
    assert not server.script
    assert [request.params.get("offset") for request in server.asked] == offsets


@pytest.mark.parametrize(
    ("pages", "is_judged"),
    [
        pytest.param([instances(0, 9)], True, id="fewer than any page has"),
        pytest.param([instances(0, 10), instances(0, 10)], False, id="ten, and the same ten again"),
        pytest.param([instances(0, 10), refusal(400)], False, id="ten, and paging is refused"),
        pytest.param([instances(0, 101), instances(0, 101)], False, id="the longest page, and again"),
        pytest.param([instances(0, 10), rows()], True, id="ten, and no more"),
        pytest.param([instances(0, 10), instances(10, 3)], True, id="ten, and three more"),
        pytest.param([instances(0, 60), instances(0, 60)], True, id="a length at which no list is cut"),
        pytest.param(
            [instances(100 * number, 100) for number in range(MAX_PAGES)], False, id="more than is ever read"
        ),
    ],
)
def test_a_list_that_may_be_cut_judges_no_batch(pages, is_judged):
    """All that are listed are built; those that are not may be under way."""
    script = [(HISTORY, refusal(403)), *((INSTANCES, page) for page in pages)]
    flow = edition().batches(REF, [BATCH])
    if is_judged:
        assert ask(flow, *script)[BATCH].phase is Phase.SUCCEEDED
        return
    with pytest.raises(
        AtScaleMalformedAnswerError, match=r'whether there are more.* HTTP 403.*"View Aggregates"'
    ):
        ask(flow, *script)


def test_a_list_that_may_be_cut_shows_that_a_batch_runs():
    running = rows(*(instance_row(number, "pending", batch_id=BATCH) for number in range(10)))
    script = [(HISTORY, refusal(403)), (INSTANCES, running), (INSTANCES, running)]
    assert ask(edition().batches(REF, [BATCH]), *script)[BATCH].phase is Phase.WAITING


@pytest.mark.parametrize(
    "answer", [reply(b"<html>"), wrapped({}), rows({"status": "active"}), rows({"id": "i"}), rows(None)]
)
def test_instances_that_are_none(answer):
    with pytest.raises(AtScaleMalformedAnswerError):
        ask(edition().instances(BATCH), (INSTANCES, answer))


# --- the connection ---------------------------------------------------------------------------------------

VERSION = ("GET /version", reply(b"2024.2.1.8888"))


@pytest.mark.parametrize(
    ("options", "script", "said"),
    [
        pytest.param(
            {},
            [VERSION, LISTED, LISTED, (HISTORY, NONE)],
            [
                "the engine answers (version 2024.2.1.8888)",
                "the credentials are accepted (1 cubes are deployed)",
                "the build history can be read",
            ],
            id="all is well",
        ),
        pytest.param(
            {"environment": "prod"},
            [VERSION, LISTED, LISTED, (HISTORY, refusal(404)), (LATEST, wrapped({"batches": []}))],
            [..., ..., "the build history can be read"],
            id="old engine",
        ),
        pytest.param(
            {},
            [VERSION, LISTED, LISTED, (HISTORY, refusal(404)), (INSTANCES, NONE)],
            [..., ..., "aggregates can be read (this engine has no build history)"],
            id="no history",
        ),
        pytest.param(
            {},
            [VERSION, LISTED, LISTED, (HISTORY, refusal(404)), (INSTANCES, refusal(400))],
            [..., ..., "aggregates can be read (this engine has no build history)"],
            id="no history, and the id of no batch is a bad request",
        ),
        pytest.param(
            {},
            [VERSION, NO_LIST, (INSTANCES, NONE), NO_LIST, (INSTANCES, NONE)],
            [
                ...,
                "the credentials are accepted (this engine lists no projects: give ids instead of names)",
                ...,
            ],
            id="no list of projects",
        ),
        pytest.param(
            {},
            [("GET /version", refusal(404)), LISTED, LISTED, (HISTORY, NONE)],
            ["the engine answers", ..., ...],
            id="no version",
        ),
    ],
)
def test_probe(options, script, said):
    server = Server(script)
    steps = [server.run(flow) for _, flow in edition(**options).probe()]
    assert not server.script
    for step, expected in zip(steps, said, strict=True):
        assert expected in (..., step)


def test_probe_says_which_permission_lacks():
    server = Server([VERSION, LISTED, LISTED, (HISTORY, refusal(403))])
    with pytest.raises(AtScalePermissionError, match='"View Aggregates"'):
        list(map(server.run, (flow for _, flow in edition().probe())))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, f"{CENTER}/"),
        (
            "https://dc/history?cube={model_id}&batch={batch_id}",
            f"https://dc/history?cube={CUBE}&batch={BATCH}",
        ),
    ],
)
def test_history_url(template, expected):
    assert edition(build_history_url=template).history_url(REF, BATCH) == expected


def connect(host: str = "atscale", port: Any = None, login: Any = None, **extra: Any) -> InstallerEdition:
    conn = connection(host, port, login, "secret", edition="installer", **extra)
    return make_edition(parse_connection(conn), lambda: 1000.0)


@pytest.mark.parametrize(
    ("fields", "engine", "center"),
    [
        pytest.param({}, ENGINE, CENTER, id="a name"),
        pytest.param(
            {"host": "https://lb/base"}, "https://lb:10502/base", "https://lb:10500/base", id="a base path"
        ),
        pytest.param({"host": "[::1]"}, "https://[::1]:10502", "https://[::1]:10500", id="IPv6"),
        pytest.param({"port": 10500}, ENGINE, CENTER, id="port of the Design Center"),
        pytest.param({"host": "atscale:10502"}, ENGINE, CENTER, id="port of the engine"),
        pytest.param({"engine_url": "https://e"}, "https://e", CENTER, id="engine elsewhere"),
        pytest.param({"design_center_url": "https://d"}, ENGINE, "https://d", id="Design Center elsewhere"),
        pytest.param(
            {"port": 8443, "engine_url": "https://e"},
            "https://e",
            "https://atscale:8443",
            id="host is the other one",
        ),
        pytest.param(
            {"port": 8443, "engine_url": "https://e", "design_center_url": "https://d/"},
            "https://e",
            "https://d",
            id="both elsewhere",
        ),
    ],
)
def test_addresses(fields, engine, center):
    of = connect(**fields)
    assert (of.base_url, of.history_url(None, None)) == (engine, f"{center}/")
    assert of.name == "installer"


@pytest.mark.parametrize("more", [{}, {"design_center_url": "https://d"}])
def test_an_address_that_may_be_either(more):
    with pytest.raises(AtScaleConfigurationError, match="'engine_url' is empty, and the host's port 8443"):
        connect(host="atscale:8443", **more)


@pytest.mark.parametrize(
    ("fields", "script", "header"),
    [
        pytest.param({"auth_type": "client_api_key"}, [], {"client-api-key": "secret"}, id="client api key"),
        pytest.param({}, [], {"Authorization": "Bearer secret"}, id="token without login"),
        pytest.param(
            {"auth_type": "api_token", "login": "x"}, [], {"Authorization": "Bearer secret"}, id="token"
        ),
        pytest.param(
            {"login": "etl"}, [LOGS_IN], {"Authorization": f"Bearer {TOKEN}"}, id="login and password"
        ),
    ],
)
def test_authentication_by_connection(fields, script, header):
    server = Server([*script, (LISTING, wrapped([]))])
    server.run(connect(**fields).models())
    assert server.asked[-1].headers == {"Accept": "application/json", **header}
    if script:
        assert server.asked[0].url == f"{CENTER}/default/auth"


def test_organization_environment_and_engine_choice_by_connection():
    of = connect(auth_type="client_api_key", organization="acme", environment="test", engine_choice="true")
    paths = [f"/orgId/acme/projectId/{PROJECT}", f"/acme/{PROJECT}", f"/orgId/acme/envId/test/{PROJECT}"]
    server = Server([(f"POST /aggregate-batch{path}", refusal(404)) for path in paths[:2]])
    server.script.append((f"POST /aggregate-batch{paths[2]}", CREATED))
    assert isinstance(start(server, of), Started)


@pytest.mark.parametrize(
    ("login", "auth_type", "secrets"),
    [
        ("etl", "password", {"secret", "ZXRsOnNlY3JldA=="}),
        (None, "client_api_key", {"secret"}),
        ("etl", "api_token", {"secret"}),
    ],
)
def test_credentials_are_secret_in_each_form_in_which_they_are_sent(login, auth_type, secrets):
    conn = connection("atscale", None, login, "secret", edition="installer", auth_type=auth_type)
    assert set(parse_connection(conn).secrets) == secrets


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"auth_type": "client_api_key"}, "Triggers shows it"),
        ({"auth_type": "api_token"}, "https://atscale:10500/jwt/get"),
    ],
)
def test_refused_credentials_say_where_to_get_others(fields, text):
    with pytest.raises(AtScaleAuthenticationError, match=text):
        ask(connect(**fields).models(), (LISTING, refusal(401)))
