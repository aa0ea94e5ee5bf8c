"""
Decide, from what an earlier try has stored, whether there is a build to go on with.

What is guaranteed, and where
-----------------------------

AtScale starts a batch with a call that cannot be repeated safely, and no key makes it so. Airflow may end a
task's process at any point and run the task again. So before every start the operator writes its *intent*
into Airflow's task state store, and right after the start the batch's id:

================================  ========================================================================
the process died                  the next try
================================  ========================================================================
before the intent was written     finds nothing: builds
between intent and start          finds an intent without id: looks into the build history for a batch of
                                  the model and kind that is newer than the intent, finds none: builds
between start and id              the same, and finds exactly one: adopts it
while it waited                   finds the id: attaches to the batch
after the batch was judged        done: succeeds without a build; failed: builds
after the batch went missing      looks once more: attaches to it if it is listed by then, else builds
================================  ========================================================================

The intent is also a fence. When a worker is killed, the process of its task can live on beside the next try;
but it writes through the worker, so its write fails, and without an intent it never starts a build.

*A clear means "build again".* Clearing a task raises its ``max_tries``, and any clear raises the run's
``clear_number``; both are part of the identity of what is stored, so the batch of before is then a batch like
any other: if it still runs, ``on_running`` decides. Clearing another task of the same run counts too: it can
cost one build more, never a stale success.

What cannot be guaranteed
-------------------------

- Airflow before 3.3 has no task state store: a retry cannot know its own batch. It meets it as a running
  batch, so ``on_running="wait"`` and ``"attach"`` both avoid a second build *at the same time*.
- Where the build history may not be read, there is nothing to look into: after a lost reply a retry builds
  once AtScale accepts it.
- AtScale may answer 500 and have made the batch all the same. It then looks like somebody else's, and
  ``on_running`` decides: ``wait`` waits for it and builds once more, one after the other.
- A batch that somebody else started in the same seconds, of the same model and kind, cannot be told from
  ours. It began after this task's data was loaded, so adopting it is not wrong; two such batches are an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_atscale.api.values import is_number, iso, parse_time

if TYPE_CHECKING:
    from airflow_provider_atscale.api.models import Batch, History

KEY = "atscale_build"
VERSION = 1

#: How the stored batch was judged, as far as it was.
DONE, FAILED, REFUSED, LOST = "done", "failed", "refused", "lost"
_OUTCOMES = (DONE, FAILED, REFUSED, LOST)
#: Why a batch with an outcome that is not good is not gone on with.
_ENDS = {
    FAILED: "the batch of an earlier try failed",
    REFUSED: "an earlier try started none",
    LOST: "the batch of an earlier try was not in the build history",
}

#: The ``Date`` header knows only whole seconds.
_GRAIN = timedelta(seconds=1)


class Store(Protocol):
    """Airflow's task state store, as far as it is used."""

    def get(self, key: str) -> Any:
        """Return what is stored."""
        ...

    def set(self, key: str, value: Any) -> None:
        """Store a value."""
        ...


@dataclass(frozen=True, slots=True)
class BuildKey:
    """
    What makes a stored build this task's own.

    :param server: Address of the AtScale server.
    :param catalog_id: Id of the catalog.
    :param model_id: Id of the model.
    :param is_full_build: The kind.
    :param map_index: Which of the mapped siblings it is.
    :param max_tries: Tries that Airflow grants; a clear raises it.
    :param clear_number: How often anything of the run was cleared.
    """

    server: str
    catalog_id: str
    model_id: str
    is_full_build: bool
    map_index: int
    max_tries: int
    clear_number: int

    def to_json(self) -> dict[str, Any]:
        """Return the identity as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class StartIntent:
    """
    "I am about to start a build."

    :param at: Epoch seconds by the worker's clock.
    :param server_time: The server's clock at the read of the history before the start, where it was read.
    :param known: Ids of the batches that the history listed then.
    :param ran: Whether one of them was running, or may have been because no history could be read.
    :param sends_kind: Whether the start tells the engine which kind to build; else the engine chooses it.
    """

    at: float
    server_time: datetime | None = None
    known: frozenset[str] = frozenset()
    had_running: bool = False
    sends_kind: bool = True

    @classmethod
    def after(cls, history: History | None, at: float) -> StartIntent:
        """
        Return the intent that follows a read of the history.

        :param history: What was read, None where nothing could be.
        :param at: Epoch seconds by the worker's clock.
        """
        if history is None:
            # Without it every old batch would look like a new one.
            return cls(at, had_running=True)
        known = frozenset(batch.id for batch in history.batches if cls._may_be_taken_for_new(batch, history))
        return cls(at, history.server_time, known, bool(history.running))

    @staticmethod
    def _may_be_taken_for_new(batch: Batch, history: History) -> bool:
        """Whether a batch's id must be remembered, for its time alone may not tell that it is older."""
        if batch.created is None or history.server_time is None:
            return True
        return batch.created >= history.server_time - timedelta(hours=1)

    def candidates(self, history: History, *, is_full_build: bool) -> tuple[Batch, ...]:
        """
        Return the batches that may be the one that was started: of the kind, and new since the intent.

        :param history: What the history says now.
        :param is_full_build: The kind that was asked for.
        """
        return tuple(
            batch
            for batch in history.batches
            if batch.id not in self.known
            and (not self.sends_kind or batch.is_full_build in (None, is_full_build))
            and self._is_new(batch)
        )

    def _is_new(self, batch: Batch) -> bool:
        if batch.created is None or self.server_time is None:
            return True
        return batch.created >= self.server_time - _GRAIN

    def to_json(self) -> dict[str, Any]:
        """Return the intent as JSON values."""
        return {
            "at": self.at,
            "server_time": iso(self.server_time),
            "known": sorted(self.known),
            "ran": self.had_running,
            "sends_kind": self.sends_kind,
        }


