"""Read what users and templates give, strictly: what is not understood stops the task, with its text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow_provider_atscale.exceptions import AtScaleConfigurationError

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


def parse_seconds(value: Any, name: str) -> float:
    """
    Return the seconds that a duration means.

    :param value: A ``timedelta``, a number of seconds, or the text of such a number.
    :param name: What the value is for, for the error.
    """
    seconds = -1.0
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
    if seconds > 0 and math.isfinite(seconds):
        return seconds
    raise AtScaleConfigurationError(
        f"{name} is {value!r}; it must be a timedelta or a number of seconds greater than 0."
    )


def parse_overrides(value: Any, *, is_full_build: bool) -> dict[str, int | float]:
    """
    Return the grace period overrides, checked.

    :param value: A mapping of dataset names to numbers, or its JSON text; None and ``""`` are none.
    :param is_full_build: Whether a full build is asked for, which knows no grace periods.
    """
    name = "grace_period_overrides"
    if isinstance(value, str) and value.strip() not in ("", "None"):
        try:
            value = json.loads(value)
        except ValueError:
            raise AtScaleConfigurationError(
                f'{name} is {value!r}; it must be a mapping, as in {{"factinternetsales": 30}}.'
            ) from None
    if value is None or isinstance(value, str):
        return {}
    if not isinstance(value, Mapping):
        raise AtScaleConfigurationError(
            f'{name} is {value!r}; it must be a mapping, as in {{"factinternetsales": 30}}.'
        )
    overrides: dict[str, int | float] = {}
    for dataset, period in value.items():
        if not isinstance(dataset, str) or not dataset.strip():
            raise AtScaleConfigurationError(f"{name} has {dataset!r} for a dataset; it must be its name.")
        overrides[dataset] = _number(period, f"{name}[{dataset!r}]")
    if overrides and is_full_build:
        raise AtScaleConfigurationError(
            f"{name} is {dict(value)!r}, but is_full_build is true: grace periods exist for incremental "
            "builds only. Leave one of the two out."
        )
    return overrides


def _number(value: Any, name: str) -> int | float:
    number: Any = value
    if isinstance(value, str):
        # A template renders the number inside a mapping to its text.
        try:
            number = json.loads(value)
        except ValueError:
            number = None
    if (
        isinstance(number, (int, float))
        and not isinstance(number, bool)
        and math.isfinite(number)
        and number >= 0
    ):
        return number
    raise AtScaleConfigurationError(f"{name} is {value!r}; it must be a number that is not negative.")
