"""
The installer edition's calls (projects and cubes; "I20xx"), each a flow.

What the container edition calls a catalog and a model is a project and a cube here; on the wire the two pairs
of ids stand in the same places. AtScale documents the start (in words: ``aggregate-batch/org_id/project_id``
with ``cubeID`` and the header ``client-api-key``) and the instances. The other spellings of the start, the
build history and the lists of projects are known from clients only, AtScale's own among them; so whatever is
not documented has a second way, and a pair of ids needs none of the lists.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_atscale.api.auth import Area
from airflow_provider_atscale.api.edition import fill_history_url
from airflow_provider_atscale.api.errors import check, server_message
from airflow_provider_atscale.api.flow import Flow, Request, Response
from airflow_provider_atscale.api.history import (
    MAX_PAGES,
    NEWEST,
    PAGE,
    REFUSALS,
    Found,
    Page,
    batches_by_instances,
    search,
)
from airflow_provider_atscale.api.installer_projects import Version, choose, is_published, latest, parse_version
from airflow_provider_atscale.api.models import (
    AggregateInstance,
    Batch,
    History,
    HistoryUnavailable,
    Instances,
    ModelRef,
    parse_batch,
    parse_instance,
)
from airflow_provider_atscale.api.names import is_id, match_exactly_one, model_refs, title
from airflow_provider_atscale.api.start import LostReply, StartOutcome, post_once, read_start
from airflow_provider_atscale.api.values import id_of, number_of
from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleAuthenticationError,
    AtScaleConfigurationError,
    AtScaleError,
    AtScaleMalformedAnswerError,
    AtScaleNotFoundError,
    AtScalePermissionError,
)

if TYPE_CHECKING:
    from airflow_provider_atscale.api.auth import AdvisingAuth

_ACCEPT = {"Accept": "application/json"}

MANAGE = 'a role with the permission "Manage Aggregates"'
VIEW = 'a role with the permission "View Aggregates"'
WHERE_IDS_ARE = "The sample script in Design Center > project > cube > Build > Triggers shows both ids"

#: No list of AtScale's is known to come in shorter pages than this one when nothing is asked for.
SHORTEST_PAGE = 10
#: A list of one of these lengths may go on: what comes where nothing is asked for, and AtScale's longest page.
CUT_AT = (SHORTEST_PAGE, PAGE, 101)


@dataclass(frozen=True, slots=True)
class StartForm:
    """
    One spelling of the start.

    :param path: Path at the engine.
    :param cube: Name of the query parameter for the cube.
    :param sends_kind: Whether it says which kind of build is wanted.
    """

    path: str
    cube: str
    sends_kind: bool = False


#: In the order in which they are tried: the newest, the documented one, the oldest.
START_FORMS = (
    StartForm("/aggregate-batch/orgId/{org}/projectId/{project}", "cubeId", sends_kind=True),
    StartForm("/aggregate-batch/{org}/{project}", "cubeID"),
    StartForm("/aggregate-batch/orgId/{org}/envId/{env}/{project}", "cubeId"),
)

#: Which spelling each engine was found to have. All clients of a process know it, for each hook has an edition
#: of its own; the next process finds it out anew, for there is no place that all processes of an Airflow reach.
_known_forms: dict[tuple[str, str, str | None], StartForm] = {}


class InstallerEdition:
    """
    The calls of one installer server.

    :param engine_url: Address of the engine, without a slash at the end.
    :param design_center_url: Address of the Design Center, likewise.
    :param auth: The way of authentication.
    :param organization: Id of the organization.
    :param environment: Id of the environment, for old engines; None where there is none.
    :param engine_choice: Whether an engine whose start does not say the kind of build may choose it.
    :param build_history_url: Address of the build history page with ``{catalog_id}``, ``{model_id}`` and
        ``{batch_id}``, where it is known.
    """

    name = "installer"
    view_right = VIEW

    def __init__(
        self,
        engine_url: str,
        design_center_url: str,
        auth: AdvisingAuth,
        organization: str = "default",
        environment: str | None = None,
        *,
        engine_choice: bool = False,
        build_history_url: str | None = None,
    ) -> None:
        self.base_url = engine_url
        self._design_center_url = design_center_url
        self._auth = auth
        self._organization = organization
        self._environment = environment
        self._engine_choice = engine_choice
        self._build_history_url = build_history_url
        self._engine = (engine_url, organization, environment)
        self._has_only_latest = False
        self._filters_instances = False
        self._forbidden: dict[str, Mapping[str, str]] = {}

    # --- projects and cubes ---

    def resolve(self, catalog: str, model: str) -> Flow[ModelRef]:
        """
        Find a published cube (``GET /projects/published/orgId/<org>``).

        Two ids are taken as they are, without a request: a project id of any published version is that
        version. By name, or by the id of its draft, a project is the version that was published last.
        """
        if is_id(catalog) and is_id(model):
            return ModelRef(catalog, model, catalog, model)
        projects = yield from self._projects()
        project = choose(catalog, projects, self.base_url)
        where = f"project {title(project)!r} of {self.base_url}"
        if not project["cubes"] and is_id(model):
            return ModelRef(project["id"], model, title(project), model)
        cube = match_exactly_one("cube", model, project["cubes"], where)
        return ModelRef(project["id"], cube["id"], title(project), title(cube))

    def models(self, catalog: str | None = None) -> Flow[list[ModelRef]]:
        """List the published cubes, of one project or of all."""
        projects = yield from self._projects()
        known = latest(projects)
        chosen = known if catalog is None else [choose(catalog, projects, self.base_url)]
        return model_refs(chosen, known, "cubes")

    def _projects(self) -> Flow[list[Version]]:
        """Read all published versions of all projects, but for those that were published softly."""
        org = self._quoted(self._organization)
        response = yield from self._read(f"/projects/published/orgId/{org}")
        if response.status == 404 and self._environment:
            env = self._quoted(self._environment)
            response = yield from self._read(f"/projects/orgId/{org}/envId/{env}", {"includeCubes": "true"})
        if response.status == 404:
            raise AtScaleNotFoundError(
                f"{response.url} is not there (HTTP 404: {server_message(response)}). Check organization and "
                "engine_url (port 10502) of the connection, or give project and cube by their ids. "
                f"{WHERE_IDS_ARE}.",
                404,
            )
        self._check(response, "list the published projects", VIEW)
        projects = []
        for row in _rows(response, "projects"):
            project = parse_version(row)
            if project is None:
                raise response.malformed("has a project without id")
            if not project["is_soft"]:
                projects.append(project)
        return projects

    # --- batches ---

    def check_overrides(self, overrides: Mapping[str, Any]) -> None:
        """Raise where there are grace period overrides: no start of this edition takes them."""
        if overrides:
            raise AtScaleConfigurationError(
                f"grace_period_overrides is {dict(overrides)!r}, but the installer edition's start takes no "
                "such overrides; AtScale offers them in the container edition only. Leave them out: the "
                "grace periods of the cube's own datasets hold. Nothing was started."
            )

    @property
    def _of_environment(self) -> str:
        """Say what the calls of old engines depend on."""
        if self._environment:
            return f"for the connection's environment {self._environment!r}, which may be the wrong one"
        return "for which the connection needs the field environment"

    def history(self, ref: ModelRef) -> Flow[History | HistoryUnavailable]:
        """Read a cube's newest batches, or its last batch where the engine knows no more."""
        response = yield from self._newest_batches(ref, PAGE)
        if response.status in REFUSALS:
            hint = {
                403: f"it takes {VIEW}",
                404: f"an old engine has a list of its own, {self._of_environment}",
            }.get(response.status, self._auth.advice)
            said = f"HTTP {response.status}: {server_message(response)}"
            return HistoryUnavailable(f"{response.url} answers {said}; {hint}", response.status)
        batches = []
        for row in _page(response, ref, asked=PAGE).rows:
            batch = parse_batch(row)
            if batch is None:
                raise response.malformed("has a batch without id or status")
            # A server that ignores the filter must not pass another cube's batches off as this one's.
            if batch.is_rebuild and _is(row, ref.model_id, "cubeId", "cube_id") is not False:
                batches.append(batch)
        if self._hides_kind:
            # The engine chose the kind, so a batch of the other one is not somebody else's for that.
            batches = [replace(batch, is_full_build=None) for batch in batches]
        return History(tuple(batches), response.date)

    def batches(self, ref: ModelRef, wanted: Collection[str]) -> Flow[Found]:
        """
        Look for batches by their ids: in the history, or in their instances where it may not be read.

        Old engines list only the last batch of each cube; whoever was overtaken there is missing.
        """
        response = yield from self._newest_batches(ref, NEWEST)
        if response.status in REFUSALS:
            return (yield from self._batches_by_instances(wanted, response))

        def read(number: int, seen: int) -> Flow[Page]:
            del number
            response = yield from self._history_page(ref, offset=seen, limit=PAGE)
            self._check(response, "read the build history", VIEW)
            return _page(response, ref, asked=PAGE)

        first = _page(response, ref, asked=NEWEST)
        found = yield from search(first, read, wanted)
        overtaken = [each for each in wanted if each not in found]
        if self._has_only_latest and first.rows and overtaken:
            # Another batch of the cube has taken its place; its aggregates are still listed, where any list is.
            try:
                others = yield from self._batches_by_instances(overtaken, response)
            except AtScaleApiError:
                # Then nothing tells of it, and it is missing.
                return found
            found.update({key: each for key, each in others.items() if isinstance(each, Batch)})
        return found

    def _batches_by_instances(self, wanted: Collection[str], refusal: Response) -> Flow[Found]:
        def refused() -> None:
            self._check(refusal, "read the build history, and neither the instances", VIEW)

        return (yield from batches_by_instances(wanted, self.instances, refusal, refused, self.view_right))

    def _newest_batches(self, ref: ModelRef, limit: int) -> Flow[Response]:
        """Read the history or, of an old engine that has none, the last batch of each cube."""
        if not self._has_only_latest:
            response = yield from self._history_page(ref, offset=0, limit=limit)
            if response.status != 404 or not self._environment:
                return response
        org, env = self._quoted(self._organization), self._quoted(self._environment or "")
        response = yield from self._read(f"/aggregate-batch/orgId/{org}/envId/{env}")
        if response.status not in REFUSALS:
            self._check(response, "read the last batch of each cube", VIEW)
        self._has_only_latest = response.ok
        return response

    def _history_page(self, ref: ModelRef, *, offset: int, limit: int) -> Flow[Response]:
        params = {"limit": str(limit), "projectId": ref.catalog_id, "cubeId": ref.model_id}
        if offset:
            params["offset"] = str(offset)
        org = self._quoted(self._organization)
        response = yield from self._read(f"/aggregate-batch/orgId/{org}/history", params)
        if response.status not in REFUSALS:
            self._check(response, "read the build history", VIEW)
        return response

    # --- the start ---

    def start(
        self,
        ref: ModelRef,
        *,
        is_full_build: bool,
        grace_period_overrides: Mapping[str, Any],
        before_post: Callable[[bool], None],
    ) -> Flow[StartOutcome]:
        """
        Start a batch, in the first of the known spellings that the engine has.

        The next one is tried only after a 404, which says that nothing was started.
        """
        self.check_overrides(grace_period_overrides)
        said: list[str] = []
        # "Rebuild all aggregates" is what AtScale says that a start without a kind does.
        any_kind = is_full_build or self._engine_choice
        for form in (each for each in self._forms() if each.sends_kind or any_kind):
            response = yield from self._post(form, ref, before_post, is_full_build=is_full_build)
            if isinstance(response, LostReply):
                _known_forms[self._engine] = form
                return response
            if response.status == 404:
                said.append(f"{response.url} answered HTTP 404: {server_message(response)}")
                continue
            self._check_rights(response, f"start a build of {ref}", MANAGE)
            outcome = read_start(response, ref, MANAGE)
            _known_forms[self._engine] = form
            return outcome
        raise (yield from self._not_found(ref, said, is_full_build=is_full_build))

    @property
    def _hides_kind(self) -> bool:
        """Whether a batch's kind says nothing, because the start did not tell the engine which one to build."""
        form = _known_forms.get(self._engine)
        return form is not None and not form.sends_kind

    def _forms(self) -> list[StartForm]:
        """Return the spellings to try; the one that worked before comes first."""
        known = _known_forms.get(self._engine)
        forms = [form for form in START_FORMS if self._environment or "{env}" not in form.path]
        return sorted(forms, key=lambda form: form is not known)

    def _post(
        self, form: StartForm, ref: ModelRef, before_post: Callable[[bool], None], *, is_full_build: bool
    ) -> Flow[Response | LostReply]:
        """Send one spelling of the start."""
        path = form.path.format(
            org=self._quoted(self._organization),
            env=self._quoted(self._environment or ""),
            project=self._quoted(ref.catalog_id),
        )
        params = {form.cube: ref.model_id}
        if form.sends_kind:
            params["isFullBuild"] = "true" if is_full_build else "false"
        request = Request("POST", self.base_url + path, params, _ACCEPT, repeatable=False)
        headers = yield from self._auth.headers(Area.PUBLIC)
        return (yield from post_once(request, headers, partial(before_post, form.sends_kind)))

    def _not_found(self, ref: ModelRef, said: Sequence[str], *, is_full_build: bool) -> Flow[AtScaleError]:
        """Return the error for a start that was only answered with 404: the cube, or the call, is not there."""
        answers = "; ".join(said)
        try:
            projects = yield from self._projects()
        except AtScaleError:
            projects = None
        if projects is not None and not is_published(ref, projects):
            of_draft = [each["id"] for each in latest(projects) if each["draft"] == ref.catalog_id]
            hint = f" It is the id of a draft; published it is {' or '.join(of_draft)}." if of_draft else ""
            return AtScaleNotFoundError(
                f"AtScale cannot build {ref}: {answers}. The engine lists no cube {ref.model_id} in a "
                f"published project {ref.catalog_id}.{hint} {WHERE_IDS_ARE}.",
                404,
            )
        if not (self._engine_choice or is_full_build):
            doubt = "" if projects else f" Check engine_url (port 10502) and the ids, too. {WHERE_IDS_ARE}."
            return AtScaleConfigurationError(
                f"No incremental build of {ref} was started: {answers}. So this engine seems not to have the "
                "call that says which kind of build is wanted. Older calls leave the choice between full and "
                "incremental to the engine; set engine_choice to true in the connection to accept that "
                f"(old engines also need an environment: {self._of_environment}).{doubt}"
            )
        return AtScaleNotFoundError(
            f"AtScale cannot build {ref}: {answers}. Check that engine_url of the connection is the engine "
            f"(port 10502), and check the ids. {WHERE_IDS_ARE}. An old engine has calls of its own, "
            f"{self._of_environment}.",
            404,
        )

    # --- instances ---

    def instances(self, batch_id: str, ref: ModelRef | None = None) -> Flow[Instances]:
        """
        Read all instances of a batch (``GET /aggregates/orgId/<org>/instances?batchId=``).

        The documented rows do not name their batch. They count as its own only after the server has shown
        that it filters: to an id that no batch has, it must answer with no rows. Rows that do name their
        batch are filtered here, whatever the server does.
        """
        del ref
        known: dict[str, AggregateInstance] = {}
        seen = 0
        is_truncated = True
        for number in range(MAX_PAGES):
            response = yield from self._instances_page(batch_id, seen if number else None)
            if number and response.status in (400, 404):
                # The documented call has no paging, and it has answered already.
                is_truncated = len(known) in CUT_AT
                break
            self._check(response, f"read the instances of batch {batch_id}", VIEW)
            rows = _rows(response, "data")
            instances = [instance for instance in map(parse_instance, rows) if instance is not None]
            if len(instances) < len(rows):
                raise response.malformed("has an instance without id or status")
            fresh = {each.id: each for each in instances if each.id not in known}
            known.update(fresh)
            seen += len(rows)
            if not fresh or len(rows) < SHORTEST_PAGE:
                # The same rows once more: a server that does not page.
                is_truncated = bool(rows) and not fresh and len(known) in CUT_AT
                break
        if any(each.batch_id is None for each in known.values()) and not self._filters_instances:
            yield from self._prove_filter(batch_id)
        own = [each for each in known.values() if each.batch_id in (None, batch_id)]
        return Instances.of(own, is_truncated=is_truncated)

    def _instances_page(self, batch_id: str, offset: int | None = None) -> Flow[Response]:
        params = {"batchId": batch_id}
        if offset is not None:
            params.update(limit=str(PAGE), offset=str(offset))
        return (
            yield from self._read(f"/aggregates/orgId/{self._quoted(self._organization)}/instances", params)
        )

    def _prove_filter(self, batch_id: str) -> Flow[None]:
        """Raise unless the server tells batches apart; asked after rows came, so there are some to show."""
        response = yield from self._instances_page(_id_of_no_batch(batch_id))
        if response.status not in (400, 404):
            self._check(response, f"read the instances of batch {batch_id}", VIEW)
            if _rows(response, "data"):
                raise AtScaleMalformedAnswerError(
                    f"{response.url} lists aggregates even for a batch that does not exist, and its rows name "
                    f"no batch. So which of them batch {batch_id} has built cannot be told.",
                    response.status,
                )
        self._filters_instances = True

    def locate(self, batch_id: str) -> Flow[ModelRef | None]:
        """Find the cube of a batch through its instances."""
        for each in (yield from self.instances(batch_id)):
            if each.catalog_id and each.model_id:
                return ModelRef(each.catalog_id, each.model_id, each.catalog_id, each.model_id)
        return None

    # --- testing a connection ---

    def probe(self) -> Iterator[tuple[str, Flow[str]]]:
        """Return the steps of a connection test."""
        yield "reach the engine", self._probe_engine()
        yield "use the credentials", self._probe_credentials()
        yield "read the build history", self._probe_history()

    def _probe_engine(self) -> Flow[str]:
        response: Response = yield Request("GET", f"{self.base_url}/version", headers={"Accept": "*/*"})
        version = response.text.strip() if response.ok and len(response.body) < 80 else ""
        return f"the engine answers{f' (version {version})' if version else ''}"

    def _probe_credentials(self) -> Flow[str]:
        refs = yield from self._probed_models()
        if refs is None:
            return "the credentials are accepted (this engine lists no projects: give ids instead of names)"
        return f"the credentials are accepted ({len(refs)} cubes are published)"

    def _probe_history(self) -> Flow[str]:
        refs = yield from self._probed_models()
        if refs:
            response = yield from self._newest_batches(refs[0], 1)
            if response.status != 404:
                self._check(response, "read the build history", VIEW)
                _page(response, refs[0], asked=1)
                return "the build history can be read"
        if refs is not None:
            yield from self._probe_instances()
        why = "this engine has no build history" if refs else "no cube is known, so no build history was read"
        return f"aggregates can be read ({why})"

    def _probed_models(self) -> Flow[list[ModelRef] | None]:
        """Return the cubes; None where the engine does not list them, but lets aggregates be read."""
        try:
            return (yield from self.models())
        except AtScaleNotFoundError:
            yield from self._probe_instances()
            return None

    def _probe_instances(self) -> Flow[None]:
        # Without a batch's id the answer could be long.
        response = yield from self._instances_page(_id_of_no_batch("probe"))
        if response.status != 400:
            self._check(response, "read aggregate instances", VIEW)

    # --- helpers ---

    def history_url(self, ref: ModelRef | None, batch_id: str | None) -> str:
        """Return the build history page, or the Design Center where its address is not configured."""
        return fill_history_url(self._build_history_url, self._design_center_url + "/", ref, batch_id)

    def _read(self, path: str, params: Mapping[str, str] | None = None) -> Flow[Response]:
        """Read from the engine; after refused credentials renew them once and read again."""
        request = Request("GET", self.base_url + path, params or {}, _ACCEPT)
        used = yield from self._auth.headers(Area.PUBLIC)
        response: Response = yield request.with_headers(used)
        # Engines say 401 or 403 to a token that has ended; 403 to a new one is about rights, and stays.
        is_about_rights = response.status == 403 and self._forbidden.get(path) == used
        if response.status not in (401, 403) or is_about_rights:
            return response
        if (yield from self._auth.renew(Area.PUBLIC, used)):
            used = yield from self._auth.headers(Area.PUBLIC)
            response = yield request.with_headers(used)
            if response.status == 403:
                self._forbidden[path] = used
        return response

    def _check(self, response: Response, what: str, needs: str) -> None:
        self._check_rights(response, what, needs)
        check(response, what)

    def _check_rights(self, response: Response, what: str, needs: str) -> None:
        """
        Raise the typed error for refused credentials or a lacking permission.

        :param response: The answer.
        :param what: What the call was for, as in "could not ...".
        :param needs: What the user needs for it.
        """
        if response.status not in (401, 403):
            return
        said = f"{response.url} answered HTTP {response.status}: {server_message(response)}"
        if response.status == 401:
            raise AtScaleAuthenticationError(
                f"Could not {what}: the credentials were not accepted. {said}. {self._auth.advice}", 401
            )
        raise AtScalePermissionError(
            f"Could not {what}: the user may not. {said}. The user of the connection needs {needs}.", 403
        )

    @staticmethod
    def _quoted(value: str) -> str:
        return quote(value, safe="")


