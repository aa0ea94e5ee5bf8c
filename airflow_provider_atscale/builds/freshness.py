"""Tell from a model's build history whether what a task would build is there already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_atscale.api.models import Batch, History, Phase

if TYPE_CHECKING:
    from datetime import datetime


def find_fresh(
    history: History, *, is_full_build: bool, within: float, now: datetime
) -> tuple[Batch, float] | None:
    """
    Return the successful batch that ended last and its age in seconds; None where it is too old.

    A full build serves whoever wants an incremental one. A batch of which the server does not tell the kind
    serves only the latter, and one of which it does not tell the end is never fresh.

    :param history: The model's history.
    :param is_full_build: The kind that is wanted.
    :param within: The age, in seconds, at which a batch is too old.
    :param now: The server's clock.
    """
    ages = [
        (batch, max((now - batch.ended).total_seconds(), 0.0))
        for batch in history.batches
        if batch.phase is Phase.SUCCEEDED and batch.ended and (batch.is_full_build or not is_full_build)
    ]
    newest = min(ages, key=lambda each: each[1], default=None)
    return newest if newest is not None and newest[1] < within else None
