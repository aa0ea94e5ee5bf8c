"""
What AtScale tells about models, batches and aggregate instances: parsed once, typed after that.

Parsing is forgiving where a value only informs (a time that cannot be read is "no time") and strict where
a decision hangs on it: an id that is missing, null or of a wrong type is an error, never a default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from airflow_provider_atscale.api.values import flag_of, id_of, iso, number_of, text_of, time_of


class Phase(Enum):
    """What a batch's status means for somebody who waits for it."""

    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"


#: AtScale's 13 status words. ``active`` is the good end of an *instance*; on a batch it was never seen, so a
#: batch that claims it is not yet done.
_BATCH_PHASES = {
    "done": Phase.SUCCEEDED,
    "success": Phase.SUCCEEDED,
    "failed": Phase.FAILED,
    "error": Phase.FAILED,
    "cancelled": Phase.FAILED,
    "invalid": Phase.FAILED,
    "unreliable": Phase.FAILED,
    "deleted": Phase.FAILED,
    "new": Phase.WAITING,
    "pending": Phase.WAITING,
    "inprogress": Phase.WAITING,
    "running": Phase.WAITING,
    "active": Phase.WAITING,
}


_INSTANCE_PHASES = {**_BATCH_PHASES, "active": Phase.SUCCEEDED}


#: Words of a batch that is at work beyond doubt.
_AT_WORK = ("new", "pending", "inprogress", "running")


def normalize_status(word: str) -> str:
    """Return a status word without case and separators: ``In_Progress`` is ``inprogress``."""
    return re.sub(r"[\s_-]+", "", word).lower()


def batch_phase(word: str) -> Phase:
    """Return what a batch's status word means; the one place that decides it."""
    return _BATCH_PHASES.get(normalize_status(word), Phase.UNKNOWN)


def instance_phase(word: str) -> Phase:
    """Return what an aggregate instance's status word means."""
    return _INSTANCE_PHASES.get(normalize_status(word), Phase.UNKNOWN)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """
    A deployed model; on the installer edition a cube of a published project.

    :param catalog_id: Id of the catalog (project).
    :param model_id: Id of the model (cube).
    :param catalog: What people call the catalog: its caption, its name, or its id where nothing else is known.
    :param model: What people call the model.
    """

    catalog_id: str
    model_id: str
    catalog: str
    model: str

    def __str__(self) -> str:
        return f"model {self.model!r} of catalog {self.catalog!r}"


@dataclass(frozen=True, slots=True)
class Batch:
    """
    One run of "build all aggregates of a model".

    :param id: AtScale's id of the batch.
    :param status: AtScale's own word.
    :param is_full_build: Whether everything is built anew; None where the server does not say.
    :param batch_type: ``aggregate_batch`` for a rebuild.
    :param created: When the server accepted it.
    :param started: When it began to build.
    :param ended: When it ended.
    :param estimate_ms: AtScale's estimate, in milliseconds as AtScale's own tools read it.
    :param progress: Per cent done, where the server says.
    :param instances: Where the batch was judged by its instances because no history could be read: those.
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
        """Whether it has not ended; a status that nobody knows counts as running."""
        return self.phase in (Phase.WAITING, Phase.UNKNOWN)

    @property
    def blocks_new_build(self) -> bool:
        """Whether a build of the same model must wait for it."""
        # An old batch in a status that is new to us, or odd, must not block its model for ever.
        return self.is_running and (self.ended is None or normalize_status(self.status) in _AT_WORK)

    @property
    def kind(self) -> str:
        """``full``, ``incremental`` or ``build`` where the server does not say."""
        return kind_of(self.is_full_build)

    @property
    def seconds(self) -> float | None:
        """How long it took, by the server's clock."""
        begin = self.started or self.created
        if begin is None or self.ended is None:
            return None
        return max((self.ended - begin).total_seconds(), 0.0)


@dataclass(frozen=True, slots=True)
class AggregateInstance:
    """
    One aggregate table that a batch built, or should have.

    :param id: AtScale's id of the instance.
    :param status: AtScale's own word.
    :param message: Why it is in that status.
    :param batch_id: The batch that it belongs to, where the server says.
    :param table_name: Name of the table.
    :param table_schema: Schema of the table.
    :param rows: Rows in it.
    :param build_ms: How long it took, in milliseconds.
    :param catalog_id: Catalog that it belongs to.
    :param model_id: Model that it belongs to.
    """

    id: str
    status: str
    message: str | None = None
    batch_id: str | None = None
    table_name: str | None = None
    table_schema: str | None = None
    rows: int | None = None
    build_ms: float | None = None
    catalog_id: str | None = None
    model_id: str | None = None

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
    """The aggregates that a server lists of a batch, and whether these may not be all."""

    is_truncated = False

    @classmethod
    def of(cls, rows: Sequence[AggregateInstance], *, is_truncated: bool) -> Instances:
        """Return the rows with what is known of the list."""
        listed = cls(rows)
        listed.is_truncated = is_truncated and bool(rows)
        return listed


@dataclass(frozen=True, slots=True)
class HistoryUnavailable:
    """
    The server does not let a build history be read.

    :param reason: Why, with the server's words.
    :param status: HTTP status of its answer.
    """

    reason: str
    status: int

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True)
class History:
    """
    A model's batches as one read of the server showed them, newest first.

    :param batches: The rebuilds of the model.
    :param server_time: The server's clock at that read.
    """

    batches: tuple[Batch, ...]
    server_time: datetime | None = None

    @property
    def running(self) -> tuple[Batch, ...]:
        """The batches that have not ended, as far as that can be told."""
        return tuple(batch for batch in self.batches if batch.blocks_new_build)

    @property
    def newest(self) -> Batch | None:
        """The batch that was created last."""
        # Newest first was never promised, so times decide where all rows have them.
        if self.batches and all(batch.created for batch in self.batches):
            return max(self.batches, key=lambda batch: batch.created or _EPOCH)
        return self.batches[0] if self.batches else None


_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def kind_of(is_full_build: bool | None) -> str:
    """Return the field's word for a kind of build."""
    if is_full_build is None:
        return "build"
    return "full" if is_full_build else "incremental"


def parse_batch(row: Any) -> Batch | None:
    """Return the batch that a row describes, None where it has no id or no status."""
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
    """Return the instance that a row describes, None where it has no id or no status."""
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
        build_ms=number_of(stats, "buildDuration", "build_duration"),
        catalog_id=text_of(row, "catalogId", "catalog_id", "projectId", "project_id"),
        model_id=text_of(row, "modelId", "model_id", "cubeId", "cube_id"),
    )


def instances_as_batch(batch_id: str, instances: Sequence[AggregateInstance]) -> Batch | None:
    """
    Return the batch as its instances show it, None where there are none yet.

    Second best: a batch that has only begun to list its instances looks like one that has ended, which is
    why the watch wants to see such an end twice.
    """
    if not instances:
        return None
    phases = {instance.phase for instance in instances}
    if Phase.WAITING in phases:
        status = "inprogress"
    elif Phase.UNKNOWN in phases:
        status = next(instance.status for instance in instances if instance.phase is Phase.UNKNOWN)
    elif any(normalize_status(instance.status) == "cancelled" for instance in instances):
        # Only a batch is cancelled, never one of its aggregates; those built before that are not the batch.
        status = "cancelled"
    elif Phase.SUCCEEDED in phases:
        status = "done"
    else:
        status = "failed"
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
