"""What a local engine knows, whatever its edition: catalogs, models, batches, and one clock."""

from __future__ import annotations

import time
import uuid
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.testing.batches import Batch, Instance, Outcome, build_instances
from airflow_provider_atscale.testing.models import (
    AlreadyRunningError,
    Catalog,
    Model,
    UnknownModelError,
    new_catalog,
    new_model,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_atscale.testing.settings import Settings


class Store:
    """
    Hold catalogs and batches.

    :param settings: the settings, shared with the engine that owns this store.
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
        """Return the server's time."""
        return time.time() + self.settings.clock_offset

    def add_catalog(self, name: str, caption: str | None = None) -> Catalog:
        """Deploy a catalog without models."""
        catalog = new_catalog(name, caption, self.now())
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
        model = new_model(owner, name, caption, aggregates)
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
        """Find a model by the two ids of a request, where names and captions are not accepted."""
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
        """Iterate over the batches of a model, newest first."""
        return reversed(self._of_model.get(model_id, []))

    def history(self, model_id: str | None = None, catalog_id: str | None = None) -> list[Batch]:
        """List the batches that the build history shows, newest first."""
        batches = reversed(self.batches.values()) if model_id is None else self.of_model(model_id)
        newest = self.now() - self.settings.history_delay
        return [b for b in batches if b.created <= newest and catalog_id in (None, b.catalog_id)]

    def instances(self, batch: Batch) -> list[Instance]:
        """Return a batch's aggregate instances; those that a later full build has replaced are ``deleted``."""
        instances = self.built(batch)
        if self.settings.superseded_instances == "kept":
            return instances
        replaced = self._built_after(batch)
        return [
            replace(instance, status="deleted", message="Superseded by a newer instance")
            if instance.status == "active" and instance.aggregate.id in replaced
            else instance
            for instance in instances
        ]

    def built(self, batch: Batch) -> list[Instance]:
        """Return a batch's aggregate instances as the batch itself has left them."""
        model = self.models.get(batch.model_id)
        return build_instances(batch, model.aggregates if model else (), self.settings, self.now())

    def estimate(self, batch: Batch) -> int:
        """Return AtScale's estimate of how long a batch takes, in milliseconds."""
        if batch.ended(self.now()) is not None:
            return 0
        return round(batch.build_seconds * 1000 * self.settings.estimate_factor)

    def word(self, status: str) -> str:
        """Return the word that stands for a status in answers."""
        return self.settings.status_words.get(status, status)

    def dump(self) -> dict[str, Any]:
        """Return all that a restart must not lose, as JSON values."""
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
        """Restore what ``dump`` returned; what was deployed since stays."""
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
        settings = self.settings
        failed, repaired = settings.failed_aggregates, settings.repaired_aggregates
        for wanted, status in settings.failing_models.items():
            if wanted in (model.id, model.name, model.caption):
                return Outcome(status, failed or 2, repaired_aggregates=repaired)
        too_many = settings.max_failures is not None and failed > settings.max_failures
        return Outcome("failed" if too_many else "done", failed, repaired_aggregates=repaired)

    def _built_after(self, batch: Batch) -> set[str]:
        """Return the ids of the aggregates that full builds of the model have built since."""
        rebuilt: set[str] = set()
        for later in self.of_model(batch.model_id):
            if later is batch or len(rebuilt) == len(self.models[batch.model_id].aggregates):
                break
            if later.is_full_build:
                rebuilt.update(i.aggregate.id for i in self.built(later) if i.status == "active")
        return rebuilt


def fill(store: Store) -> None:
    """Deploy the catalogs that every engine starts with."""
    store.add_catalog("sales_insights_main", "Sales Insights")
    store.add_model("sales_insights_main", "internet_sales", "Internet Sales")
    store.add_model("sales_insights_main", "reseller_sales", "Reseller Sales")
    store.add_catalog("finance_main", "Finance")
    store.add_model("finance_main", "general_ledger", "General Ledger")
