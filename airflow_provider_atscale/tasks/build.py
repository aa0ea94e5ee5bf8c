"""Run a build task: obtain a batch, wait for it, judge it, report it."""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException, conf

from airflow_provider_atscale import metrics
from airflow_provider_atscale.api.models import kind_of
from airflow_provider_atscale.api.observation import Seen
from airflow_provider_atscale.arguments import (
    FAILED_AGGREGATES,
    ON_RUNNING,
    optional_count,
    optional_seconds,
    parse_bool,
    parse_choice,
    parse_name,
    parse_overrides,
    parse_seconds,
)
from airflow_provider_atscale.builds.report import BATCH_KEY
from airflow_provider_atscale.builds.request import BuildRequest
from airflow_provider_atscale.builds.resumption import resumption_events
from airflow_provider_atscale.builds.start import BuildStarter
from airflow_provider_atscale.builds.state import (
    DONE,
    FAILED,
    LOST,
    BuildKey,
    BuildStateStore,
    store_outcome,
)
from airflow_provider_atscale.builds.steps import FinishedBatch, OwnBatch, RunningOther, Skip
from airflow_provider_atscale.builds.usual import Expectation
from airflow_provider_atscale.exceptions import (
    AtScaleBatchFailedError,
    AtScaleBatchNotFoundError,
    AtScaleBatchSupersededError,
    AtScaleConnectionError,
    AtScaleError,
    AtScaleEventError,
    AtScaleTimeoutError,
)
from airflow_provider_atscale.hooks.atscale import AtScaleHook
from airflow_provider_atscale.tasks.base import RunningTask
from airflow_provider_atscale.tasks.conclusion import WaitContext, conclude
from airflow_provider_atscale.tasks.event import read_event
from airflow_provider_atscale.tasks.plan import TaskPlan
from airflow_provider_atscale.tasks.skips import SkipCheck, check_only_if_newer
from airflow_provider_atscale.waiting.blocking import wait_blocking
from airflow_provider_atscale.waiting.policy import Ended, GaveUp, TimedOut, WaitPolicy, WaitResult
from airflow_provider_atscale.waiting.progress import Progress
from airflow_provider_atscale.waiting.tolerance import load_tolerance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_atscale.api.observation import Observation
    from airflow_provider_atscale.waiting.deadline import Deadline


