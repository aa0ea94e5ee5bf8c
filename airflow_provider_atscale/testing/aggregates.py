"""Aggregate definitions and instances as both editions list them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_atscale.testing.batches import Instance
    from airflow_provider_atscale.testing.models import Aggregate, Model
    from airflow_provider_atscale.testing.store import Store
    from airflow_provider_atscale.testing.wire import Call

#: All aggregates of this engine are of this kind.
SUBTYPE = "demand_defined"
_UNFINISHED = ("new", "pending", "inprogress")


@dataclass(frozen=True)
class Definition:
    """Describe an aggregate definition, its newest instance, and the one that serves queries."""

    model: Model
    aggregate: Aggregate
    latest: Instance | None
    active: Instance | None

    @property
    def status(self) -> str:
        """Return the status that the status filter compares."""
        if self.active is not None:
            return "active"
        return "pending" if self.latest is None or self.latest.status in _UNFINISHED else "invalid"


def find_instances(store: Store, call: Call) -> list[Instance]:
    """Return the instances that a request's ids and times select, newest batch first."""
    wanted = call.query.get("batchId")
    if wanted is not None and store.settings.instances_filter != "ignored":
        batches = [store.batches[wanted]] if wanted in store.batches else []
    else:
        batches = list(reversed(store.batches.values()))
    catalog, model = _ids(call)
    definition = call.query.get("definitionId")
    table = call.query.get("tableName")
    in_time = _time_filter(call)
    return [
        instance
        for batch in batches
        if catalog in (None, batch.catalog_id) and model in (None, batch.model_id)
        for instance in store.instances(batch)
        if definition in (None, instance.aggregate.id)
        and table in (None, instance.aggregate.table_name)
        and in_time(instance)
    ]


def find_definitions(store: Store, call: Call) -> list[Definition]:
    """Return the aggregate definitions that a request selects."""
    catalog, model = _ids(call)
    query = call.query
    return [
        found
        for each in store.models.values()
        if catalog in (None, each.catalog_id) and model in (None, each.id)
        for found in _definitions(store, each)
        if query.get("id") in (None, found.aggregate.id)
        and query.get("status") in (None, found.status)
        and query.get("subtype") in (None, SUBTYPE)
    ]


def duration(instances: list[Instance]) -> str:
    """Return how long instances took to build, as ISO 8601 writes it."""
    seconds = sum(i.ended - i.started for i in instances if i.ended is not None and i.started is not None)
    return f"PT{seconds:.3f}".rstrip("0").rstrip(".") + "S"


def _definitions(store: Store, model: Model) -> Iterator[Definition]:
    latest: dict[str, Instance] = {}
    active: dict[str, Instance] = {}
    for batch in store.of_model(model.id):
        # Of several attempts in one batch the last is the newest.
        for instance in reversed(store.instances(batch)):
            latest.setdefault(instance.aggregate.id, instance)
            if instance.status == "active":
                active.setdefault(instance.aggregate.id, instance)
    for aggregate in model.aggregates:
        yield Definition(model, aggregate, latest.get(aggregate.id), active.get(aggregate.id))


def _ids(call: Call) -> tuple[str | None, str | None]:
    """Return the catalog's and the model's id, by the names of either edition."""
    query = call.query
    return query.get("catalogId", query.get("projectId")), query.get("modelId", query.get("cubeId"))


def _time_filter(call: Call) -> Callable[[Instance], bool]:
    """Return whether an instance was built between ``startTime`` and ``endTime``, as far as both are given."""
    after, before = call.time("startTime"), call.time("endTime")

    def fits(instance: Instance) -> bool:
        return (after is None or (instance.started is not None and instance.started >= after)) and (
            before is None or (instance.ended is not None and instance.ended <= before)
        )

    return fits
