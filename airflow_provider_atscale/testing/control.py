"""The control API under ``/_engine/``: what the engine's methods do, over HTTP."""

from __future__ import annotations

import json
from dataclasses import asdict
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.testing.pages import history_page
from airflow_provider_atscale.testing.wire import Call, Reply, Route

if TYPE_CHECKING:
    from airflow_provider_atscale.testing.server import AtScaleEngine

PREFIX = "/_engine/"


class Control:
    """
    Answer the requests that are about the engine itself.

    :param core: the engine to control.
    :param edition: its name, for the page.
    """

    def __init__(self, core: AtScaleEngine, edition: str) -> None:
        self._core = core
        self._edition = edition
        self._routes = [
            Route("landing", "GET", "/", self._page),
            Route("page", "GET", PREFIX + "history", self._page),
            Route("batches", "GET", PREFIX + "batches", self._batches),
            Route("start", "POST", PREFIX + "batches", self._start),
            Route("end", "POST", PREFIX + "batches/{id}/end", self._end),
            Route("requests", "GET", PREFIX + "requests", self._requests),
            Route("forget", "DELETE", PREFIX + "requests", self._method("clear_requests")),
            Route("stats", "GET", PREFIX + "stats", self._stats),
            Route("fault", "POST", PREFIX + "faults", self._method("fault")),
            Route("mend", "DELETE", PREFIX + "faults", self._method("clear_faults")),
            Route("hold", "POST", PREFIX + "holds", self._method("hold")),
            Route("held", "GET", PREFIX + "holds/{hold_id}", self._method("hold_status")),
            Route("release", "POST", PREFIX + "holds/{hold_id}/release", self._method("release")),
            Route("settings", "POST", PREFIX + "settings", self._method("settings")),
            Route("advance", "POST", PREFIX + "advance", self._method("advance")),
            Route("expire", "POST", PREFIX + "tokens/expire", self._method("expire_tokens")),
            Route("revoke", "POST", PREFIX + "tokens/revoke", self._method("revoke_api_token")),
            Route("rotate", "POST", PREFIX + "tokens/rotate", self._method("rotate_api_token")),
            Route("fail", "POST", PREFIX + "fail_next", self._method("fail_next")),
            Route("catalog", "POST", PREFIX + "catalogs", self._add("add_catalog")),
            Route("model", "POST", PREFIX + "models", self._add("add_model")),
            Route("find", "GET", PREFIX + "models/{wanted}", self._find),
            Route("hang up", "POST", PREFIX + "connections/close", self._method("close_connections")),
            Route("reset", "POST", PREFIX + "reset", self._method("reset")),
        ]

    @staticmethod
    def concerns(path: str) -> bool:
        """Tell whether a path belongs to the control API or its pages."""
        return path == "/" or path.startswith(PREFIX)

    def answer(self, call: Call) -> Reply:
        """Answer a request; a wrong one with 400 and what was wrong."""
        for route in self._routes:
            params = route.match(call.method, call.path)
            if params is None:
                continue
            call.params = params
            try:
                return route.handler(call)
            except (ValueError, TypeError) as error:
                return Reply.json({"message": str(error)}, HTTPStatus.BAD_REQUEST)
        return Reply.json({"message": f"Cannot {call.method} {call.path}"}, HTTPStatus.NOT_FOUND)

    def _method(self, name: str) -> Any:
        method = getattr(self._core, name)

        def run(call: Call) -> Reply:
            return Reply.json({"result": method(**call.params, **_arguments(call))})

        return run

    def _add(self, name: str) -> Any:
        method = getattr(self._core, name)

        def run(call: Call) -> Reply:
            return Reply.json({"result": asdict(method(**_arguments(call)))})

        return run

    def _find(self, call: Call) -> Reply:
        return Reply.json(
            {"result": asdict(self._core.model(call.params["wanted"], call.query.get("catalog")))}
        )

    def _page(self, call: Call) -> Reply:
        with self._core.lock:
            return Reply.html(history_page(self._core, self._edition, call.query.get("batchId")))

    def _batches(self, _: Call) -> Reply:
        return Reply.json({"result": [asdict(batch) for batch in self._core.batches]})

    def _requests(self, _: Call) -> Reply:
        return Reply.json({"result": [asdict(request) for request in self._core.requests]})

    def _stats(self, _: Call) -> Reply:
        return Reply.json({"result": asdict(self._core.stats)})

    def _start(self, call: Call) -> Reply:
        return Reply.json({"result": asdict(self._core.start_batch(**_arguments(call)))})

    def _end(self, call: Call) -> Reply:
        return Reply.json({"result": asdict(self._core.end_batch(call.params["id"], **_arguments(call)))})


def _arguments(call: Call) -> dict[str, Any]:
    if not call.body.strip():
        return {}
    arguments = json.loads(call.body)
    if not isinstance(arguments, dict):
        raise TypeError("The body must be a JSON object")
    return arguments
