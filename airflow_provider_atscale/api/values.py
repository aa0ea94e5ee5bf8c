"""Read values of a JSON answer: forgiving, because these values only inform."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, TypeGuard, TypeVar

T = TypeVar("T")

#: Stands for a time that is not known, where times are compared.
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
#: A ``Date`` header knows whole seconds.
DATE_PRECISION = timedelta(seconds=1)
#: So far the server's clock may be ahead of a ``Date`` header: many servers renew the header only once a second.
DATE_DELAY = timedelta(seconds=2)

_TIMESTAMP = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}", re.ASCII)


def value_at(body: Any, *path: str) -> Any:
    """Return the value at a path of keys; None if the path leads nowhere."""
    for key in path:
        body = body.get(key) if isinstance(body, Mapping) else None
    return body


def text_of(row: Mapping[str, Any], *names: str) -> str | None:
    """Return the first of the named values that is a text and not blank."""
    text = _first(row, names, _is_text)
    return text if text is None or is_unicode(text) else text.encode("utf-8", "replace").decode()


def id_of(row: Any, *names: str) -> str | None:
    """Return the row's id, None if it has none that can be trusted."""
    if not isinstance(row, Mapping):
        return None
    text = _first(row, names or ("id",), _is_text)
    return text.strip() if text is not None and is_unicode(text) else None


def number_of(row: Mapping[str, Any], *names: str) -> float | None:
    """Return the first of the named values that is a number."""
    return _first(row, names, is_number)


def flag_of(row: Mapping[str, Any], *names: str) -> bool | None:
    """Return the first of the named values that is a boolean."""
    return _first(row, names, _is_flag)


def time_of(row: Mapping[str, Any], *names: str) -> datetime | None:
    """Return the first of the named values that is a time."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and (moment := parse_time(value)) is not None:
            return moment
    return None


def _first(row: Mapping[str, Any], names: Iterable[str], is_wanted: Callable[[Any], TypeGuard[T]]) -> T | None:
    # No generator: a poll reads many values.
    for name in names:
        value = row.get(name)
        if is_wanted(value):
            return value
    return None


def _is_text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())


def _is_flag(value: Any) -> TypeGuard[bool]:
    return isinstance(value, bool)


def is_unicode(text: str) -> bool:
    """Whether a text can be sent: JSON may hold halves of characters (lone surrogates), which UTF-8 cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a number to calculate with: finite, not a boolean, not of hundreds of digits."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and not (isinstance(value, float) and math.isnan(value))
        and abs(value) < 1e300
    )


def parse_time(value: str) -> datetime | None:
    """Return the time that an ISO-8601 text means, in UTC; None if it means none. Without a zone it is UTC."""
    # pendulum also reads "now", "12:00" and durations.
    if not _TIMESTAMP.match(value):
        return None
    try:
        # A poll reads the times of a whole history: this is much faster, and knows what AtScale writes.
        parsed = datetime.fromisoformat(value)
    except ValueError:
        return _parse_other_time(value)
    return usable_time(parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc))


def _parse_other_time(value: str) -> datetime | None:
    """Return the time of a text in another form, or of any with a zone "Z" before Python 3.11."""
    # Not at the top: a DAG file that only checks its arguments needs no times.
    import pendulum

    try:
        parsed = pendulum.parse(value, strict=True, tz="UTC")
        if not isinstance(parsed, datetime):
            return None
        # A plain datetime: pendulum's own loses its zone when a plain timedelta is subtracted.
        return usable_time(datetime.fromisoformat(parsed.isoformat()))
    except (ValueError, OverflowError, TypeError):
        return None


def usable_time(moment: datetime) -> datetime | None:
    """
    Return a time in UTC; None if it is a placeholder.

    Year 1 is how AtScale writes "not yet", and year 9999 often stands for "never". No seconds can be added
    to the one or taken from the other without an error.
    """
    try:
        in_utc = moment.astimezone(timezone.utc)
    except (OverflowError, ValueError):
        return None
    return in_utc if 1 < moment.year < 9999 and 1 < in_utc.year < 9999 else None


def iso(moment: datetime | None) -> str | None:
    """Return a time as text."""
    return None if moment is None else moment.isoformat()
