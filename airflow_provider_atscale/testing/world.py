"""What the engine knows, whatever the edition: catalogs, models, batches, and one clock."""

from __future__ import annotations

import functools
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_atscale.testing.settings import Settings

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "local-engine.atscale.invalid")
_GOOD_ENDS = frozenset({"done", "success", "active"})
DEFAULT_FAILURE = "Failed to build the aggregate: the data warehouse refused the statement"


class UnknownModelError(ValueError):
    """Say that no such catalog or model is deployed."""


class AlreadyRunningError(ValueError):
    """Say that a batch of the model runs."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"Batch {batch_id} of this model is running")
        self.batch_id = batch_id


@dataclass(frozen=True)
class Aggregate:
    """Describe one aggregate definition of a model."""

    id: str
    table_name: str
    table_schema: str
    rows: int


@dataclass
class Model:
    """Describe a deployed model (a cube, on the installer edition)."""

    id: str
    catalog_id: str
    name: str
    caption: str
    aggregate_count: int = 6

    @property
    def aggregates(self) -> tuple[Aggregate, ...]:
        """List the aggregates, the same ones at every call."""
        return _aggregates(self.id, self.aggregate_count)


@dataclass
class Catalog:
    """Describe a deployed catalog (a project, on the installer edition)."""

    id: str
    name: str
    caption: str
    published: float
    models: list[Model] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """Script how a batch will end."""

    status: str = "done"
    failed_aggregates: int = 0
    message: str = DEFAULT_FAILURE


@dataclass
class Batch:
    """Keep one batch; its status is a function of the clock."""

    id: str
    catalog_id: str
    model_id: str
    is_full_build: bool
    created: float
    queue_seconds: float
    build_seconds: float
    outcome: Outcome
    by: str = "api"
    grace_period_overrides: dict[str, float] = field(default_factory=dict)
    overlapped_with: list[str] = field(default_factory=list)
    ended_by_hand: float | None = None

    @property
    def end(self) -> float:
        """Tell when the batch ends or ended."""
        return self.created + self.build_seconds if self.ended_by_hand is None else self.ended_by_hand

    def status(self, now: float) -> str:
        """Tell the status at a time."""
        if now >= self.end:
            return self.outcome.status
        return "new" if now < self.created + self.queue_seconds else "inprogress"

    def started(self, now: float) -> float | None:
        """Tell when the batch left the queue, if it has."""
        start = min(self.created + self.queue_seconds, self.end)
        return start if now >= start else None

    def ended(self, now: float) -> float | None:
        """Tell when the batch ended, if it has."""
        return self.end if now >= self.end else None


@dataclass(frozen=True)
class Instance:
    """Describe one aggregate as a batch has built it, or not."""

    batch: Batch
    aggregate: Aggregate
    status: str
    message: str
    started: float | None
    ended: float | None

    @property
    def id(self) -> str:
        """Tell the id, the same one at every call."""
        return str(uuid.uuid5(uuid.UUID(self.batch.id), self.aggregate.id))

    @property
    def build_query_id(self) -> str:
        """Tell the id of the query that builds it."""
        return str(uuid.uuid5(uuid.UUID(self.id), "build query"))


class World:
    """
    Hold catalogs and batches.

    :param settings: the switches, shared with the engine that owns this world.
    :param changed: called after each change that a restart must not lose.
    """

    def __init__(self, settings: Settings, changed: Callable[[], None] = lambda: None) -> None:
        self.settings = settings
        self.changed = changed
        self.catalogs: dict[str, Catalog] = {}
        self.models: dict[str, Model] = {}
        self.batches: dict[str, Batch] = {}
        self._of_model: dict[str, list[Batch]] = {}
        self._scripted: dict[str, deque[Outcome]] = {}

    def now(self) -> float:
        """Tell the server's time."""
        return time.time() + self.settings.clock_offset

    def add_catalog(self, name: str, caption: str | None = None) -> Catalog:
        """Deploy a catalog without models."""
        catalog = Catalog(
            id=str(uuid.uuid5(_NAMESPACE, name)),
            name=name,
            caption=caption or name,
            published=self.now(),
        )
        if catalog.id in self.catalogs:
            raise ValueError(f"Catalog {name!r} is already there")
        self.catalogs[catalog.id] = catalog
        self.changed()
        return catalog

    def add_model(
        self, catalog: str | Catalog, name: str, caption: str | None = None, aggregates: int = 6
    ) -> Model:
        """Deploy a model in a catalog."""
        owner = self.find_catalog(catalog)
        model = Model(
            id=str(uuid.uuid5(uuid.UUID(owner.id), name)),
            catalog_id=owner.id,
            name=name,
            caption=caption or name,
            aggregate_count=aggregates,
        )
        if model.id in self.models:
            raise ValueError(f"Model {name!r} is already in catalog {owner.name!r}")
        owner.models.append(model)
        self.models[model.id] = model
        self.changed()
        return model

    def find_catalog(self, wanted: str | Catalog) -> Catalog:
        """Find a catalog by id, name or caption."""
        if isinstance(wanted, Catalog):
            return wanted
        found = [c for c in self.catalogs.values() if wanted in (c.id, c.name, c.caption)]
        if len(found) != 1:
            raise UnknownModelError(f"{len(found)} catalogs are called {wanted!r}")
        return found[0]

    def find_model(self, wanted: str | Model, catalog: str | Catalog | None = None) -> Model:
        """Find a model by id, name or caption, in one catalog or in all."""
        if isinstance(wanted, Model):
            return wanted
        among = self.find_catalog(catalog).models if catalog is not None else list(self.models.values())
        found = [m for m in among if wanted in (m.id, m.name, m.caption)]
        if len(found) != 1:
            raise UnknownModelError(f"{len(found)} models are called {wanted!r}")
        return found[0]

    def deployed(self, catalog_id: str, model_id: str) -> Model:
        """Find a model by the two ids of a request, which know neither names nor captions."""
        model = self.models.get(model_id)
        if model is None or model.catalog_id != catalog_id:
            raise UnknownModelError(f"Model {model_id} is not deployed in catalog {catalog_id}")
        return model

    def script(self, model: Model, outcome: Outcome) -> None:
        """Decide how the next batch of a model will end."""
        self._scripted.setdefault(model.id, deque()).append(outcome)

    def start(
        self,
        model: Model,
        *,
        is_full_build: bool,
        by: str = "api",
        grace_period_overrides: dict[str, float] | None = None,
        build_seconds: float | None = None,
    ) -> Batch:
        """Create a batch unless one of the model runs and the settings say that this matters."""
        now = self.now()
        running = [batch.id for batch in self.of_model(model.id) if now < batch.end]
        if running and self.settings.on_second_start != "allow":
            raise AlreadyRunningError(running[0])
        seconds = self.settings.build_seconds if build_seconds is None else build_seconds
        if not model.aggregate_count:
            seconds = 0
        queue = seconds / 10 if self.settings.queue_seconds is None else self.settings.queue_seconds
        batch = Batch(
            id=str(uuid.uuid4()),
            catalog_id=model.catalog_id,
            model_id=model.id,
            is_full_build=is_full_build,
            created=now,
            queue_seconds=min(queue, seconds),
            build_seconds=seconds,
            outcome=self._outcome_of(model),
            by=by,
            grace_period_overrides=dict(grace_period_overrides or {}),
            overlapped_with=running,
        )
        self._keep(batch)
        self.changed()
        return batch

    def end(self, batch_id: str, outcome: Outcome) -> Batch:
        """End a running batch now."""
        if batch_id not in self.batches:
            raise ValueError(f"There is no batch {batch_id!r}")
        batch = self.batches[batch_id]
        now = self.now()
        if now >= batch.end:
            raise ValueError(f"Batch {batch_id} has already ended: {batch.status(now)}")
        batch.ended_by_hand = now
        batch.outcome = outcome
        self.changed()
        return batch

    def of_model(self, model_id: str) -> Iterator[Batch]:
        """Walk the batches of a model, newest first."""
        return reversed(self._of_model.get(model_id, []))

    def history(self, model_id: str | None = None, catalog_id: str | None = None) -> list[Batch]:
        """List the batches that the build history shows, newest first."""
        batches = reversed(self.batches.values()) if model_id is None else self.of_model(model_id)
        newest = self.now() - self.settings.history_delay
        return [b for b in batches if b.created <= newest and catalog_id in (None, b.catalog_id)]

    def instances(self, batch: Batch) -> list[Instance]:
        """List what a batch has made, or is making, of the model's aggregates."""
        model = self.models.get(batch.model_id)
        aggregates = model.aggregates if model else ()
        now = self.now()
        return [
            self._instance(batch, aggregate, number, len(aggregates), now)
            for number, aggregate in enumerate(aggregates)
        ]

    def word(self, status: str) -> str:
        """Spell a status as the settings want it."""
        return self.settings.status_words.get(status, status)

    def dump(self) -> dict[str, Any]:
        """Give all that a restart must not lose, as JSON values."""
        return {
            "catalogs": [
                {**vars(catalog), "models": [dict(vars(model)) for model in catalog.models]}
                for catalog in self.catalogs.values()
            ],
            "batches": [
                {**vars(batch), "outcome": dict(vars(batch.outcome))} for batch in self.batches.values()
            ],
            "scripted": {
                model_id: [dict(vars(outcome)) for outcome in outcomes]
                for model_id, outcomes in self._scripted.items()
            },
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what ``dump`` gave; what was deployed since stays."""
        for row in state["catalogs"]:
            catalog = Catalog(**{**row, "models": [Model(**model) for model in row["models"]]})
            self.catalogs[catalog.id] = catalog
            self.models.update({model.id: model for model in catalog.models})
        for row in state["batches"]:
            self._keep(Batch(**{**row, "outcome": Outcome(**row["outcome"])}))
        for model_id, outcomes in state["scripted"].items():
            self._scripted[model_id] = deque(Outcome(**outcome) for outcome in outcomes)

    def _keep(self, batch: Batch) -> None:
        self.batches[batch.id] = batch
        self._of_model.setdefault(batch.model_id, []).append(batch)

    def _outcome_of(self, model: Model) -> Outcome:
        if self._scripted.get(model.id):
            return self._scripted[model.id].popleft()
        failed = self.settings.failed_aggregates
        for wanted, status in self.settings.failing_models.items():
            if wanted in (model.id, model.name, model.caption):
                return Outcome(status, failed or 2)
        return Outcome(failed_aggregates=failed)

    @staticmethod
    def _instance(batch: Batch, aggregate: Aggregate, number: int, count: int, now: float) -> Instance:
        # One after the other, the failing ones last: a reader that stops at the first page misses them.
        span = (batch.build_seconds - batch.queue_seconds) / count
        start = min(batch.created + batch.queue_seconds + number * span, batch.end)
        end = min(start + span, batch.end)
        if batch.ended_by_hand is None and number == count - 1:
            end = batch.end  # the sum of the spans may miss it by a rounding error
        unfinished = batch.ended_by_hand is not None and start + span > batch.end
        fails = number >= count - batch.outcome.failed_aggregates
        if now < start:
            status, message = "pending", ""
        elif now < end:
            status, message = "inprogress", ""
        elif fails:
            status, message = "failed", batch.outcome.message
        elif unfinished and batch.outcome.status not in _GOOD_ENDS | {"failed"}:
            status, message = "cancelled", "The batch ended before this aggregate was built"
        else:
            status, message = "active", "Normal aggregate activated"
        return Instance(
            batch=batch,
            aggregate=aggregate,
            status=status,
            message=message,
            started=start if now >= start else None,
            ended=end if now >= end else None,
        )


@functools.lru_cache(maxsize=1024)
def _aggregates(model_id: str, count: int) -> tuple[Aggregate, ...]:
    identities = [uuid.uuid5(uuid.UUID(model_id), f"aggregate/{number}") for number in range(count)]
    return tuple(
        Aggregate(
            id=str(identity),
            table_name=f"as_agg_{identity.hex[:8]}",
            table_schema="atscale_aggregates",
            rows=1 + identity.int % 100_000,
        )
        for identity in identities
    )


def fill(world: World) -> None:
    """Deploy the catalogs that every engine starts with."""
    world.add_catalog("sales_insights_main", "Sales Insights")
    world.add_model("sales_insights_main", "internet_sales", "Internet Sales")
    world.add_model("sales_insights_main", "reseller_sales", "Reseller Sales")
    world.add_catalog("finance_main", "Finance")
    world.add_model("finance_main", "general_ledger", "General Ledger")
