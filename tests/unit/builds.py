"""A small AtScale to build in, and a log that can be asked: real protocol values, no HTTP, no time."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.models import Batch, History, HistoryUnavailable
from airflow_provider_atscale.api.observation import ReadFailed, observe_found
from airflow_provider_atscale.api.start import LostReply, Started
from airflow_provider_atscale.builds.request import BuildRequest
from airflow_provider_atscale.builds.start import BuildStarter
from airflow_provider_atscale.builds.state import BuildKey, BuildStateStore
from airflow_provider_atscale.builds.steps import BuildContext
from airflow_provider_atscale.exceptions import AtScaleError

from .flows import CATALOG_ID, HOST, MODEL_ID, REF, Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUILD_KEY = BuildKey(HOST, CATALOG_ID, MODEL_ID, is_full_build=False, map_index=-1, max_tries=3, clear_number=0)
REQUEST = BuildRequest(is_full_build=False, on_running="wait")
JOIN = BuildRequest(is_full_build=False, on_running="join")


class Store:
    """Airflow's task state store: what it keeps has been through JSON; reads and writes fail on demand."""

    def __init__(self, **values):
        self.values = {name: json.dumps(value) for name, value in values.items()}
        self.failing = set()
        self.writes = []

    def get(self, key):
        if "get" in self.failing:
            raise ConnectionError("the store is down")
        return json.loads(self.values[key]) if key in self.values else None

    def set(self, key, value):
        if "set" in self.failing:
            raise ConnectionError("the store is down")
        self.values[key] = json.dumps(value)
        self.writes.append(value)


class Log:
    """Keep what is logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda text, *args: self.lines.append((level, text % args))

    def has(self, level: str, part: str) -> bool:
        return any(each == level and part in text for each, text in self.lines)


@dataclass
class AtScale:
    """
    One model of one server, as the hook shows it.

    :param clock: The time there and here.
    :param batches: Newest first.
    :param starts: What comes of the next starts: a function of this server, an outcome, or an error. In the
        end every start is accepted.
    :param reads: What comes of the next reads of the history, likewise: None is an answer in order.
    :param lag: Seconds until the history lists a new batch.
    """

    clock: Clock
    batches: list[Batch] = field(default_factory=list)
    starts: list[Any] = field(default_factory=list)
    reads: list[Any] = field(default_factory=list)
    looks: list[Any] = field(default_factory=list)
    lag: float = 0.0
    posts: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list)
    history_reads: int = 0
    asked_until: list[float | None] = field(default_factory=list)
    until: float | None = None

    def make(self, full: bool | None = False, status: str = "new", seconds: float = 0.0) -> Batch:
        """Make a batch, now or some seconds away from now."""
        created = datetime.fromtimestamp(self.clock.now + seconds, timezone.utc)
        batch = Batch(f"b{len(self.batches) + 1}", status, full, "aggregate_batch", created=created)
        self.batches.insert(0, batch)
        return batch

    def end(self, batch_id: str, status: str = "done") -> None:
        self.batches = [replace(each, status=status) if each.id == batch_id else each for each in self.batches]

    # --- the hook ---

    @property
    def edition(self) -> Any:
        return SimpleNamespace(view_right="the role aggregates_view", base_url=HOST)

    @contextmanager
    def deadline(self, until: float | None) -> Iterator[None]:
        before, self.until = self.until, until
        yield
        self.until = before

    @contextmanager
    def one_request_more(self) -> Iterator[None]:
        assert self.until is not None
        with self.deadline(max(self.until, self.clock() + 60.0)):
            yield

    def get_history(self, ref: Any) -> History | HistoryUnavailable:
        assert ref == REF
        self.history_reads += 1
        self.asked_until.append(self.until)
        answer = self.reads.pop(0) if self.reads else None
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            return answer
        now = self.clock.moment
        shown = [each for each in self.batches if (now - each.created).total_seconds() >= self.lag]
        # The Date header has whole seconds.
        return History(tuple(shown), now.replace(microsecond=0))

    def get_batches(self, ref: Any, wanted: Any, tries: int = 5) -> dict[str, Batch]:
        assert ref == REF
        answer = self.looks.pop(0) if self.looks else None
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            return answer
        return {each.id: each for each in self.batches if each.id in wanted}

    def observe_batch(self, ref: Any, batch_id: str) -> Any:
        try:
            return observe_found(self.get_batches(ref, (batch_id,)), batch_id)
        except AtScaleError as error:
            return ReadFailed(str(error))

    def start_batch(
        self, ref: Any, *, is_full_build: bool, grace_period_overrides: Any, before_post: Callable[[bool], None]
    ) -> Any:
        assert ref == REF
        before_post(True)
        self.posts += 1
        self.asked.append({"full": is_full_build, "overrides": dict(grace_period_overrides)})
        outcome = self.starts.pop(0) if self.starts else accepted
        if callable(outcome):
            outcome = outcome(self, is_full_build)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def history_url(self, ref: Any, batch_id: str | None) -> str:
        return f"{HOST}/history/{batch_id}"


def accepted(server: AtScale, full: bool) -> Started:
    return Started(server.make(full))


def lost_after_start(server: AtScale, full: bool) -> LostReply:
    """Start a batch and lose the reply."""
    server.make(full)
    return LostReply("HTTP 503")


def lost_before_start(_server: AtScale, _full: bool) -> LostReply:
    return LostReply("HTTP 503")


def builder(
    server: AtScale, store: Any, log: Log, request: BuildRequest = REQUEST, **options: Any
) -> BuildStarter:
    key = replace(BUILD_KEY, is_full_build=request.is_full_build, grace_period_overrides=request.overrides)
    memory = BuildStateStore(store, options.pop("key", key))
    build = BuildContext(
        server,  # type: ignore[arg-type]
        REF,
        request,
        memory,
        log,
        is_stopped=options.pop("is_stopped", lambda: False),
        clock=server.clock,
        sleep=options.pop("sleep", server.clock.sleep),
    )
    return BuildStarter(build, **{"chance": lambda: 0.5, **options})
