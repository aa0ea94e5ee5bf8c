"""Read what users and templates give, strictly: what is not understood stops the task, with its text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from airflow_provider_atscale.api.values import is_number
from airflow_provider_atscale.exceptions import AtScaleConfigurationError

#: What may be done about a batch that already runs, and about aggregates that a done batch lacks.
ON_RUNNING = ("wait", "attach", "skip", "fail")
FAILED_AGGREGATES = ("warn", "fail", "ignore")

_TRUE = ("true", "yes", "1")
_FALSE = ("false", "no", "0")


def parse_bool(value: Any, name: str) -> bool:
    """
    Return the truth that a flag or its text means; ``"False"``, rendered by a template, is false.

    :param value: A boolean, 0 or 1, or the text true, false, yes, no, 1 or 0 in any case.
    :param name: What the value is for, for the error.
    """
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower() if isinstance(value, (str, int)) else ""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise AtScaleConfigurationError(
        f"{name} is {value!r}; it must be true or false (or yes, no, 1, 0). "
        "A template renders to text: check what it renders to."
    )


def parse_choice(value: Any, name: str, choices: tuple[str, ...]) -> str:
    """
    Return the one of the words that the value is, in any case.

    :param value: The word.
    :param name: What the value is for, for the error.
    :param choices: The words that are allowed.
    """
    text = value.strip().lower() if isinstance(value, str) else value
    if text in choices:
        return str(text)
    raise AtScaleConfigurationError(f"{name} is {value!r}; it must be one of {', '.join(choices)}.")


def parse_name(value: Any, name: str) -> str:
    """
    Return the id, name or caption that a value is.

    :param value: The text.
    :param name: What the value is for, for the error.
    """
    if isinstance(value, str) and value.strip() and value.strip() != "None":
        return value.strip()
    raise AtScaleConfigurationError(
        f"{name} is {value!r}; give the id, the name or the caption as a text. "
        "A template renders to text: check what it renders to."
    )


#: Ten years in seconds; far longer ones are not only pointless, calendars cannot add them to a date.
LONGEST = 10 * 366 * 86400.0


def parse_seconds(value: Any, name: str) -> float:
    """
    Return the seconds that a duration means.

    :param value: A ``timedelta``, a number of seconds, or the text of such a number.
    :param name: What the value is for, for the error.
    """
    seconds = -1.0
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
    elif is_number(value):
        seconds = float(value)
    if is_number(seconds) and 0 < seconds <= LONGEST:
        return seconds
    raise AtScaleConfigurationError(
        f"{name} is {value!r}; it must be a timedelta or a number of seconds, greater than 0 and at most ten "
        "years."
    )


def parse_overrides(value: Any, *, is_full_build: bool) -> dict[str, int | float]:
    """
    Return the grace period overrides, checked.

    :param value: A mapping of dataset names to numbers, or its JSON text; None and ``""`` are none.
    :param is_full_build: Whether a full build is asked for, which knows no grace periods.
    """
    name = "grace_period_overrides"
    given = None if isinstance(value, str) and value.strip() in ("", "None") else value
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise _no_mapping(name, value) from None
        if isinstance(given, str):
            raise _no_mapping(name, value)
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise _no_mapping(name, value)
    overrides: dict[str, int | float] = {}
    for dataset, period in given.items():
        if not isinstance(dataset, str) or not dataset.strip():
            raise AtScaleConfigurationError(f"{name} has {dataset!r} for a dataset; it must be its name.")
        overrides[dataset] = _number(period, f"{name}[{dataset!r}]")
    if overrides and is_full_build:
        raise AtScaleConfigurationError(
            f"{name} is {overrides!r}, but is_full_build is true: grace periods exist for incremental "
            "builds only. Leave one of the two out."
        )
    return overrides


def _no_mapping(name: str, value: Any) -> AtScaleConfigurationError:
    return AtScaleConfigurationError(
        f'{name} is {value!r}; it must be a mapping, as in {{"factinternetsales": 30}}. '
        "A template that renders one must end in '| tojson'."
    )


def _number(value: Any, name: str) -> int | float:
    number: Any = value
    if isinstance(value, str):
        # A template renders the number inside a mapping to its text.
        try:
            number = json.loads(value)
        except (ValueError, RecursionError):
            number = None
    if is_number(number) and number >= 0:
        return number
    raise AtScaleConfigurationError(f"{name} is {value!r}; it must be a number that is not negative.")


def check_literals(**arguments: tuple[Any, Callable[[Any, str], Any]]) -> None:
    """
    Check arguments that a DAG file gives as plain values, so that a mistake fails the import of the DAG.

    Templates and results of other tasks are checked when the task runs.

    :param arguments: By name: the value, and the function that parses it.
    """
    for name, (value, parse) in arguments.items():
        is_template = isinstance(value, str) and ("{{" in value or "{%" in value)
        if not is_template and isinstance(value, (bool, int, float, str, timedelta)):
            parse(value, name)


def choice(*choices: str) -> Callable[[Any, str], str]:
    """Return a parser of one of these words."""
    return lambda value, name: parse_choice(value, name, choices)


def optional_seconds(value: Any, name: str) -> float | None:
    """
    Return the seconds that a duration means; None and its text mean that there is none.

    :param value: A ``timedelta``, a number of seconds, the text of such a number, None, ``""`` or ``"None"``.
    :param name: What the value is for, for the error.
    """
    return None if value in (None, "", "None") else parse_seconds(value, name)
