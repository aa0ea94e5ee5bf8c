"""Judge the aggregates of a model against thresholds, whichever batch has built them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.models import AggregateInstance, Instances, ModelRef, Phase, attempts_of
from airflow_provider_atscale.api.values import EPOCH, iso
from airflow_provider_atscale.builds.report import failure_message, format_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

#: How many aggregates the error names; the report has all.
MAX_MISSES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What the aggregates of a model must satisfy, ``max_age`` in seconds; None: not checked."""

    max_failed: int | None = 0
    min_active: int | None = 1
    max_age: float | None = None
    min_rows: int | None = None

    @property
    def check_nothing(self) -> bool:
        """Whether every model passes."""
        return self.max_failed is None and not self.min_active and self.max_age is None and not self.min_rows


@dataclass(frozen=True, slots=True)
class Health:
    """
    The aggregates of a model by their state, each as the instance that tells it.

    :param active: Those that serve queries: the newest good instance of each.
    :param failed: Those that no instance has built: the last failed one of each.
    :param pending: Those that are being built for the first time, or are in an unknown status.
    """

    active: tuple[AggregateInstance, ...]
    failed: tuple[AggregateInstance, ...]
    pending: tuple[AggregateInstance, ...]


def read_health(instances: Sequence[AggregateInstance]) -> Health:
    """
    Judge each aggregate of a model by all of its instances, in any order.

    An aggregate with a good instance is active: AtScale answers queries from it even if a later attempt failed. One
    that was deleted after its last failure no longer exists, and does not count.
    """
    active, failed, pending = [], [], []
    for attempts in attempts_of(instances):
        good = _newest(attempts, Phase.SUCCEEDED)
        bad = _newest(attempts, Phase.FAILED)
        deleted = _newest(attempts, Phase.SUPERSEDED)
        if good:
            active.append(good)
        elif bad and not (deleted and _ended(deleted) > _ended(bad)):
            failed.append(bad)
        else:
            under_way = [each for each in attempts if each.phase in (Phase.WAITING, Phase.UNKNOWN)]
            pending += under_way[:1]
    return Health(tuple(active), tuple(failed), tuple(pending))


def _newest(attempts: Sequence[AggregateInstance], phase: Phase) -> AggregateInstance | None:
    return max((each for each in attempts if each.phase is phase), key=_ended, default=None)


def _ended(instance: AggregateInstance) -> datetime:
    return instance.ended or EPOCH


def make_check_report(
    instances: Instances, thresholds: Thresholds, *, server: str, ref: ModelRef, now: float
) -> dict[str, Any]:
    """Return the report of a check as JSON values; its ``misses`` are empty if the model passes."""
    health = read_health(instances)
    return {
        "server": server,
        "catalog": ref.catalog,
        "model": ref.model,
        "catalog_id": ref.catalog_id,
        "model_id": ref.model_id,
        "checked": iso(datetime.fromtimestamp(now, timezone.utc)),
        "active": len(health.active),
        "failed": len(health.failed),
        "pending": len(health.pending),
        "rows": sum(each.rows or 0 for each in health.active),
        "oldest": iso(min((each.ended for each in health.active if each.ended), default=None)),
        "truncated": instances.is_truncated,
        "misses": _find_misses(health, thresholds, now),
    }


def _find_misses(health: Health, thresholds: Thresholds, now: float) -> list[dict[str, Any]]:
    misses = []
    if thresholds.min_active is not None and len(health.active) < thresholds.min_active:
        reason = (
            f"{len(health.active)} aggregates are active ({len(health.failed)} failed, {len(health.pending)} "
            f"pending), and min_active is {thresholds.min_active}"
        )
        misses.append({"aggregate": None, "reason": reason, "query_id": None})
    if thresholds.max_failed is not None and len(health.failed) > thresholds.max_failed:
        misses += [_miss(each, f"{each.status}: {failure_message(each)}") for each in health.failed]
    for each in health.active:
        misses += [_miss(each, reason) for reason in _faults_of_active(each, thresholds, now)]
    return misses


def _miss(instance: AggregateInstance, reason: str) -> dict[str, Any]:
    return {"aggregate": instance.label, "reason": reason, "query_id": instance.query_id}


def _faults_of_active(instance: AggregateInstance, thresholds: Thresholds, now: float) -> list[str]:
    faults = []
    if thresholds.max_age is not None:
        limit = f"max_age is {format_duration(thresholds.max_age)}"
        if instance.ended is None:
            faults.append(f"AtScale does not say when it was built, and {limit}")
        elif (age := now - instance.ended.timestamp()) > thresholds.max_age:
            faults.append(f"built {format_duration(age)} ago, at {iso(instance.ended)}, and {limit}")
    if thresholds.min_rows:
        limit = f"min_rows is {thresholds.min_rows}"
        if instance.rows is None:
            faults.append(f"AtScale does not say how many rows it has, and {limit}")
        elif instance.rows < thresholds.min_rows:
            faults.append(f"has {instance.rows} rows, and {limit}")
    return faults


def describe_misses(report: dict[str, Any]) -> str:
    """Return what a model misses, for an error."""
    misses = report["misses"]
    shown = "; ".join(map(_describe, misses[:MAX_MISSES_SHOWN]))
    hidden = len(misses) - MAX_MISSES_SHOWN
    return f"{shown}; and {hidden} more, all of them in the XCom check_result" if hidden > 0 else shown


def _describe(miss: dict[str, Any]) -> str:
    if miss["aggregate"] is None:
        return str(miss["reason"])
    query = f" (query {miss['query_id']})" if miss["query_id"] else ""
    return f"{miss['aggregate']}: {miss['reason']}{query}"
