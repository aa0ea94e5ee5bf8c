"""Find catalogs and models by id, name or caption."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.models import ModelRef
from airflow_provider_atscale.exceptions import (
    AtScaleNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: How many names the error about an unknown one lists.
SHOWN = 50


_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def match_exactly_one(
    kind: str, value: str, candidates: Sequence[Mapping[str, Any]], where: str
) -> Mapping[str, Any]:
    """
    Return the one candidate whose id, name or caption is exactly the value.

    :param kind: What is looked for, for the error.
    :param value: Id, name or caption.
    :param candidates: Rows with ``id``, ``name`` and ``caption``.
    :param where: Where was looked, for the error.
    """
    by_id = [row for row in candidates if row["id"] == value]
    found = by_id or [row for row in candidates if value in (row["name"], row["caption"])]
    found = list({row["id"]: row for row in found}.values())
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(f"{row['id']} ({title(row)})" for row in found)
        raise AtScaleNotFoundError(
            f"{len(found)} {kind}s in {where} are called {value!r}: {ids}. Use the id of the one that is meant."
        )
    known = sorted(repr(title(row)) for row in candidates)
    shown = ", ".join(known[:SHOWN]) or "nothing"
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    raise AtScaleNotFoundError(
        f"There is no {kind} {value!r} in {where}. Deployed there: {shown}{more}. "
        f"Use its id, its name or its caption, written exactly so."
    )


def is_id(text: str) -> bool:
    """Whether a text has the form of AtScale's ids."""
    return _UUID.fullmatch(text) is not None


def title(row: Mapping[str, Any]) -> str:
    """Return what people call a catalog or model."""
    return str(row["caption"] or row["name"] or row["id"])


def model_refs(
    chosen: Sequence[Mapping[str, Any]], known: Sequence[Mapping[str, Any]], inside: str
) -> list[ModelRef]:
    """
    Return the models of some catalogs, each by a name that finds it again.

    :param chosen: The catalogs.
    :param known: All catalogs among which they are looked for.
    :param inside: Under which key a catalog has its models.
    """
    return [
        ModelRef(
            outer["id"], inner["id"], _unambiguous_name(outer, known), _unambiguous_name(inner, outer[inside])
        )
        for outer in chosen
        for inner in outer[inside]
    ]


def _unambiguous_name(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what people call one of several rows, or its id where :func:`matching` would find another too."""
    name = title(row)
    return name if sum(name in (each["id"], each["name"], each["caption"]) for each in rows) == 1 else row["id"]
