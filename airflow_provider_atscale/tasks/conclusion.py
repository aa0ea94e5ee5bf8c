"""Turn the end of a wait into a report or a typed error, alike in every mode."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.models import AggregateInstance, Batch, Instances, ModelRef, Phase, kind_of
from airflow_provider_atscale.builds.report import describe_failures, format_duration, make_report
from airflow_provider_atscale.builds.usual import Expectation
from airflow_provider_atscale.exceptions import (
    AtScaleAggregatesFailedError,
    AtScaleBatchFailedError,
    AtScaleBatchNotFoundError,
    AtScaleBatchSupersededError,
    AtScaleError,
    AtScaleTimeoutError,
    AtScaleWaitError,
)
from airflow_provider_atscale.waiting.policy import GaveUp, TimedOut, WaitResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WaitContext:
    """
    What a task waited for.

    :param server: Address of the AtScale server, as the connection has it.
    :param origin: How the task obtained the batch: started, joined, attached, adopted or watched.
    :param failed_aggregates: What to do if a done batch lacks aggregates: warn, fail or ignore.
    :param next_step: What to do about a wait that ended without the batch.
    """

    server: str
    ref: ModelRef | None
    batch_id: str | None
    origin: str = "started"
    is_full_build: bool | None = None
    failed_aggregates: str = "warn"
    next_step: str = ""
    history_url: str | None = None
    expectation: Expectation = field(default_factory=Expectation)
    joined_at: str | None = None

    def __str__(self) -> str:
        batch = f"Batch {self.batch_id}" if self.batch_id else "The newest batch"
        model = f" of {self.ref}" if self.ref else ""
        return f"{batch}{model} at {self.server}"

    @property
    def label(self) -> str:
        """What was waited for, in few characters: for the beginning of a line."""
        batch = f"batch {self.batch_id}" if self.batch_id else "the newest batch"
        return self.ref.label if self.ref else batch

    @property
    def label_at_start(self) -> str:
        """The label as a sentence begins with it; a name stays as it is."""
        is_name = self.ref is not None and self.ref.model
        return self.label if is_name else self.label[:1].upper() + self.label[1:]

    @property
    def page(self) -> str:
        """Where people see the build history."""
        return self.history_url or self.server

    @property
    def rebuild(self) -> str:
        """What makes AtScale build again."""
        if self.origin == "watched":
            return "to build again, clear the task that started it"
        if self.origin == "joined":
            return "a retry of the task joins a newer build, or starts one"
        return "a retry of the task builds again"

    def report(self, batch: Batch, instances: Sequence[AggregateInstance] | None) -> dict[str, Any]:
        """Return the report of the batch."""
        return make_report(
            batch,
            server=self.server,
            ref=self.ref,
            origin=self.origin,
            joined_at=self.joined_at,
            is_full_build=self.is_full_build,
            instances=instances,
            usual_seconds=self.expectation.usual_seconds,
            late=self.expectation.is_late(batch.seconds),
        )


def conclude(
    result: WaitResult, wait: WaitContext, read_instances: Callable[[], Sequence[AggregateInstance]]
) -> dict[str, Any]:
    """
    Return the report of a batch that ended well; raise the typed error of anything else.

    :raises AtScaleTimeoutError: If a deadline passed.
    :raises AtScaleBatchNotFoundError: If the batch never appeared in the history.
    :raises AtScaleWaitError: If AtScale could not be read, or not understood, for too long.
    :raises AtScaleBatchFailedError: If the batch ended without success.
    :raises AtScaleBatchSupersededError: If a later build has replaced all that would tell how it ended.
    :raises AtScaleAggregatesFailedError: If ``failed_aggregates`` is ``fail`` and aggregates are missing.
    """
    if isinstance(result, TimedOut):
        raise _timeout_error(result, wait)
    if isinstance(result, GaveUp):
        raise _give_up_error(result, wait)
    return _judge(result.batch, wait, read_instances)


def _timeout_error(result: TimedOut, wait: WaitContext) -> AtScaleTimeoutError:
    after = f"within {result.limit}, {format_duration(result.seconds)} after the wait began"
    answer = f" The last poll: {result.last_answer}." if result.last_answer else ""
    if result.last_status is None:
        what = f"a batch of {wait.label}" if wait.ref else wait.label
        step = wait.next_step
        if wait.origin == "watched":
            step = f"Check batch_id, catalog and model: the batch may belong to another one. See {wait.page}."
        return AtScaleTimeoutError(
            f"Not found: {what} was not seen {after}.{answer} If the build runs, it goes on in AtScale. {step} "
            f"{wait}."
        )
    return AtScaleTimeoutError(
        f"{wait.label_at_start} did not end {after}. Its last status was {result.last_status!r}.{answer} The build "
        f"goes on in AtScale. {wait.next_step} {wait}."
    )


def _give_up_error(result: GaveUp, wait: WaitContext) -> AtScaleError:
    if result.kind != "missing":
        return AtScaleWaitError(
            f"{result.reason}. If the build runs, it goes on in AtScale. {wait.next_step} {wait}."
        )
    if wait.ref is None:
        return AtScaleBatchNotFoundError(
            f"{result.reason}. Without catalog and model the sensor searches only the batch's aggregates, "
            f"and a batch may have none: give the sensor catalog and model. {wait}."
        )
    return AtScaleBatchNotFoundError(
        f"{result.reason}. Look for it at {wait.page}: it may belong to another model or server, or the "
        f"history may have dropped it. {wait}."
    )


def _judge(
    batch: Batch, wait: WaitContext, read_instances: Callable[[], Sequence[AggregateInstance]]
) -> dict[str, Any]:
    if batch.phase is Phase.SUPERSEDED:
        raise AtScaleBatchSupersededError(
            f"A build of {wait.label} cannot be judged: all its aggregates are deleted, most likely because a "
            "later build has replaced them, and there is no permission to read the build history. Look for the "
            f"later build at {wait.page}: if it ended well, mark the task as success; else {wait.rebuild}. To avoid "
            f"this, let the user of the connection read the build history. {wait}."
        )
    instances: Sequence[AggregateInstance] | None = batch.instances
    failure: AtScaleError | None = None
    if instances is None:
        try:
            instances = read_instances()
        except AtScaleError as error:
            failure = error
    report = wait.report(batch, instances)
    missing = describe_failures(report)
    if batch.phase is not Phase.SUCCEEDED:
        detail = missing or (
            f"The reasons could not be read: {failure}" if failure else "AtScale names no reason."
        )
        after = "" if batch.seconds is None else f" after {format_duration(batch.seconds)}"
        # In one of the first two places: which aggregate failed and why, which is news; the status often is not.
        first = f"{detail} The build ended as {batch.status!r}."
        if not missing:
            first = f"{wait.label_at_start} ended as {batch.status!r}. {detail}"
        raise AtScaleBatchFailedError(f"Failed{after}: {first} See {wait.page}; {wait.rebuild}. {wait}.")
    if failure is not None:
        _instances_unreadable(wait, failure)
    if isinstance(instances, Instances) and instances.is_truncated and not missing:
        _instances_truncated(wait, len(instances))
    if missing and wait.failed_aggregates == "fail":
        raise AtScaleAggregatesFailedError(
            f'Built, but not complete: {missing} failed_aggregates="fail" makes this an error. See {wait.page}; '
            f"{wait.rebuild}. {wait}."
        )
    kinds = {wait.is_full_build, batch.is_full_build}
    # A full batch of another task serves an incremental request: nothing is wrong.
    if kinds == {True, False} and wait.origin != "joined":
        log.warning(
            "AtScale reports the batch as %s, but the task asked for %s. %s",
            batch.kind,
            kind_of(wait.is_full_build),
            wait,
        )
    if missing and wait.failed_aggregates == "warn":
        log.warning("Done, but not complete: %s %s", missing, wait)
    return report


def _instances_unreadable(wait: WaitContext, failure: AtScaleError) -> None:
    if wait.failed_aggregates == "fail":
        raise AtScaleWaitError(
            f'Done, but its aggregates could not be read, and failed_aggregates="fail" needs them: {failure} A '
            f"retry of the task reads them again. {wait}."
        ) from failure
    log.warning("Done, but its aggregates could not be read: %s %s", failure, wait)


def _instances_truncated(wait: WaitContext, listed: int) -> None:
    text = (
        f"Done, but maybe not complete: AtScale lists {listed} aggregates, all of them built, and cannot list "
        "whether there are more"
    )
    if wait.failed_aggregates == "fail":
        raise AtScaleWaitError(
            f'{text}; failed_aggregates="fail" needs the whole list. Look at {wait.page}, or set '
            f'failed_aggregates="warn" for this model. {wait}.'
        )
    if wait.failed_aggregates == "warn":
        log.warning("%s. %s", text, wait)