@dataclass(frozen=True, slots=True)
class StoredBuild:
    """
    What is stored of a build.

    :param identity: Whose it is.
    :param intent: When it was meant to start.
    :param batch_id: The batch, once AtScale told its id.
    :param start: How the task came to the batch: started, attached or adopted.
    :param outcome: How the batch was judged, once it was.
    """

    identity: Mapping[str, Any]
    intent: StartIntent
    batch_id: str | None = None
    start: str = "started"
    outcome: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the entry as JSON values."""
        return {
            "version": VERSION,
            "identity": dict(self.identity),
            "intent": self.intent.to_json(),
            "batch_id": self.batch_id,
            "start": self.start,
            "outcome": self.outcome,
        }


def parse_stored_build(value: Any) -> StoredBuild | None:
    """Return the entry that a stored value is, None where it is none."""
    if not isinstance(value, Mapping) or value.get("version") != VERSION:
        return None
    identity, intent = value.get("identity"), value.get("intent")
    batch_id, outcome, start = value.get("batch_id"), value.get("outcome"), value.get("start")
    if not isinstance(identity, Mapping) or not isinstance(intent, Mapping):
        return None
    at, known = intent.get("at"), intent.get("known")
    if not is_number(at) or not isinstance(known, list):
        return None
    if not (batch_id is None or (isinstance(batch_id, str) and batch_id)):
        return None
    if outcome not in (None, *_OUTCOMES) or not isinstance(start, str):
        return None
    if outcome == DONE and batch_id is None:
        return None
    server_time = intent.get("server_time")
    return StoredBuild(
        identity,
        StartIntent(
            float(at),
            parse_time(server_time) if isinstance(server_time, str) else None,
            frozenset(str(each) for each in known),
            intent.get("ran") is not False,
            intent.get("sends_kind") is not False,
        ),
        batch_id,
        start,
        outcome,
    )


# --- the decision -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartNew:
    """
    Nothing to go on with: build.

    :param reason: Why something stored is not used; None where nothing was stored.
    :param cleared: Whether somebody cleared the task, which means "build again".
    """

    reason: str | None = None
    cleared: bool = False


@dataclass(frozen=True, slots=True)
class Reattach:
    """An earlier try started this batch: go on waiting for it."""

    entry: StoredBuild


@dataclass(frozen=True, slots=True)
class AlreadyDone:
    """An earlier try saw its batch done and judged it good: nothing is left to build."""

    entry: StoredBuild


@dataclass(frozen=True, slots=True)
class SearchHistory:
    """An earlier try may have started a batch whose id was lost: look into the history."""

    entry: StoredBuild


Decision = StartNew | Reattach | AlreadyDone | SearchHistory

_CLEARED = ("max_tries", "clear_number")


def decide(stored: Any, identity: BuildKey) -> Decision:
    """
    Decide how to go on from what is stored.

    :param stored: The stored value; None where there is none.
    :param identity: Who asks.
    """
    if stored is None:
        return StartNew()
    entry = parse_stored_build(stored)
    if entry is None:
        return StartNew("the stored state of an earlier try is not understood")
    mine = identity.to_json()
    other = [name for name in mine if entry.identity.get(name) != mine[name]]
    if any(name not in _CLEARED for name in other):
        changed = ", ".join(name for name in other if name not in _CLEARED)
        return StartNew(f"an earlier try built something else ({changed} differs)")
    if other:
        return StartNew("the task was cleared, which means: build again", cleared=True)
    if entry.outcome == DONE:
        return AlreadyDone(entry)
    if entry.outcome == LOST and entry.batch_id is not None:
        return Reattach(entry)
    if entry.outcome is not None:
        return StartNew(_ENDS[entry.outcome])
    if entry.batch_id is not None:
        return Reattach(entry)
    return SearchHistory(entry)


class BuildStateStore:
    """
    The stored state of one task instance.

    :param store: Airflow's task state store; None on Airflow before 3.3, where nothing is remembered.
    :param identity: Whose state it is.
    """

    def __init__(self, store: Store | None, identity: BuildKey) -> None:
        self._store = store
        self._identity = identity
        self._entry: StoredBuild | None = None

    @property
    def is_persistent(self) -> bool:
        """Whether anything is remembered from try to try."""
        return self._store is not None

    def load(self) -> Decision:
        """Decide how to go on from what an earlier try has stored."""
        if self._store is None:
            return StartNew()
        decision = decide(self._store.get(KEY), self._identity)
        self._entry = None if isinstance(decision, StartNew) else decision.entry
        return decision

    def store_intent(self, intent: StartIntent) -> None:
        """Store the intent; where that fails the error is raised, and nothing may be started."""
        self._write(StoredBuild(self._identity.to_json(), intent))

    def store_batch(self, batch_id: str, start: str, intent: StartIntent) -> None:
        """Store the batch's id; where that fails the error is raised."""
        self._write(StoredBuild(self._identity.to_json(), intent, batch_id, start))

    def store_outcome(self, outcome: str, batch_id: str | None = None) -> None:
        """Stamp the entry with how the batch ended; where that fails the error is raised."""
        if self._store is None:
            return
        entry = self._entry or parse_stored_build(self._store.get(KEY))
        if entry is None or dict(entry.identity) != self._identity.to_json():
            return
        if batch_id is not None and entry.batch_id not in (None, batch_id):
            return
        # Where only the intent could be stored after the start, the id comes now.
        self._write(replace(entry, batch_id=entry.batch_id or batch_id, outcome=outcome))

    def _write(self, entry: StoredBuild) -> None:
        if self._store is not None:
            self._store.set(KEY, entry.to_json())
            self._entry = entry
