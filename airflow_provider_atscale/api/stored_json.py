"""Read JSON values that this package wrote itself: trigger arguments, events and values in a state store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from airflow_provider_atscale.api.values import is_number, parse_time


def read_json(kind: Any, value: Any) -> Any:
    """
    Return a JSON value as the type that a hint names, or raise ``ValueError``.

    :param kind: A dataclass, ``X | None``, a literal, ``tuple[X, ...]``, ``dict[X, Y]`` or a plain type.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return None if value is None else read_json(parts[0], value)
    if origin is Literal and value in parts:
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(read_json(parts[0], each) for each in value)
    if origin is dict and isinstance(value, Mapping):
        return {read_json(parts[0], name): read_json(parts[1], each) for name, each in value.items()}
    if is_dataclass(kind) and isinstance(value, Mapping):
        hints = _hints(kind)  # type: ignore[arg-type]
        return kind(**{name: read_json(hint, value.get(name)) for name, hint in hints.items()})  # type: ignore[operator]
    if kind is datetime and isinstance(value, str) and (moment := parse_time(value)) is not None:
        return moment
    if kind is float and is_number(value):
        return float(value)
    if kind in (str, int, bool) and type(value) is kind:
        return value
    raise ValueError(f"{value!r} is not a valid {getattr(kind, '__name__', kind)}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields by their names."""
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}
