"""Run a sensor: poll a batch in each of Airflow's modes, judge it, report it."""

from __future__ import annotations

import random
import time
from contextlib import closing, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
)

from airflow_provider_atscale.api.models import HistoryUnavailable, ModelRef
from airflow_provider_atscale.api.observation import (
    Missing,
    Observation,
    ReadFailed,
    observe_found,
    observe_newest,
)
from airflow_provider_atscale.arguments import FAILED_AGGREGATES, optional_seconds, parse_choice, parse_name
from airflow_provider_atscale.builds.steps import log_errors
from airflow_provider_atscale.builds.usual import Expectation
from airflow_provider_atscale.client.retries import TRIES
from airflow_provider_atscale.compat import first_reschedule_date
from airflow_provider_atscale.exceptions import (
    AtScaleBatchFailedError,
    AtScaleBatchSupersededError,
    AtScaleConfigurationError,
    AtScaleError,
    AtScalePermissionError,
    AtScaleSensorTimeoutError,
    AtScaleTimeoutError,
)
from airflow_provider_atscale.tasks.base import RunningTask
from airflow_provider_atscale.tasks.plan import TaskPlan
from airflow_provider_atscale.waiting.deadline import Deadline, timeout_result
from airflow_provider_atscale.waiting.policy import TimedOut, Wait, WaitPolicy, WaitResult
from airflow_provider_atscale.waiting.progress import Progress
from airflow_provider_atscale.waiting.tolerance import load_tolerance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from airflow.providers.common.compat.sdk import Context

#: The key in the task state store under which a rescheduled sensor keeps its uncertainty (Airflow 3.3+).
STATE_KEY = "atscale_watch"
#: The base class looks at the timeout so many seconds after a poke at most.
_MOMENT = 0.1


