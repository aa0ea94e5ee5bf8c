"""The settings of a local engine as options of the command line."""

from __future__ import annotations

import argparse
import inspect
import re
from dataclasses import MISSING, Field, fields
from typing import Any

from airflow_provider_atscale.testing.settings import CHOICES, START_FORMS, Settings

#: What the command uses instead of the defaults of ``Settings``.
DEFAULTS = {"build_seconds": 10.0}
#: Further spellings of options.
_ALIASES = {"failed_aggregates": ["--fail-aggregates"]}
_NUMBERS = {"float": float, "int": int, "float | None": float, "int | None": int}


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for each setting; its help is the setting's documentation."""
    texts = _documentation()
    group = parser.add_argument_group("settings", "Numbers for which None is possible take the word none.")
    for setting in fields(Settings):
        default = _default(setting)
        shown = "" if default in (None, {}) else f" ({_written(default)})"
        names = ["--" + setting.name.replace("_", "-"), *_ALIASES.get(setting.name, [])]
        group.add_argument(
            *names,
            dest=setting.name,
            default=default,
            help=(texts.get(setting.name, "") + shown).replace("%", "%%"),
            **_kind(setting),
        )


def read_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that a command line asks for."""
    return {setting.name: getattr(options, setting.name) for setting in fields(Settings)}


def _default(setting: Field[Any]) -> Any:
    if setting.name in DEFAULTS:
        return DEFAULTS[setting.name]
    return setting.default if setting.default_factory is MISSING else setting.default_factory()


def _written(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return " ".join(default) if isinstance(default, tuple) else str(default)


def _kind(setting: Field[Any]) -> dict[str, Any]:
    """Return how an option is read; annotations are text here."""
    kind = str(setting.type)
    if setting.name in CHOICES:
        return {"choices": CHOICES[setting.name]}
    if kind == "bool":
        return {"action": argparse.BooleanOptionalAction}
    if kind.startswith("dict"):
        return {"action": _Pairs, "metavar": "NAME=VALUE"}
    if kind.startswith("tuple"):
        return {"nargs": "+", "choices": START_FORMS}
    if kind in _NUMBERS:
        number = _NUMBERS[kind]
        return {"type": _or_none(number) if kind.endswith("None") else number, "metavar": "N"}
    return {"metavar": "TEXT"}


def _or_none(number: type[float]) -> Any:
    def read(text: str) -> float | None:
        return None if text == "none" else number(text)

    read.__name__ = number.__name__
    return read


class _Pairs(argparse.Action):
    """Collect ``NAME=VALUE`` options in a dictionary."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Add one pair."""
        name, separator, value = str(values).partition("=")
        if not separator:
            parser.error(f"argument {option_string}: {values!r} is not NAME=VALUE")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), name: value})


def _documentation() -> dict[str, str]:
    """Return the text of each setting from the docstring of ``Settings``; empty without docstrings."""
    found = re.findall(r":param (\w+): (.+?)(?=\n:param|\Z)", inspect.getdoc(Settings) or "", re.DOTALL)
    return {name: re.sub(r"\s+", " ", text).replace("``", "").strip() for name, text in found}
