"""
Emit metrics through Airflow, in workers and triggerers.

Whether and where to is Airflow's configuration, in its section ``[metrics]``. A metrics back end that is down never
fails a task.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import lru_cache
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_atscale.api.models import ModelRef

log = logging.getLogger(__name__)

#: Airflow's metrics in a triggerer: since 3.2, before. The Task SDK has a copy of its own, which only workers set up.
_IN_TRIGGERER = ("airflow.observability.stats", "airflow.stats")


@lru_cache(maxsize=2)
def _stats(*, in_triggerer: bool) -> Any:
    if not in_triggerer:
        from airflow.providers.common.compat.sdk import Stats

        return Stats
    for name in _IN_TRIGGERER:
        try:
            return import_module(name).Stats
        except (ImportError, AttributeError):
            continue
    return None


def _is_in_triggerer() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _emit(send: Callable[[Any], None]) -> None:
    try:
        send(_stats(in_triggerer=_is_in_triggerer()))
    except Exception as error:
        log.debug("A metric could not be emitted: %s: %s", type(error).__name__, error)


def count(name: str, number: int = 1, tags: Mapping[str, str] | None = None) -> None:
    """Add to a counter."""
    _emit(lambda stats: stats.incr(name, number, tags=dict(tags or {})))


class Counters:
    """Add up counters that rise with every poll, and emit them at most once a second."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._sums: dict[str, int] = {}
        self._emitted = 0.0

    def add(self, name: str, number: int) -> None:
        """Add to a counter."""
        self._sums[name] = self._sums.get(name, 0) + number
        now = self._clock()
        if now - self._emitted >= 1.0:
            self._emitted = now
            self.flush()

    def flush(self) -> None:
        """Emit what was added since the last time."""
        sums, self._sums = self._sums, {}
        for name, number in sums.items():
            count(name, number)


def time(name: str, seconds: float, tags: Mapping[str, str] | None = None) -> None:
    """Report a duration."""
    _emit(lambda stats: stats.timing(name, timedelta(seconds=seconds), tags=dict(tags or {})))


def gauge_of_host(name: str, value: float) -> None:
    """Report a level of this machine, as Airflow does: in its name for StatsD, in a tag for others."""
    host = socket.gethostname()
    _emit(lambda stats: stats.gauge(f"{name}.{host}", value))
    _emit(lambda stats: stats.gauge(name, value, tags={"hostname": host}))


def count_resumption(events: Iterable[str], operator: Any, ti: Any) -> None:
    """
    Count as Airflow's own operators do what a try did with an earlier try's build.

    :param events: The last parts of the metrics' names.
    """
    tags = {"operator": type(operator).__name__}
    if team_name := getattr(ti, "stats_tags", {}).get("team_name"):
        tags["team_name"] = team_name
    for event in events:
        count(f"resumable_job.{event}", tags=tags)


def build_tags(ref: ModelRef, kind: str) -> dict[str, str]:
    """Return the tags of a build's metrics: its kind and, if that is configured, its catalog and model."""
    from airflow.providers.common.compat.sdk import conf

    tags = {"kind": kind}
    if conf.getboolean("atscale", "metrics_model_tags", fallback=False):
        tags.update(catalog=ref.catalog, model=ref.model)
    return tags
