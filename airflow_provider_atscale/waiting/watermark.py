"""
Which batches of a model have been reported: each that ends after watching began is news exactly once.

Batches are remembered by their ids and not by a time: they end in another order than they begin, and one that
was long in the history as running must still be news when it ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.models import Batch, History, Phase
from airflow_provider_atscale.api.values import iso, parse_time

if TYPE_CHECKING:
    from datetime import datetime

VERSION = 1
#: How many ids are remembered: several times what one read of the history lists, so an id is never forgotten
#: while its batch can still be listed.
REMEMBERED = 300


@dataclass(frozen=True, slots=True)
class Watermark:
    """
    How far the batches of a model have been reported.

    :param server: Address of the server.
    :param since: The server's clock when watching began; what ended earlier is no news.
    :param known: Ids of the batches that had ended by then or have been reported, the oldest first.
    """

    server: str
    since: datetime | None = None
    known: tuple[str, ...] = ()

    @classmethod
    def begin(cls, server: str, history: History) -> Watermark:
        """
        Return the watermark of somebody who begins to watch: what has ended by now is no news.

        :param server: Address of the server.
        :param history: The model's history.
        """
        known = tuple(batch.id for batch in reversed(history.batches) if has_ended(batch))
        # Not the Date header: a proxy's clock, or an answer that takes a second, would hide what ends just now.
        ends = [batch.ended for batch in history.batches if has_ended(batch) and batch.ended is not None]
        return cls(server, max(ends, default=None), known)

    def advance(self, history: History) -> tuple[Watermark, tuple[Batch, ...]]:
        """
        Return what has ended since, in the order of the ends, and the watermark after it.

        :param history: The model's history.
        """
        known = frozenset(self.known)
        news = [batch for batch in history.batches if self._is_news(batch, known)]
        if not news:
            return self, ()
        # Newest first is how the history comes; a batch whose end is not told keeps its place.
        news.reverse()
        news.sort(key=lambda batch: _moment(batch) or 0.0)
        after = (*self.known, *(batch.id for batch in news))[-REMEMBERED:]
        return replace(self, known=after), tuple(news)

    def merge(self, other: Watermark) -> Watermark:
        """
        Return what both know: one of them may have been kept for an asset that was not watched for a while.

        :param other: Another watermark of the same server.
        """
        known = tuple(dict.fromkeys((*self.known, *other.known)))
        moments = [each.since for each in (self, other) if each.since is not None]
        return replace(self, since=max(moments, default=None), known=known)

    def _is_news(self, batch: Batch, known: frozenset[str]) -> bool:
        if not has_ended(batch) or batch.id in known:
            return False
        return batch.ended is None or self.since is None or batch.ended >= self.since

    def to_json(self) -> dict[str, Any]:
        """Return the watermark as JSON values."""
        return {
            "version": VERSION,
            "server": self.server,
            "since": iso(self.since),
            "known": list(self.known),
        }


def has_ended(batch: Batch) -> bool:
    """Whether a batch has ended, well or not; one whose status nobody knows has not."""
    return batch.phase in (Phase.SUCCEEDED, Phase.FAILED)


def parse_watermark(value: Any) -> Watermark | None:
    """Return the watermark that JSON values are, None where they are none."""
    if not isinstance(value, Mapping) or value.get("version") != VERSION:
        return None
    server, since, known = value.get("server"), value.get("since"), value.get("known")
    if not isinstance(server, str) or not isinstance(known, (list, tuple)):
        return None
    if not all(isinstance(each, str) for each in known):
        return None
    return Watermark(server, parse_time(since) if isinstance(since, str) else None, tuple(known))


def _moment(batch: Batch) -> float | None:
    moment = batch.ended or batch.started or batch.created
    return moment.timestamp() if moment else None
