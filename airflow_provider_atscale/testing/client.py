"""Control a local engine that runs in another process."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import requests

from airflow_provider_atscale.testing.records import BatchRecord, RequestRecord, Stats
from airflow_provider_atscale.testing.world import DEFAULT_FAILURE, Catalog, Model

_LOOK_AGAIN = 0.02


class EngineControl:
    """
    Do over HTTP what the methods of ``AtScaleEngine`` do; they have the same names and arguments.

    :param url: address of any port of the engine.
    :param verify: as in ``requests``.
    :param timeout: seconds that one call may take.
    """

    def __init__(self, url: str, verify: bool | str = True, timeout: float = 10) -> None:
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._session = requests.Session()
        self._session.verify = verify
        # The engine is near; a proxy of the environment would only be in the way.
        self._session.trust_env = False

    @property
    def batches(self) -> list[BatchRecord]:
        """All batches, oldest first."""
        return [BatchRecord(**row) for row in self._call("GET", "batches")]

    @property
    def requests(self) -> list[RequestRecord]:
        """The requests received, oldest first."""
        return [RequestRecord(**row) for row in self._call("GET", "requests")]

    @property
    def stats(self) -> Stats:
        """The counters."""
        return Stats(**self._call("GET", "stats"))

    def clear_requests(self) -> None:
        """Forget the requests and counters."""
        self._call("DELETE", "requests")

    def add_catalog(self, name: str, caption: str | None = None) -> Catalog:
        """Deploy a catalog."""
        return Catalog(**self._call("POST", "catalogs", name=name, caption=caption))

    def add_model(self, catalog: str, name: str, caption: str | None = None, aggregates: int = 6) -> Model:
        """Deploy a model in a catalog that is given by id, name or caption."""
        row = self._call("POST", "models", catalog=catalog, name=name, caption=caption, aggregates=aggregates)
        return Model(**row)

    def model(self, wanted: str, catalog: str | None = None) -> Model:
        """Find a model by id, name or caption."""
        query = "" if catalog is None else f"?catalog={quote(catalog)}"
        return Model(**self._call("GET", f"models/{quote(wanted)}{query}"))

    def settings(self, **changes: Any) -> None:
        """Change settings."""
        self._call("POST", "settings", **changes)

    def advance(self, seconds: float) -> None:
        """Put the server's clock forward."""
        self._call("POST", "advance", seconds=seconds)

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
        """Let requests go wrong."""
        result: int = self._call(
            "POST",
            "faults",
            action=action,
            method=method,
            path=path,
            query=query,
            route=route,
            times=times,
            when=when,
            headers=headers,
            body=body,
            seconds=seconds,
        )
        return result

    def clear_faults(self) -> None:
        """Forget all faults."""
        self._call("DELETE", "faults")

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
        """Keep requests waiting until they are released."""
        result: str = self._call(
            "POST", "holds", at=at, method=method, path=path, query=query, route=route, times=times
        )
        return result

    def hold_status(self, hold_id: str) -> dict[str, Any]:
        """Report a hold."""
        result: dict[str, Any] = self._call("GET", f"holds/{hold_id}")
        return result

    def wait_held(self, hold_id: str, timeout: float = 10) -> None:
        """Block until a request is held; raise ``TimeoutError`` if none comes."""
        deadline = time.monotonic() + timeout
        while not self.hold_status(hold_id)["held"]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"No request came to {hold_id} in {timeout} seconds")
            time.sleep(_LOOK_AGAIN)

    def release(self, hold_id: str, then: str = "continue") -> None:
        """Let held requests continue, or drop them."""
        self._call("POST", f"holds/{hold_id}/release", then=then)

    def reset(self) -> None:
        """Remove faults and holds; held requests continue."""
        self._call("POST", "reset")

    def close_connections(self) -> None:
        """Close all connections that carry or have carried a request."""
        self._call("POST", "connections/close")

    def expire_tokens(self) -> None:
        """Make all JWTs issued so far invalid."""
        self._call("POST", "tokens/expire")

    def revoke_api_token(self) -> None:
        """Make the API token invalid."""
        self._call("POST", "tokens/revoke")

    def rotate_api_token(self, new: str | None = None) -> str:
        """Replace the API token and return the new one."""
        result: str = self._call("POST", "tokens/rotate", new=new)
        return result

    def start_batch(
        self,
        catalog: str | None,
        model: str,
        is_full_build: bool = False,
        by: str = "design center",
        build_seconds: float | None = None,
    ) -> BatchRecord:
        """Start a batch as somebody else would."""
        row = self._call(
            "POST",
            "batches",
            catalog=catalog,
            model=model,
            is_full_build=is_full_build,
            by=by,
            build_seconds=build_seconds,
        )
        return BatchRecord(**row)

    def end_batch(
        self,
        batch_id: str,
        status: str = "done",
        failed_aggregates: int = 0,
        message: str = DEFAULT_FAILURE,
    ) -> BatchRecord:
        """End a running batch now."""
        row = self._call(
            "POST",
            f"batches/{batch_id}/end",
            status=status,
            failed_aggregates=failed_aggregates,
            message=message,
        )
        return BatchRecord(**row)

    def fail_next(
        self,
        model: str,
        status: str = "failed",
        failed_aggregates: int = 2,
        message: str = DEFAULT_FAILURE,
    ) -> None:
        """Decide how the next batch of a model ends."""
        self._call(
            "POST",
            "fail_next",
            model=model,
            status=status,
            failed_aggregates=failed_aggregates,
            message=message,
        )

    def _call(self, verb: str, what: str, /, **arguments: Any) -> Any:
        response = self._session.request(
            verb, f"{self._url}/_engine/{what}", json=arguments or None, timeout=self._timeout
        )
        if response.status_code == requests.codes.bad_request:
            raise ValueError(response.json()["message"])
        response.raise_for_status()
        return response.json()["result"]
