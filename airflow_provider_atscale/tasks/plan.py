"""
What a task was asked to do, fixed once.

A resumed task must not depend on its arguments: templates are rendered anew at each resume and may say
something else by then, and ``dag.test()`` gives a resumed task nothing but its event. So the plan is made once
from the arguments, travels through the trigger as JSON, and is read back strictly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from airflow_provider_atscale.api.models import ModelRef
from airflow_provider_atscale.api.values import is_number
from airflow_provider_atscale.waiting.deadline import Deadline, parse_deadline


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

    def with_origin(self, start: str) -> Plan:
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
