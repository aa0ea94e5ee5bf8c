"""
Which batches of a model have been reported: each that ends after watching began is reported once.

Batches are remembered by id, not by time: they end in another order than they begin, and a batch that has long
been in the history as running must still be reported when it ends.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_atscale.api.models import Batch, History, Phase
from airflow_provider_atscale.api.stored_json import read_json
from airflow_provider_atscale.api.values import iso

if TYPE_CHECKING:
    from collections.abc import Iterable

#: How many ids are remembered: several times what one read of the history lists, so an id is never forgotten
#: while its batch can still be listed.
MAX_KNOWN = 300


@dataclass(frozen=True, slots=True)
class Watermark:
    """
    How far the batches of a model have been reported.

    :param server: Address of the server.
    :param since: The end of the newest batch when watching began; what ended earlier is not reported.
    :param known: Ids of the batches that had ended by then or have been reported, the oldest first.
    :param version: Version of the stored format.
    """

    server: str
    since: datetime | None = None
    known: tuple[str, ...] = ()
    version: Literal[1] = 1

    @classmethod
    def begin(cls, server: str, history: History) -> Watermark:
        """Return the watermark of a trigger that begins to watch: batches that have ended are not reported."""
        ended = [batch for batch in reversed(history.batches) if has_ended(batch)]
        # Not the Date header: a proxy's clock or a slow answer would hide a batch that ends just now.
        since = max((batch.ended for batch in ended if batch.ended is not None), default=None)
        return cls(server, since, tuple(batch.id for batch in ended))

    def new_batches(self, history: History) -> list[Batch]:
        """Return the batches that have ended and are not known, in the order of their ends."""
        known = frozenset(self.known)
        found = [
            batch
            for batch in reversed(history.batches)
            if has_ended(batch)
            and batch.id not in known
            and (batch.ended is None or self.since is None or batch.ended >= self.since)
        ]
        return sorted(found, key=_moment)

    def add(self, ids: Iterable[str]) -> Watermark:
        """Return the watermark after more batches have been reported."""
        return replace(self, known=tuple(dict.fromkeys((*self.known, *ids)))[-MAX_KNOWN:])

    def merge(self, other: Watermark) -> Watermark:
        """Return what either watermark knows: one may belong to an asset that was not watched for a while."""
        moments = [each.since for each in (self, other) if each.since is not None]
        known = tuple(dict.fromkeys((*self.known, *other.known)))
        return replace(self, since=max(moments, default=None), known=known)

    def to_json(self) -> dict[str, Any]:
        """Return the watermark as JSON values."""
        return {**asdict(self), "since": iso(self.since), "known": list(self.known)}


def has_ended(batch: Batch) -> bool:
    """Whether a batch has ended, successfully or not; one with an unknown status has not."""
    return batch.phase in (Phase.SUCCEEDED, Phase.FAILED)


def parse_watermark(value: Any) -> Watermark | None:
    """Return the watermark that :meth:`Watermark.to_json` wrote, or None for any other value."""
    try:
        mark: Watermark = read_json(Watermark, value)
    except ValueError:
        return None
    return mark


def _moment(batch: Batch) -> float:
    moment = batch.ended or batch.began
    return moment.timestamp() if moment else 0.0
