"""Read a trigger's event strictly: what is not exactly such an event fails the task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.models import Batch, parse_batch
from airflow_provider_atscale.api.values import is_number
from airflow_provider_atscale.exceptions import AtScaleEventError
from airflow_provider_atscale.waiting.deadline import LIMITS
from airflow_provider_atscale.waiting.policy import Ended, GaveUp, TimedOut, WaitResult

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
from airflow_provider_atscale.tasks.plan import Plan, parse_plan


@dataclass(frozen=True, slots=True)
class Resumed:
    """
    What a resumed task has: its plan, how the wait ended, and the batch's id.

    :param plan: The plan.
    :param verdict: How the wait ended.
    :param batch_id: The batch; None where the newest was waited for and none was seen.
    """

    plan: Plan
    verdict: WaitResult
    batch_id: str | None


def restart_if_event_of_other_try(next_kwargs: Mapping[str, Any] | None, context: Context, log: Any) -> bool:
    """
    Make a try ready to begin anew if it is resumed with the event of another one; return whether it is.

    Airflow 3.0 to 3.1.0 resume a retry like that.

    :param next_kwargs: What Airflow resumes the task with.
    :param context: The task's context.
    :param log: Where to say it.
    """
    event = (next_kwargs or {}).get("event")
    payload = event.get("payload") if isinstance(event, Mapping) else None
    if not isinstance(payload, Mapping) or payload.get("attempt") in (None, context["ti"].try_number):
        return False
    log.info("Airflow resumes this try with the event of another one; beginning anew")
    # Airflow has left that of the other try, and execution_timeout counts from it.
    context["ti"].start_date = datetime.now(timezone.utc)
    return True


def read_event(event: Any, *, needs_batch: bool = True) -> Resumed:
    """
    Return what a trigger's event says; anything that is not exactly such an event is an error.

    :param event: The event.
    :param needs_batch: Whether an event without batch id is an error.
    :raises AtScaleEventError: If the event cannot be trusted.
    """
    try:
        return _read_event(event, needs_batch=needs_batch)
    except (ValueError, TypeError, KeyError) as error:
        raise AtScaleEventError(
            f"The trigger's event cannot be trusted ({error}), so the task fails rather than guess how the "
            f"build ended. The event: {str(event)[:500]}. Do worker and triggerer have the same version of "
            "this package? A retry of the task attaches to its batch on Airflow 3.3+."
        ) from None


def _read_event(event: Any, *, needs_batch: bool) -> Resumed:
    if not isinstance(event, Mapping):
        raise ValueError("it is no mapping")  # noqa: TRY004
    plan = parse_plan(event.get("payload"))
    batch_id = event.get("batch_id")
    if not (isinstance(batch_id, str) and batch_id) and (needs_batch or batch_id is not None):
        raise ValueError("it has no batch id")
    return Resumed(plan, _verdict(event, batch_id), batch_id)


def _verdict(event: Mapping[str, Any], batch_id: str | None) -> WaitResult:
    status = event.get("status")
    if status == "ended":
        batch: Batch | None = parse_batch(event.get("batch"))
        if batch is None or batch.id != batch_id:
            raise ValueError("its batch is not the one that it names")
        if batch.is_running:
            raise ValueError(f"its batch has not ended, its status is {batch.status!r}")
        return Ended(batch)
    if status == "timeout":
        limit, seconds, last = event.get("limit"), event.get("seconds"), event.get("last_status")
        if limit not in LIMITS or not is_number(seconds) or seconds < 0:
            raise ValueError("it does not say which limit has passed")
        return TimedOut(str(limit), float(seconds), last if isinstance(last, str) else None)
    if status == "gave_up":
        kind, reason = event.get("kind"), event.get("reason")
        if kind not in ("missing", "trouble", "unknown") or not isinstance(reason, str):
            raise ValueError("it does not say why the wait was given up")
        return GaveUp(str(kind), reason)
    raise ValueError(f"its status is {status!r}")
