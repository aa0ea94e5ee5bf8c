"""What all steps to a task's batch share, and what they lead to."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.builds.state import StartIntent
from airflow_provider_atscale.exceptions import AtScaleTaskStoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_atscale.api.models import Batch, ModelRef
    from airflow_provider_atscale.builds.request import BuildRequest
    from airflow_provider_atscale.builds.state import BuildStateStore
    from airflow_provider_atscale.hooks.atscale import AtScaleHook


@contextmanager
def log_errors(log: Callable[..., None], text: str, *args: Any) -> Iterator[None]:
    """Log an error and go on; its class and its message are the last two arguments of the text."""
    try:
        yield
    except Exception as error:
        log(text, *args, type(error).__name__, error)


@dataclass(frozen=True, slots=True)
class BuildContext:
    """
    What all steps to a task's batch share.

    :param state: What earlier tries have stored, and what is stored for the next one.
    :param advice: What to do about a build that may have been started, if no retry of a task can follow.
    """

    hook: AtScaleHook
    ref: ModelRef
    request: BuildRequest
    state: BuildStateStore
    log: Any
    is_stopped: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    advice: str | None = None

    @property
    def what_a_retry_does(self) -> str:
        """What a retry does about a build that may have been started."""
        if self.advice is not None:
            return self.advice
        if self.state.is_persistent:
            return "a retry of the task searches again before it starts one"
        return (
            "before Airflow 3.3 a retry does not search for it, so look into the build history before you retry"
        )

    def check_stopped(self, message: str | None = None) -> None:
        """Raise if the task was stopped; without a message, before a build was started."""
        if self.is_stopped():
            raise AtScaleTaskStoppedError(
                message or f"The task was stopped, so no build of {self.ref} is started."
            )

    def take(
        self, batch: Batch, origin: str, intent: StartIntent | None = None, joined_at: str | None = None
    ) -> OwnBatch:
        """Store the id of a batch as the task's; if that fails, this try goes on without."""
        with log_errors(
            self.log.error,
            "Batch %s could not be written to Airflow's task state store (%s: %s). This try still waits for "
            "it; if the try dies, a retry searches the build history",
            batch.id,
        ):
            self.state.store_batch(batch.id, origin, intent or StartIntent(self.clock()))
        return OwnBatch(batch.id, origin, batch, joined_at)

    def store_outcome(self, outcome: str, batch_id: str | None = None) -> None:
        """Store how the batch was judged; if that fails, a retry judges it again."""
        with log_errors(
            self.log.warning,
            "The outcome (%s) could not be written to Airflow's task state store (%s: %s); a retry judges it again",
            f"batch {batch_id} is {outcome}" if batch_id else "no batch was started",
        ):
            self.state.store_outcome(outcome, batch_id)


@dataclass(frozen=True, slots=True)
class OwnBatch:
    """
    The task's batch.

    :param origin: How the task obtained it: started, joined, attached or adopted.
    :param joined_at: The server's time at which the task joined a batch of another one, in ISO format.
    :param is_finished: Whether an earlier try has judged it good, so that there is nothing to wait for.
    """

    batch_id: str
    origin: str
    batch: Batch | None = None
    joined_at: str | None = None
    is_finished: bool = False


@dataclass(frozen=True, slots=True)
class RunningOther:
    """Another batch of the model runs: wait for it to end, then obtain a batch again."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class NotFound:
    """No batch was found that an earlier start may have led to."""

    reason: str


class Skip(Exception):
    """``on_running="skip"`` is set, and a batch of the model runs."""


Step = OwnBatch | RunningOther
