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
from airflow_provider_atscale.arguments import BUILD_ARGUMENTS, optional_count, parse_arguments, parse_overrides
from airflow_provider_atscale.builds.report import BATCH_KEY
from airflow_provider_atscale.builds.request import BuildRequest
from airflow_provider_atscale.builds.resumption import resumption_events
from airflow_provider_atscale.builds.start import BuildStarter
from airflow_provider_atscale.builds.state import DONE, FAILED, LOST, BuildKey, BuildStateStore
from airflow_provider_atscale.builds.steps import BuildContext, OwnBatch, Skip
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
from airflow_provider_atscale.tasks.base import RunningTask
from airflow_provider_atscale.tasks.conclusion import WaitContext, conclude
from airflow_provider_atscale.tasks.plan import TaskPlan
from airflow_provider_atscale.tasks.skips import SkipCheck, check_only_if_newer
from airflow_provider_atscale.waiting.blocking import wait_blocking
from airflow_provider_atscale.waiting.policy import Ended, GaveUp, TimedOut, WaitPolicy, WaitResult
from airflow_provider_atscale.waiting.progress import Progress
from airflow_provider_atscale.waiting.tolerance import load_tolerance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_atscale.api.observation import Observation
    from airflow_provider_atscale.tasks.event import Resumed
    from airflow_provider_atscale.waiting.deadline import Deadline


