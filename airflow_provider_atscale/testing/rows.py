"""What the rows of both editions have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_atscale.testing.wire import Call
    from airflow_provider_atscale.testing.world import Instance, World


def chosen(world: World, call: Call) -> list[Instance]:
    """List the instances that the ids of a request choose, newest batch first."""
    wanted = call.query.get("batchId")
    if wanted is not None and world.settings.instances_filter != "ignored":
        batches = [world.batches[wanted]] if wanted in world.batches else []
    else:
        batches = list(reversed(world.batches.values()))
    catalog = call.query.get("catalogId", call.query.get("projectId"))
    model = call.query.get("modelId", call.query.get("cubeId"))
    definition = call.query.get("definitionId")
    table = call.query.get("tableName")
    return [
        instance
        for batch in batches
        if catalog in (None, batch.catalog_id) and model in (None, batch.model_id)
        for instance in world.instances(batch)
        if definition in (None, instance.aggregate.id) and table in (None, instance.aggregate.table_name)
    ]


def duration(instances: list[Instance]) -> str:
    """Write how long instances took to build, as ISO 8601 has it."""
    seconds = sum(i.ended - i.started for i in instances if i.ended is not None and i.started is not None)
    return f"PT{seconds:.3f}".rstrip("0").rstrip(".") + "S"
