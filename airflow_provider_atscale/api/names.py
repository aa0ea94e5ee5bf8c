"""Find catalogs and models by id, name or caption."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_atscale.api.models import ModelRef
from airflow_provider_atscale.api.values import id_of, text_of
from airflow_provider_atscale.exceptions import AtScaleNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: How many names the error about an unknown one lists.
MAX_NAMES_SHOWN = 50

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Named:
    """A model (installer edition: a cube) as AtScale lists it."""

    id: str
    name: str | None
    caption: str | None

    @property
    def display_name(self) -> str:
        """What people call it."""
        return self.caption or self.name or self.id


@dataclass(frozen=True, slots=True)
class Catalog(Named):
    """A catalog (installer edition: a published project) with its models."""

    models: tuple[Named, ...] = ()


AnyNamed = TypeVar("AnyNamed", bound=Named)


def parse_names(row: Any) -> dict[str, Any] | None:
    """Return id, name and caption of a row; None if it has no id."""
    row_id = id_of(row)
    if row_id is None:
        return None
    return {"id": row_id, "name": text_of(row, "name"), "caption": text_of(row, "caption")}


def parse_models(rows: Any) -> tuple[Named, ...]:
    """Return the models of a catalog's row; those without id are left out."""
    names = map(parse_names, rows if isinstance(rows, list) else ())
    return tuple(Named(**each) for each in names if each is not None)


def match_exactly_one(kind: str, value: str, candidates: Sequence[AnyNamed], where: str) -> AnyNamed:
    """Return the one candidate whose id, name or caption is the value; the error names kind and where."""
    by_id = [each for each in candidates if each.id == value]
    found = by_id or [each for each in candidates if value in (each.name, each.caption)]
    found = list({each.id: each for each in found}.values())
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(f"{each.id} ({each.display_name})" for each in found)
        raise AtScaleNotFoundError(
            f"{len(found)} {kind}s in {where} are called {value!r}: {ids}. Use the id of the one you mean."
        )
    known = sorted(repr(each.display_name) for each in candidates)
    shown = ", ".join(known[:MAX_NAMES_SHOWN]) or "nothing"
    more = f" and {len(known) - MAX_NAMES_SHOWN} more" if len(known) > MAX_NAMES_SHOWN else ""
    near = _nearest(value, candidates)
    hint = f" (did you mean {near!r}?)" if near else ""
    raise AtScaleNotFoundError(
        f"There is no {kind} {value!r}{hint} in {where}. Deployed there: {shown}{more}. "
        "Use its id, its name or its caption, exactly as shown."
    )


def _nearest(value: str, candidates: Sequence[Named]) -> str | None:
    """Return the name or caption that a mistyped one most likely means."""
    names = {name.lower(): name for each in candidates for name in (each.name, each.caption) if name}
    found = difflib.get_close_matches(value.lower(), names, n=1)
    return names[found[0]] if found else None


def is_id(text: str) -> bool:
    """Whether a text has the form of AtScale's ids."""
    return _UUID.fullmatch(text) is not None


def model_refs(chosen: Sequence[Catalog], known: Sequence[Catalog]) -> list[ModelRef]:
    """Return the models of the chosen catalogs, each under a name that finds it again among the known ones."""
    return [
        ModelRef(catalog.id, model.id, _unambiguous(catalog, known), _unambiguous(model, catalog.models))
        for catalog in chosen
        for model in catalog.models
    ]


def _unambiguous(named: Named, others: Sequence[Named]) -> str:
    """Return the display name, or the id if :func:`match_exactly_one` would find several by that name."""
    name = named.display_name
    return name if sum(name in (each.id, each.name, each.caption) for each in others) == 1 else named.id
