"""
What a task was asked to do, fixed once.

A resumed task must not depend on its arguments: templates are rendered anew at each resume and may say
something else by then, and ``dag.test()`` gives a resumed task nothing but its event. So the plan is made once
from the arguments, travels through the trigger as JSON, and is read back strictly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.exceptions import AtScaleEventError
from airflow_provider_atscale.protocol.models import Batch, ModelRef, is_number, parse_batch
from airflow_provider_atscale.protocol.watch import Ended, GaveUp
from airflow_provider_atscale.report import TimedOut, Verdict
from airflow_provider_atscale.waiting import LIMITS, Deadline, parse_deadline

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


@dataclass(frozen=True, slots=True)
class Plan:
    """
    One wait for a batch, and for the operator the build before it.

    :param conn_id: The Airflow connection.
    :param ref: The model.
    :param began: Epoch seconds at which the task began to work.
    :param poll_interval: The longest time between two looks, in seconds.
    :param deadline: When the wait ends without the batch.
    :param failed_aggregates: What missing aggregates of a batch that is done mean.
    :param is_full_build: The kind of the build.
    :param overrides: Grace period overrides.
    :param on_running: What to do where a batch of the model runs already.
    :param waits: Whether the task waits for its batch.
    :param start: How the task came to its batch.
    :param attempt: Which try of the task it is.
    """

    conn_id: str
    ref: ModelRef
    began: float
    poll_interval: float
    deadline: Deadline | None = None
    failed_aggregates: str = "warn"
    is_full_build: bool | None = None
    overrides: Mapping[str, int | float] = field(default_factory=dict)
    on_running: str = "wait"
    waits: bool = True
    start: str = "started"
    attempt: int = 1

    def come_by(self, start: str) -> Plan:
        """Return the plan of a task that came to its batch in this way."""
        return replace(self, start=start)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values, none of them secret."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values["ref"] = [self.ref.catalog_id, self.ref.model_id, self.ref.catalog, self.ref.model]
        values["deadline"] = self.deadline.to_json() if self.deadline else None
        values["overrides"] = dict(self.overrides)
        return values


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


#: What the values of a plan must be.
_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "conn_id": _is_text,
    "began": is_number,
    "poll_interval": lambda value: is_number(value) and value >= 0,
    "failed_aggregates": lambda value: value in ("warn", "fail", "ignore"),
    "is_full_build": lambda value: value is None or isinstance(value, bool),
    "overrides": lambda value: (
        isinstance(value, Mapping) and all(isinstance(name, str) and is_number(value[name]) for name in value)
    ),
    "on_running": lambda value: value in ("wait", "attach", "skip", "fail"),
    "waits": lambda value: isinstance(value, bool),
    "start": _is_text,
    "attempt": is_number,
}


def parse_plan(value: Any) -> Plan:
    """Return the plan that JSON values are, or raise ``ValueError``."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is no plan")  # noqa: TRY004 - one error for all that is no plan
    names = {each.name for each in fields(Plan)}
    if set(value) != names:
        raise ValueError(f"its fields differ: {sorted(map(str, names.symmetric_difference(value)))}")
    ref = value["ref"]
    if not isinstance(ref, (list, tuple)) or len(ref) != 4 or not all(isinstance(each, str) for each in ref):
        raise ValueError(f"{ref!r} is no model")
    values = dict(value)
    values["ref"] = ModelRef(*ref)
    values["deadline"] = parse_deadline(value["deadline"])
    for name, holds in _CHECKS.items():
        if not holds(value[name]):
            raise ValueError(f"its {name} is {value[name]!r}")
    values["overrides"] = dict(value["overrides"])
    return Plan(**values)


@dataclass(frozen=True, slots=True)
class Resumed:
    """
    What a resumed task has: its plan, how the wait ended, and the batch's id.

    :param plan: The plan.
    :param verdict: How the wait ended.
    :param batch_id: The batch; None where the newest was waited for and none was seen.
    """

    plan: Plan
    verdict: Verdict
    batch_id: str | None


def begins_anew(next_kwargs: Mapping[str, Any] | None, context: Context, log: Any) -> bool:
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


def _verdict(event: Mapping[str, Any], batch_id: str | None) -> Verdict:
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
