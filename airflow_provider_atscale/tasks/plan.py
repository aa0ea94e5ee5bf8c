"""
A task's plan: its arguments, checked once.

A resumed task must not depend on its arguments: templates are rendered again at each resume and may give other
values by then, and ``dag.test()`` gives a resumed task nothing but its event. So the plan is made once, travels
through the trigger as JSON, and is read back strictly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from airflow_provider_atscale.api.models import ModelRef
from airflow_provider_atscale.api.values import is_number
from airflow_provider_atscale.arguments import FAILED_AGGREGATES, ON_RUNNING
from airflow_provider_atscale.builds.join import FirstLook, parse_first_look
from airflow_provider_atscale.builds.request import BuildRequest
from airflow_provider_atscale.builds.usual import Expectation, parse_expectation
from airflow_provider_atscale.waiting.deadline import Deadline, parse_deadline


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """
    One wait for a batch and, for the operator, the build before it.

    :param began: Epoch seconds at which the task began.
    :param poll_interval: The longest time between two polls, in seconds.
    :param origin: How the task obtained its batch: started, joined, attached, adopted or watched.
    :param build: What to build; None for the sensor.
    :param first_look: When the task began by the server's clock, if it may join a batch.
    :param joined_at: The server's time at which the task joined its batch, if it did.
    """

    conn_id: str
    ref: ModelRef
    began: float
    poll_interval: float
    deadline: Deadline | None = None
    failed_aggregates: str = "warn"
    origin: str = "started"
    try_number: int = 1
    build: BuildRequest | None = None
    expectation: Expectation = field(default_factory=Expectation)
    first_look: FirstLook | None = None
    joined_at: str | None = None

    @property
    def until(self) -> float | None:
        """Epoch seconds at which the wait ends without the batch."""
        return self.deadline.at if self.deadline else None

    def trigger_arguments(self) -> dict[str, Any]:
        """Return the plan as arguments of the trigger: JSON values, none of them secret."""
        return {
            "atscale_conn_id": self.conn_id,
            **asdict(self.ref),
            "poll_interval": self.poll_interval,
            "deadline": self.deadline.to_json() if self.deadline else None,
            "expectation": self.expectation.to_json(),
            "payload": {
                "began": self.began,
                "failed_aggregates": self.failed_aggregates,
                "origin": self.origin,
                "try_number": self.try_number,
                "build": asdict(self.build) if self.build else None,
                "first_look": self.first_look.to_json() if self.first_look else None,
                "joined_at": self.joined_at,
            },
        }


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_overrides(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_is_text(name) and is_number(value[name]) for name in value)


Checks = Mapping[str, Callable[[Any], bool]]

_ARGUMENTS: Checks = {
    "atscale_conn_id": lambda value: _is_text(value) and bool(value),
    **{each.name: _is_text for each in fields(ModelRef)},
    "poll_interval": lambda value: is_number(value) and value >= 0,
}
_PAYLOAD: Checks = {
    "began": is_number,
    "failed_aggregates": lambda value: value in FAILED_AGGREGATES,
    "origin": lambda value: _is_text(value) and bool(value),
    "try_number": is_number,
    "build": lambda value: value is None or isinstance(value, Mapping),
    "first_look": lambda value: value is None or isinstance(value, Mapping),
    "joined_at": lambda value: value is None or _is_text(value),
}
_BUILD: Checks = {
    "is_full_build": lambda value: isinstance(value, bool),
    "overrides": _is_overrides,
    "on_running": lambda value: value in ON_RUNNING,
    "wait_for_completion": lambda value: isinstance(value, bool),
    "give_up_after": lambda value: value is None or (type(value) is int and value > 0),
}


def parse_plan(event: Mapping[str, Any]) -> TaskPlan:
    """Return the plan that a trigger's event gives back; raise ``ValueError`` if it is not exactly one."""
    values = _checked(event, _ARGUMENTS)
    payload = event.get("payload")
    if not isinstance(payload, Mapping) or set(payload) != set(_PAYLOAD):
        raise ValueError(f"its payload is {payload!r}")
    rest = _checked(payload, _PAYLOAD)
    build = rest["build"]
    if build is not None:
        if set(build) != {each.name for each in fields(BuildRequest)}:
            raise ValueError(f"its build is {build!r}")
        build = BuildRequest(**{**_checked(build, _BUILD), "overrides": dict(build["overrides"])})
    return TaskPlan(
        conn_id=values["atscale_conn_id"],
        ref=ModelRef(**{each.name: values[each.name] for each in fields(ModelRef)}),
        poll_interval=values["poll_interval"],
        deadline=parse_deadline(event.get("deadline")),
        expectation=parse_expectation(event.get("expectation")),
        **{**rest, "build": build, "first_look": parse_first_look(rest["first_look"])},
    )


def _checked(values: Mapping[str, Any], checks: Checks) -> dict[str, Any]:
    for name, holds in checks.items():
        if not holds(values.get(name)):
            raise ValueError(f"its {name} is {values.get(name)!r}")
    return {name: values[name] for name in checks}
