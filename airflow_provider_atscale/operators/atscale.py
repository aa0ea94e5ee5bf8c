"""Build a model's aggregates in AtScale."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator, conf

from airflow_provider_atscale.fields import KeepsFields
from airflow_provider_atscale.links import BuildHistoryLinks
from airflow_provider_atscale.tasks.map_names import BUILD_NAME, NamedPartial

# Importing this module is part of parsing every DAG that uses it: whatever only a running task needs is
# imported where it is used.
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_atscale.api.models import AggregateInstance, Instances
    from airflow_provider_atscale.builds.start import BuildStarter, OwnBatch, Step
    from airflow_provider_atscale.builds.state import BuildStateStore
    from airflow_provider_atscale.hooks.atscale import AtScaleHook
    from airflow_provider_atscale.tasks.plan import Plan
    from airflow_provider_atscale.waiting.policy import WaitResult


class AtScaleAggregateBuildOperator(KeepsFields, BaseOperator):
    """
    Build all aggregates of an AtScale model, and wait until they are built.

    Starts one batch with AtScale's call `Run full or incremental aggregate builds
    <https://documentation.atscale.com/container-api/Public%20Engine%20APIs/aggregates-batch>`__ and succeeds
    only when AtScale says that this batch is done. The call is made once: after a lost reply the batch is
    looked for in the build history, and on Airflow 3.3+ a retry goes on with the batch of the try before it.
    Nothing can cancel a batch: where the task is stopped or times out, the build goes on in AtScale.

    .. seealso::
        The README's table "What happens when ..." tells what the task does in every case of trouble.

    :param catalog: Id, name or caption of the catalog; on the installer edition of the project. (templated)
    :param model: Id, name or caption of the model; on the installer edition of the cube. (templated)
    :param is_full_build: True builds everything anew; False, the default, lets AtScale build incrementally
        where it can. A text is read strictly: ``"False"``, rendered by a template, is false. (templated)
    :param grace_period_overrides: Dataset names and how far back AtScale looks for changed rows in each; the
        numbers are passed on as they are, for AtScale's pages name no unit. For incremental builds only.
        (templated)
    :param on_running: What to do where a batch of the model runs already. ``wait``, the default: wait for it
        to end, then build, so that data loaded a minute ago is in it. ``attach``: wait for it instead of
        building; it may lack data loaded since it began. ``skip``: skip the task. ``fail``: fail. (templated)
    :param failed_aggregates: What it means that a batch is done and some aggregates were not built: ``warn``,
        the default, ``fail`` or ``ignore``. (templated)
    :param skip_if_built_within: Skip the task, as ``timedelta`` or seconds, if a successful batch of the model
        ended less than that ago: one of the same kind, or a full one where an incremental one is asked for.
        Asked once, before ``on_running``; on Airflow 3.3+ not asked by a retry. (templated)
    :param wait_for_completion: Whether to wait until the batch has ended. True, the default. If False, the task
        succeeds as soon as the batch is started, and the events of its outlets say no more than that; a running
        batch is met as ``on_running`` says all the same. (templated)
    :param deferrable: Whether to wait in the triggerer and hold no worker. Default: Airflow's
        ``[operators] default_deferrable``.
    :param poll_interval: The longest time between two looks at the batch, in seconds; looks begin after a
        second and grow with the time already waited. Default: 60. (templated)
    :param timeout: How long to wait in each try, as ``timedelta`` or seconds; None: without end. Default: 6
        hours. The earlier of this and ``execution_timeout`` ends the wait, in deferrable mode too; the build
        goes on, and on Airflow 3.3+ a retry attaches to it. (templated)
    :param atscale_conn_id: The :ref:`Airflow connection <howto/connection:atscale>`. (templated)
    :return: The id of the batch, in every mode. XCom ``batch`` has ``batch_id``, ``catalog`` and ``model``,
        which are the arguments of :class:`~airflow_provider_atscale.sensors.atscale.AtScaleBatchSensor`, and
        XCom ``batch_result`` the report of the batch.
    :raises AtScaleConfigurationError: If an argument or the connection cannot be used. Not retried.
    :raises AtScaleAuthenticationError: If AtScale refuses the credentials. Not retried.
    :raises AtScalePermissionError: If the user lacks a role. Not retried.
    :raises AtScaleNotFoundError: If there is no such catalog or model. Not retried.
    :raises AtScaleStartError: If AtScale refuses to start the batch.
    :raises AtScaleStartUnknownError: If the reply to the start was lost and no batch was found.
    :raises AtScaleAlreadyRunningError: If a batch runs and ``on_running`` is ``fail``.
    :raises AtScaleBatchFailedError: If the batch ended without success, or with aggregates missing and
        ``failed_aggregates`` is ``fail``.
    :raises AtScaleTimeoutError: If the batch did not end in time.
    :raises AtScaleWaitError: If AtScale could not be read for longer than tolerated.
    """

    template_fields: Sequence[str] = (
        "catalog",
        "model",
        "is_full_build",
        "grace_period_overrides",
        "on_running",
        "failed_aggregates",
        "skip_if_built_within",
        "wait_for_completion",
        "poll_interval",
        "timeout",
        "atscale_conn_id",
    )
    operator_extra_links: Any = BuildHistoryLinks()
    partial: Any = NamedPartial(BUILD_NAME)

    #: What None means. The constructor does not fill it in: it would be in every serialized DAG, which the
    #: scheduler reads again and again.
    DEFAULTS = {
        "is_full_build": False,
        "on_running": "wait",
        "failed_aggregates": "warn",
        "wait_for_completion": True,
        "poll_interval": 60,
    }

    catalog: str
    model: str
    is_full_build: bool | str | None
    grace_period_overrides: Mapping[str, int | float] | str | None
    on_running: str | None
    failed_aggregates: str | None
    skip_if_built_within: timedelta | float | str | None
    wait_for_completion: bool | str | None
    deferrable: bool
    poll_interval: float | timedelta | str | None
    timeout: timedelta | float | str | None
    atscale_conn_id: str

    # What only a running task fills in.
    _batch_id: str | None = None
    _is_stopped = False
    _current: BuildStarter | None = None
    _report: dict[str, Any] | None = None
    _built: Sequence[AggregateInstance] = ()

    def __init__(
        self,
        *,
        catalog: str,
        model: str,
        is_full_build: bool | str | None = None,
        grace_period_overrides: Mapping[str, int | float] | str | None = None,
        on_running: str | None = None,
        failed_aggregates: str | None = None,
        skip_if_built_within: timedelta | float | str | None = None,
        wait_for_completion: bool | str | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | timedelta | str | None = None,
        timeout: timedelta | float | str | None = timedelta(hours=6),
        atscale_conn_id: str = "atscale_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            catalog=catalog,
            model=model,
            is_full_build=is_full_build,
            grace_period_overrides=grace_period_overrides,
            on_running=on_running,
            failed_aggregates=failed_aggregates,
            skip_if_built_within=skip_if_built_within,
            wait_for_completion=wait_for_completion,
            deferrable=deferrable,
            poll_interval=poll_interval,
            timeout=timeout,
            atscale_conn_id=atscale_conn_id,
            base=kwargs,
        )

    # --- the three entrances ---

    def execute(self, context: Context) -> str:
        """
        Start the batch, or go on with an earlier try's, and wait as asked.

        :param context: The task's context.
        """
        return self._begin(context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """
        Go on after a wait in the triggerer; in another try than the one that waited, begin anew.

        :param next_method: The method to go on with.
        :param next_kwargs: Its arguments.
        :param context: The task's context.
        """
        from airflow_provider_atscale.tasks.event import restart_if_event_of_other_try

        if restart_if_event_of_other_try(next_kwargs, context, self.log):
            return self._begin(context)
        return super().resume_execution(next_method, next_kwargs, context)

    def _begin(self, context: Context) -> str:
        from airflow_provider_atscale.arguments import parse_name, parse_seconds
        from airflow_provider_atscale.hooks.atscale import AtScaleHook

        within = None
        if self.skip_if_built_within not in (None, "", "None"):
            within = parse_seconds(self.skip_if_built_within, "skip_if_built_within")
        hook = AtScaleHook(parse_name(self.atscale_conn_id, "atscale_conn_id"))
        try:
            plan = self._make_plan(context, hook)
            if within is not None:
                self._skip_if_fresh(context, hook, plan, within)
            return self._go_on(context, hook, plan)
        finally:
            hook.close()

    def execute_after_running(self, context: Context, event: Any = None) -> str:
        """
        Go on after somebody else's batch has ended: start the own one.

        :param context: The task's context.
        :param event: The trigger's event.
        """
        from airflow_provider_atscale.hooks.atscale import AtScaleHook
        from airflow_provider_atscale.tasks.event import read_event

        resumed = read_event(event)
        hook = AtScaleHook(resumed.plan.conn_id)
        try:
            self._end_other(hook, resumed.plan, str(resumed.batch_id), resumed.verdict)
            return self._go_on(context, hook, resumed.plan)
        finally:
            hook.close()

    def execute_complete(self, context: Context, event: Any = None) -> str:
        """
        Judge the own batch after the wait in the triggerer.

        :param context: The task's context.
        :param event: The trigger's event.
        """
        from airflow_provider_atscale.hooks.atscale import AtScaleHook
        from airflow_provider_atscale.tasks.event import read_event

        resumed = read_event(event)
        self._batch_id = resumed.batch_id
        hook = AtScaleHook(resumed.plan.conn_id)
        try:
            memory = self._memory(context, hook, resumed.plan)
            return self._conclude(context, hook, resumed.plan, memory, str(resumed.batch_id), resumed.verdict)
        finally:
            hook.close()

    # --- the work ---

    def _make_plan(self, context: Context, hook: AtScaleHook) -> Plan:
        """Check all arguments before the first request, then find the model."""
        import time

        from airflow_provider_atscale.arguments import (
            parse_bool,
            parse_choice,
            parse_name,
            parse_overrides,
            parse_seconds,
        )
        from airflow_provider_atscale.tasks.plan import Plan
        from airflow_provider_atscale.waiting.deadline import Deadline

        is_full_build = parse_bool(self._given("is_full_build"), "is_full_build")
        overrides = parse_overrides(self.grace_period_overrides, is_full_build=is_full_build)
        hook.edition.check_overrides(overrides)
        on_running = parse_choice(self._given("on_running"), "on_running", ("wait", "attach", "skip", "fail"))
        failed = parse_choice(self._given("failed_aggregates"), "failed_aggregates", ("warn", "fail", "ignore"))
        waits = parse_bool(self._given("wait_for_completion"), "wait_for_completion")
        poll_interval = parse_seconds(self._given("poll_interval"), "poll_interval")
        timeout = None if self.timeout in (None, "", "None") else parse_seconds(self.timeout, "timeout")
        catalog, model = parse_name(self.catalog, "catalog"), parse_name(self.model, "model")
        now = time.time()
        limit = self.execution_timeout.total_seconds() if self.execution_timeout else None
        began = context["ti"].start_date
        return Plan(
            conn_id=hook.atscale_conn_id,
            ref=hook.resolve_model(catalog, model),
            began=now,
            poll_interval=poll_interval,
            deadline=Deadline.earlier(now, timeout, began.timestamp() if began else now, limit),
            failed_aggregates=failed,
            is_full_build=is_full_build,
            overrides=overrides,
            on_running=on_running,
            waits=waits,
            attempt=context["ti"].try_number,
        )

    def _given(self, name: str) -> Any:
        """Return an argument, or its default where it is None."""
        value = getattr(self, name)
        return self.DEFAULTS[name] if value is None else value

    def _skip_if_fresh(self, context: Context, hook: AtScaleHook, plan: Plan, within: float) -> None:
        """Skip the task where what it would build was built a moment ago."""
        from datetime import datetime, timezone

        from airflow.providers.common.compat.sdk import AirflowSkipException

        from airflow_provider_atscale.api.models import HistoryUnavailable
        from airflow_provider_atscale.api.values import iso
        from airflow_provider_atscale.builds.freshness import find_fresh
        from airflow_provider_atscale.builds.state import StartNew
        from airflow_provider_atscale.tasks.report import was_not_built

        memory = self._memory(context, hook, plan)
        decision = memory.load()
        if (
            (memory.is_persistent and plan.attempt > 1)
            or not isinstance(decision, StartNew)
            or decision.cleared
        ):
            # A retry has its own batch to go on with, which may be the very one that makes the model fresh, or
            # it waited for somebody else's, which may lack its data; a clear means: build again.
            return
        history = hook.get_history(plan.ref)
        if isinstance(history, HistoryUnavailable):
            self.log.warning(
                "The build history may not be read (%s), so skip_if_built_within cannot tell and the build is "
                "started. Give the user of the connection %s",
                history,
                hook.edition.view_right,
            )
            return
        now = history.server_time or datetime.now(timezone.utc)
        fresh = find_fresh(history, is_full_build=bool(plan.is_full_build), within=within, now=now)
        if fresh is None:
            return
        batch, age = fresh
        about = f"batch {batch.id} ({batch.kind}, {batch.status}) of {plan.ref} ended {iso(batch.ended)}"
        if plan.failed_aggregates == "fail":
            listed = hook.get_instances(batch.id, plan.ref)
            if listed.is_truncated or any(map(was_not_built, listed)):
                self.log.info(
                    'Building, though %s: it may lack aggregates, and failed_aggregates is "fail"',
                    about,
                )
                return
        raise AirflowSkipException(
            f"Skipped: {about}, {timedelta(seconds=round(age))} ago, and skip_if_built_within is "
            f"{timedelta(seconds=within)}."
        )

    def _go_on(self, context: Context, hook: AtScaleHook, plan: Plan) -> str:
        """Come by a batch, and wait for it."""
        from airflow.providers.common.compat.sdk import AirflowSkipException

        from airflow_provider_atscale.builds.start import FinishedBatch, RunningOther, Skip

        memory = self._memory(context, hook, plan)
        builder = self._current = self._builder(hook, plan, memory)
        while True:
            try:
                step: Step = builder.obtain_batch()
            except Skip as skip:
                raise AirflowSkipException(str(skip)) from None
            if not isinstance(step, RunningOther):
                break
            verdict = self._wait(hook, plan, step.batch.id, "execute_after_running")
            self._end_other(hook, plan, step.batch.id, verdict)
        plan = plan.with_origin(step.start)
        self._batch_id = step.batch_id
        self._publish(context, hook, plan, step.batch_id)
        if isinstance(step, FinishedBatch):
            return self._report_again(context, hook, plan, step.batch_id)
        self._tell(hook, plan, step)
        if not plan.waits:
            return step.batch_id
        verdict = self._wait(hook, plan, step.batch_id, "execute_complete")
        return self._conclude(context, hook, plan, memory, step.batch_id, verdict)

    def _wait(self, hook: AtScaleHook, plan: Plan, batch_id: str, method_name: str) -> WaitResult:
        """Wait for a batch here, or hand the wait to the triggerer; one that has ended never defers."""
        import time

        from airflow_provider_atscale.api.observation import Seen
        from airflow_provider_atscale.waiting.blocking import wait_blocking
        from airflow_provider_atscale.waiting.policy import Ended, WaitPolicy
        from airflow_provider_atscale.waiting.progress import Progress
        from airflow_provider_atscale.waiting.tolerance import tolerance

        since = time.time()
        subject = f"Batch {batch_id}"
        if self.deferrable:
            seen = hook.observe_batch(plan.ref, batch_id)
            listed = isinstance(seen, Seen) and seen.batch.instances is None
            if isinstance(seen, Seen) and listed and not seen.batch.is_running:
                return Ended(seen.batch)
            self._defer(hook, plan, batch_id, since, method_name, listed=listed)
        return wait_blocking(
            lambda: hook.observe_batch(plan.ref, batch_id),
            WaitPolicy(since, plan.poll_interval, tolerance(), subject),
            Progress(self.log, f"{subject} of {plan.ref}", since),
            plan.deadline,
            is_stopped=lambda: self._is_stopped,
        )

    def _defer(
        self, hook: AtScaleHook, plan: Plan, batch_id: str, since: float, method_name: str, *, listed: bool
    ) -> None:
        import time

        from airflow_provider_atscale.triggers.atscale import AtScaleBatchTrigger
        from airflow_provider_atscale.waiting.deadline import deferral_timeout

        limit = None
        if plan.deadline is not None:
            left = max(plan.deadline.at - time.time(), 0.0)
            limit = deferral_timeout(left, plan.poll_interval, hook.settings.timeout)
        self.defer(
            trigger=AtScaleBatchTrigger(
                atscale_conn_id=plan.conn_id,
                catalog_id=plan.ref.catalog_id,
                model_id=plan.ref.model_id,
                catalog=plan.ref.catalog,
                model=plan.ref.model,
                batch_id=batch_id,
                since=since,
                poll_interval=plan.poll_interval,
                listed=listed,
                deadline=plan.deadline.to_json() if plan.deadline else None,
                payload=plan.to_json(),
            ),
            method_name=method_name,
            timeout=limit,
        )

    def _end_other(self, hook: AtScaleHook, plan: Plan, batch_id: str, verdict: WaitResult) -> None:
        """Take note that somebody else's batch has ended, however it did."""
        from airflow_provider_atscale.tasks.report import WaitContext, conclude
        from airflow_provider_atscale.waiting.policy import Ended, GaveUp

        if isinstance(verdict, Ended):
            self.log.info("Batch %s ended as %s; now it is this task's turn", batch_id, verdict.batch.status)
        elif isinstance(verdict, GaveUp) and verdict.kind == "missing":
            self.log.warning("Batch %s is no longer in the build history; going on", batch_id)
        else:
            subject = WaitContext(
                hook.edition.base_url,
                plan.ref,
                batch_id,
                next_step="It is somebody else's batch that this task waited for (on_running='wait'); this "
                "task has started nothing.",
            )
            conclude(verdict, subject, lambda: ())
        self._check_time_left(hook, plan, batch_id)

    def _check_time_left(self, hook: AtScaleHook, plan: Plan, batch_id: str) -> None:
        """Start nothing that could not be waited for any more."""
        import time

        from airflow_provider_atscale.exceptions import AtScaleTimeoutError

        if plan.deadline is not None and time.time() >= plan.deadline.at:
            raise AtScaleTimeoutError(
                f"Batch {batch_id} of {plan.ref} at {hook.edition.base_url}, which this task waited for "
                f"(on_running='wait'), has ended, but by now {plan.deadline.limit} has passed, so this task "
                "has started nothing. A retry of the task has a timeout of its own."
            )

    def _conclude(
        self,
        context: Context,
        hook: AtScaleHook,
        plan: Plan,
        memory: BuildStateStore,
        batch_id: str,
        verdict: WaitResult,
    ) -> str:
        """Judge the own batch, store how it was judged, and report it."""
        import time
        from dataclasses import replace

        from airflow_provider_atscale.builds.start import store_outcome
        from airflow_provider_atscale.builds.state import DONE, FAILED, LOST
        from airflow_provider_atscale.exceptions import AtScaleBatchFailedError, AtScaleBatchNotFoundError
        from airflow_provider_atscale.tasks.report import WaitContext, conclude, summarize
        from airflow_provider_atscale.waiting.policy import Ended, TimedOut

        if isinstance(verdict, TimedOut):
            # The task's own wait may have begun with somebody else's batch.
            verdict = replace(verdict, seconds=max(verdict.seconds, time.time() - plan.began))
        attaches = "on Airflow 3.3+ attaches to it" if not memory.is_persistent else "attaches to it"
        subject = WaitContext(
            hook.settings.base_url,
            plan.ref,
            batch_id,
            plan.start,
            plan.is_full_build,
            plan.failed_aggregates,
            f"A retry of the task {attaches} and has a timeout of its own.",
            hook.history_url(plan.ref, batch_id),
        )
        built = list(verdict.batch.instances or ()) if isinstance(verdict, Ended) else []

        def read_instances() -> Instances:
            listed = hook.get_instances(batch_id, plan.ref)
            built.extend(listed)
            return listed

        try:
            report = conclude(verdict, subject, read_instances)
        except AtScaleBatchFailedError:
            store_outcome(memory, self.log, FAILED, batch_id)
            raise
        except AtScaleBatchNotFoundError:
            store_outcome(memory, self.log, LOST, batch_id)
            raise
        store_outcome(memory, self.log, DONE, batch_id)
        self.log.info("Batch %s of %s is %s: %s", batch_id, plan.ref, report["status"], summarize(report))
        self._tell_result(context, report, built)
        return batch_id

    def _report_again(self, context: Context, hook: AtScaleHook, plan: Plan, batch_id: str) -> str:
        """Report a batch that an earlier try judged good, as far as AtScale still knows it."""
        from airflow_provider_atscale.exceptions import AtScaleError
        from airflow_provider_atscale.tasks.report import WaitContext, make_report

        try:
            batch = hook.get_batches(plan.ref, (batch_id,)).get(batch_id)
            if batch is not None:
                subject = WaitContext(
                    hook.settings.base_url, plan.ref, batch_id, plan.start, plan.is_full_build
                )
                built = hook.get_instances(batch_id, plan.ref)
                self._tell_result(context, make_report(batch, subject, built), built)
        except AtScaleError as error:
            self.log.warning("The report of batch %s could not be read again: %s", batch_id, error)
        return batch_id

    # --- Airflow's side ---

    def _memory(self, context: Context, hook: AtScaleHook, plan: Plan) -> BuildStateStore:
        from airflow_provider_atscale.builds.state import BuildKey, BuildStateStore

        ti: Any = context["ti"]
        identity = BuildKey(
            hook.edition.base_url,
            plan.ref.catalog_id,
            plan.ref.model_id,
            bool(plan.is_full_build),
            ti.map_index,
            ti.max_tries,
            getattr(context.get("dag_run"), "clear_number", None) or 0,
        )
        # Airflow before 3.3 has no such store.
        store: Any = context.get("task_state_store")
        return BuildStateStore(store, identity)

    def _builder(self, hook: AtScaleHook, plan: Plan, memory: BuildStateStore) -> BuildStarter:
        from airflow_provider_atscale.builds.start import BuildStarter

        return BuildStarter(
            hook,
            plan,
            memory,
            self.log,
            is_stopped=lambda: self._is_stopped,
            lost_reply_window=conf.getfloat("atscale", "lost_reply_window", fallback=120.0),
        )

    def _publish(self, context: Context, hook: AtScaleHook, plan: Plan, batch_id: str) -> None:
        """Let the world know the batch before anything is waited for."""
        from airflow_provider_atscale.links.atscale import XCOM_KEY

        context["ti"].xcom_push(key=XCOM_KEY, value=hook.history_url(plan.ref, batch_id))
        batch = {"batch_id": batch_id, "catalog": plan.ref.catalog_id, "model": plan.ref.model_id}
        self._push(context, "batch", batch)

    def _tell_result(
        self, context: Context, report: dict[str, Any], built: Sequence[AggregateInstance]
    ) -> None:
        """Give the report of a batch that ended well to whoever wants it: XCom, asset events, lineage."""
        from airflow_provider_atscale.assets.atscale import publish_report

        self._report, self._built = report, built
        self._push(context, "batch_result", report)
        publish_report(context, self.outlets, report, self.log)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """
        Tell OpenLineage which aggregate tables the batch has built.

        :param task_instance: The task instance.
        """
        from airflow_provider_atscale.tasks.lineage import make_lineage

        del task_instance
        return make_lineage(self._report, self._built)

    def _push(self, context: Context, key: str, value: Any) -> None:
        if self.do_xcom_push:
            context["ti"].xcom_push(key=key, value=value)

    def _tell(self, hook: AtScaleHook, plan: Plan, step: OwnBatch) -> None:
        from airflow_provider_atscale.api.models import kind_of

        estimate = step.batch.estimate_ms if step.batch else None
        self.log.info(
            "%s build of %s at %s: batch %s (%s)%s. Build history: %s",
            kind_of(plan.is_full_build).capitalize(),
            plan.ref,
            hook.edition.base_url,
            step.batch_id,
            step.start,
            f", AtScale estimates {estimate / 1000:.0f} s" if estimate else "",
            hook.history_url(plan.ref, step.batch_id),
        )

    def on_kill(self) -> None:
        """
        Forbid any further start by this process, and say that a started build goes on.

        AtScale has no call that cancels a batch. Not called while the task is deferred; there, on Airflow
        3.3+, the trigger says the same.
        """
        self._is_stopped = True
        if self._batch_id is None:
            if self._current is not None and self._current.may_have_started:
                self.log.warning(
                    "The task ends while it starts a build, or looks for one: it may run in AtScale, and then "
                    "it goes on there. A retry looks for it (Airflow 3.3+); see Design Center > Aggregates > "
                    "Build History"
                )
            else:
                self.log.warning("The task ends before it knows of a batch; this process starts none any more")
            return
        self.log.warning(
            "The task ends; batch %s goes on in AtScale, which offers no call to cancel it. If it should stop, "
            "cancel it in Design Center > Aggregates > Build History",
            self._batch_id,
        )