class BuildTask(RunningTask):
    """One run of the build operator; :attr:`build` is set with the plan."""

    build: BuildContext

    def __init__(self, operator: Any, context: Context, is_stopped: Callable[[], bool]) -> None:
        super().__init__(operator, context)
        self._is_stopped = is_stopped
        self._starter: BuildStarter | None = None
        self._batch_id: str | None = None

    # --- entry points ---

    def execute(self) -> str:
        """Start the batch, or go on with an earlier try's, and wait as asked."""
        self.operator.choose_arguments(self.context)
        given = parse_arguments(self.operator, BUILD_ARGUMENTS)
        if given["only_if_newer"]:
            check_only_if_newer()
        with closing(self.hook):
            request = self._make_request(given)
            self.plan = self._make_plan(given, request)
            self.build = self._make_context(request)
            with _before_start(self.plan.deadline, self.plan.ref):
                self._skip_if_not_needed(given)
            return self._obtain_and_wait()

    def restart(self) -> str:
        """Start from the beginning."""
        self.reset_start_date()
        return self.execute()

    def resume_after_running(self, event: Any) -> str:
        """Start this task's build after another batch of the model has ended."""
        resumed, request = self._read_event(event)
        with closing(self.hook):
            self.hook.until = self.plan.until
            self.build = self._make_context(request)
            self._after_other_batch(str(resumed.batch_id), resumed.result)
            return self._obtain_and_wait(has_waited=True)

    def resume(self, event: Any) -> str:
        """Judge this task's batch after the wait in the triggerer."""
        resumed, request = self._read_event(event)
        self._batch_id = resumed.batch_id
        with closing(self.hook):
            self.build = self._make_context(request)
            return self._conclude(str(resumed.batch_id), resumed.result)

    def _read_event(self, event: Any) -> tuple[Resumed, BuildRequest]:
        resumed = self.read_event(event)
        if resumed.plan.build is None:
            raise AtScaleEventError(
                "The trigger's event cannot be trusted (it has no build), so the task fails. On Airflow 3.3+ a retry "
                "of the task attaches to its batch."
            )
        self.operator.restore_arguments(resumed.plan)
        return resumed, resumed.plan.build

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

    def _make_request(self, given: Mapping[str, Any]) -> BuildRequest:
        request = BuildRequest(
            given["is_full_build"],
            parse_overrides(given["grace_period_overrides"], is_full_build=given["is_full_build"]),
            given["on_running"],
            given["wait_for_completion"],
            self._give_up_after(),
        )
        self.hook.edition.check_overrides(request.overrides)
        return request

    def _make_plan(self, given: Mapping[str, Any], request: BuildRequest) -> TaskPlan:
        now = time.time()
        deadline = self.deadline(given["timeout"], now)
        self.hook.until = deadline.at if deadline else None
        with _before_start(deadline, repr(given["model"])):
            ref = self.hook.resolve_model(given["catalog"], given["model"])
        return TaskPlan(
            conn_id=self.hook.atscale_conn_id,
            ref=ref,
            began=now,
            poll_interval=given["poll_interval"],
            deadline=deadline,
            failed_aggregates=given["failed_aggregates"],
            try_number=self.try_number,
            build=request,
            expectation=Expectation(given["warn_after"]),
        )

    def _make_context(self, request: BuildRequest) -> BuildContext:
        state = self._state_store(request)
        return BuildContext(self.hook, self.plan.ref, request, state, self.log, self._is_stopped)

    def _state_store(self, request: BuildRequest) -> BuildStateStore:
        ti: Any = self.context["ti"]
        hook, ref = self.hook, self.plan.ref
        key = BuildKey(
            hook.edition.base_url,
            ref.catalog_id,
            ref.model_id,
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
                "model": ref.model,
                "catalog": ref.catalog,
                "history_url": hook.history_url(ref, batch_id),
            },
        )

    def _skip_if_not_needed(self, given: Mapping[str, Any]) -> None:
        within, newer = given["skip_if_built_within"], given["only_if_newer"]
        if within is None and not newer:
            return
        check = SkipCheck(self.build, self.plan)
        if not check.is_due():
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

    def _obtain_and_wait(self, *, has_waited: bool = False) -> str:
        """Obtain a batch, and wait for it."""
        step = self._obtain_batch(has_waited=has_waited)
        # A wait for another batch may have learnt how long builds of another kind take.
        expectation = Expectation(self.plan.expectation.warn_after)
        self.plan = replace(self.plan, origin=step.origin, joined_at=step.joined_at, expectation=expectation)
        self._batch_id = step.batch_id
        self._count(step.origin)
        self._publish_batch(step.batch_id)
        if step.is_finished:
            return self._report_again(step.batch_id)
        request = self.build.request
        first = self.hook.observe_batch(self.plan.ref, step.batch_id) if request.wait_for_completion else None
        if first is not None:
            expectation.learn(first, request.is_full_build)
        self._log_start(step)
        if first is None:
            return step.batch_id
        return self._conclude(step.batch_id, self._wait(step.batch_id, "execute_complete", first))

    def _obtain_batch(self, *, has_waited: bool) -> OwnBatch:
        self._starter = starter = BuildStarter(
            self.build,
            lost_reply_window=conf.getfloat("atscale", "lost_reply_window", fallback=120.0),
            first_look=self.plan.first_look,
            has_waited=has_waited,
        )

        def wait_for_other(batch_id: str) -> None:
            self.plan = replace(self.plan, first_look=starter.first_look)
            self._after_other_batch(batch_id, self._wait(batch_id, "execute_after_running"))

        try:
            with _before_start(self.plan.deadline, self.plan.ref):
                step = starter.obtain_own_batch(wait_for_other)
        except Skip as skip:
            raise AirflowSkipException(str(skip)) from None
        if self.build.state.is_persistent:
            events = resumption_events(starter.decision, step)
            metrics.count_resumption(events, self.operator, self.context["ti"])
        return step

    def _wait(self, batch_id: str, method_name: str, first: Observation | None = None) -> WaitResult:
        """Wait for a batch here, or defer; a batch that has ended never defers."""
        plan, since = self.plan, time.time()
        seen = first or self.hook.observe_batch(plan.ref, batch_id)
        if self.operator.deferrable:
            is_listed = isinstance(seen, Seen) and seen.batch.instances is None
            if isinstance(seen, Seen) and is_listed and not seen.batch.is_running:
                return Ended(seen.batch)
            self.defer(batch_id, method_name, since=since, seen_in_history=is_listed)
        subject = f"Batch {batch_id}"
        polled = [seen]
        writer = self.progress_writer(plan.expectation)
        return wait_blocking(
            lambda: polled.pop() if polled else self.hook.observe_batch(plan.ref, batch_id),
            WaitPolicy(since, plan.poll_interval, load_tolerance(), subject),
            Progress(self.log, f"{subject} of {plan.ref}", since, plan.expectation, writer),
            plan.deadline,
            is_stopped=self._is_stopped,
        )

    def _after_other_batch(self, batch_id: str, result: WaitResult) -> None:
        """Log how another batch ended; raise if it has not, or if no time is left to wait for one's own."""
        server, ref, on_running = self.hook.edition.base_url, self.plan.ref, self.build.request.on_running
        if isinstance(result, Ended):
            self.log.info("Batch %s ended as %s; continuing", batch_id, result.batch.status)
        elif isinstance(result, GaveUp) and result.kind == "missing":
            self.log.warning("Batch %s is no longer in the build history; continuing", batch_id)
        else:
            next_step = (
                "Another task or user started this batch, and this task waited for it "
                f"(on_running={on_running!r}); this task has started nothing."
            )
            conclude(result, WaitContext(server, ref, batch_id, next_step=next_step), lambda: ())
        deadline = self.plan.deadline
        if deadline is not None and time.time() >= deadline.at:
            raise AtScaleTimeoutError(
                f"No build was started: {deadline.limit} passed while this task waited for batch {batch_id} of {ref} "
                f"at {server} (on_running={on_running!r}), which has ended now. A retry of the task has a timeout of "
                "its own."
            )

    # --- the end ---

    def _conclude(self, batch_id: str, result: WaitResult) -> str:
        """Judge this task's batch, store the outcome, and publish the report."""
        if isinstance(result, TimedOut):
            # The task's wait may have begun with another batch.
            result = replace(result, seconds=max(result.seconds, time.time() - self.plan.began))
        attaches = "attaches to it" if self.build.state.is_persistent else "on Airflow 3.3+ attaches to it"
        next_step = f"A retry of the task {attaches} and has a timeout of its own."
        try:
            report = self.judge(batch_id, result, next_step)
        except (AtScaleBatchFailedError, AtScaleBatchSupersededError):
            self._count("failed", result)
            self.build.store_outcome(FAILED, batch_id)
            raise
        except AtScaleBatchNotFoundError:
            self._count("lost")
            self.build.store_outcome(LOST, batch_id)
            raise
        self._count("done", result)
        self.build.store_outcome(DONE, batch_id)
        self.publish_report(report)
        return batch_id

    def _report_again(self, batch_id: str) -> str:
        """Publish the report of a batch that an earlier try judged good, if AtScale still knows it."""
        try:
            batch = self.hook.get_batches(self.plan.ref, (batch_id,)).get(batch_id)
            if batch is not None:
                self.instances = self.hook.get_instances(batch_id)
                self.report = self.wait_context(batch_id).report(batch, self.instances)
                self.publish_report(self.report)
        except AtScaleError as error:
            self.log.warning("The report of batch %s could not be read again: %s", batch_id, error)
        return batch_id

    # --- what others see ---

    def _count(self, event: str, result: WaitResult | None = None) -> None:
        """Emit metrics of a build: what happened to it and, at its end, how long it took."""
        tags = metrics.build_tags(self.plan.ref, kind_of(self.build.request.is_full_build))
        metrics.count(f"atscale.build.{event}", tags=tags)
        if isinstance(result, Ended) and result.batch.seconds is not None:
            metrics.time("atscale.build.duration", result.batch.seconds, tags={**tags, "outcome": event})

    def _publish_batch(self, batch_id: str) -> None:
        """Push the link and XCom ``batch`` before the wait."""
        ref = self.plan.ref
        self.publish_link(ref, batch_id)
        self.push(BATCH_KEY, {"batch_id": batch_id, "catalog": ref.catalog_id, "model": ref.model_id})

    def _log_start(self, step: OwnBatch) -> None:
        batch = step.batch
        kind = self.build.request.is_full_build
        if batch is not None and batch.is_full_build is not None:
            kind = batch.is_full_build
        estimate = batch.estimate_ms if batch else None
        batch_began = batch.began if batch else None
        usual = self.plan.expectation.describe(batch_began.timestamp() if batch_began else time.time())
        self.log.info(
            "%s %s, %s%s%s. Batch %s (%s) at %s. Build history: %s",
            "Building" if step.origin == "started" else "Waiting for a build of",
            self.plan.ref.label,
            kind_of(kind),
            f"; {usual}" if usual else "",
            f"; AtScale estimates {estimate / 1000:.0f} s" if estimate else "",
            step.batch_id,
            step.origin,
            self.hook.edition.base_url,
            self.link,
        )


@contextmanager
def _before_start(deadline: Deadline | None, model: object) -> Iterator[None]:
    """Raise a timeout if the deadline passes while AtScale does not answer, before anything is started."""
    try:
        yield
    except AtScaleConnectionError as error:
        if deadline is None or time.time() < deadline.at:
            raise
        raise AtScaleTimeoutError(
            f"Nothing was started: {deadline.limit} passed before a build of {model} could be started. {error} A "
            "retry of the task has a timeout of its own."
        ) from error
