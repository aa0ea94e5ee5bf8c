"""The state of a local engine, without its sockets."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.testing.faults import Faults, Holds
from airflow_provider_atscale.testing.records import BatchRecord, RequestLog
from airflow_provider_atscale.testing.settings import Settings
from airflow_provider_atscale.testing.store import Store, fill
from airflow_provider_atscale.testing.tokens import Tokens

if TYPE_CHECKING:
    import os

    from airflow_provider_atscale.testing.batches import Batch

logger = logging.getLogger(__name__)

API_TOKEN = "local-engine-api-token"  # noqa: S105
LOGIN = "etl"
PASSWORD = "local-engine-password"  # noqa: S105
CLIENT_API_KEY = "local-engine-client-api-key"
CLIENT_SECRET = "local-engine-client-secret"  # noqa: S105


class EngineState:
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
        self.store = Store(self.current, self.save)
        self.tokens = Tokens(api_token, self.store.now)
        self.fault_list = Faults()
        self.hold_list = Holds()
        self.request_log = RequestLog()
        self._state_file = Path(state_file) if state_file is not None else None
        self._restoring = True
        if self._state_file is not None and self._state_file.exists():
            self._load(self._state_file)
        else:
            fill(self.store)
        self._restoring = False
        self.save()

    @property
    def api_token(self) -> str | None:
        """The valid API token; ``None`` after it was revoked."""
        return self.tokens.api_token

    @property
    def now(self) -> float:
        """The server's time, in seconds since the epoch."""
        return self.store.now()

    def report(self, batch: Batch) -> BatchRecord:
        """Return what a test reads of a batch."""
        now = self.store.now()
        return BatchRecord(
            id=batch.id,
            catalog_id=batch.catalog_id,
            model_id=batch.model_id,
            catalog=self.store.catalogs[batch.catalog_id].name,
            model=self.store.models[batch.model_id].name,
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

    def save(self) -> None:
        """Write the state file, if there is one."""
        if self._state_file is None or self._restoring:
            return
        state = {
            "store": self.store.dump(),
            "tokens": self.tokens.dump(),
            "clock_offset": self.current.clock_offset,
        }
        new = self._state_file.with_name(self._state_file.name + ".new")
        new.write_text(json.dumps(state), encoding="utf-8")
        # A kill at any moment leaves either the old state or the new one.
        new.replace(self._state_file)

    def _load(self, state_file: Path) -> None:
        state = json.loads(state_file.read_text(encoding="utf-8"))
        self.store.load(state["store"])
        self.tokens.load(state["tokens"])
        # Batches that were created after the clock was put forward would otherwise lie in the future.
        self.current.clock_offset = self.current.clock_offset or state["clock_offset"]
        logger.info("Restored %d batches from %s", len(self.store.batches), state_file)
