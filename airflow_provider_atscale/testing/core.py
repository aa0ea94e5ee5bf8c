"""The engine without its sockets: its state, and all that a test can do to it."""

from __future__ import annotations

import json
import logging
import secrets
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.testing.faults import Faults, Holds, Match
from airflow_provider_atscale.testing.records import BatchRecord, Ledger, RequestRecord, Stats
from airflow_provider_atscale.testing.settings import Settings
from airflow_provider_atscale.testing.tokens import Tokens
from airflow_provider_atscale.testing.world import (
    DEFAULT_FAILURE,
    Batch,
    Catalog,
    Model,
    Outcome,
    World,
    fill,
)

if TYPE_CHECKING:
    import os

logger = logging.getLogger(__name__)

API_TOKEN = "local-engine-api-token"  # noqa: S105
LOGIN = "etl"
PASSWORD = "local-engine-password"  # noqa: S105
CLIENT_API_KEY = "local-engine-client-api-key"
CLIENT_SECRET = "local-engine-client-secret"  # noqa: S105


class EngineCore:
    """
    Hold the state of a local AtScale engine.

    :param api_token: the one valid API token.
    :param login: user for a password grant or basic authentication.
    :param password: that user's password.
    :param client_api_key: installer edition: value of the ``client-api-key`` header.
    :param client_secret: container edition: secret of the confidential Keycloak clients.
    :param organization: installer edition: id of the organization.
    :param environment: installer edition: id of the environment.
    :param realm: container edition: Keycloak realm.
    :param api_prefix: container edition: where the public API lives.
    :param state_file: keeps deployed models, batches and tokens over a restart, even over a kill.
    :param settings: see :class:`~airflow_provider_atscale.testing.settings.Settings`.
    """

    def __init__(
        self,
        *,
        api_token: str = API_TOKEN,
        login: str = LOGIN,
        password: str = PASSWORD,
        client_api_key: str = CLIENT_API_KEY,
        client_secret: str = CLIENT_SECRET,
        organization: str = "default",
        environment: str = "prod",
        realm: str = "atscale",
        api_prefix: str = "/v1",
        state_file: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> None:
        self.login = login
        self.password = password
        self.client_api_key = client_api_key
        self.client_secret = client_secret
        self.organization = organization
        self.environment = environment
        self.realm = realm
        self.api_prefix = "/" + api_prefix.strip("/")
        self.lock = threading.RLock()
        self.current = Settings()
        self.current.change(**settings)
        self.world = World(self.current, self._save)
        self.tokens = Tokens(api_token, self.world.now)
        self.fault_list = Faults()
        self.hold_list = Holds()
        self.ledger = Ledger()
        self._state_file = Path(state_file) if state_file is not None else None
        self._restoring = True
        if self._state_file is not None and self._state_file.exists():
            self._load(self._state_file)
        else:
            fill(self.world)
        self._restoring = False
        self._save()

    @property
    def api_token(self) -> str | None:
        """The valid API token; ``None`` after it was revoked."""
        return self.tokens.api_token

    @property
    def now(self) -> float:
        """The server's time, in seconds since the epoch."""
        return self.world.now()

    @property
    def batches(self) -> list[BatchRecord]:
        """All batches, oldest first."""
        with self.lock:
            return [self._report(batch) for batch in self.world.batches.values()]

    @property
    def requests(self) -> list[RequestRecord]:
        """The requests received, oldest first."""
        return self.ledger.requests()

    @property
    def stats(self) -> Stats:
        """The counters."""
        return self.ledger.stats()

    def clear_requests(self) -> None:
        """Forget the requests and counters."""
        self.ledger.clear()

    def add_catalog(self, name: str, caption: str | None = None) -> Catalog:
        """Deploy a catalog (installer edition: publish a project)."""
        with self.lock:
            return self.world.add_catalog(name, caption)

    def add_model(
        self, catalog: str | Catalog, name: str, caption: str | None = None, aggregates: int = 6
    ) -> Model:
        """Deploy a model (a cube) in a catalog that is given by id, name or caption."""
        with self.lock:
            return self.world.add_model(catalog, name, caption, aggregates)

    def model(self, wanted: str, catalog: str | None = None) -> Model:
        """Find a model by id, name or caption."""
        with self.lock:
            return self.world.find_model(wanted, catalog)

    def settings(self, **changes: Any) -> None:
        """Change settings."""
        with self.lock:
            self.current.change(**changes)
            self._save()

    def advance(self, seconds: float) -> None:
        """Put the server's clock forward, and with it everything that takes time."""
        with self.lock:
            self.settings(clock_offset=self.current.clock_offset + seconds)

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
        Let requests go wrong.

        :param action: an HTTP status to answer with, or ``drop`` (close the connection before processing),
            ``drop_after`` (process, then close without a reply), ``cut`` (process, close in the middle of the
            reply), ``truncate`` (process, reply with the first half of the body), ``delay``, ``html`` (a
            login page with status 200), ``empty`` (status 200 and no body).
        :param times: how many requests; ``None`` for all from now on.
        :param when: ``after``: an answered status, ``html`` or ``empty`` replaces the reply of a request that
            was processed.
        :param body: text as is, anything else as JSON.
        :param seconds: length of a ``delay``.
        """
        match = Match(method, path, query, route)
        return self.fault_list.add(
            action, match, times=times, when=when, headers=headers, body=body, seconds=seconds
        )

    def clear_faults(self) -> None:
        """Forget all faults."""
        self.fault_list.clear()

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
        Keep requests waiting until they are released.

        :param at: ``received`` or ``processed`` for any request; ``start.received`` and ``start.created`` for
            a start, before there is a batch and after it was created.
        """
        return self.hold_list.add(at, Match(method, path, query, route), times)

    def hold_status(self, hold_id: str) -> dict[str, Any]:
        """Report a hold: how many requests it keeps now, how many it has kept."""
        return self.hold_list.status(hold_id)

    def wait_held(self, hold_id: str, timeout: float = 10) -> None:
        """Block until a request is held; raise ``TimeoutError`` if none comes."""
        self.hold_list.wait(hold_id, timeout)

    def release(self, hold_id: str, then: str = "continue") -> None:
        """Let held requests ``continue``, or ``drop`` their connections."""
        self.hold_list.release(hold_id, then)

    def reset(self) -> None:
        """Remove faults and holds; held requests continue."""
        self.fault_list.clear()
        self.hold_list.clear()

    def expire_tokens(self) -> None:
        """Make all JWTs issued so far invalid."""
        with self.lock:
            self.tokens.expire_all()
            self._save()

    def revoke_api_token(self) -> None:
        """Make the API token invalid."""
        with self.lock:
            self.tokens.api_token = None
            self._save()

    def rotate_api_token(self, new: str | None = None) -> str:
        """Replace the API token, which ends the old one, and return the new one."""
        with self.lock:
            self.tokens.api_token = new or secrets.token_urlsafe(24)
            self._save()
            return self.tokens.api_token

    def start_batch(
        self,
        catalog: str | Catalog | None,
        model: str | Model,
        is_full_build: bool = False,
        by: str = "design center",
        build_seconds: float | None = None,
    ) -> BatchRecord:
        """Start a batch as somebody else would."""
        with self.lock:
            batch = self.world.start(
                self.world.find_model(model, catalog),
                is_full_build=is_full_build,
                by=by,
                build_seconds=build_seconds,
            )
            return self._report(batch)

    def end_batch(
        self,
        batch_id: str,
        status: str = "done",
        failed_aggregates: int = 0,
        message: str = DEFAULT_FAILURE,
    ) -> BatchRecord:
        """End a running batch now."""
        with self.lock:
            return self._report(self.world.end(batch_id, Outcome(status, failed_aggregates, message)))

    def fail_next(
        self,
        model: str | Model,
        status: str = "failed",
        failed_aggregates: int = 2,
        message: str = DEFAULT_FAILURE,
    ) -> None:
        """Decide how the next batch of a model ends; ``status="done"`` makes it a partial success."""
        with self.lock:
            self.world.script(self.world.find_model(model), Outcome(status, failed_aggregates, message))
            self._save()

    def _report(self, batch: Batch) -> BatchRecord:
        now = self.world.now()
        return BatchRecord(
            id=batch.id,
            catalog_id=batch.catalog_id,
            model_id=batch.model_id,
            catalog=self.world.catalogs[batch.catalog_id].name,
            model=self.world.models[batch.model_id].name,
            is_full_build=batch.is_full_build,
            status=batch.status(now),
            created=batch.created,
            started=batch.started(now),
            ended=batch.ended(now),
            by=batch.by,
            failed_aggregates=batch.outcome.failed_aggregates if batch.ended(now) else 0,
            grace_period_overrides=dict(batch.grace_period_overrides),
            overlapped_with=list(batch.overlapped_with),
        )

    def _save(self) -> None:
        if self._state_file is None or self._restoring:
            return
        state = {
            "world": self.world.dump(),
            "tokens": self.tokens.dump(),
            "clock_offset": self.current.clock_offset,
        }
        new = self._state_file.with_name(self._state_file.name + ".new")
        new.write_text(json.dumps(state), encoding="utf-8")
        # A kill at any moment leaves either the old state or the new one.
        new.replace(self._state_file)

    def _load(self, state_file: Path) -> None:
        state = json.loads(state_file.read_text(encoding="utf-8"))
        self.world.load(state["world"])
        self.tokens.load(state["tokens"])
        # A batch made by a clock that was put forward would otherwise lie in the future.
        self.current.clock_offset = self.current.clock_offset or state["clock_offset"]
        logger.info("Took over %d batches from %s", len(self.world.batches), state_file)
