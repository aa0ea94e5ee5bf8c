"""Read values of a JSON answer: forgiving where a value only informs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeGuard

_TIMESTAMP = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}")


#: How AtScale itself writes times.
_USUAL_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?Z", re.ASCII)


def text_of(row: Mapping[str, Any], *names: str) -> str | None:
    """Return the first of the named values that is a text and not empty."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return value
    return None


def number_of(row: Mapping[str, Any], *names: str) -> float | None:
    """Return the first of the named values that is a finite number."""
    for name in names:
        value = row.get(name)
        if is_number(value):
            return value
    return None


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a number that can be reckoned with: finite, no boolean, not of hundreds of digits."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and not (isinstance(value, float) and math.isnan(value))
        and abs(value) < 1e300
    )


def flag_of(row: Mapping[str, Any], *names: str) -> bool | None:
    """Return the first of the named values that is a boolean."""
    for name in names:
        value = row.get(name)
        if isinstance(value, bool):
            return value
    return None


def time_of(row: Mapping[str, Any], *names: str) -> datetime | None:
    """
    Return the first of the named values that is a point in time.

    The year 0001 is how AtScale writes "not yet", and a time without zone is UTC.
    """
    for name in names:
        value = row.get(name)
        if not isinstance(value, str) or not value:
            continue
        moment = parse_time(value)
        if moment is not None:
            return moment
    return None


def parse_time(value: str) -> datetime | None:
    """Return the point in time that an ISO-8601 text means, None for any other text."""
    if _USUAL_TIME.fullmatch(value):
        # pendulum takes ten times as long, and each poll reads several.
        try:
            usual = datetime.fromisoformat(f"{value[:19]}.{value[20:-1]:0<6}+00:00")
        except ValueError:
            return None
        return usual if usual.year > 1 else None
    # Imported late: flows are also built where nothing is parsed, and pendulum is not free to load.
    import pendulum

    # pendulum also reads "now", "12:00" and durations as times.
    if not _TIMESTAMP.match(value):
        return None
    try:
        moment = pendulum.parse(value, strict=True, tz="UTC")
        if not isinstance(moment, datetime) or moment.year <= 1:
            return None
        # An offset of a day or more is found out only when it is used.
        moment.utcoffset()
    except (ValueError, OverflowError, TypeError):
        return None
    return moment


def id_of(row: Any, *names: str) -> str | None:
    """Return the row's id, None where it has none that can be trusted."""
    value = text_of(row, *(names or ("id",))) if isinstance(row, Mapping) else None
    return value.strip() if value else None


def iso(moment: datetime | None) -> str | None:
    """Return a point in time as text."""
    return None if moment is None else moment.isoformat()
