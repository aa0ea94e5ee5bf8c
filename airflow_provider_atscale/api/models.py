"""
Models, batches and aggregate instances: what AtScale tells about them, parsed once and typed after that.

Parsing is forgiving if a value only informs (a time that cannot be read is "no time"). It is strict if a
decision depends on it: an id that is missing, null or of a wrong type is an error, never a default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import Any

from airflow_provider_atscale.api.values import EPOCH, flag_of, id_of, iso, number_of, text_of, time_of


class Phase(Enum):
    """What a status means to a wait."""

    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    #: A later build has replaced the result, so the outcome cannot be told.
    SUPERSEDED = "superseded"
    UNKNOWN = "unknown"


#: Our own status, not AtScale's, of a batch that is judged by its instances if all of them are deleted.
ALL_DELETED = "all aggregates deleted"

#: What AtScale's status words mean, except those that mean another thing on a batch than on an instance.
_PHASES = {
    "done": Phase.SUCCEEDED,
    "success": Phase.SUCCEEDED,
    "failed": Phase.FAILED,
    "error": Phase.FAILED,
    "cancelled": Phase.FAILED,
    "invalid": Phase.FAILED,
    "unreliable": Phase.FAILED,
    "new": Phase.WAITING,
    "pending": Phase.WAITING,
    "inprogress": Phase.WAITING,
    "running": Phase.WAITING,
}


@lru_cache(maxsize=64)
def normalize_status(word: str) -> str:
    """Return a status word without case and separators: ``In_Progress`` is ``inprogress``."""
    return re.sub(r"[\s_-]+", "", word).lower()


#: On a batch, ``active`` was never seen: it is an unknown word.
_BATCH_PHASES = {**_PHASES, "deleted": Phase.FAILED, normalize_status(ALL_DELETED): Phase.SUPERSEDED}
#: An instance is ``active`` while it serves queries, and ``deleted`` after a later build has replaced it.
_INSTANCE_PHASES = {**_PHASES, "active": Phase.SUCCEEDED, "deleted": Phase.SUPERSEDED}


def batch_phase(word: str) -> Phase:
    """Return what a batch's status word means."""
    return _BATCH_PHASES.get(normalize_status(word), Phase.UNKNOWN)


def instance_phase(word: str) -> Phase:
    """Return what an aggregate instance's status word means."""
    return _INSTANCE_PHASES.get(normalize_status(word), Phase.UNKNOWN)


def kind_of(is_full_build: bool | None) -> str:
    """
    Return ``full``, ``incremental``, or ``build`` if the kind is not known.

    ``incremental`` stands for ``isFullBuild=false``. AtScale's API calls that an incremental build, its Design
    Center a *standard* one: AtScale chooses for each aggregate whether to add to it or to rebuild it, and
    the first build of an aggregate is always full.
    """
    if is_full_build is None:
        return "build"
    return "full" if is_full_build else "incremental"


@dataclass(frozen=True, slots=True)
class ModelRef:
    """
    A deployed model; on the installer edition a cube of a published project.

    :param catalog: What people call the catalog: its caption, its name, or else its id.
    """

    catalog_id: str
    model_id: str
    catalog: str
    model: str

    def __str__(self) -> str:
        return f"model {self.model!r} of catalog {self.catalog!r}"

    @property
    def label(self) -> str:
        """Model and catalog in few characters, for the beginning of a line."""
        return f"{self.model} ({self.catalog})" if self.model else f"a model of {self.catalog}"


@dataclass(frozen=True, slots=True)
class Batch:
    """
    One run of "build all aggregates of a model".

    :param is_full_build: Whether everything is rebuilt; None if the server does not say.
    :param batch_type: ``aggregate_batch`` for a rebuild.
    :param created: When the server accepted it.
    :param estimate_ms: AtScale's estimate, in milliseconds as AtScale's own tools read it.
    :param progress: Per cent done, if the server says.
    :param instances: Its instances, if it was judged by them because no history could be read.
    """

    id: str
    status: str
    is_full_build: bool | None = None
    batch_type: str | None = None
    created: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    estimate_ms: float | None = None
    progress: float | None = None
    instances: tuple[AggregateInstance, ...] | None = None

    @property
    def phase(self) -> Phase:
        """What the status means."""
        return batch_phase(self.status)

    @property
    def is_rebuild(self) -> bool:
        """Whether it rebuilds aggregates, unlike the batches that create pending new ones."""
        return normalize_status(self.batch_type or "") in ("", "aggregatebatch")

    @property
    def is_running(self) -> bool:
        """Whether it has not ended; a batch in an unknown status counts as running."""
        return self.phase in (Phase.WAITING, Phase.UNKNOWN)

    @property
    def blocks_new_build(self) -> bool:
        """Whether a build of the same model must wait for it."""
        # A batch that ended in a status that is unknown to us must not block its model for ever.
        return self.phase is Phase.WAITING or (self.phase is Phase.UNKNOWN and self.ended is None)

    @property
    def kind(self) -> str:
        """``full``, ``incremental``, or ``build`` if the server does not say."""
        return kind_of(self.is_full_build)

    @property
    def began(self) -> datetime | None:
        """When it began to build, or else when the server accepted it; None if the server says neither."""
        return self.started or self.created

    @property
    def seconds(self) -> float | None:
        """How long it took, by the server's clock."""
        if self.began is None or self.ended is None:
            return None
        return max((self.ended - self.began).total_seconds(), 0.0)


