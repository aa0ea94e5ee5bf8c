"""Tell from a model's build history whether what a task would build is there already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_atscale.api.models import Batch, History, Phase
from airflow_provider_atscale.builds.join import serves

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_provider_atscale.builds.request import BuildRequest

#: A batch may have ended so many seconds in the future: its server and the one that answers may be two, whose
#: clocks differ a little. An end that is later is wrong and tells nothing about the age.
CLOCK_TOLERANCE = 60.0


def find_last_good(history: History, request: BuildRequest) -> Batch | None:
    """Return the successful batch that began last, of those that serve a request and whose beginning is known."""
    for batch in history.newest_first:
        if batch.phase is Phase.SUCCEEDED and batch.created is not None and serves(batch, request):
            return batch
    return None


def find_fresh(
    history: History, request: BuildRequest, *, within: float, now: datetime
) -> tuple[Batch, float] | None:
    """
    Return the successful batch that ended last, of those that serve a request, and its age in seconds.

    None if it is too old. A batch without an end, or with one in the future, does not count.

    :param within: The age, in seconds, at which a batch is too old.
    :param now: The server's clock.
    """
    ages = [
        (batch, (now - batch.ended).total_seconds())
        for batch in history.batches
        if batch.phase is Phase.SUCCEEDED and batch.ended and serves(batch, request)
    ]
    credible = [(batch, max(age, 0.0)) for batch, age in ages if age >= -CLOCK_TOLERANCE]
    newest = min(credible, key=lambda each: each[1], default=None)
    return newest if newest is not None and newest[1] < within else None
