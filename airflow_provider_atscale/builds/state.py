"""
What a retry knows of the build that an earlier try has started.

What is guaranteed
------------------

AtScale's start call is not safe to repeat, and no key makes it so. Airflow may end a task's process at any point
and run the task again. So before every start the operator stores its *intent* in Airflow's task state store, and
right after the start the batch's id:

================================  ========================================================================
the process died                  the next try
================================  ========================================================================
before the intent was stored      finds nothing: starts a build
between intent and start          finds an intent without id: searches the build history for a batch of
                                  the model and kind that is newer than the intent, finds none: starts one
between start and id              the same, and finds exactly one: adopts it
during the wait                   finds the id: attaches to the batch
after the batch was judged        done: succeeds without a build; failed: starts a build
after the batch went missing      reads once more: attaches if it is listed by then, else starts a build
================================  ========================================================================

The intent is also a fence. If a worker is killed, the process of its task can live on beside the next try. It
writes through the worker, so its write fails, and without a stored intent it never starts a build.

*A clear means "build again".* Clearing a task raises its ``max_tries``, and any clear raises the run's
``clear_number``; both are part of the key, so the earlier batch is then a running batch like any other, and
``on_running`` decides. Clearing another task of the run counts too: it can cost one extra build, never a stale
success. A clear of a *running* task by API with ``reset_dag_runs: false`` raises neither: it is like a retry.

*When the task began* is stored at its first look, for ``on_running="join"``: a retry joins what began after the
first try did, and nothing that has failed for this task. A clear moves that moment forward, because its key differs.

What is not guaranteed
----------------------

- Airflow before 3.3 has no task state store: a retry cannot know its own batch, and treats it as a running batch.
  ``on_running="join"``, ``"wait"`` and ``"attach"`` all avoid two builds *at the same time*. With ``join`` the
  first look of each try counts, so a retry waits for what ran before it.
- Without permission to read the build history there is nothing to search: after a lost reply a retry starts a build
  once AtScale accepts it.
- AtScale may answer 500 although it has made the batch. It then counts as another one's batch, and
  ``on_running`` decides: ``wait`` waits for it and builds once more, one after the other.
- A batch that somebody else started in the same seconds, of the same model and kind, looks like this task's. It
  began after this task's data was loaded, so adopting it is not wrong, unless it lacks this task's
  ``grace_period_overrides``, which AtScale does not tell. Two such batches are an error; with ``join``, one that
  certainly began after this task is joined, and this task's batch may run without a task that waits for it. If none
  certainly did, the task waits for those that run, and it or its retry builds once more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_atscale.api.values import DATE_PRECISION, is_number, iso, parse_time
from airflow_provider_atscale.builds.join import FirstLook, ids_to_remember, parse_first_look

if TYPE_CHECKING:
    from airflow_provider_atscale.api.models import Batch, History

KEY = "atscale_build"
LOOK_KEY = "atscale_first_look"
VERSION = 1

#: How the stored batch was judged.
DONE, FAILED, REFUSED, LOST = "done", "failed", "refused", "lost"
_OUTCOMES = (DONE, FAILED, REFUSED, LOST)
#: Why a batch with such an outcome is not used again.
_REASONS = {
    FAILED: "the batch of an earlier try failed",
    REFUSED: "AtScale refused the start of an earlier try",
    LOST: "the batch of an earlier try was not in the build history",
}


class _Store(Protocol):
    """The methods of Airflow's task state store that are used."""

    def get(self, key: str) -> Any: ...

    def set(self, key: str, value: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class BuildKey:
    """
    Identify the task and the build that a stored state belongs to.

    :param max_tries: Tries that Airflow grants; a clear raises it.
    :param clear_number: How often tasks of the run were cleared.
    """

    # on_running is no part of it: it says how a batch is obtained, not what the batch builds. If it has changed, a
    # retry still continues with the batch, unless the earlier try attached to it: see BuildStarter.
    server: str
    catalog_id: str
    model_id: str
    is_full_build: bool
    map_index: int
    max_tries: int
    clear_number: int
    grace_period_overrides: Mapping[str, int | float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the key as JSON values."""
        key = {name: getattr(self, name) for name in self.__slots__}
        # An empty mapping is left out: earlier versions stored keys without it.
        overrides = dict(key.pop("grace_period_overrides"))
        return {**key, "grace_period_overrides": overrides} if overrides else key


@dataclass(frozen=True, slots=True)
class StartIntent:
    """
    Record that a build is about to be started.

    :param at: Epoch seconds by the worker's clock.
    :param server_time: The server's clock at the read of the history just before the start, if it was read.
    :param known: Ids of the batches that the history listed then.
    :param had_running: Whether one of them ran, or may have run because the history could not be read.
    :param sends_kind: Whether the start says which kind to build; if not, the engine chooses.
    """

    at: float
    server_time: datetime | None = None
    known: frozenset[str] = frozenset()
    had_running: bool = False
    sends_kind: bool = True

    @classmethod
    def after(cls, history: History | None, at: float) -> StartIntent:
        """Build the intent to store before the start."""
        if history is None:
            # Without it every old batch would look like a new one.
            return cls(at, had_running=True)
        return cls(at, history.server_time, ids_to_remember(history), bool(history.running))

    def candidates(self, history: History, *, is_full_build: bool) -> tuple[Batch, ...]:
        """Return the batches that may be the one that was started: of the kind, and newer than the intent."""
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
        return batch.created >= self.server_time - DATE_PRECISION

    def to_json(self) -> dict[str, Any]:
        """Return the intent as JSON values."""
        return {**asdict(self), "server_time": iso(self.server_time), "known": sorted(self.known)}


@dataclass(frozen=True, slots=True)
class StoredBuild:
    """A build as it is stored."""

    key: Mapping[str, Any]
    intent: StartIntent
    batch_id: str | None = None
    origin: str = "started"
    outcome: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the build as JSON values; what people look for comes first, and ``status`` is for them alone."""
        return {
            "status": self.outcome or ("started" if self.batch_id else "starting"),
            "batch_id": self.batch_id,
            "origin": self.origin,
            "outcome": self.outcome,
            "key": dict(self.key),
            "intent": self.intent.to_json(),
            "version": VERSION,
        }


def parse_stored_build(value: Any) -> StoredBuild | None:
    """Return the build that a stored value holds, None if it holds none."""
    if not isinstance(value, Mapping) or value.get("version") != VERSION:
        return None
    key, intent = value.get("key"), value.get("intent")
    batch_id, outcome, origin = value.get("batch_id"), value.get("outcome"), value.get("origin")
    if not isinstance(key, Mapping) or not isinstance(intent, Mapping):
        return None
    at, known = intent.get("at"), intent.get("known")
    if not is_number(at) or not isinstance(known, list):
        return None
    if not (batch_id is None or (isinstance(batch_id, str) and batch_id)):
        return None
    if outcome not in (None, *_OUTCOMES) or not isinstance(origin, str):
        return None
    if outcome == DONE and batch_id is None:
        return None
    server_time = intent.get("server_time")
    return StoredBuild(
        key,
        StartIntent(
            float(at),
            parse_time(server_time) if isinstance(server_time, str) else None,
            frozenset(str(each) for each in known),
            intent.get("had_running") is not False,
            intent.get("sends_kind") is not False,
        ),
        batch_id,
        origin,
        outcome,
    )


# --- the decision -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartNew:
    """
    No usable build of an earlier try: start a new one.

    :param reason: Why a stored build is not used; None if nothing was stored.
    :param cleared: Whether the task was cleared, which means "build again".
    """

    reason: str | None = None
    cleared: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Reattach:
    """An earlier try obtained this batch: wait for it."""

    build: StoredBuild


@dataclass(frozen=True, slots=True)
class AlreadyDone:
    """An earlier try judged its batch good: nothing is left to build."""

    build: StoredBuild


@dataclass(frozen=True, slots=True)
class SearchHistory:
    """An earlier try may have started a batch whose id was lost: search the history."""

    build: StoredBuild


Describe = Callable[[str | None], dict[str, Any]]
Decision = StartNew | Reattach | AlreadyDone | SearchHistory

_CLEARED = ("max_tries", "clear_number")


def decide(stored: Any, key: BuildKey) -> Decision:
    """Decide from the stored value what a try does first."""
    if stored is None:
        return StartNew()
    build = parse_stored_build(stored)
    if build is None:
        return StartNew("the stored state of an earlier try cannot be read")
    mine = key.to_json()
    other = [name for name in {**mine, **build.key} if build.key.get(name) != mine.get(name)]
    changed = [name for name in other if name not in _CLEARED]
    if changed:
        return StartNew(f"an earlier try built something else ({', '.join(changed)} differs)")
    if other:
        return StartNew("the task was cleared, which means: build again", cleared=True)
    if build.outcome == DONE:
        return AlreadyDone(build)
    if build.outcome in (None, LOST) and build.batch_id is not None:
        return Reattach(build)
    if build.outcome is not None:
        return StartNew(_REASONS[build.outcome], failed=build.outcome == FAILED)
    return SearchHistory(build)


class BuildStateStore:
    """
    Load and store the build of one task instance.

    :param store: Airflow's task state store; None on Airflow before 3.3, then nothing is stored.
    :param describe: Returns what people are shown besides, given the batch's id; nobody reads it back.
    """

    def __init__(self, store: _Store | None, key: BuildKey, describe: Describe = lambda _: {}) -> None:
        self._store = store
        self._key = key
        self._describe = describe
        self._build: StoredBuild | None = None
        #: Batches of this task that have failed, as far as this process knows.
        self.failed_ids: set[str] = set()

    @property
    def is_persistent(self) -> bool:
        """Whether the state is kept from try to try."""
        return self._store is not None

    def load(self) -> Decision:
        """Decide from the stored state what this try does first."""
        if self._store is None:
            return StartNew()
        stored = self._store.get(KEY)
        decision = decide(stored, self._key)
        self._build = None if isinstance(decision, StartNew) else decision.build
        earlier = parse_stored_build(stored)
        if earlier and earlier.outcome == FAILED and earlier.batch_id and earlier.key == self._key.to_json():
            self.failed_ids.add(earlier.batch_id)
        return decision

    def load_first_look(self) -> FirstLook | None:
        """Return when the first try of this task began; None if that is not stored, or the task was cleared."""
        stored = self._store.get(LOOK_KEY) if self._store is not None else None
        if not isinstance(stored, Mapping) or stored.get("key") != self._key.to_json():
            return None
        try:
            return parse_first_look(stored.get("look"))
        except ValueError:
            return None

    def store_first_look(self, look: FirstLook) -> None:
        """Store when the task began; raise if that fails."""
        if self._store is not None:
            self._store.set(LOOK_KEY, {"key": self._key.to_json(), "look": look.to_json()})

    def store_intent(self, intent: StartIntent) -> None:
        """Store the intent; raise if that fails, and then nothing may be started."""
        self._write(StoredBuild(self._key.to_json(), intent))

    def store_batch(self, batch_id: str, origin: str, intent: StartIntent) -> None:
        """Store the batch's id; raise if that fails."""
        self._write(StoredBuild(self._key.to_json(), intent, batch_id, origin))

    def store_outcome(self, outcome: str, batch_id: str | None = None) -> None:
        """Add the outcome to the stored build; raise if that fails."""
        if outcome == FAILED and batch_id is not None:
            self.failed_ids.add(batch_id)
        if self._store is None:
            return
        build = self._build or parse_stored_build(self._store.get(KEY))
        if build is None or dict(build.key) != self._key.to_json():
            return
        if batch_id is not None and build.batch_id not in (None, batch_id):
            return
        # If the id could not be stored right after the start, it is stored now.
        self._write(replace(build, batch_id=build.batch_id or batch_id, outcome=outcome))

    def _write(self, build: StoredBuild) -> None:
        if self._store is not None:
            self._store.set(KEY, {**self._describe(build.batch_id), **build.to_json()})
            self._build = build