@dataclass(frozen=True, slots=True)
class AggregateInstance:
    """
    One attempt of a batch to build an aggregate table.

    :param definition_id: The aggregate that it is an attempt of, if the server says.
    :param query_id: AtScale's id of the query that built it, as in its log of queries.
    :param ended: When it was built or failed.
    """

    id: str
    status: str
    message: str | None = None
    batch_id: str | None = None
    table_name: str | None = None
    table_schema: str | None = None
    rows: int | None = None
    catalog_id: str | None = None
    model_id: str | None = None
    definition_id: str | None = None
    query_id: str | None = None
    ended: datetime | None = None

    @property
    def phase(self) -> Phase:
        """What the status means."""
        return instance_phase(self.status)

    @property
    def label(self) -> str:
        """What people call it."""
        if not self.table_name:
            return self.id
        return f"{self.table_schema}.{self.table_name}" if self.table_schema else self.table_name


class Instances(tuple[AggregateInstance, ...]):
    """The instances that a server lists of a batch or model; ``is_truncated`` if there may be more of them."""

    is_truncated = False

    @classmethod
    def of(cls, rows: Sequence[AggregateInstance], *, is_truncated: bool) -> Instances:
        """Return the rows as such a list."""
        listed = cls(rows)
        listed.is_truncated = is_truncated and bool(rows)
        return listed


@dataclass(frozen=True, slots=True)
class HistoryUnavailable:
    """The server does not let a build history be read."""

    reason: str
    status: int

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True)
class History:
    """
    A model's batches as one read of the server showed them.

    :param batches: The rebuilds of the model.
    :param server_time: The server's clock at that read.
    """

    batches: tuple[Batch, ...]
    server_time: datetime | None = None

    @property
    def running(self) -> tuple[Batch, ...]:
        """The batches that a new build must wait for."""
        return tuple(batch for batch in self.batches if batch.blocks_new_build)

    @property
    def newest(self) -> Batch | None:
        """The batch that was created last."""
        # AtScale does not promise an order, so the times decide if all rows have one.
        if self.batches and all(batch.created for batch in self.batches):
            return max(self.batches, key=lambda batch: batch.created or EPOCH)
        return self.batches[0] if self.batches else None

    @property
    def newest_first(self) -> list[Batch]:
        """The batches by the time of their creation; those without one come last."""
        return sorted(self.batches, key=lambda batch: batch.created or EPOCH, reverse=True)


def parse_batch(row: Any) -> Batch | None:
    """Return the batch that a row describes; None if it has no id or no status."""
    if not isinstance(row, Mapping):
        return None
    batch_id = id_of(row)
    status = text_of(row, "status")
    if batch_id is None or status is None:
        return None
    return Batch(
        id=batch_id,
        status=status,
        is_full_build=flag_of(row, "isFullBuild", "is_full_build"),
        batch_type=text_of(row, "batchType", "batch_type"),
        created=time_of(row, "createDate", "create_date"),
        started=time_of(row, "startTime", "start_time"),
        ended=time_of(row, "endTime", "end_time"),
        estimate_ms=number_of(row, "estimateTime", "estimate_time"),
        progress=number_of(row, "progressPercentage"),
    )


