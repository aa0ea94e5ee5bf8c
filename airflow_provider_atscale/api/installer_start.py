"""The installer edition's start call: its variants, and what it means if an engine has none of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_atscale.api import calls
from airflow_provider_atscale.api.edition import ACCEPT_JSON
from airflow_provider_atscale.api.flow import Request
from airflow_provider_atscale.api.installer_projects import Version, is_published, latest_versions
from airflow_provider_atscale.exceptions import AtScaleConfigurationError, AtScaleError, AtScaleNotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_atscale.api.calls import Call
    from airflow_provider_atscale.api.models import ModelRef

WHERE_IDS_ARE = "The sample script in Design Center > project > cube > Build > Triggers shows both ids"


@dataclass(frozen=True, slots=True)
class StartVariant:
    """A form of the start call; not each says which kind of build is wanted."""

    call: Call
    cube_param: str
    sends_kind: bool = False


#: In the order in which they are tried. The second one is the documentation's description
#: ("aggregate-batch/org_id/project_id" with "cubeID") taken literally, and no client is known to use it: it is
#: tried only after a 404 to the first.
START_VARIANTS = (
    StartVariant(calls.INSTALLER_START, "cubeId", sends_kind=True),
    StartVariant(calls.INSTALLER_START_IN_WORDS, "cubeID"),
    StartVariant(calls.INSTALLER_OLD_START, "cubeId"),
)


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine of the installer edition; only old ones have environments."""

    url: str
    organization: str
    environment: str | None

    def url_of(self, call: Call, **ids: str) -> str:
        """Return the URL of a call."""
        return call.url(self.url, organization=self.organization, environment=self.environment or "", **ids)

    @property
    def on_old_calls(self) -> str:
        """What the calls of old engines depend on, for errors."""
        if self.environment:
            return f"for the connection's environment {self.environment!r}, which may be the wrong one"
        return "for which the connection needs the field environment"


#: The variant that each engine was found to have, shared by all clients of this process.
known_variants: dict[Engine, StartVariant] = {}


def variants_to_try(engine: Engine, *, any_kind: bool) -> list[StartVariant]:
    """Return the start calls to try; the one that worked before comes first."""
    known = known_variants.get(engine)
    usable = [
        variant
        for variant in START_VARIANTS
        if (variant.sends_kind or any_kind) and (engine.environment or "{environment}" not in variant.call.path)
    ]
    return sorted(usable, key=lambda variant: variant is not known)


def start_request(
    variant: StartVariant, engine: Engine, ref: ModelRef, headers: Mapping[str, str], *, is_full_build: bool
) -> Request:
    """Return the POST of a variant of the start call."""
    params = {variant.cube_param: ref.model_id}
    if variant.sends_kind:
        params["isFullBuild"] = "true" if is_full_build else "false"
    url = engine.url_of(variant.call, project=ref.catalog_id)
    return Request(variant.call.method, url, params, {**ACCEPT_JSON, **headers}, repeatable=False)


def no_start_error(
    engine: Engine,
    ref: ModelRef,
    answers: Sequence[str],
    versions: Sequence[Version] | None,
    *,
    needs_kind: bool,
) -> AtScaleError:
    """
    Return the error if every variant was answered with 404: the engine lacks the cube, or the call.

    :param versions: The published projects; None if they cannot be listed.
    :param needs_kind: Whether only variants that say the kind of build were tried.
    """
    said = "; ".join(answers)
    if versions is not None and not is_published(ref, versions):
        of_draft = [each.id for each in latest_versions(versions) if each.draft_id == ref.catalog_id]
        hint = f" It is the id of a draft; published it is {' or '.join(of_draft)}." if of_draft else ""
        return AtScaleNotFoundError(
            f"AtScale cannot build {ref}: {said}. The engine lists no cube {ref.model_id} in a published "
            f"project {ref.catalog_id}.{hint} {WHERE_IDS_ARE}.",
            404,
        )
    if needs_kind:
        check_ids = "" if versions else f" Check engine_url (port 10502) and the ids, too. {WHERE_IDS_ARE}."
        return AtScaleConfigurationError(
            f"No incremental build of {ref} was started: {said}. So this engine seems not to have the call "
            "that says which kind of build is wanted. Older calls leave the choice between full and "
            "incremental to the engine; set engine_choice to true in the connection to accept that (old "
            f"engines also need an environment: {engine.on_old_calls}).{check_ids}"
        )
    return AtScaleNotFoundError(
        f"AtScale cannot build {ref}: {said}. Check that engine_url of the connection is the engine (port "
        f"10502), and check the ids. {WHERE_IDS_ARE}. An old engine has calls of its "
        f"own, {engine.on_old_calls}.",
        404,
    )
