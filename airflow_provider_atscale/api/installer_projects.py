"""
Published projects of the installer edition: which of a project's versions is meant.

A project is drafted in the Design Center and published to the engine, each time as a version with an id of
its own that links to the draft; older versions may stay published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow_provider_atscale.api.models import normalize_status
from airflow_provider_atscale.api.names import match_exactly_one
from airflow_provider_atscale.api.values import id_of, text_of, time_of

if TYPE_CHECKING:
    from airflow_provider_atscale.api.models import ModelRef

#: A version: ``id``, ``name``, ``caption``, the ``draft``'s id, when it was ``published``, and its ``cubes``.
Version: TypeAlias = Mapping[str, Any]


def parse_version(row: Any) -> Version | None:
    """Return the published version that a row describes, None where it has no id."""
    entry = _entry(row)
    if entry is None:
        return None
    cubes = row.get("cubes")
    inner = [_entry(cube) for cube in cubes] if isinstance(cubes, list) else []
    return {
        **entry,
        "draft": id_of(row, "linkedProjectId"),
        "published": time_of(row, "publishedAt"),
        "is_soft": normalize_status(text_of(row, "publishType") or "") == "softpublish",
        "cubes": [cube for cube in inner if cube is not None],
    }


def _entry(row: Any) -> dict[str, Any] | None:
    row_id = id_of(row)
    if row_id is None:
        return None
    return {"id": row_id, "name": text_of(row, "name"), "caption": text_of(row, "caption")}


def latest(versions: Sequence[Version]) -> list[Version]:
    """Return of each project the version that was published last."""
    groups: dict[tuple[Any, Any], list[Version]] = {}
    for version in versions:
        groups.setdefault((version["draft"], version["name"] or version["id"]), []).append(version)
    return [version for group in groups.values() for version in _newest(group)]


def _newest(versions: Sequence[Version]) -> Sequence[Version]:
    """Return the version that was published last; all of them where their times do not tell."""
    times = [version["published"] for version in versions]
    if not versions or None in times:
        return versions
    last = max(times)
    return [version for version in versions if version["published"] == last]


def choose(wanted: str, versions: Sequence[Version], where: str) -> Version:
    """
    Return the version that somebody means.

    :param wanted: Id of a published version, or name, caption or id of the draft of a project, of which the
        version that was published last is meant.
    :param versions: The versions to choose from.
    :param where: Where was looked, for the error.
    """
    for version in versions:
        if version["id"] == wanted:
            return version
    candidates = latest(versions)
    # The address bar of the Design Center shows the draft's id, which the engine does not know.
    of_draft = _newest([version for version in candidates if version["draft"] == wanted])
    return of_draft[0] if len(of_draft) == 1 else match_exactly_one("project", wanted, candidates, where)


def is_published(ref: ModelRef, versions: Sequence[Version]) -> bool:
    """Whether a cube is among the published ones, as far as their cubes are listed."""
    lists = [version["cubes"] for version in versions if version["id"] == ref.catalog_id]
    return any(not cubes or ref.model_id in [cube["id"] for cube in cubes] for cubes in lists)
