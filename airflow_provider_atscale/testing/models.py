"""What is deployed on a local engine: catalogs, models and their aggregates."""

from __future__ import annotations

import functools
import uuid
from dataclasses import dataclass, field

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "local-engine.atscale.invalid")


class UnknownModelError(ValueError):
    """Say that no such catalog or model is deployed."""


class AlreadyRunningError(ValueError):
    """Say that a batch of the model is running."""

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
        """Return the aggregates, the same ones at every call."""
        return _aggregates(self.id, self.aggregate_count)


@dataclass
class Catalog:
    """Describe a deployed catalog (a project, on the installer edition)."""

    id: str
    name: str
    caption: str
    published: float
    models: list[Model] = field(default_factory=list)


def new_catalog(name: str, caption: str | None, published: float) -> Catalog:
    """Return a catalog whose id follows from its name."""
    identity = str(uuid.uuid5(_NAMESPACE, name))
    return Catalog(id=identity, name=name, caption=caption or name, published=published)


def new_model(catalog: Catalog, name: str, caption: str | None, aggregates: int) -> Model:
    """Return a model whose id follows from its catalog and name."""
    identity = str(uuid.uuid5(uuid.UUID(catalog.id), name))
    return Model(identity, catalog.id, name, caption or name, aggregates)


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
