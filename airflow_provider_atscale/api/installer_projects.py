"""
Published projects of the installer edition: which version of a project is meant.

A project is drafted in the Design Center and published to the engine. Each time that makes a version with its
own id, which links to the draft; older versions may stay published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.models import ModelRef, normalize_status
from airflow_provider_atscale.api.names import Catalog, match_exactly_one, parse_models, parse_names
from airflow_provider_atscale.api.values import id_of, text_of, time_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Version(Catalog):
    """A published version of a project."""

    draft_id: str | None = None
    published: datetime | None = None
    is_soft: bool = False


def parse_version(row: Any) -> Version | None:
    """Return the published version that a row describes; None if it has no id."""
    names = parse_names(row)
    if names is None:
        return None
    return Version(
        **names,
        models=parse_models(row.get("cubes")),
        draft_id=id_of(row, "linkedProjectId"),
        published=time_of(row, "publishedAt"),
        is_soft=normalize_status(text_of(row, "publishType") or "") == "softpublish",
    )


def latest_versions(versions: Sequence[Version]) -> list[Version]:
    """Return of each project the version that was published last."""
    projects: dict[tuple[str | None, str], list[Version]] = {}
    for version in versions:
        projects.setdefault((version.draft_id, version.name or version.id), []).append(version)
    return [version for project in projects.values() for version in _newest(project)]


def _newest(versions: Sequence[Version]) -> Sequence[Version]:
    """Return the version that was published last; all of them if one has no time."""
    times = [version.published for version in versions if version.published is not None]
    if not versions or len(times) < len(versions):
        return versions
    return [version for version in versions if version.published == max(times)]


def choose_version(wanted: str, versions: Sequence[Version], where: str) -> Version:
    """
    Return the version that the user means.

    :param wanted: Id of a published version; or a project's name, caption or draft id, which mean its latest
        version.
    """
    for version in versions:
        if version.id == wanted:
            return version
    candidates = latest_versions(versions)
    # The Design Center shows the draft's id in the browser's address bar; the engine does not know it.
    of_draft = _newest([version for version in candidates if version.draft_id == wanted])
    return of_draft[0] if len(of_draft) == 1 else match_exactly_one("project", wanted, candidates, where)


def is_published(ref: ModelRef, versions: Sequence[Version]) -> bool:
    """Whether a cube is among the published ones, as far as the cubes are listed."""
    lists = [version.models for version in versions if version.id == ref.catalog_id]
    return any(not cubes or ref.model_id in [cube.id for cube in cubes] for cubes in lists)
