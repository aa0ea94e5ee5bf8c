"""What operator and sensor do alike while they run: defer, judge the batch, publish the report."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import conf

from airflow_provider_atscale.api.flow import shorten
from airflow_provider_atscale.arguments import parse_name
from airflow_provider_atscale.assets.atscale import publish_report
from airflow_provider_atscale.builds.report import FAILURE_KEY, REPORT_KEY, summarize
from airflow_provider_atscale.builds.steps import log_errors
from airflow_provider_atscale.exceptions import AtScaleError
from airflow_provider_atscale.hooks.atscale import AtScaleHook
from airflow_provider_atscale.links.atscale import XCOM_KEY
from airflow_provider_atscale.tasks.conclusion import WaitContext, conclude
from airflow_provider_atscale.tasks.event import Resumed, is_event_of_other_try, read_event
from airflow_provider_atscale.tasks.lineage import make_lineage
from airflow_provider_atscale.triggers.atscale import AtScaleBatchTrigger
from airflow_provider_atscale.waiting.deadline import Deadline, deferral_timeout
from airflow_provider_atscale.waiting.policy import Ended, WaitPolicy, WaitResult
from airflow_provider_atscale.waiting.progress_xcom import KEY as PROGRESS_KEY
from airflow_provider_atscale.waiting.progress_xcom import ProgressXCom, ended_value

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping, Sequence

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_atscale.api.models import AggregateInstance, Instances, ModelRef
    from airflow_provider_atscale.builds.usual import Expectation
    from airflow_provider_atscale.tasks.plan import TaskPlan

#: Characters of the error in the XCom of a batch that fails the task.
MAX_ERROR = 4000


class RunningTask:
    """One run of an operator or sensor; :attr:`plan` is set once its arguments, or the trigger's event, are read."""

    plan: TaskPlan

    def __init__(self, operator: Any, context: Context) -> None:
        self.operator = operator
        self.context = context
        self.log: logging.Logger = operator.log
        self.report: dict[str, Any] | None = None
        self.instances: Sequence[AggregateInstance] = ()
        self.link: str | None = None
        self.is_resumed = False

    @cached_property
    def hook(self) -> AtScaleHook:
        """The hook of the connection; the same one at each call."""
        return AtScaleHook(parse_name(self.operator.atscale_conn_id, "atscale_conn_id"))

    def read_event(self, event: Any, *, needs_batch: bool = True) -> Resumed:
        """Return what a trigger's event says, and go on with its plan and connection."""
        self.is_resumed = True
        resumed = read_event(event, needs_batch=needs_batch)
        self.plan = resumed.plan
        self.hook = AtScaleHook(resumed.plan.conn_id)
        return resumed

    @property
    def try_number(self) -> int:
        """Which try of the task it is."""
        return self.context["ti"].try_number

    def restarts(self, next_kwargs: Mapping[str, Any] | None) -> bool:
        """Return whether the task must start from the beginning instead of being resumed."""
        return is_event_of_other_try(next_kwargs, self.try_number)

    def reset_start_date(self) -> None:
        """Let ``execution_timeout`` count from now: Airflow has left the start date of the other try."""
        self.log.info("Airflow resumed this try with the event of another one: starting from the beginning")
        self.context["ti"].start_date = datetime.now(timezone.utc)

    def deadline(self, timeout: float | None, now: float) -> Deadline | None:
        """Return the earlier of a timeout, in seconds from now, and ``execution_timeout``."""
        limit = self.operator.execution_timeout
        began = self.context["ti"].start_date
        return Deadline.earlier(
            now, timeout, began.timestamp() if began else now, limit.total_seconds() if limit else None
        )

    def defer(self, batch_id: str | None, method_name: str, *, since: float, seen_in_history: bool) -> None:
        """Hand the wait for a batch, None for the newest, to the triggerer; the method is called with the event."""
        limit = None
        if self.plan.deadline is not None:
            left = max(self.plan.deadline.at - time.time(), 0.0)
            limit = deferral_timeout(left, self.plan.poll_interval, self.hook.settings.timeout)
        trigger = AtScaleBatchTrigger(
            **self.plan.trigger_arguments(),
            batch_id=batch_id,
            since=since,
            seen_in_history=seen_in_history,
            push_progress=self.pushes_progress,
        )
        self.operator.defer(trigger=trigger, method_name=method_name, timeout=limit)

    def wait_context(self, batch_id: str | None, next_step: str = "") -> WaitContext:
        """Return what the task waited for; without a batch, it was the newest and none was seen."""
        plan = self.plan
        ref = plan.ref if plan.ref.catalog_id else None
        return WaitContext(
            server=self.hook.settings.base_url,
            ref=ref,
            batch_id=batch_id,
            origin=plan.origin,
            is_full_build=plan.build.is_full_build if plan.build else None,
            failed_aggregates=plan.failed_aggregates,
            next_step=next_step,
            history_url=self.hook.history_url(ref, batch_id),
            expectation=plan.expectation,
            joined_at=plan.joined_at,
        )

    def judge(self, batch_id: str | None, result: WaitResult, next_step: str) -> dict[str, Any]:
        """Return the report of a batch that ended well; raise the typed error of anything else."""
        instances: Sequence[AggregateInstance] | None = None
        if isinstance(result, Ended):
            batch_id = result.batch.id
            instances = result.batch.instances
        wait = self.wait_context(batch_id, next_step)

        def read_instances() -> Instances:
            nonlocal instances
            # The batch may have ended at the deadline.
            with self.hook.one_request_more():
                listed = self.hook.get_instances(str(batch_id))
            instances = listed
            return listed

        try:
            report = conclude(result, wait, read_instances)
        except AtScaleError as error:
            if isinstance(result, Ended):
                with log_errors(self.log.warning, "The XCom %s could not be written (%s: %s)", FAILURE_KEY):
                    told = {**wait.report(result.batch, instances), "error": shorten(str(error), MAX_ERROR)}
                    self.push(FAILURE_KEY, told)
            raise
        finally:
            if isinstance(result, Ended) and self.pushes_progress:
                batch = replace(result.batch, instances=None if instances is None else tuple(instances))
                self.push_progress(ended_value(batch, self.plan.expectation, time.time()))
        self.log.info("%s. %s", summarize(report), wait)
        self.report, self.instances = report, instances or ()
        return report

    def publish_report(self, report: dict[str, Any]) -> None:
        """Give the report to XCom and to the asset events of the task's outlets."""
        self.push(REPORT_KEY, report)
        publish_report(self.context, self.operator.outlets, report, self.log)

    def publish_link(self, ref: ModelRef, batch_id: str | None) -> None:
        """Push the address of the build history, for the task's link."""
        self.link = self.hook.history_url(ref, batch_id)
        self.context["ti"].xcom_push(key=XCOM_KEY, value=self.link)

    def push(self, key: str, value: Any) -> None:
        """Push an XCom, unless the user has switched that off."""
        if self.operator.do_xcom_push:
            self.context["ti"].xcom_push(key=key, value=value)

    @property
    def pushes_progress(self) -> bool:
        """Whether the task writes the XCom ``progress``."""
        return bool(self.operator.do_xcom_push) and conf.getboolean("atscale", "progress_xcom", fallback=True)

    def push_progress(self, value: dict[str, Any] | None) -> None:
        """Write the progress; a write that fails is logged and nothing more."""
        if value is not None:
            with log_errors(self.log.debug, "The XCom %s could not be written (%s: %s)", PROGRESS_KEY):
                self.context["ti"].xcom_push(key=PROGRESS_KEY, value=value)

    def progress_writer(self, expectation: Expectation) -> Callable[[WaitPolicy, float], None] | None:
        """Return what writes the progress after each poll on a worker; None if it is not to be written."""
        if not self.pushes_progress:
            return None
        xcom = ProgressXCom(expectation)
        return lambda policy, now: self.push_progress(xcom.due(policy, now))

    def lineage(self) -> Any:
        """Return OpenLineage's facets of the batch."""
        return make_lineage(self.report, self.instances)