def parse_instance(row: Any) -> AggregateInstance | None:
    """Return the instance that a row describes; None if it has no id or no status."""
    if not isinstance(row, Mapping):
        return None
    instance_id = id_of(row)
    status = text_of(row, "status")
    if instance_id is None or status is None:
        return None
    stats = row.get("stats")
    if not isinstance(stats, Mapping):
        stats = {}
    rows = number_of(stats, "numberOfRows", "number_of_rows")
    return AggregateInstance(
        id=instance_id,
        status=status,
        message=text_of(row, "message"),
        batch_id=text_of(row, "batchId", "batch_id"),
        table_name=text_of(row, "tableName", "table_name"),
        table_schema=text_of(row, "tableSchema", "table_schema"),
        rows=None if rows is None else int(rows),
        catalog_id=text_of(row, "catalogId", "catalog_id", "projectId", "project_id"),
        model_id=text_of(row, "modelId", "model_id", "cubeId", "cube_id"),
        definition_id=text_of(row, "definitionId", "definition_id"),
        query_id=text_of(row, "buildQueryId", "build_query_id"),
        ended=time_of(stats, "materializationEndTime", "materialization_end_time"),
    )


@dataclass(frozen=True, slots=True)
class AggregateSummary:
    """
    What became of the aggregates of a batch.

    :param total: How many aggregates the instances belong to.
    :param missing: Of each aggregate that failed in every attempt, the last attempt.
    :param repaired: The failed attempts at aggregates that another attempt has built.
    :param superseded: How many aggregates have only deleted instances: a later build has replaced them.
    """

    total: int
    built: int
    missing: tuple[AggregateInstance, ...] = ()
    repaired: tuple[AggregateInstance, ...] = ()
    superseded: int = 0

    @property
    def repaired_attempts(self) -> int:
        """How many attempts failed and were repaired by another one."""
        return len(self.repaired)


def attempts_of(instances: Sequence[AggregateInstance]) -> list[list[AggregateInstance]]:
    """Group instances by the aggregate that they belong to; one without definition is an aggregate of its own."""
    attempts: dict[tuple[str, str], list[AggregateInstance]] = {}
    for each in instances:
        key = ("definition", each.definition_id) if each.definition_id else ("instance", each.id)
        attempts.setdefault(key, []).append(each)
    return list(attempts.values())


def aggregates_of(instances: Sequence[AggregateInstance]) -> AggregateSummary:
    """
    Judge the aggregates of a batch by its instances.

    AtScale tries to build an aggregate up to three times in a batch. So all instances of one definition are
    attempts at the same aggregate, and it is missing only if none of them ended well. An instance without
    definition counts as an aggregate of its own, and a deleted one is neither good nor bad.
    """
    attempts = attempts_of(instances)
    built = superseded = 0
    missing: list[AggregateInstance] = []
    repaired: list[AggregateInstance] = []
    for group in attempts:
        failed = [each for each in group if each.phase is Phase.FAILED]
        if any(each.phase is Phase.SUCCEEDED for each in group):
            built += 1
            repaired += failed
        elif failed:
            missing.append(failed[-1])
        elif all(each.phase is Phase.SUPERSEDED for each in group):
            superseded += 1
    return AggregateSummary(len(attempts), built, tuple(missing), tuple(repaired), superseded)


def instances_as_batch(batch_id: str, instances: Sequence[AggregateInstance]) -> Batch | None:
    """
    Return the batch as its instances show it; None if there are none yet.

    This is less reliable than the history: a batch that has listed only its first instances can look as if it
    had ended. So the wait policy must see such an end twice. Deleted instances tell nothing; if there are no
    others, the status is :data:`ALL_DELETED`.
    """
    if not instances:
        return None
    telling = [each for each in instances if each.phase is not Phase.SUPERSEDED]
    phases = {each.phase for each in telling}
    if not telling:
        status = ALL_DELETED
    elif Phase.WAITING in phases:
        status = "inprogress"
    elif Phase.UNKNOWN in phases:
        status = next(each.status for each in telling if each.phase is Phase.UNKNOWN)
    elif any(normalize_status(each.status) == "cancelled" for each in telling):
        # AtScale cancels a batch, never one aggregate of it.
        status = "cancelled"
    else:
        status = "done" if Phase.SUCCEEDED in phases else "failed"
    return Batch(id=batch_id, status=status, instances=tuple(instances))


def batch_to_json(batch: Batch) -> dict[str, Any]:
    """Return a batch as JSON values, for a trigger's event."""
    return {
        "id": batch.id,
        "status": batch.status,
        "isFullBuild": batch.is_full_build,
        "batchType": batch.batch_type,
        "createDate": iso(batch.created),
        "startTime": iso(batch.started),
        "endTime": iso(batch.ended),
        "estimateTime": batch.estimate_ms,
        "progressPercentage": batch.progress,
    }