class WaitTask(RunningTask):
    """One run of the batch sensor, in one process."""

    def __init__(self, operator: Any, context: Context) -> None:
        super().__init__(operator, context)
        self._ref: ModelRef | None = None
        #: Seconds until the next poll; None before the first.
        self._delay: float | None = None

    # --- entry points ---

    def execute(self, poke_until_done: Callable[[Context], Any]) -> Any:
        """Wait, in any mode."""
        with self.soft_fail():
            return self._execute(poke_until_done)

    def restart(self, poke_until_done: Callable[[Context], Any]) -> Any:
        """Start from the beginning."""
        self.reset_start_date()
        return self._execute(poke_until_done)

    def _execute(self, poke_until_done: Callable[[Context], Any]) -> Any:
        batch_id = self._batch_id
        with closing(self):
            if not self.operator.deferrable:
                return poke_until_done(self.context)
            result = self._poll()
            if result is not None:
                return self._conclude(result)
            self.plan = self._make_plan()
            is_listed = self._policy.seen_in_history
            self.defer(batch_id, "execute_complete", since=self.plan.began, seen_in_history=is_listed)
        return None

    def poke(self) -> str | None:
        """Poll once; return the id of a batch that ended well, None while it runs."""
        result = self._poll()
        while result is None and self._needs_confirmation():
            time.sleep(self._delay or 0.0)
            result = self._poll()
        return None if result is None else self._conclude(result)

    def resume(self, event: Any) -> str:
        """Judge the batch after the wait in the triggerer."""
        resumed = self.read_event(event, needs_batch=False)
        self.hook.until = self.plan.until
        with closing(self.hook):
            if self.plan.ref.catalog_id:
                self.publish_link(self.plan.ref, resumed.batch_id)
            return self._judge(resumed.batch_id, resumed.result)

    def close(self) -> None:
        """Close the hook; without a poke there is none, and the poke of a subclass may choose the connection."""
        if "hook" in vars(self):
            self.hook.close()

    def next_poke_delay(self) -> float | None:
        """Return the seconds until the next poke; None before the first."""
        if self._delay is None:
            return None
        left: float = self._policy.since + self.operator.timeout - time.time()
        return min(self._delay, max(left, 0.0))

    # --- arguments ---

    @property
    def _batch_id(self) -> str | None:
        """The batch to wait for, None for the newest; all arguments are checked, before any request."""
        # Not cached: the poke of a subclass may set the arguments each time.
        catalog, model, batch_id = self.operator.catalog, self.operator.model, self.operator.batch_id
        parse_choice(self.operator.failed_aggregates, "failed_aggregates", FAILED_AGGREGATES)
        optional_seconds(self.operator.warn_after, "warn_after")
        if (catalog is None) != (model is None):
            raise AtScaleConfigurationError(
                f"catalog is {catalog!r} and model is {model!r}: give both, or neither of them."
            )
        if batch_id == "newest":
            if catalog is None:
                raise AtScaleConfigurationError(
                    "Neither batch_id nor catalog and model are given: there is nothing to wait for."
                )
            return None
        try:
            return parse_name(batch_id, "batch_id")
        except AtScaleConfigurationError:
            raise AtScaleConfigurationError(
                f"batch_id is {batch_id!r}: the task that should have started the batch returned none. Was it "
                "skipped, or is its task_id misspelt? To wait for the model's newest batch, leave batch_id out."
            ) from None

    def _make_plan(self) -> TaskPlan:
        now = time.time()
        return TaskPlan(
            conn_id=self.hook.atscale_conn_id,
            # Without ids the trigger finds the model by its names.
            ref=self._ref or ModelRef("", "", self.operator.catalog or "", self.operator.model or ""),
            began=now,
            poll_interval=self.operator.poke_interval,
            deadline=self.deadline(self.operator.timeout, now),
            failed_aggregates=parse_choice(
                self.operator.failed_aggregates, "failed_aggregates", FAILED_AGGREGATES
            ),
            origin="watched",
            expectation=self._expectation,
            try_number=self.try_number,
        )

    # --- one poll ---

    def _poll(self) -> WaitResult | None:
        """Poll once and apply the wait policy; None: continue to wait."""
        policy, now = self._policy, time.time()
        deadline = self.deadline(policy.since + self.operator.timeout - now, now)
        self.hook.until = deadline.at if deadline else None
        observation = self._observe()
        now = time.time()
        decision = policy.observe(observation, now, random.random())  # noqa: S311
        self._progress.log_observation(observation, policy, now)
        self._store_uncertainty(policy)
        if not isinstance(decision, Wait):
            return decision
        self._delay = decision.seconds
        if not self.operator.deferrable and now + _MOMENT - policy.since >= self.operator.timeout:
            # The base class would raise the same a moment after this, without a word about the batch.
            return timeout_result(Deadline(policy.since + self.operator.timeout, "timeout"), policy, now)
        return None

    def _needs_confirmation(self) -> bool:
        """Return whether instances alone show the batch's end, which the next process would not know."""
        batch = None if self._policy.is_uncertain else self._policy.batch
        return self.operator.reschedule and batch is not None and not batch.is_running

    @cached_property
    def _first_poke(self) -> datetime | None:
        """When a rescheduled sensor poked for the first time; None if it does now."""
        return first_reschedule_date(self.context, self.operator.retries) if self.operator.reschedule else None

    @cached_property
    def _expectation(self) -> Expectation:
        return Expectation(optional_seconds(self.operator.warn_after, "warn_after"))

    @cached_property
    def _policy(self) -> WaitPolicy:
        """The wait policy, with what the last poke of a rescheduled sensor has stored."""
        first = self._first_poke
        since = first.timestamp() if first else time.time()
        policy = WaitPolicy(since, self.operator.poke_interval, load_tolerance(), self._subject)
        if first is not None and self._store is not None:
            stored = self._store.get(STATE_KEY)
            if isinstance(stored, dict) and stored.get("since") == since:
                policy.restore(stored)
                self._expectation.is_warned = stored.get("is_warned") is True
        return policy

    @cached_property
    def _progress(self) -> Progress:
        elsewhere = self.operator.reschedule or self.operator.deferrable
        writer = None if elsewhere else self.progress_writer(self._expectation)
        return Progress(self.log, self._subject, self._policy.since, self._expectation, writer)

    @property
    def _subject(self) -> str:
        return f"Batch {self._batch_id}" if self._batch_id else "The newest batch"

    @property
    def _store(self) -> Any:
        """Airflow's task state store; None before 3.3."""
        return self.context.get("task_state_store")

    def _store_uncertainty(self, policy: WaitPolicy) -> None:
        """Store for the next poke, in another process, how long the state has been uncertain."""
        if not self.operator.reschedule or self._store is None:
            return
        with log_errors(
            self.log.warning,
            "The state of this poke could not be written to Airflow's task state store (%s: %s)",
        ):
            is_warned = self._expectation.is_warned
            self._store.set(STATE_KEY, {**policy.to_json(), "since": policy.since, "is_warned": is_warned})

    def _observe(self) -> Observation:
        """Read the batch; an error of the very first read is raised, any later one is an observation."""
        is_first = self._ref is None and self._delay is None and self._first_poke is None
        try:
            with self.hook.poll():
                return self._read()
        except AtScaleError as error:
            if is_first and isinstance(error, AirflowFailException):
                raise
            return ReadFailed(str(error))

    def _read(self) -> Observation:
        batch_id = self._batch_id
        if self._ref is None:
            if self.operator.catalog is not None:
                self._ref = self.hook.resolve_model(
                    parse_name(self.operator.catalog, "catalog"), parse_name(self.operator.model, "model")
                )
            else:
                self._ref = self.hook.locate_batch(str(batch_id))
            if self._ref is None:
                return Missing()
            self.publish_link(self._ref, batch_id)
        if batch_id is not None:
            # After the first poll the wait policy tolerates failures, which costs less of the worker's time.
            tries = TRIES if self._delay is None else 1
            return observe_found(self.hook.get_batches(self._ref, (batch_id,), tries), batch_id)
        history = self.hook.get_history(self._ref)
        if isinstance(history, HistoryUnavailable):
            raise AtScalePermissionError(
                f"No permission to read the build history of {self._ref} ({history}), and only the history tells "
                f"which batch is the newest. Give the user of the connection {self.hook.edition.view_right}, or "
                "the sensor a batch_id."
            )
        return observe_newest(history)

    # --- the end ---

    def _conclude(self, result: WaitResult) -> str:
        self.plan = self._make_plan()
        return self._judge(self._batch_id, result)

    def _judge(self, batch_id: str | None, result: WaitResult) -> str:
        try:
            report = self.judge(batch_id, result, "Raise the sensor's timeout if builds take that long.")
        except AtScaleTimeoutError as error:
            if isinstance(result, TimedOut) and result.limit == "execution_timeout":
                # Airflow retries after this one, but not after a sensor's own timeout.
                raise
            raise AtScaleSensorTimeoutError(str(error)) from None
        self.publish_report(report)
        return str(report["batch_id"])

    # --- soft_fail ---

    @contextmanager
    def soft_fail(self) -> Iterator[None]:
        """
        Make ``soft_fail`` mean the same in poke, reschedule and deferrable mode.

        Airflow's base class skips fatal errors while it pokes, and every error after a deferral; a user who sets
        ``soft_fail`` does not mean a wrong password.
        """
        try:
            yield
        except AirflowException as raised:
            # A skip that the base class made of an error has that error as its cause.
            is_skip = isinstance(raised, AirflowSkipException)
            error = raised.__cause__ if is_skip else raised
            if not isinstance(error, AirflowException):
                raise
            argument = self._argument_that_skips(error, is_skip=is_skip)
            if argument is not None:
                raise AirflowSkipException(f"Skipped, because {argument} is set: {error}") from error
            if error is raised:
                raise
            raise error from error.__cause__

    def _argument_that_skips(self, error: Exception, *, is_skip: bool) -> str | None:
        soft = (
            AtScaleBatchFailedError,
            AtScaleBatchSupersededError,
            AtScaleTimeoutError,
            AirflowSensorTimeout,
        )
        if self.operator.soft_fail and isinstance(error, soft):
            return "soft_fail"
        if self.operator.never_fail and (is_skip or isinstance(error, AtScaleError)):
            return "never_fail"
        return None