def _id_of_no_batch(text: str) -> str:
    """Return an id in the form of a batch's that no batch has, the same one at every call."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, text))


def _rows(response: Response, name: str) -> list[Any]:
    """Return the rows of a list answer, which are the envelope's content or stand in it under a name."""
    inner = _inner(response)
    rows = inner.get(name) if isinstance(inner, Mapping) else inner
    if not isinstance(rows, list):
        raise response.malformed(f"has no list {name!r} in its 'response'")
    return rows


def _inner(response: Response) -> Any:
    """Return what the envelope of an answer holds."""
    body = response.json()
    return body.get("response") if isinstance(body, Mapping) else None


def _page(response: Response, ref: ModelRef, *, asked: int) -> Page:
    """Return a page of the history, or all that the old list has: the last batch of each cube."""
    inner = _inner(response)
    content = inner if isinstance(inner, Mapping) else {}
    latest_of_cubes, rows = content.get("batches"), content.get("data")
    if isinstance(latest_of_cubes, list):
        return Page(_latest_batch(latest_of_cubes, ref), is_last=True)
    if not isinstance(rows, list):
        raise response.malformed("has no list 'data' in its 'response'")
    # There is no total; the server may tell a limit of its own, which then makes a full page.
    return Page(rows, len(rows) < min(asked, number_of(content, "limit") or asked))


def _latest_batch(rows: Sequence[Any], ref: ModelRef) -> list[Any]:
    """Return the batch that the old list has of a cube, if it has one."""
    of_cube = [row for row in rows if isinstance(row, Mapping) and _is(row, ref.model_id, "cubeId")]
    # Versions of a project may share a cube.
    of_project = [row for row in of_cube if _is(row, ref.catalog_id, "projectId")]
    batches = [row.get("batch") for row in of_project or of_cube]
    return [batch for batch in batches if batch is not None]


def _is(row: Mapping[str, Any], wanted: str, *names: str) -> bool | None:
    """Whether a row's id is the wanted one, in whichever case somebody wrote it; None where it has none."""
    found = id_of(row, *names)
    return None if found is None else found.lower() == wanted.lower()
