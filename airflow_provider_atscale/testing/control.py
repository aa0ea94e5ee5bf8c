"""The control API under ``/_engine/``: the calls of an engine over HTTP, and the pages for humans."""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.testing.calls import ENDPOINTS, EngineCalls
from airflow_provider_atscale.testing.pages import history_page
from airflow_provider_atscale.testing.wire import Call, Reply, Route

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_atscale.testing.core import EngineState

PREFIX = "/_engine/"


class Control:
    """
    Answer the requests that are about the engine itself.

    :param calls: the calls to offer.
    :param state: what the pages show.
    :param edition: its name, for the page.
    """

    def __init__(self, calls: EngineCalls, state: EngineState, edition: str) -> None:
        self._calls = calls
        self._state = state
        self._edition = edition
        self._routes = [
            Route("landing", "GET", "/", self._page),
            Route("page", "GET", PREFIX + "history", self._page),
            *(
                Route(name, endpoint.method, PREFIX + endpoint.path, self._handler(name))
                for name, endpoint in ENDPOINTS.items()
            ),
        ]

    @staticmethod
    def concerns(path: str) -> bool:
        """Return whether a path belongs to the control API or its pages."""
        return path == "/" or path.startswith(PREFIX)

    def answer(self, call: Call) -> Reply:
        """Answer a request; a wrong one with 400 and what is wrong."""
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

    def _handler(self, name: str) -> Callable[[Call], Reply]:
        is_property = isinstance(getattr(EngineCalls, name), property)

        def run(call: Call) -> Reply:
            found = getattr(self._calls, name)
            result = found if is_property else found(**_arguments(call))
            return Reply.json({"result": _plain(result)})

        return run

    def _page(self, call: Call) -> Reply:
        with self._state.lock:
            return Reply.html(history_page(self._state.store, self._edition, call.query.get("batchId")))


def _arguments(call: Call) -> dict[str, Any]:
    arguments = json.loads(call.body) if call.body.strip() else {}
    if not isinstance(arguments, dict):
        raise TypeError("The body must be a JSON object")
    return {**call.query, **arguments, **call.params}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
