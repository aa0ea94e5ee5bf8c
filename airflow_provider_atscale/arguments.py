"""Read what users and templates give, strictly: what is not understood fails the task, with its text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from airflow_provider_atscale.api.values import is_number, is_unicode
from airflow_provider_atscale.exceptions import AtScaleConfigurationError

Parsed = TypeVar("Parsed")

#: What may be done about a batch that already runs, and about aggregates that a done batch lacks.
ON_RUNNING = ("join", "wait", "attach", "skip", "fail")
FAILED_AGGREGATES = ("warn", "fail", "ignore")

#: A text that no template engine changes.
_WORD = re.compile(r"[\w\s+-]*")
_TRUE = ("true", "yes", "1")
_FALSE = ("false", "no", "0")

#: Ten years. Longer ones are useless, and cannot be added to every date.
MAX_SECONDS = 10 * 366 * 86400.0

#: How many characters of a value an error shows.
MAX_SHOWN = 200

_CHECK_TEMPLATE = "A template renders to text: check what it renders to."


def parse_bool(value: Any, name: str) -> bool:
    """Return the boolean that a flag, 0, 1 or a text means; ``"False"``, rendered by a template, is false."""
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    text = value.strip().lower() if isinstance(value, str) else None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise AtScaleConfigurationError(
        f"{name} is {shown(value)}; it must be true or false (or yes, no, 1, 0). {_CHECK_TEMPLATE}"
    )


def parse_choice(value: Any, name: str, choices: tuple[str, ...]) -> str:
    """Return the word that the value is, in any case."""
    text = value.strip().lower() if isinstance(value, str) else None
    if text in choices:
        return str(text)
    raise AtScaleConfigurationError(f"{name} is {shown(value)}; it must be one of {', '.join(choices)}.")


def parse_name(value: Any, name: str) -> str:
    """Return the id, name or caption that a value is."""
    if _is_name(value) and value.strip() != "None":
        return str(value.strip())
    raise AtScaleConfigurationError(
        f"{name} is {shown(value)}; give the id, the name or the caption as a text. {_CHECK_TEMPLATE}"
    )


def parse_seconds(value: Any, name: str) -> float:
    """Return the seconds that a ``timedelta``, a number of seconds, or the text of such a number means."""
    seconds = value
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        try:
            seconds = float(value)
        except ValueError:
            seconds = None
    if is_number(seconds) and 0 < seconds <= MAX_SECONDS:
        return float(seconds)
    raise AtScaleConfigurationError(
        f"{name} is {shown(value)}; it must be a timedelta or a number of seconds, greater than 0 and at most "
        "ten years."
    )


def parse_overrides(value: Any, *, is_full_build: bool) -> dict[str, int | float]:
    """Return the grace period overrides that a mapping or its JSON text means; None and ``""`` mean none."""
    name = "grace_period_overrides"
    given = value
    if isinstance(value, str):
        given = None if value.strip() in ("", "None") else _from_json(value, or_else="")
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        raise AtScaleConfigurationError(
            f'{name} is {shown(value)}; it must be a mapping, as in {{"factinternetsales": 30}}. '
            "A template that renders one must end in '| tojson'."
        )
    overrides: dict[str, int | float] = {}
    for dataset, period in given.items():
        if not _is_name(dataset):
            raise AtScaleConfigurationError(f"{name} has {shown(dataset)} for a dataset; it must be its name.")
        overrides[dataset] = _number(period, f"{name}[{shown(dataset)}]")
    if overrides and is_full_build:
        raise AtScaleConfigurationError(
            f"{name} is {shown(overrides)}, but is_full_build is true: grace periods exist for incremental "
            "builds only. Leave one of the two out."
        )
    return overrides


def _number(value: Any, name: str) -> int | float:
    # A template renders a number inside a mapping to its text.
    number = _from_json(value, or_else=None) if isinstance(value, str) else value
    if is_number(number) and number >= 0:
        return number
    raise AtScaleConfigurationError(f"{name} is {shown(value)}; it must be a number that is not negative.")


def _optional(parse: Callable[[Any, str], Parsed]) -> Callable[[Any, str], Parsed | None]:
    """Return a parser that also takes None, ``""`` and ``"None"``: they mean that there is no value."""
    return lambda value, name: None if value in (None, "", "None") else parse(value, name)


def _parse_int(value: Any, name: str, *, least: int, words: str) -> int:
    number = _from_json(value, or_else=None) if isinstance(value, str) else value
    if type(number) is int and number >= least:
        return number
    raise AtScaleConfigurationError(
        f"{name} is {shown(value)}; it must be a whole number {words}, or None. {_CHECK_TEMPLATE}"
    )


optional_seconds = _optional(parse_seconds)
optional_count = _optional(partial(_parse_int, least=1, words="greater than 0"))
optional_threshold = _optional(partial(_parse_int, least=0, words="that is not negative"))


def _from_json(text: str, *, or_else: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return or_else


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and is_unicode(value)


def shown(value: Any) -> str:
    """Return a value as an error shows it."""
    # Python refuses to write numbers of thousands of digits.
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a value of type {type(value).__name__} that cannot be shown"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


# --- the arguments of operators and sensor ----------------------------------------------------------------

#: What parses each argument.
Parsers = Mapping[str, Callable[[Any, str], Any]]
BUILD_ARGUMENTS: Parsers = {
    "catalog": parse_name,
    "model": parse_name,
    "is_full_build": parse_bool,
    # The kind and the edition decide what is valid.
    "grace_period_overrides": lambda value, _: value,
    "on_running": partial(parse_choice, choices=ON_RUNNING),
    "failed_aggregates": partial(parse_choice, choices=FAILED_AGGREGATES),
    "skip_if_built_within": optional_seconds,
    "only_if_newer": parse_bool,
    "give_up_after": optional_count,
    "wait_for_completion": parse_bool,
    "poll_interval": parse_seconds,
    "timeout": optional_seconds,
    "warn_after": optional_seconds,
    "atscale_conn_id": parse_name,
}
CHECK_ARGUMENTS: Parsers = {
    "catalog": parse_name,
    "model": parse_name,
    "max_failed": optional_threshold,
    "min_active": optional_threshold,
    "max_age": optional_seconds,
    "min_rows": optional_threshold,
    "atscale_conn_id": parse_name,
}
WAIT_ARGUMENTS: Parsers = {
    "batch_id": parse_name,
    "catalog": parse_name,
    "model": parse_name,
    "failed_aggregates": partial(parse_choice, choices=FAILED_AGGREGATES),
    "warn_after": optional_seconds,
    "atscale_conn_id": parse_name,
}


def parse_arguments(operator: Any, parsers: Parsers) -> dict[str, Any]:
    """Return the arguments of a task whose templates are rendered, parsed."""
    return {name: parse(getattr(operator, name), name) for name, parse in parsers.items()}


def check_literals(operator: Any, parsers: Parsers) -> None:
    """
    Check arguments that a DAG file gives as plain values, so that a mistake fails the import of the DAG.

    Templates, results of other tasks and properties of a subclass are checked when the task runs.
    """
    for name, parse in parsers.items():
        # Not getattr: a subclass may make a property of an argument, of what its constructor sets later.
        value = vars(operator).get(name)
        # A DAG may have other marks of templates, and a subclass templates in files.
        is_literal = bool(_WORD.fullmatch(value)) if isinstance(value, str) else True
        if is_literal and isinstance(value, (bool, int, float, str, timedelta)):
            parse(value, name)
