"""Control a local engine that runs in another process."""

from __future__ import annotations

import functools
import inspect
import time
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints
from urllib.parse import quote

import requests

from airflow_provider_atscale.testing.calls import ENDPOINTS, Endpoint, EngineCalls
from airflow_provider_atscale.testing.models import Catalog, Model

if TYPE_CHECKING:
    from collections.abc import Callable

_POLL_SECONDS = 0.02


class EngineControl(EngineCalls):
    """
    Send the calls of ``AtScaleEngine`` over HTTP; they have the same names and arguments.

    :param url: address of any port of the engine.
    :param verify: as in ``requests``.
    :param timeout: seconds that one call may take.
    """

    def __init__(self, url: str, verify: bool | str = True, timeout: float = 10) -> None:
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._session = requests.Session()
        self._session.verify = verify
        # The engine is on this machine; a proxy of the environment could not reach it.
        self._session.trust_env = False

    def wait_held(self, hold_id: str, timeout: float = 10) -> None:
        """Block until a request is held; raise ``TimeoutError`` if none comes."""
        deadline = time.monotonic() + timeout
        while not self.hold_status(hold_id)["held"]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"No request came to {hold_id} in {timeout} seconds")
            time.sleep(_POLL_SECONDS)

    def _send(self, endpoint: Endpoint, arguments: dict[str, Any]) -> Any:
        # A catalog or model may be given as an object; over HTTP its id stands for it.
        values = {name: _by_id(value) for name, value in arguments.items()}
        path = endpoint.path
        for name in [name for name in values if f"{{{name}}}" in path]:
            path = path.replace(f"{{{name}}}", quote(str(values.pop(name)), safe=""))
        given = {name: value for name, value in values.items() if value is not None}
        in_query = endpoint.method == "GET"
        response = self._session.request(
            endpoint.method,
            f"{self._url}/_engine/{path}",
            params=given if in_query else None,
            json=None if in_query else values or None,
            timeout=self._timeout,
        )
        if response.status_code == requests.codes.bad_request:
            raise ValueError(response.json()["message"])
        response.raise_for_status()
        return response.json()["result"]


def _by_id(value: Any) -> Any:
    return value.id if isinstance(value, (Catalog, Model)) else value


def _remote(function: Callable[..., Any], endpoint: Endpoint) -> Callable[..., Any]:
    """Return a method with the signature of a call that sends the call."""
    signature = inspect.signature(function)
    kind = get_type_hints(function)["return"]
    open_ended = [p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]

    @functools.wraps(function)
    def send(self: EngineControl, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        arguments = dict(list(bound.arguments.items())[1:])
        for name in open_ended:
            arguments.update(arguments.pop(name, {}))
        return _restore(kind, self._send(endpoint, arguments))

    return send


def _restore(kind: Any, value: Any) -> Any:
    """Make the objects of a type again from their JSON."""
    if get_origin(kind) is list:
        return [_restore(get_args(kind)[0], each) for each in value]
    if isinstance(kind, type) and is_dataclass(kind):
        hints = _hints(kind)
        return kind(**{name: _restore(hints[name], each) for name, each in value.items()})
    return value


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


# Editors and type checkers see the declarations in EngineCalls; what runs here is their remote form.
for _name, _endpoint in ENDPOINTS.items():
    _declared = inspect.getattr_static(EngineCalls, _name)
    if isinstance(_declared, property):
        assert _declared.fget is not None  # noqa: S101
        setattr(EngineControl, _name, property(_remote(_declared.fget, _endpoint)))
    else:
        setattr(EngineControl, _name, _remote(_declared, _endpoint))
