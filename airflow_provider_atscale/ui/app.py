"""Serve the page "AtScale builds" to users who can read assets; of a DAG, they see what they see elsewhere."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from airflow.exceptions import AirflowOptionalProviderFeatureException

try:
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
    from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_asset
except ImportError as error:
    raise AirflowOptionalProviderFeatureException("The page AtScale builds needs Airflow 3.1+") from error
from airflow.utils.session import create_session
from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, Response
from starlette.exceptions import HTTPException

from airflow_provider_atscale.ui import PAGE, PREFIX, page, rows
from airflow_provider_atscale.ui.builds import Model, collect, reported

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.orm import Session

STATIC = Path(__file__).parent / "static"
#: The page loads and contacts nothing but this API server.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; form-action 'self'; "
    "frame-ancestors 'self'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_FILES = {"builds.css": "text/css", "builds.js": "text/javascript"}

Text = Annotated[str, Query(max_length=2000)]


#: Without login it answers nothing.
app = FastAPI(
    title="AtScale builds",
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    dependencies=[Depends(requires_access_asset(method="GET"))],
)


@app.get(PAGE)
def show_models(
    request: Request, user: GetUserDep, q: Text = "", show: Text = "", p: Annotated[int, Query()] = 1
) -> Response:
    """Show a page of the models whose names contain a text, all or those in a state."""
    with create_session(scoped=False) as session:
        models, _ = _read(session, user)
    return _answer("models.html", request, shown=page.select(models, search=q, state=show, number=p))


@app.get(f"{PAGE}/model")
def show_model(request: Request, user: GetUserDep, key: Text) -> Response:
    """Show the builds of a model."""
    with create_session(scoped=False) as session:
        models, with_xcoms = _read(session, user)
        model = next((each for each in models if each.key == key), None)
        if model is None:
            raise HTTPException(404, "There is no such model, or no build of it that you can see.")
        tasks = {task for build in model.builds for task in build.tasks if task.dag_id in with_xcoms}
        links = rows.read_links(session, tasks)
    return _answer("model.html", request, model=model, links=page.safe_links(links))


@app.get("/static/{name}")
def serve_file(name: str) -> Response:
    """Serve the style or the script."""
    if name not in _FILES:
        raise HTTPException(404, "There is no such file.")
    headers = {**_HEADERS, "Cache-Control": "private, max-age=3600"}
    return FileResponse(STATIC / name, media_type=_FILES[name], headers=headers)


def _read(session: Session, user: Any) -> tuple[list[Model], Collection[str]]:
    """Return the models that a user can see, and the DAGs of which the user can see XComs."""
    dag_ids = get_auth_manager().get_authorized_dag_ids(user=user, method="GET")
    with_xcoms = _with_xcoms(session, user, dag_ids)
    pushed = rows.read_pushed(session, with_xcoms) if with_xcoms else []
    events = rows.read_events(session, dag_ids, reported(pushed))
    return collect(pushed, events), with_xcoms


def _with_xcoms(session: Session, user: Any, dag_ids: Collection[str]) -> Collection[str]:
    """Return the DAGs of which a user can see XComs and task instances."""

    def can_read(dag_id: str | None) -> bool:
        return all(
            get_auth_manager().is_authorized_dag(
                method="GET", access_entity=entity, details=DagDetails(id=dag_id), user=user
            )
            for entity in (DagAccessEntity.XCOM, DagAccessEntity.TASK_INSTANCE)
        )

    # Without a DAG, as Airflow asks for its own lists of all DAGs: most users need no more questions.
    if can_read(None):
        return dag_ids
    return {dag_id for dag_id in rows.read_dag_ids(session, dag_ids) if can_read(dag_id)}


def _answer(template: str, request: Request, status: int = 200, **values: Any) -> HTMLResponse:
    root = str(request.scope.get("root_path", "")).removesuffix(PREFIX)
    now = datetime.now(timezone.utc)
    text = page.render(template, root=root, prefix=root + PREFIX, now=now, code=status, **values)
    return HTMLResponse(text, status_code=status, headers=_HEADERS)


@app.exception_handler(HTTPException)
@app.exception_handler(RequestValidationError)
# The server logs the error, too.
@app.exception_handler(Exception)
async def _refuse(request: Request, error: Exception) -> Response:
    """Answer an error as a page, because people see it in a frame."""
    status, detail = 500, "This page could not be made. The log of the API server says why."
    if isinstance(error, RequestValidationError):
        status, detail = 422, "The address of this page is not valid."
    elif isinstance(error, HTTPException):
        status, detail = error.status_code, str(error.detail)
    answer = _answer("error.html", request, status, detail=detail)
    # Among them is which methods are allowed.
    answer.headers.update(getattr(error, "headers", None) or {})
    return answer
