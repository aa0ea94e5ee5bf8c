"""A batch and its aggregate instances; what they are at a time follows from the clock alone."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_atscale.testing.models import Aggregate
    from airflow_provider_atscale.testing.settings import Settings

DEFAULT_FAILURE = "Failed to build the aggregate: the data warehouse refused the statement"
_GOOD_ENDS = frozenset({"done", "success", "active"})


@dataclass(frozen=True)
class Outcome:
    """Describe how a batch will end."""

    status: str = "done"
    failed_aggregates: int = 0
    message: str = DEFAULT_FAILURE
    repaired_aggregates: int = 0


@dataclass
class Batch:
    """Hold one batch; its status follows from the clock."""

    id: str
    catalog_id: str
    model_id: str
    is_full_build: bool
    created: float
    queue_seconds: float
    build_seconds: float
    outcome: Outcome
    by: str = "api"
    grace_period_overrides: dict[str, float] = field(default_factory=dict)
    overlapped_with: list[str] = field(default_factory=list)
    ended_by_hand: float | None = None

    @property
    def end(self) -> float:
        """Return when the batch ends or ended."""
        return self.created + self.build_seconds if self.ended_by_hand is None else self.ended_by_hand

    def status(self, now: float) -> str:
        """Return the status at a time."""
        if now >= self.end:
            return self.outcome.status
        return "new" if now < self.created + self.queue_seconds else "inprogress"

    def started(self, now: float) -> float | None:
        """Return when the batch left the queue, ``None`` if it has not."""
        start = min(self.created + self.queue_seconds, self.end)
        return start if now >= start else None

    def ended(self, now: float) -> float | None:
        """Return when the batch ended, ``None`` if it has not."""
        return self.end if now >= self.end else None


@dataclass(frozen=True)
class Instance:
    """Describe one attempt of a batch to build an aggregate."""

    batch: Batch
    aggregate: Aggregate
    status: str
    message: str
    started: float | None
    ended: float | None
    attempt: int = 1

    @property
    def id(self) -> str:
        """Return the id, the same one at every call."""
        name = self.aggregate.id if self.attempt == 1 else f"{self.aggregate.id}/{self.attempt}"
        return str(uuid.uuid5(uuid.UUID(self.batch.id), name))

    @property
    def build_query_id(self) -> str:
        """Return the id of the query that builds it."""
        return str(uuid.uuid5(uuid.UUID(self.id), "build query"))


def build_instances(
    batch: Batch, aggregates: Sequence[Aggregate], settings: Settings, now: float
) -> list[Instance]:
    """Return the instances that a batch has made of its model's aggregates, oldest first."""
    instances: list[Instance] = []
    count = len(aggregates)
    for number, attempts in enumerate(_attempts(batch.outcome, count, settings)):
        for attempt in range(1, attempts + 1):
            instance = _instance(batch, aggregates[number], (number, count), (attempt, attempts), now)
            # An attempt after the first has no row until it begins.
            if attempt == 1 or instance.started is not None:
                instances.append(instance)
    return instances


def _attempts(outcome: Outcome, count: int, settings: Settings) -> list[int]:
    """Return how often each aggregate is tried: first the good ones, then the repaired, last the failed."""
    if settings.retry_rows == "same":
        return [1] * count
    failed = min(outcome.failed_aggregates, count)
    repaired = min(outcome.repaired_aggregates, count - failed)
    left = max(settings.attempts_per_batch - repaired, 0)
    attempts = [1] * (count - failed - repaired) + [2] * repaired
    for _ in range(failed):
        more = min(settings.attempts_per_aggregate - 1, left)
        left -= more
        attempts.append(1 + more)
    return attempts


def _instance(
    batch: Batch, aggregate: Aggregate, place: tuple[int, int], tries: tuple[int, int], now: float
) -> Instance:
    # Aggregates are built one after the other, the failing ones last: a client that reads only the first
    # page does not see them.
    (number, count), (attempt, attempts) = place, tries
    span = (batch.build_seconds - batch.queue_seconds) / count / attempts
    begin = batch.created + batch.queue_seconds + (number * attempts + attempt - 1) * span
    start = min(begin, batch.end)
    end = min(start + span, batch.end)
    if batch.ended_by_hand is None and number == count - 1 and attempt == attempts:
        end = batch.end  # the sum of the spans may miss it by a rounding error
    unfinished = batch.ended_by_hand is not None and start + span > batch.end
    fails = number >= count - batch.outcome.failed_aggregates or attempt < attempts
    if now < start:
        status, message = "pending", ""
    elif now < end:
        status, message = "inprogress", ""
    elif fails:
        status, message = "failed", batch.outcome.message
    elif unfinished and batch.outcome.status not in _GOOD_ENDS | {"failed"}:
        status, message = "cancelled", "The batch ended before this aggregate was built"
    else:
        status, message = "active", "Normal aggregate activated"
    return Instance(
        batch=batch,
        aggregate=aggregate,
        status=status,
        message=message,
        started=start if now >= start else None,
        ended=end if now >= end else None,
        attempt=attempt,
    )