class BuildTask(RunningTask):
    """One run of the build operator."""

    def __init__(self, operator: Any, context: Context, is_stopped: Callable[[], bool]) -> None:
        super().__init__(operator, context)
        self._is_stopped = is_stopped
        self._starter: BuildStarter | None = None
        self._batch_id: str | None = None

    # --- entry points ---

    def execute(self) -> str:
        """Start the batch, or go on with an earlier try's, and wait as asked."""
        self.operator.choose_arguments(self.context)
        optional_seconds(self.operator.skip_if_built_within, "skip_if_built_within")
        if parse_bool(self.operator.only_if_newer, "only_if_newer"):
            check_only_if_newer()
        with closing(AtScaleHook(parse_name(self.operator.atscale_conn_id, "atscale_conn_id"))) as hook:
            plan, request = self._make_plan(hook)
            with _before(plan.deadline, f"a build of {plan.ref}"):
                self._skip_if_not_needed(hook, plan, request)
            return self._build(hook, plan, request)

    def restart(self) -> str:
        """Start from the beginning."""
        self.reset_start_date()
        return self.execute()

    def resume_after_running(self, event: Any) -> str:
        """Start this task's build after another batch of the model has ended."""
        self.is_resumed = True
        resumed = read_event(event)
        request = _request_of(resumed.plan)
        self.operator.restore_arguments(resumed.plan)
        with closing(AtScaleHook(resumed.plan.conn_id)) as hook:
            hook.until = resumed.plan.until
            self._after_other_batch(hook, resumed.plan, str(resumed.batch_id), resumed.result)
            return self._build(hook, resumed.plan, request, has_waited=True)

    def resume(self, event: Any) -> str:
        """Judge this task's batch after the wait in the triggerer."""
        self.is_resumed = True
        resumed = read_event(event)
        request = _request_of(resumed.plan)
        self.operator.restore_arguments(resumed.plan)
        self._batch_id = resumed.batch_id
        with closing(AtScaleHook(resumed.plan.conn_id)) as hook:
            store = self._state_store(hook, resumed.plan, request)
            return self._conclude(hook, resumed.plan, store, str(resumed.batch_id), resumed.result)

    def on_kill(self) -> None:
        """Say in the log what becomes of the build."""
        if self._batch_id is not None:
            self.log.warning(
                "The task was stopped. Batch %s goes on in AtScale, which has no call to cancel it. To stop it, "
                "cancel it in Design Center > Aggregates > Build History",
                self._batch_id,
            )
        elif self._starter is not None and self._starter.may_have_started:
            self.log.warning(
                "The task was stopped while it started a build: the build may run in AtScale, and then it goes "
                "on. A retry looks for it (Airflow 3.3+); see Design Center > Aggregates > Build History"
            )
        else:
            self.log.warning("The task was stopped before a build was started; none will be started")

    # --- the plan ---

    def _make_plan(self, hook: AtScaleHook) -> tuple[TaskPlan, BuildRequest]:
        """Check all arguments before the first request, then find the model."""
        given = self.operator
        is_full_build = parse_bool(given.is_full_build, "is_full_build")
        overrides = parse_overrides(given.grace_period_overrides, is_full_build=is_full_build)
        hook.edition.check_overrides(overrides)
        request = BuildRequest(
            is_full_build,
            overrides,
            parse_choice(given.on_running, "on_running", ON_RUNNING),
            parse_bool(given.wait_for_completion, "wait_for_completion"),
            self._give_up_after(),
        )
        failed_aggregates = parse_choice(given.failed_aggregates, "failed_aggregates", FAILED_AGGREGATES)
        poll_interval = parse_seconds(given.poll_interval, "poll_interval")
        timeout = optional_seconds(given.timeout, "timeout")
        warn_after = optional_seconds(given.warn_after, "warn_after")
        catalog, model = parse_name(given.catalog, "catalog"), parse_name(given.model, "model")
        now = time.time()
        deadline = self.deadline(timeout, now)
        hook.until = deadline.at if deadline else None
        with _before(deadline, f"a build of {model!r}"):
            ref = hook.resolve_model(catalog, model)
        plan = TaskPlan(
            conn_id=hook.atscale_conn_id,
            ref=ref,
            began=now,
            poll_interval=poll_interval,
            deadline=deadline,
            failed_aggregates=failed_aggregates,
            try_number=self.try_number,
            build=request,
            expectation=Expectation(warn_after),
        )
        return plan, request

    def _state_store(self, hook: AtScaleHook, plan: TaskPlan, request: BuildRequest) -> BuildStateStore:
        ti: Any = self.context["ti"]
        key = BuildKey(
            hook.edition.base_url,
            plan.ref.catalog_id,
            plan.ref.model_id,
            request.is_full_build,
            ti.map_index,
            ti.max_tries,
            getattr(self.context.get("dag_run"), "clear_number", None) or 0,
            request.overrides,
        )
        # Airflow before 3.3 has no such store.
        store: Any = self.context.get("task_state_store")
        return BuildStateStore(
            store,
            key,
            lambda batch_id: {
                "model": plan.ref.model,
                "catalog": plan.ref.catalog,
                "history_url": hook.history_url(plan.ref, batch_id),
            },
        )

    def _skip_if_not_needed(self, hook: AtScaleHook, plan: TaskPlan, request: BuildRequest) -> None:
        within = optional_seconds(self.operator.skip_if_built_within, "skip_if_built_within")
        newer = parse_bool(self.operator.only_if_newer, "only_if_newer")
        if within is None and not newer:
            return
        check = SkipCheck(hook, plan, request, self.log)
        if not check.is_due(self._state_store(hook, plan, request)):
            return
        if within is not None:
            check.skip_if_built_within(within)
        if newer:
            check.skip_if_nothing_is_newer(self.context, self.operator.inlets)

    def _give_up_after(self) -> int | None:
        """Return how many failed builds are tolerated; the first try after a clear builds in any case."""
        limit = optional_count(self.operator.give_up_after, "give_up_after")
        ti: Any = self.context["ti"]
        # A clear raises max_tries to the tries so far plus the retries.
        tries_before_clear = (ti.max_tries or 0) - (self.operator.retries or 0)
        if limit is not None and 0 < tries_before_clear >= ti.try_number - 1:
            self.log.info("The task was cleared, so give_up_after is not asked in this try")
            return None
        return limit

    # --- build and wait ---

    def _build(
        self, hook: AtScaleHook, plan: TaskPlan, request: BuildRequest, *, has_waited: bool = False
    ) -> str:
        """Obtain a batch, and wait for it."""
        store = self._state_store(hook, plan, request)
        self._starter = BuildStarter(
            hook,
            plan.ref,
            request,
            store,
            self.log,
            is_stopped=self._is_stopped,
            lost_reply_window=conf.getfloat("atscale", "lost_reply_window", fallback=120.0),
            first_look=plan.first_look,
            has_waited=has_waited,
        )
        step = self._obtain_batch(hook, plan, self._starter)
        plan = plan.with_origin(step.origin, step.joined_at if isinstance(step, OwnBatch) else None)
        # A wait for another batch may have learnt how long builds of another kind take.
        plan = replace(plan, expectation=Expectation(plan.expectation.warn_after))
        self._batch_id = step.batch_id
        self._count(plan, step.origin)
        if store.is_persistent:
            metrics.count_resumption(
                resumption_events(self._starter.decision, step), self.operator, self.context["ti"]
            )
        self._publish_batch(hook, plan, step.batch_id)
        if isinstance(step, FinishedBatch):
            return self._report_again(hook, plan, step.batch_id)
        first = hook.observe_batch(plan.ref, step.batch_id) if request.wait_for_completion else None
        if first is not None:
            plan.expectation.learn(first, request.is_full_build)
        self._log_start(hook, plan, request, step)
        if first is None:
            return step.batch_id
        result = self._wait(hook, plan, step.batch_id, "execute_complete", first)
        return self._conclude(hook, plan, store, step.batch_id, result)

    def _obtain_batch(
        self, hook: AtScaleHook, plan: TaskPlan, starter: BuildStarter
    ) -> OwnBatch | FinishedBatch:
        while True:
            try:
                with _before(plan.deadline, f"a build of {plan.ref}"):
                    step = starter.obtain_batch()
            except Skip as skip:
                raise AirflowSkipException(str(skip)) from None
            if not isinstance(step, RunningOther):
                return step
            plan = replace(plan, first_look=starter.first_look)
            result = self._wait(hook, plan, step.batch.id, "execute_after_running")
            self._after_other_batch(hook, plan, step.batch.id, result)

    def _wait(
        self,
        hook: AtScaleHook,
        plan: TaskPlan,
        batch_id: str,
        method_name: str,
        first: Observation | None = None,
    ) -> WaitResult:
        """Wait for a batch here, or defer; a batch that has ended never defers."""
        since = time.time()
        seen = hook.observe_batch(plan.ref, batch_id) if first is None else first
        if self.operator.deferrable:
            is_listed = isinstance(seen, Seen) and seen.batch.instances is None
            if isinstance(seen, Seen) and is_listed and not seen.batch.is_running:
                return Ended(seen.batch)
            self.defer(hook, plan, batch_id, method_name, since=since, seen_in_history=is_listed)
        subject = f"Batch {batch_id}"
        polled = [seen]
        return wait_blocking(
            lambda: polled.pop() if polled else hook.observe_batch(plan.ref, batch_id),
            WaitPolicy(since, plan.poll_interval, load_tolerance(), subject),
            Progress(
                self.log,
                f"{subject} of {plan.ref}",
                since,
                plan.expectation,
                self.progress_writer(plan.expectation),
            ),
            plan.deadline,
            is_stopped=self._is_stopped,
        )

    def _after_other_batch(self, hook: AtScaleHook, plan: TaskPlan, batch_id: str, result: WaitResult) -> None:
        """Log how another batch ended; raise if it has not, or if no time is left to wait for one's own."""
        on_running = plan.build.on_running if plan.build else "wait"
        if isinstance(result, Ended):
            self.log.info("Batch %s ended as %s; continuing", batch_id, result.batch.status)
        elif isinstance(result, GaveUp) and result.kind == "missing":
            self.log.warning("Batch %s is no longer in the build history; continuing", batch_id)
        else:
            wait = WaitContext(
                hook.edition.base_url,
                plan.ref,
                batch_id,
                next_step="Another task or user started this batch, and this task waited for it "
                f"(on_running={on_running!r}); this task has started nothing.",
            )
            conclude(result, wait, lambda: ())
        if plan.deadline is not None and time.time() >= plan.deadline.at:
            raise AtScaleTimeoutError(
                f"No build was started: {plan.deadline.limit} passed while this task waited for batch {batch_id} "
                f"of {plan.ref} at {hook.edition.base_url} (on_running={on_running!r}), which has ended now. A "
                "retry of the task has a timeout of its own."
            )

    # --- the end ---

    def _conclude(
        self, hook: AtScaleHook, plan: TaskPlan, store: BuildStateStore, batch_id: str, result: WaitResult
    ) -> str:
        """Judge this task's batch, store the outcome, and publish the report."""
        if isinstance(result, TimedOut):
            # The task's wait may have begun with another batch.
            result = replace(result, seconds=max(result.seconds, time.time() - plan.began))
        attaches = "attaches to it" if store.is_persistent else "on Airflow 3.3+ attaches to it"
        next_step = f"A retry of the task {attaches} and has a timeout of its own."
        try:
            report = self.judge(hook, plan, batch_id, result, next_step)
        except (AtScaleBatchFailedError, AtScaleBatchSupersededError):
            self._count(plan, "failed", result)
            store_outcome(store, self.log, FAILED, batch_id)
            raise
        except AtScaleBatchNotFoundError:
            self._count(plan, "lost")
            store_outcome(store, self.log, LOST, batch_id)
            raise
        self._count(plan, "done", result)
        store_outcome(store, self.log, DONE, batch_id)
        self.publish_report(report)
        return batch_id

    def _report_again(self, hook: AtScaleHook, plan: TaskPlan, batch_id: str) -> str:
        """Publish the report of a batch that an earlier try judged good, if AtScale still knows it."""
        try:
            batch = hook.get_batches(plan.ref, (batch_id,)).get(batch_id)
            if batch is not None:
                self.instances = hook.get_instances(batch_id)
                self.report = self.wait_context(hook, plan, batch_id).report(batch, self.instances)
                self.publish_report(self.report)
        except AtScaleError as error:
            self.log.warning("The report of batch %s could not be read again: %s", batch_id, error)
        return batch_id

    # --- what others see ---

    def _count(self, plan: TaskPlan, event: str, result: WaitResult | None = None) -> None:
        """Emit metrics of a build: what happened to it and, at its end, how long it took."""
        tags = metrics.build_tags(plan.ref, kind_of(plan.build.is_full_build if plan.build else None))
        metrics.count(f"atscale.build.{event}", tags=tags)
        if isinstance(result, Ended) and result.batch.seconds is not None:
            metrics.time("atscale.build.duration", result.batch.seconds, tags={**tags, "outcome": event})

    def _publish_batch(self, hook: AtScaleHook, plan: TaskPlan, batch_id: str) -> None:
        """Push the link and XCom ``batch`` before the wait."""
        self.publish_link(hook, plan.ref, batch_id)
        self.push(BATCH_KEY, {"batch_id": batch_id, "catalog": plan.ref.catalog_id, "model": plan.ref.model_id})

    def _log_start(self, hook: AtScaleHook, plan: TaskPlan, request: BuildRequest, step: OwnBatch) -> None:
        kind = request.is_full_build
        if step.batch is not None and step.batch.is_full_build is not None:
            kind = step.batch.is_full_build
        estimate = step.batch.estimate_ms if step.batch else None
        batch_began = step.batch.began if step.batch else None
        usual = plan.expectation.describe(batch_began.timestamp() if batch_began else time.time())
        self.log.info(
            "%s %s, %s%s%s. Batch %s (%s) at %s. Build history: %s",
            "Building" if step.origin == "started" else "Waiting for a build of",
            plan.ref.label,
            kind_of(kind),
            f"; {usual}" if usual else "",
            f"; AtScale estimates {estimate / 1000:.0f} s" if estimate else "",
            step.batch_id,
            step.origin,
            hook.edition.base_url,
            self.link,
        )


@contextmanager
def _before(deadline: Deadline | None, what: str) -> Iterator[None]:
    """Raise a timeout if the deadline passes while AtScale does not answer, before anything is started."""
    try:
        yield
    except AtScaleConnectionError as error:
        if deadline is None or time.time() < deadline.at:
            raise
        raise AtScaleTimeoutError(
            f"Nothing was started: {deadline.limit} passed before {what} could be started. {error} A retry of the "
            "task has a timeout of its own."
        ) from error


def _request_of(plan: TaskPlan) -> BuildRequest:
    if plan.build is None:
        raise AtScaleEventError(
            "The trigger's event cannot be trusted (it has no build), so the task fails. On Airflow 3.3+ a retry of "
            "the task attaches to its batch."
        )
    return plan.build
