"""Connect to AtScale from Airflow: credentials from a connection, calls through the blocking client."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, closing, contextmanager
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_atscale.api.history import raise_errors
from airflow_provider_atscale.api.models import Instances, normalize_status
from airflow_provider_atscale.api.observation import Observation, ReadFailed, observe_found
from airflow_provider_atscale.client.requests_client import AtScaleClient
from airflow_provider_atscale.client.retries import LAST_POLL, RELOAD_INTERVAL, TRIES
from airflow_provider_atscale.client.settings import Settings, parse_connection, unreadable
from airflow_provider_atscale.compat import mask_secret
from airflow_provider_atscale.exceptions import (
    AtScaleAuthenticationError,
    AtScaleConfigurationError,
    AtScaleError,
    AtScalePermissionError,
)
from airflow_provider_atscale.get_provider_info import (
    CONNECTION_FIELDS,
    CONNECTION_TYPE,
    FIELD_BEHAVIOUR,
    HOOK_NAME,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from airflow_provider_atscale.api.edition import Edition
    from airflow_provider_atscale.api.flow import Flow
    from airflow_provider_atscale.api.models import Batch, History, HistoryUnavailable, ModelRef
    from airflow_provider_atscale.api.start import StartOutcome
    from airflow_provider_atscale.client.base import T


class AtScaleHook(BaseHook):
    """
    Talk to AtScale's REST API.

    Serves both editions; the connection's field ``edition`` tells which. The constructor sends no request: the
    connection is read, and checked field by field, at the first call. Experimental: the return types of all methods
    but ``list_models`` can change, because AtScale does not document all answers.

    :param atscale_conn_id: The :ref:`Airflow connection <howto/connection:atscale>` of type ``atscale``.
    """

    conn_name_attr = "atscale_conn_id"
    default_conn_name = "atscale_default"
    conn_type = CONNECTION_TYPE
    hook_name = HOOK_NAME

    def __init__(self, atscale_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.atscale_conn_id = atscale_conn_id
        #: Epoch seconds by which all calls must end: no request is sent later, and no read lasts longer.
        self.until: float | None = None
        self._client: AtScaleClient | None = None
        self._reloaded_at: float | None = None

    # --- the connection ---

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return how the standard fields look in the connection form of Airflow before 3.2."""
        return {name.replace("-", "_"): value for name, value in FIELD_BEHAVIOUR.items()}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the further fields of the connection form of Airflow before 3.2."""
        # Only those versions call it; no process that runs tasks needs a form library.
        from flask_appbuilder.fieldwidgets import BS3PasswordFieldWidget, BS3TextFieldWidget
        from wtforms import PasswordField, StringField
        from wtforms.validators import Optional, any_of

        widgets = {}
        for name, field in CONNECTION_FIELDS.items():
            schema = field["schema"]
            hidden = schema.get("format") == "password"
            validators = [Optional()]
            if "enum" in schema:
                # By this name: it is the one that the web server of Airflow 3.0 and 3.1 makes a choice of.
                validators.append(any_of(schema["enum"]))
            widgets[name] = (PasswordField if hidden else StringField)(
                field["label"],
                widget=(BS3PasswordFieldWidget if hidden else BS3TextFieldWidget)(),
                description=field["description"],
                default=schema.get("default"),
                validators=validators,
            )
        return widgets

    def get_conn(self) -> AtScaleClient:
        """Return the client of the connection; the same one at each call."""
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _connect(self) -> AtScaleClient:
        try:
            conn = self.get_connection(self.atscale_conn_id)
        except AirflowNotFoundException as error:
            raise AtScaleConfigurationError(
                f"There is no Airflow connection {self.atscale_conn_id!r} ({error}). Add one of the type "
                f"'{CONNECTION_TYPE}', or name another one in atscale_conn_id."
            ) from None
        except Exception as error:
            raise unreadable(self.atscale_conn_id, error) from None
        settings = parse_connection(conn)
        for secret in settings.secrets:
            mask_secret(secret)
        return AtScaleClient(settings, mask=mask_secret)

    def _reconnect(self, refused: AtScaleAuthenticationError) -> bool:
        """Read the connection again and make a new client; return whether the connection has changed."""
        client = self.get_conn()
        try:
            self._client = self._connect()
        except AtScaleError:
            # AtScale's refusal says more than the trouble that Airflow has now.
            raise refused from None
        client.close()
        return self._client.settings != client.settings

    @property
    def settings(self) -> Settings:
        """The connection's settings."""
        return self.get_conn().settings

    @property
    def edition(self) -> Edition:
        """The calls of the connection's edition."""
        return self.get_conn().edition

    @contextmanager
    def deadline(self, until: float | None) -> Iterator[None]:
        """
        Let calls end by another time than :attr:`until`.

        :param until: Epoch seconds; None: without a deadline.
        """
        before, self.until = self.until, until
        try:
            yield
        finally:
            self.until = before

    def one_request_more(self) -> AbstractContextManager[None]:
        """Give calls the time of one request, even if the deadline is earlier or has passed."""
        return self._at_least(self.settings.timeout)

    def poll(self) -> AbstractContextManager[None]:
        """Give a poll some seconds, even beyond the deadline: a wait polls for the last time at its deadline."""
        return self._at_least(LAST_POLL)

    def _at_least(self, seconds: float) -> AbstractContextManager[None]:
        return self.deadline(None if self.until is None else max(self.until, time.time() + seconds))

    def run(self, call: Callable[[Edition], Flow[T]], tries: int = TRIES) -> T:
        """
        Run a call; after refused credentials read the connection again once, for a rotated token.

        :param call: Makes the flow from an edition.
        :param tries: How often a read is tried.
        """
        client = self.get_conn()
        try:
            return client.run(call(client.edition), tries, until=self.until)
        except AtScaleAuthenticationError as refused:
            now = time.monotonic()
            if self._reloaded_at is not None and now - self._reloaded_at < RELOAD_INTERVAL:
                raise
            self._reloaded_at = now
            if not self._reconnect(refused):
                raise
        client = self.get_conn()
        return client.run(call(client.edition), tries, until=self.until)

    def close(self) -> None:
        """Close the connections to AtScale."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def test_connection(self) -> tuple[bool, str]:
        """Try host, credentials and a read of the build history one after the other; never raises."""
        done: list[str] = []
        with closing(self):
            try:
                client = self.get_conn()
            except Exception as error:
                return False, str(error)
            for step, flow in client.edition.probe():
                try:
                    done.append(client.run(flow, tries=2))
                except AtScalePermissionError as error:
                    return False, f"{_sentence(done)}but the step '{step}' is not allowed: {error}"
                except Exception as error:
                    return False, f"{_sentence(done)}{'but ' if done else ''}the step '{step}' failed: {error}"
        return True, f"Connection to AtScale ({client.edition.name} edition) works: {', '.join(done)}."

    # --- catalogs and models ---

    def resolve_model(self, catalog: str, model: str) -> ModelRef:
        """
        Find a deployed model.

        :param catalog: Id, name or caption of the catalog; on the installer edition of the project.
        :param model: Id, name or caption of the model; on the installer edition of the cube.
        :raises AtScaleNotFoundError: If there is none, or more than one.
        """
        return self.run(lambda edition: edition.resolve(catalog, model))

    def list_models(self, catalog: str | None = None) -> list[dict[str, str]]:
        """
        List the deployed models, as arguments for an operator's ``expand_kwargs``.

        :param catalog: Id, name or caption of the catalog to list; all catalogs if it is left out.
        """
        refs = self.run(lambda edition: edition.models(catalog))
        return [{"catalog": ref.catalog, "model": ref.model} for ref in refs]

    # --- batches ---

    def get_history(self, ref: ModelRef) -> History | HistoryUnavailable:
        """
        Read a model's newest batches, or return why the history cannot be read.

        :param ref: The model.
        """
        return self.run(lambda edition: edition.history(ref))

    def get_batches(self, ref: ModelRef, wanted: Collection[str], tries: int = TRIES) -> dict[str, Batch]:
        """
        Find batches of a model by their ids; those not listed are not in the answer.

        :param ref: The model.
        :param wanted: Ids of the batches.
        :param tries: How often a read is tried.
        """
        found: Any = self.run(lambda edition: edition.batches(ref, wanted), tries)
        raise_errors(found)
        return found  # type: ignore[no-any-return]

    def observe_batch(self, ref: ModelRef, batch_id: str) -> Observation:
        """
        Read a batch once, and return any failure as an observation.

        :param ref: The batch's model.
        :param batch_id: The batch.
        """
        try:
            with self.poll():
                return observe_found(self.get_batches(ref, (batch_id,), tries=1), batch_id)
        except AtScaleError as error:
            return ReadFailed(str(error))

    def get_instances(self, batch_id: str) -> Instances:
        """
        Read all aggregate instances of a batch; the result says if the server may not have listed all.

        :param batch_id: The batch.
        """
        return self.run(lambda edition: edition.instances(batch_id))

    def list_instances(self, catalog: str, model: str, status: str | None = None) -> Instances:
        """
        List a model's aggregate instances; the result says if the server may not have listed all.

        :param catalog: Id, name or caption of the catalog; on the installer edition of the project.
        :param model: Id, name or caption of the model; on the installer edition of the cube.
        :param status: Only those with this status, in AtScale's own word, as ``active`` or ``failed``; None: all.
        :raises AtScaleNotFoundError: If there is no such model, or more than one.
        """
        rows = self.get_model_instances(self.resolve_model(catalog, model))
        # AtScale's own filter does not know every status.
        wanted = [
            each for each in rows if status is None or normalize_status(each.status) == normalize_status(status)
        ]
        return Instances.of(wanted, is_truncated=rows.is_truncated)

    def get_model_instances(self, ref: ModelRef) -> Instances:
        """
        Read all aggregate instances of a model; the result says if the server may not have listed all.

        :param ref: The model.
        """
        return self.run(lambda edition: edition.model_instances(ref))

    def locate_batch(self, batch_id: str) -> ModelRef | None:
        """
        Find the model of a batch through the batch's instances; None while it has none.

        :param batch_id: The batch.
        """
        return self.run(lambda edition: edition.locate(batch_id))

    def start_batch(
        self,
        ref: ModelRef,
        *,
        is_full_build: bool,
        grace_period_overrides: Mapping[str, Any] | None = None,
        before_post: Callable[[bool], None] = lambda sends_kind: None,
    ) -> StartOutcome:
        """
        Start a batch.

        The POST is not retried if AtScale may have got it. The outcome says whether AtScale started the batch,
        refused it, or did not say: after a lost reply you must look into the history before you start again, as
        the operator does. Only if the credentials were refused, so that nothing was started, the connection is
        read again, a new token is fetched and the POST is sent once more. After :attr:`until` nothing is posted,
        but a POST that was sent has its whole request timeout, because its reply is worth the wait.

        :param ref: The model.
        :param is_full_build: Whether everything is rebuilt.
        :param grace_period_overrides: Dataset names and numbers, for incremental builds.
        :param before_post: Called right before each POST, with whether the call says which kind to build;
            nothing is sent if it raises.
        """
        posts = 0

        def note_post(sends_kind: bool) -> None:
            nonlocal posts
            before_post(sends_kind)
            posts += 1

        def start() -> StartOutcome:
            client = self.get_conn()
            return client.run(
                client.edition.start(
                    ref,
                    is_full_build=is_full_build,
                    grace_period_overrides=grace_period_overrides or {},
                    before_post=note_post,
                ),
                until=self.until,
            )

        try:
            return start()
        except AtScaleAuthenticationError as refused:
            has_changed = self._reconnect(refused)
            # The new client logs in again; a login that was itself refused is not repeated, to lock nobody out.
            has_expired = posts > 0 and self.settings.auth_type == "password"
            if not has_changed and not has_expired:
                raise
        return start()

    def history_url(self, ref: ModelRef | None = None, batch_id: str | None = None) -> str:
        """
        Return the address of the build history page, or of the Design Center.

        :param ref: The model.
        :param batch_id: The batch.
        """
        return self.edition.history_url(ref, batch_id)


def _sentence(done: list[str]) -> str:
    return ", ".join(done) + ", " if done else ""
