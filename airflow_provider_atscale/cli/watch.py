"""Show the progress of a batch until it ends."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.models import Phase, aggregates_of
from airflow_provider_atscale.api.observation import Observation, Seen
from airflow_provider_atscale.arguments import (
    FAILED_AGGREGATES,
    optional_seconds,
    parse_choice,
    parse_name,
    parse_seconds,
)
from airflow_provider_atscale.builds.report import summarize
from airflow_provider_atscale.cli.exit_codes import DONE
from airflow_provider_atscale.cli.run import command
from airflow_provider_atscale.exceptions import (
    AtScaleBatchNotFoundError,
    AtScaleConfigurationError,
    AtScaleError,
)
from airflow_provider_atscale.hooks.atscale import AtScaleHook
from airflow_provider_atscale.tasks.conclusion import WaitContext, conclude
from airflow_provider_atscale.waiting.blocking import wait_blocking
from airflow_provider_atscale.waiting.deadline import Deadline
from airflow_provider_atscale.waiting.policy import WaitPolicy, WaitResult
from airflow_provider_atscale.waiting.progress import Progress
from airflow_provider_atscale.waiting.tolerance import load_tolerance

if TYPE_CHECKING:
    import argparse

    from airflow_provider_atscale.api.models import ModelRef
    from airflow_provider_atscale.cli.output import Output


@command
def watch(options: argparse.Namespace, out: Output) -> int:
    """Wait for a batch, print each change, and tell by the exit code how it ended."""
    batch_id, wait = parse_name(options.batch_id, "batch"), WaitOptions.read(options)
    if (options.catalog is None) != (options.model is None):
        raise AtScaleConfigurationError("Give both catalog and model, or none of them.")
    with closing(AtScaleHook(options.conn_id)) as hook:
        waiter = Waiter(hook, _find_model(hook, batch_id, options), wait, out)
        report = waiter.wait_for_end(batch_id, origin="watched", next_step="Watch it again.")
    out.document(report)
    return DONE


def _find_model(hook: AtScaleHook, batch_id: str, options: argparse.Namespace) -> ModelRef:
    if options.catalog is not None:
        return hook.resolve_model(options.catalog, options.model)
    ref = hook.locate_batch(batch_id)
    if ref is None:
        raise AtScaleBatchNotFoundError(
            f"AtScale at {hook.edition.base_url} lists no aggregates of batch {batch_id}, so its model is not "
            "known. Check the id, or give catalog and model after it: a batch that has just begun may have no "
            "aggregates yet."
        )
    return ref


@dataclass(frozen=True, slots=True)
class WaitOptions:
    """How a command waits, its options checked."""

    deadline: Deadline | None
    poll_interval: float
    failed_aggregates: str

    @classmethod
    def read(cls, options: argparse.Namespace) -> WaitOptions:
        """Check the options of a command line."""
        timeout = optional_seconds(options.timeout, "--timeout")
        return cls(
            None if timeout is None else Deadline(time.time() + timeout, "timeout"),
            parse_seconds(options.poll_interval, "--poll-interval"),
            parse_choice(options.failed_aggregates, "--failed-aggregates", FAILED_AGGREGATES),
        )

    @property
    def is_over(self) -> bool:
        """Whether no time is left."""
        return self.deadline is not None and time.time() >= self.deadline.at


@dataclass(frozen=True, slots=True)
class Waiter:
    """Wait for batches of a model."""

    hook: AtScaleHook
    ref: ModelRef
    options: WaitOptions
    out: Output

    def wait(self, batch_id: str) -> WaitResult:
        """Wait until a batch has ended, and print each change."""
        since = time.time()
        subject = f"Batch {batch_id}"
        return wait_blocking(
            lambda: self.hook.observe_batch(self.ref, batch_id),
            WaitPolicy(since, self.options.poll_interval, load_tolerance(), subject),
            _Progress(self.hook, self.out, f"{subject} of {self.ref}", since),
            self.options.deadline,
        )

    def wait_for_end(
        self, batch_id: str, *, origin: str, next_step: str, is_full_build: bool | None = None
    ) -> dict[str, Any]:
        """
        Wait for a batch and return its report; raise the typed error if it does not end well.

        :param origin: How the command obtained the batch.
        :param next_step: What to do about a wait that ended without the batch.
        :param is_full_build: The kind that was asked for, if one was.
        """
        context = WaitContext(
            server=self.hook.edition.base_url,
            ref=self.ref,
            batch_id=batch_id,
            origin=origin,
            is_full_build=is_full_build,
            failed_aggregates=self.options.failed_aggregates,
            next_step=next_step,
            history_url=self.hook.history_url(self.ref, batch_id),
        )
        report = conclude(self.wait(batch_id), context, lambda: self.hook.get_instances(batch_id))
        how = "started by this command" if origin == "started" else origin
        self.out.info(f"{summarize({**report, 'start': how})}. Batch {batch_id}")
        return report


class _Progress(Progress):
    """Also print how many aggregates are built."""

    def __init__(self, hook: AtScaleHook, out: Output, subject: str, since: float) -> None:
        super().__init__(out, subject, since)
        self._hook = hook
        self._printed: tuple[int, int] | None = None

    def log_observation(self, observation: Observation, policy: WaitPolicy, now: float) -> None:
        """Print an observation, if it is news."""
        super().log_observation(observation, policy, now)
        if not isinstance(observation, Seen) or observation.batch.phase is not Phase.WAITING:
            return
        try:
            aggregates = aggregates_of(self._hook.get_instances(observation.batch.id))
        except AtScaleError:
            # The wait itself goes on, and says if AtScale stays unreadable.
            return
        counted = (aggregates.built, aggregates.total)
        if counted not in (self._printed, (0, 0)):
            self._printed = counted
            self._log.info("%s of %s aggregates built", *counted)
