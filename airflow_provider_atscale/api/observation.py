"""What one read shows of a batch: the batch, that it is missing, or that the read failed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.models import Batch, History, HistoryUnavailable
from airflow_provider_atscale.exceptions import AtScaleError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Seen:
    """The batch was found; the rows are the newest of its history as they came, if the history was read."""

    batch: Batch
    rows: Sequence[Any] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Missing:
    """The history was read, and the batch is not in it; the rows are the newest as they came."""

    rows: Sequence[Any] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class ReadFailed:
    """The history could not be read; the reason is free of secrets."""

    reason: str


Observation = Seen | Missing | ReadFailed


def observe_found(found: Mapping[str, Batch | AtScaleError], batch_id: str) -> Observation:
    """Return what an answer of ``Edition.batches`` shows of one batch."""
    batch = found.get(batch_id)
    if isinstance(batch, AtScaleError):
        return ReadFailed(str(batch))
    rows = getattr(found, "rows", ())
    return Missing(rows) if batch is None or batch.id != batch_id else Seen(batch, rows)


def observe_newest(history: History | HistoryUnavailable) -> Observation:
    """Return what a model's history shows to a wait for its newest batch."""
    if isinstance(history, HistoryUnavailable):
        return ReadFailed(f"the build history cannot be read ({history})")
    return Missing() if history.newest is None else Seen(history.newest)
