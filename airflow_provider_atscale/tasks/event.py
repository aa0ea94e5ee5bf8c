"""Read a trigger's event strictly: anything that is not exactly such an event fails the task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_atscale.api.models import Batch, parse_batch
from airflow_provider_atscale.api.values import is_number
from airflow_provider_atscale.exceptions import AtScaleEventError
from airflow_provider_atscale.tasks.plan import TaskPlan, parse_plan
from airflow_provider_atscale.waiting.deadline import LIMITS
from airflow_provider_atscale.waiting.policy import Ended, GaveUp, TimedOut, WaitResult


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a resumed task knows; without a batch id, it waited for the newest batch and none was seen."""

    plan: TaskPlan
    result: WaitResult
    batch_id: str | None


def is_event_of_other_try(next_kwargs: Mapping[str, Any] | None, try_number: int) -> bool:
    """Return whether Airflow resumes a try with the event of another one, as Airflow 3.0 to 3.1.0 may do."""
    event = (next_kwargs or {}).get("event")
    payload = event.get("payload") if isinstance(event, Mapping) else None
    return isinstance(payload, Mapping) and payload.get("try_number") not in (None, try_number)


def read_event(event: Any, *, needs_batch: bool = True) -> Resumed:
    """
    Return what a trigger's event says.

    :raises AtScaleEventError: If the event is not exactly what the trigger sends.
    """
    try:
        if not isinstance(event, Mapping):
            raise ValueError("it is not a mapping")  # noqa: TRY004, TRY301 - one error for all bad events
        plan = parse_plan(event)
        batch_id = event.get("batch_id")
        if not (isinstance(batch_id, str) and batch_id) and (needs_batch or batch_id is not None):
            raise ValueError("it has no batch id")  # noqa: TRY301
        return Resumed(plan, _read_result(event, batch_id), batch_id)
    except (ValueError, TypeError, KeyError) as error:
        raise AtScaleEventError(
            f"The trigger's event cannot be trusted ({error}), so the task fails. The event: "
            f"{str(event)[:500]}. Check that worker and triggerer run the same version of this package. On "
            "Airflow 3.3+ a retry of the task attaches to its batch."
        ) from None


def _read_result(event: Mapping[str, Any], batch_id: str | None) -> WaitResult:
    status = event.get("status")
    if status == "ended":
        batch: Batch | None = parse_batch(event.get("batch"))
        if batch is None or batch.id != batch_id:
            raise ValueError("its batch is not the one that it names")
        if batch.is_running:
            raise ValueError(f"its batch has not ended, its status is {batch.status!r}")
        return Ended(batch)
    if status == "timeout":
        limit, seconds = event.get("limit"), event.get("seconds")
        last = (event.get(name) for name in ("last_status", "last_answer"))
        if limit not in LIMITS or not is_number(seconds) or seconds < 0:
            raise ValueError("it does not say which limit has passed")
        return TimedOut(str(limit), float(seconds), *(each if isinstance(each, str) else None for each in last))
    if status == "gave_up":
        kind, reason = event.get("kind"), event.get("reason")
        if kind not in ("missing", "trouble", "unknown") or not isinstance(reason, str):
            raise ValueError("it does not say why the wait was given up")
        return GaveUp(str(kind), reason)
    raise ValueError(f"its status is {status!r}")
