"""The calls of a local engine, each declared once for ``AtScaleEngine`` and ``EngineControl``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_atscale.testing.batches import DEFAULT_FAILURE, Outcome
from airflow_provider_atscale.testing.faults import Match

# The client reads the return types of the calls, so they must exist at run time.
from airflow_provider_atscale.testing.models import Catalog, Model  # noqa: TC001
from airflow_provider_atscale.testing.records import BatchRecord, RequestRecord, Stats  # noqa: TC001

if TYPE_CHECKING:
    from airflow_provider_atscale.testing.core import EngineState

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Endpoint:
    """Name the place of a call in the control API; ``path`` may hold ``{arguments}``."""

    method: str
    path: str


#: The endpoint of each call, by the call's name.
ENDPOINTS: dict[str, Endpoint] = {}


def _endpoint(method: str, path: str) -> Callable[[Function], Function]:
    def declare(function: Function) -> Function:
        ENDPOINTS[function.__name__] = Endpoint(method, path)
        return function

    return declare


class EngineCalls:
    """Declare the calls that work in the engine's process and, over HTTP, from any other process."""

    _state: EngineState

    @property
    @_endpoint("GET", "batches")
    def batches(self) -> list[BatchRecord]:
        """All batches, oldest first."""
        state = self._state
        with state.lock:
            return [state.report(batch) for batch in state.store.batches.values()]

    @property
    @_endpoint("GET", "requests")
    def requests(self) -> list[RequestRecord]:
        """The requests received, oldest first."""
        return self._state.request_log.requests()

    @property
    @_endpoint("GET", "stats")
    def stats(self) -> Stats:
        """The counters."""
        return self._state.request_log.stats()

    @_endpoint("DELETE", "requests")
    def clear_requests(self) -> None:
        """Forget the requests and counters."""
        self._state.request_log.clear()

    @_endpoint("POST", "catalogs")
    def add_catalog(self, name: str, caption: str | None = None) -> Catalog:
        """Deploy a catalog (installer edition: publish a project)."""
        with self._state.lock:
            return self._state.store.add_catalog(name, caption)

    @_endpoint("POST", "models")
    def add_model(
        self, catalog: str | Catalog, name: str, caption: str | None = None, aggregates: int = 6
    ) -> Model:
        """Deploy a model (a cube) in a catalog that is given by id, name or caption."""
        with self._state.lock:
            return self._state.store.add_model(catalog, name, caption, aggregates)

    @_endpoint("GET", "model")
    def model(self, wanted: str, catalog: str | None = None) -> Model:
        """Find a model by id, name or caption."""
        with self._state.lock:
            return self._state.store.find_model(wanted, catalog)

    @_endpoint("POST", "settings")
    def settings(self, **changes: Any) -> None:
        """Change settings; see :class:`~airflow_provider_atscale.testing.settings.Settings`."""
        with self._state.lock:
            self._state.current.change(**changes)
            self._state.save()

    @_endpoint("POST", "advance")
    def advance(self, seconds: float) -> None:
        """Put the server's clock forward, and with it everything that takes time."""
        state = self._state
        with state.lock:
            state.current.change(clock_offset=state.current.clock_offset + seconds)
            state.save()

    @_endpoint("POST", "faults")
    def fault(
        self,
        action: str | int,
        *,
        method: str | None = None,
        path: str | None = None,
        query: str | None = None,
        route: str | None = None,
        times: int | None = 1,
        when: str = "before",
        headers: dict[str, str] | None = None,
        body: Any = None,
        seconds: float = 1.0,
    ) -> int:
        """
        Let requests fail.

        :param action: an HTTP status to answer with, or ``drop`` (close the connection before processing),
            ``drop_after`` (process, then close without a reply), ``cut`` (process, close in the middle of the
            reply), ``truncate`` (process, reply with the first half of the body), ``delay``, ``html`` (a
            login page with status 200), ``empty`` (status 200 and no body).
        :param method: HTTP method of the requests.
        :param path: regular expression that is searched in their path.
        :param query: regular expression that is searched in their query string.
        :param route: name of their route, such as ``start`` or ``history``.
        :param times: how many requests; ``None`` for all from now on.
        :param when: ``after``: an answered status, ``html`` or ``empty`` replaces the reply of a request that
            was processed.
        :param headers: headers of an answered status.
        :param body: text as is, anything else as JSON.
        :param seconds: length of a ``delay``.
        """
        match = Match(method, path, query, route)
        return self._state.fault_list.add(
            action, match, times=times, when=when, headers=headers, body=body, seconds=seconds
        )

    @_endpoint("DELETE", "faults")
    def clear_faults(self) -> None:
        """Forget all faults."""
        self._state.fault_list.clear()

    @_endpoint("POST", "holds")
    def hold(
        self,
        at: str = "received",
        *,
        method: str | None = None,
        path: str | None = None,
        query: str | None = None,
        route: str | None = None,
        times: int | None = 1,
    ) -> str:
        """
        Keep requests waiting until they are released, and return the hold's id.

        :param at: ``received`` or ``processed`` for any request; ``start.received`` and ``start.created`` for
            a start, before there is a batch and after it was created.
        :param method: HTTP method of the requests.
        :param path: regular expression that is searched in their path.
        :param query: regular expression that is searched in their query string.
        :param route: name of their route, such as ``start`` or ``history``.
        :param times: how many requests; ``None`` for all until the release.
        """
        return self._state.hold_list.add(at, Match(method, path, query, route), times)

    @_endpoint("GET", "holds/{hold_id}")
    def hold_status(self, hold_id: str) -> dict[str, Any]:
        """Report a hold: how many requests it keeps now, how many it has kept."""
        return self._state.hold_list.status(hold_id)

    def wait_held(self, hold_id: str, timeout: float = 10) -> None:
        """Block until a request is held; raise ``TimeoutError`` if none comes."""
        self._state.hold_list.wait(hold_id, timeout)

    @_endpoint("POST", "holds/{hold_id}/release")
    def release(self, hold_id: str, then: str = "continue") -> None:
        """Let held requests ``continue``, or ``drop`` their connections."""
        self._state.hold_list.release(hold_id, then)

    @_endpoint("POST", "reset")
    def reset(self) -> None:
        """Remove faults and holds; held requests continue."""
        self._state.fault_list.clear()
        self._state.hold_list.clear()

    @_endpoint("POST", "connections/close")
    def close_connections(self) -> None:
        """Close all connections that carry or have carried a request, as servers do with idle ones."""
        self._state.request_log.close_connections()

    @_endpoint("POST", "tokens/expire")
    def expire_tokens(self) -> None:
        """Make all JWTs issued so far invalid."""
        with self._state.lock:
            self._state.tokens.expire_all()
            self._state.save()

    @_endpoint("POST", "tokens/revoke")
    def revoke_api_token(self) -> None:
        """Make the API token invalid."""
        with self._state.lock:
            self._state.tokens.api_token = None
            self._state.save()

    @_endpoint("POST", "tokens/rotate")
    def rotate_api_token(self, new: str | None = None) -> str:
        """Replace the API token, which makes the old one invalid, and return the new one."""
        with self._state.lock:
            token = self._state.tokens.rotate(new)
            self._state.save()
            return token

    @_endpoint("POST", "batches")
    def start_batch(
        self,
        catalog: str | Catalog | None,
        model: str | Model,
        is_full_build: bool = False,
        by: str = "design center",
        build_seconds: float | None = None,
    ) -> BatchRecord:
        """Start a batch as another user of AtScale would."""
        store = self._state.store
        with self._state.lock:
            batch = store.start(
                store.find_model(model, catalog),
                is_full_build=is_full_build,
                by=by,
                build_seconds=build_seconds,
            )
            return self._state.report(batch)

    @_endpoint("POST", "batches/{batch_id}/end")
    def end_batch(
        self,
        batch_id: str,
        status: str = "done",
        failed_aggregates: int = 0,
        message: str = DEFAULT_FAILURE,
        repaired_aggregates: int = 0,
    ) -> BatchRecord:
        """End a running batch now."""
        outcome = Outcome(status, failed_aggregates, message, repaired_aggregates)
        with self._state.lock:
            return self._state.report(self._state.store.end(batch_id, outcome))

    @_endpoint("POST", "fail_next")
    def fail_next(
        self,
        model: str | Model,
        status: str = "failed",
        failed_aggregates: int = 2,
        message: str = DEFAULT_FAILURE,
        repaired_aggregates: int = 0,
    ) -> None:
        """
        Decide how the next batch of a model ends.

        :param model: id, name or caption of the model.
        :param status: status at the end; ``done`` with failed aggregates makes it a partial success.
        :param failed_aggregates: how many aggregates are not built.
        :param message: what their instances say.
        :param repaired_aggregates: how many aggregates fail at first and are built by a retry inside the batch.
        """
        store = self._state.store
        with self._state.lock:
            outcome = Outcome(status, failed_aggregates, message, repaired_aggregates)
            store.script(store.find_model(model), outcome)
            self._state.save()
