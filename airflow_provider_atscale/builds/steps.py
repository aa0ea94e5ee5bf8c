"""What a task does next about its build."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_atscale.api.models import Batch


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
