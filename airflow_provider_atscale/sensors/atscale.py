"""Wait for a batch in AtScale that something else has started."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseSensorOperator, conf

from airflow_provider_atscale.fields import KeepsFields
from airflow_provider_atscale.links import BuildHistoryLinks
from airflow_provider_atscale.tasks.map_names import BATCH_NAME, NamedPartial

# Importing this module is part of parsing every DAG that uses it: whatever only a running task needs is
# imported where it is used.
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow.providers.common.compat.sdk import Context, PokeReturnValue

    from airflow_provider_atscale.api.models import AggregateInstance, Instances, ModelRef
    from airflow_provider_atscale.api.observation import Observation
    from airflow_provider_atscale.hooks.atscale import AtScaleHook
    from airflow_provider_atscale.tasks.plan import Plan
    from airflow_provider_atscale.waiting.policy import WaitPolicy, WaitResult
    from airflow_provider_atscale.waiting.progress import Progress

#: Under which key a rescheduled sensor keeps what it knows from poke to poke (Airflow 3.3+).
MEMORY_KEY = "atscale_watch"


class AtScaleBatchSensor(KeepsFields, BaseSensorOperator):
    """
    Wait until an AtScale batch has ended well.

    Takes what :class:`~airflow_provider_atscale.operators.atscale.AtScaleAggregateBuildOperator` returns, in
    every mode of sensors: ``poke``, ``reschedule`` and deferrable. It only reads: it starts and stops nothing.

    ``soft_fail`` means the same in every mode: a timeout or a batch that failed is skipped; wrong
    configuration or credentials are not.

    :param batch_id: The batch. Left out: whichever batch of the model is the newest, also one that ended long
        ago. (templated)
    :param catalog: Id, name or caption of the batch's catalog; on the installer edition of the project. Left
        out together with ``model``: found through the batch's aggregates, so a batch that has none is not
        found. (templated)
    :param model: Id, name or caption of the batch's model; on the installer edition of the cube. (templated)
    :param failed_aggregates: What it means that a batch is done and some aggregates were not built: ``warn``,
        the default, ``fail`` or ``ignore``. (templated)
    :param atscale_conn_id: The :ref:`Airflow connection <howto/connection:atscale>`. (templated)
    :param deferrable: Whether to wait in the triggerer and hold no worker. Default: Airflow's
        ``[operators] default_deferrable``.
    :param poke_interval: As for every sensor; in the modes ``poke`` and deferrable the longest time between
        two looks, which begin after a second and grow with the time already waited.
    :param timeout: As for every sensor; when it has passed the sensor fails and is not retried.
    :return: The id of the batch. XCom ``batch_result`` has the report of the batch.
    :raises AtScaleConfigurationError: If an argument or the connection cannot be used. Not retried.
    :raises AtScaleAuthenticationError: If AtScale refuses the credentials at the first look. Not retried.
    :raises AtScalePermissionError: If the user lacks a role at the first look. Not retried.
    :raises AtScaleNotFoundError: If there is no such catalog or model. Not retried.
    :raises AtScaleBatchFailedError: If the batch ended without success, or with aggregates missing and
        ``failed_aggregates`` is ``fail``.
    :raises AtScaleBatchNotFoundError: If the build history never lists the batch.
    :raises AtScaleSensorTimeoutError: If the batch did not end in time. Not retried.
    :raises AtScaleWaitError: If AtScale could not be read for longer than tolerated.
    """

    template_fields: Sequence[str] = ("batch_id", "catalog", "model", "failed_aggregates", "atscale_conn_id")
    operator_extra_links: Any = BuildHistoryLinks()
    ui_color = "#eaf2fa"
    partial: Any = NamedPartial(BATCH_NAME)

    batch_id: str | None
    catalog: str | None
    model: str | None
    failed_aggregates: str
    atscale_conn_id: str
    deferrable: bool

    # What only a running task fills in.
    _hook: AtScaleHook | None = None
    _ref: ModelRef | None = None
    _watch: WaitPolicy | None = None
    _progress: Progress | None = None
    _pause: float | None = None
    _report: dict[str, Any] | None = None
    _built: Sequence[AggregateInstance] = ()

    def __init__(
        self,
        *,
        batch_id: str | None = None,
        catalog: str | None = None,
        model: str | None = None,
        failed_aggregates: str = "warn",
        atscale_conn_id: str = "atscale_default",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            batch_id=batch_id,
            catalog=catalog,
            model=model,
            failed_aggregates=failed_aggregates,
            atscale_conn_id=atscale_conn_id,
            deferrable=deferrable,
            base=kwargs,
        )
        # Rendered later, a batch id may come to nothing, which must not mean "whichever is the newest".
        self._wants_newest = batch_id is None

    # --- entrances ---

    def execute(self, context: Context) -> Any:
        """
        Wait, in whichever mode.

        :param context: The task's context.
        """
        with self._one_rule():
            if self.deferrable:
                return self._begin(context)
            self._wanted()
            try:
                return super().execute(context)
            finally:
                if self._hook is not None:
                    self._hook.close()

    def _begin(self, context: Context) -> Any:
        batch_id = self._wanted()
        try:
            verdict = self._look(context, batch_id)
            if verdict is not None:
                return self._conclude(context, batch_id, verdict)
            return self._defer(context, batch_id)
        finally:
            if self._hook is not None:
                self._hook.close()

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """
        Look at the batch once.

        :param context: The task's context.
        """
        import time

        from airflow.providers.common.compat.sdk import PokeReturnValue

        batch_id = self._wanted()
        verdict = self._look(context, batch_id)
        while verdict is None and self._must_see_twice():
            time.sleep(self._pause or 0.0)
            verdict = self._look(context, batch_id)
        if verdict is None:
            return False
        return PokeReturnValue(is_done=True, xcom_value=self._conclude(context, batch_id, verdict))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """
        Go on after the wait in the triggerer.

        :param next_method: The method to go on with.
        :param next_kwargs: Its arguments.
        :param context: The task's context.
        """
        from airflow_provider_atscale.tasks.event import restart_if_event_of_other_try

        with self._one_rule():
            if restart_if_event_of_other_try(next_kwargs, context, self.log):
                return self._begin(context)
            return super().resume_execution(next_method, next_kwargs, context)

    def execute_complete(self, context: Context, event: Any = None) -> str:
        """
        Judge the batch after the wait in the triggerer.

        :param context: The task's context.
        :param event: The trigger's event.
        """
        from airflow_provider_atscale.hooks.atscale import AtScaleHook
        from airflow_provider_atscale.tasks.event import read_event

        resumed = read_event(event, needs_batch=False)
        self._hook = AtScaleHook(resumed.plan.conn_id)
        try:
            if resumed.plan.ref.catalog_id:
                self._push_link(context, self._hook, resumed.plan.ref, resumed.batch_id)
            return self._judge(context, self._hook, resumed.plan, resumed.batch_id, resumed.verdict)
        finally:
            self._hook.close()

    # --- one look ---

    def _wanted(self) -> str | None:
        """Return the batch to wait for, None for the newest; check the arguments before any request."""
        from airflow_provider_atscale.arguments import parse_choice, parse_name
        from airflow_provider_atscale.exceptions import AtScaleConfigurationError

        parse_choice(self.failed_aggregates, "failed_aggregates", ("warn", "fail", "ignore"))
        if (self.catalog is None) != (self.model is None):
            raise AtScaleConfigurationError(
                f"catalog is {self.catalog!r} and model is {self.model!r}: give both, or neither of them."
            )
        if not self._wants_newest:
            try:
                return parse_name(self.batch_id, "batch_id")
            except AtScaleConfigurationError:
                raise AtScaleConfigurationError(
                    f"batch_id is {self.batch_id!r}: the task that should have started the batch returned "
                    "none. Was it skipped?"
                ) from None
        if self.catalog is None:
            raise AtScaleConfigurationError(
                "Neither batch_id nor catalog and model are given: there is nothing to wait for."
            )
        return None

    def _look(self, context: Context, batch_id: str | None) -> WaitResult | None:
        """Look once and let the judge decide; None: wait on."""
        import random
        import time

        from airflow_provider_atscale.waiting.deadline import Deadline, timed_out
        from airflow_provider_atscale.waiting.policy import Wait

        watch, progress = self._judge_of(context, batch_id)
        observation = self._observe(context, batch_id, watch)
        now = time.time()
        decision = watch.observe(observation, now, random.random())  # noqa: S311
        progress.note(observation, watch, decision, now)
        self._remember(context, watch)
        if not isinstance(decision, Wait):
            return decision
        self._pause = decision.seconds
        if not self.deferrable and now - watch.since >= self.timeout:
            # The base class would say the same right after this, and nothing of the batch.
            return timed_out(Deadline(watch.since + self.timeout, "timeout"), watch, now)
        return None

    def _must_see_twice(self) -> bool:
        """Whether the batch has ended as far as its instances show, which the next process would not know."""
        batch = self._watch.batch if self._watch and not self._watch.is_uncertain else None
        return self.reschedule and batch is not None and not batch.is_running

    def _judge_of(self, context: Context, batch_id: str | None) -> tuple[WaitPolicy, Progress]:
        import time

        from airflow_provider_atscale.waiting.policy import WaitPolicy
        from airflow_provider_atscale.waiting.progress import Progress
        from airflow_provider_atscale.waiting.tolerance import tolerance

        if self._watch is None or self._progress is None:
            now = time.time()
            first = self._first_poke(context)
            since = first.timestamp() if first else now
            subject = f"Batch {batch_id}" if batch_id else "The newest batch"
            self._watch = WaitPolicy(since, self.poke_interval, tolerance(), subject)
            self._progress = Progress(self.log, subject, since)
            store: Any = context.get("task_state_store")
            if first is not None and store is not None:
                memory = store.get(MEMORY_KEY)
                if isinstance(memory, dict) and memory.get("since") == since:
                    self._watch.remember(memory)
        return self._watch, self._progress

    def _first_poke(self, context: Context) -> Any:
        """Return when a rescheduled sensor poked for the first time; None if it does now."""
        from airflow_provider_atscale.compat import first_reschedule_date

        return first_reschedule_date(context, self.retries) if self.reschedule else None

    def _remember(self, context: Context, watch: WaitPolicy) -> None:
        """Keep for the next poke, in another process, how long there has been doubt."""
        store: Any = context.get("task_state_store")
        if self.reschedule and store is not None:
            try:
                store.set(MEMORY_KEY, {**watch.memory(), "since": watch.since})
            except Exception as error:
                self.log.warning(
                    "What this poke saw could not be written to Airflow's task state store (%s: %s)",
                    type(error).__name__,
                    error,
                )

    def _observe(self, context: Context, batch_id: str | None, watch: WaitPolicy) -> Observation:
        """Look at the batch; trouble at the very first look is raised, after that it is an observation."""
        from airflow.providers.common.compat.sdk import AirflowFailException

        from airflow_provider_atscale.api.observation import ReadFailed
        from airflow_provider_atscale.exceptions import AtScaleError

        is_first = self._ref is None and self._pause is None and self._first_poke(context) is None
        try:
            return self._observe_or_raise(context, batch_id)
        except AtScaleError as error:
            if is_first and isinstance(error, AirflowFailException):
                raise
            return ReadFailed(str(error))

    def _observe_or_raise(self, context: Context, batch_id: str | None) -> Observation:
        from airflow_provider_atscale.api.models import HistoryUnavailable
        from airflow_provider_atscale.api.observation import Missing, observe_found, observe_newest
        from airflow_provider_atscale.arguments import parse_name
        from airflow_provider_atscale.client.retries import TRIES
        from airflow_provider_atscale.exceptions import AtScalePermissionError

        hook = self._hook_of_connection()
        if self._ref is None:
            if self.catalog is not None:
                self._ref = hook.resolve_model(
                    parse_name(self.catalog, "catalog"), parse_name(self.model, "model")
                )
            else:
                self._ref = hook.locate_batch(str(batch_id))
            if self._ref is None:
                return Missing()
            self._push_link(context, hook, self._ref, batch_id)
        if batch_id is not None:
            # Later on the judge bears trouble, which costs less of the worker's time than trying again here.
            tries = TRIES if self._pause is None else 1
            return observe_found(hook.get_batches(self._ref, (batch_id,), tries), batch_id)
        history = hook.get_history(self._ref)
        if isinstance(history, HistoryUnavailable):
            raise AtScalePermissionError(
                f"Only the build history tells which batch of {self._ref} is the newest, and it may not be "
                f"read ({history}). Give the user of the connection {hook.edition.view_right}, or the "
                "sensor a batch_id."
            )
        return observe_newest(history)

    def _hook_of_connection(self) -> AtScaleHook:
        from airflow_provider_atscale.arguments import parse_name
        from airflow_provider_atscale.hooks.atscale import AtScaleHook

        if self._hook is None:
            self._hook = AtScaleHook(parse_name(self.atscale_conn_id, "atscale_conn_id"))
        return self._hook

    def _push_link(self, context: Context, hook: AtScaleHook, ref: ModelRef, batch_id: str | None) -> None:
        from airflow_provider_atscale.links.atscale import XCOM_KEY

        context["ti"].xcom_push(key=XCOM_KEY, value=hook.history_url(ref, batch_id))

    # --- waiting and judging ---

    def _get_next_poke_interval(self, *args: Any, **kwargs: Any) -> float:
        """Grow with the time already waited, unless the user asks for another way."""
        import time

        if self.mode != "poke" or self.exponential_backoff or self._pause is None or self._watch is None:
            return float(super()._get_next_poke_interval(*args, **kwargs))
        left = self._watch.since + self.timeout - time.time()
        return min(self._pause, max(left, 0.0))

    def _plan(self, context: Context) -> Plan:
        import time

        from airflow_provider_atscale.api.models import ModelRef
        from airflow_provider_atscale.tasks.plan import Plan
        from airflow_provider_atscale.waiting.deadline import Deadline

        now = time.time()
        limit = self.execution_timeout.total_seconds() if self.execution_timeout else None
        began = context["ti"].start_date
        return Plan(
            conn_id=self._hook.atscale_conn_id if self._hook else self.atscale_conn_id,
            # Without ids the trigger finds the model; the names are all that it needs to do so.
            ref=self._ref or ModelRef("", "", self.catalog or "", self.model or ""),
            began=now,
            poll_interval=self.poke_interval,
            deadline=Deadline.earlier(now, self.timeout, began.timestamp() if began else now, limit),
            failed_aggregates=self.failed_aggregates.strip().lower(),
            start="watched",
            attempt=context["ti"].try_number,
        )

    def _defer(self, context: Context, batch_id: str | None) -> None:
        from airflow_provider_atscale.triggers.atscale import AtScaleBatchTrigger
        from airflow_provider_atscale.waiting.deadline import deferral_timeout

        hook = self._hook_of_connection()
        plan = self._plan(context)
        limit = None
        if plan.deadline is not None:
            limit = deferral_timeout(plan.deadline.at - plan.began, plan.poll_interval, hook.settings.timeout)
        self.defer(
            trigger=AtScaleBatchTrigger(
                atscale_conn_id=plan.conn_id,
                catalog_id=plan.ref.catalog_id,
                model_id=plan.ref.model_id,
                catalog=plan.ref.catalog,
                model=plan.ref.model,
                batch_id=batch_id,
                since=plan.began,
                poll_interval=plan.poll_interval,
                listed=self._watch is not None and self._watch.listed,
                deadline=plan.deadline.to_json() if plan.deadline else None,
                payload=plan.to_json(),
            ),
            method_name="execute_complete",
            timeout=limit,
        )

    def _conclude(self, context: Context, batch_id: str | None, verdict: WaitResult) -> str:
        return self._judge(context, self._hook_of_connection(), self._plan(context), batch_id, verdict)

    def _judge(
        self, context: Context, hook: AtScaleHook, plan: Plan, batch_id: str | None, verdict: WaitResult
    ) -> str:
        """Turn the verdict into a report or an error, and publish the report."""
        from airflow_provider_atscale.assets.atscale import publish_report
        from airflow_provider_atscale.exceptions import AtScaleSensorTimeoutError, AtScaleTimeoutError
        from airflow_provider_atscale.tasks.report import WaitContext, conclude, summarize
        from airflow_provider_atscale.waiting.policy import Ended, TimedOut

        if isinstance(verdict, Ended):
            batch_id = verdict.batch.id
        ref = plan.ref if plan.ref.catalog_id else None
        subject = WaitContext(
            hook.settings.base_url,
            ref,
            batch_id,
            plan.start,
            None,
            plan.failed_aggregates,
            "Raise the sensor's timeout if builds take that long.",
            hook.history_url(ref, batch_id),
        )
        built = list(verdict.batch.instances or ()) if isinstance(verdict, Ended) else []

        def read_instances() -> Instances:
            listed = hook.get_instances(str(batch_id), ref)
            built.extend(listed)
            return listed

        try:
            report = conclude(verdict, subject, read_instances)
        except AtScaleTimeoutError as error:
            if isinstance(verdict, TimedOut) and verdict.limit == "execution_timeout":
                # Which Airflow retries, unlike a sensor's own timeout.
                raise
            raise AtScaleSensorTimeoutError(str(error)) from None
        self.log.info("%s is %s: %s", subject, report["status"], summarize(report))
        self._report, self._built = report, built
        if self.do_xcom_push:
            context["ti"].xcom_push(key="batch_result", value=report)
        publish_report(context, self.outlets, report, self.log)
        return str(report["batch_id"])

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """
        Tell OpenLineage which aggregate tables the batch has built.

        :param task_instance: The task instance.
        """
        from airflow_provider_atscale.tasks.lineage import make_lineage

        del task_instance
        return make_lineage(self._report, self._built)

    @contextmanager
    def _one_rule(self) -> Iterator[None]:
        """
        Apply ``soft_fail`` alike in all modes.

        The base class skips fatal errors while it pokes and every error after a deferral; a user who wrote
        ``soft_fail`` did not mean a wrong password.
        """
        from airflow.providers.common.compat.sdk import AirflowException, AirflowSkipException

        try:
            yield
        except AirflowException as raised:
            # A skip that the base class made of an error has that error for its cause.
            is_skip = isinstance(raised, AirflowSkipException)
            error = raised.__cause__ if is_skip else raised
            if not isinstance(error, AirflowException):
                raise
            asked = self._asks_to_skip(error, is_skip=is_skip)
            if asked is not None:
                raise AirflowSkipException(f"Skipped, because {asked} is set: {error}") from error
            if error is raised:
                raise
            raise error from error.__cause__

    def _asks_to_skip(self, error: Exception, *, is_skip: bool) -> str | None:
        """
        Return the sensor's argument that makes an error a skip, None where it stays an error.

        :param error: The error.
        :param is_skip: Whether the base class has made it one already.
        """
        from airflow.providers.common.compat.sdk import AirflowSensorTimeout

        from airflow_provider_atscale.exceptions import (
            AtScaleBatchFailedError,
            AtScaleError,
            AtScaleTimeoutError,
        )

        soft = (AtScaleBatchFailedError, AtScaleTimeoutError, AirflowSensorTimeout)
        if self.soft_fail and isinstance(error, soft):
            return "soft_fail"
        if self.never_fail and (is_skip or isinstance(error, AtScaleError)):
            return "never_fail"
        return None
