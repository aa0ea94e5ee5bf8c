"""Requests, delays and what remains, over waits as long as real ones."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import statistics
import tracemalloc
from collections import Counter

import pytest

from airflow_provider_atscale.client import shared_connection as shared_module

DAY = 86_400.0


async def waits(world, models, seconds):
    """Wait for batches that have been running since yesterday, then be cancelled."""
    tasks = [asyncio.ensure_future(world.fire(world.trigger(model, began=-DAY))) for model in models]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("estimated", [False, True], ids=["no estimate", "some estimate"])
@pytest.mark.parametrize(("low", "high"), [(1, 10), (10, 100), (100, 1_000), (1_000, 14_400)])
def test_the_end_is_seen_soon_and_costs_twenty_requests_more_than_one_poll_each_minute(
    world, low, high, estimated
):
    """From a trigger's start to its event, for builds of all lengths; a wrong estimate changes nothing."""
    dice = random.Random(low)
    count = 1_000 if low < 100 else 200
    lengths = {f"m{number}": low * (high / low) ** ((number + 0.5) / count) for number in range(count)}
    world.server.ends = {model: world.now() + length for model, length in lengths.items()}
    if estimated:
        world.server.estimates = {model: length * dice.uniform(0.1, 3) for model, length in lengths.items()}
    seen = {}

    async def one(model):
        event = await world.fire(world.trigger(model))
        assert event["status"] == "ended"
        seen[model] = world.now()

    async def main():
        await asyncio.gather(*map(one, lengths))

    world.run(main())
    late = [
        (seen[model] - world.server.ends[model]) / max(1.0, length / 10) for model, length in lengths.items()
    ]
    assert statistics.median(late) <= 1.0
    asked = Counter(model for _, model in world.server.polls)
    more = [asked[model] - math.ceil(length / 60) for model, length in lengths.items()]
    assert max(more) <= 20


def test_thousand_waiters_over_fifty_models_cost_as_much_as_fifty(world):
    """Each model is read once in a round, and a round is as long as the poll interval."""
    models = [f"m{number}" for number in range(50)]
    world.server.ends = dict.fromkeys(models, math.inf)

    async def main():
        tasks = [
            asyncio.ensure_future(world.fire(world.trigger(models[n % 50], began=-DAY))) for n in range(1_000)
        ]
        await asyncio.sleep(3_600)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    world.run(main())
    asked = Counter(model for _, model in world.server.polls)
    assert set(asked) == set(models)
    assert max(asked.values()) <= 3_600 / 60 + 1


def test_restarted_triggerer_asks_evenly(world):
    """The first polls of waiters that begin at the same time are spread over their poll interval."""
    models = [f"m{number}" for number in range(1_000)]
    world.server.ends = dict.fromkeys(models, math.inf)

    async def main():
        await waits(world, models, 60)

    world.run(main())
    begin = world.server.polls[0][0]
    per_second = Counter(int(at - begin) for at, _ in world.server.polls)
    # 17 in the mean.
    assert max(per_second.values()) < 45


def test_fortnight_of_waiting_leaves_memory_and_loop_as_they_were(world, monkeypatch):
    # pytest keeps what is logged; elsewhere it is written and forgotten.
    monkeypatch.setattr("airflow_provider_atscale.waiting.progress.HEARTBEAT", math.inf)
    models = [f"m{number}" for number in range(3)]
    world.server.ends = dict.fromkeys(models, math.inf)
    sizes, objects, tasks_of = [], [], []

    async def main():
        before = asyncio.all_tasks()
        tasks = [
            asyncio.ensure_future(world.fire(world.trigger(model, began=-DAY, poll_interval=300)))
            for model in models
        ]
        tracemalloc.start()
        try:
            for _ in range(14):
                await asyncio.sleep(DAY)
                world.server.polls.clear()
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
                objects.append(len(gc.get_objects()))
                tasks_of.append(len(asyncio.all_tasks()))
        finally:
            tracemalloc.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert asyncio.all_tasks() == before

    world.run(main())
    # In the first week the memory that the interpreter keeps for reuse is taken anew, and so noticed. Later it rises
    # and falls: asyncio drops the cancelled timers of polls with a deadline once they are a hundred. What each of the
    # week's 6,000 polls would leave behind, six bytes or a tenth of an object, is more.
    assert max(sizes[7:]) - min(sizes[7:]) < 32 * 1024
    assert max(objects[7:]) - min(objects[7:]) < 300
    assert max(tasks_of) <= 2 * len(models) + 1
    assert not shared_module._loops


@pytest.mark.parametrize("ends", ["all at once", "one by one", "cancelled"])
def test_the_last_waiter_closes_everything(world, ends):
    models = [f"m{number}" for number in range(100)]
    step = {"all at once": 0.0, "one by one": 30.0, "cancelled": math.inf}[ends]
    world.server.ends = {model: world.now() + 60 + (number * step) for number, model in enumerate(models, 1)}

    async def main():
        before = asyncio.all_tasks()
        tasks = [asyncio.ensure_future(world.fire(world.trigger(model))) for model in models]
        if ends == "cancelled":
            await asyncio.sleep(300)
            for task in tasks:
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert asyncio.all_tasks() == before
        return results

    results = world.run(main())
    if ends == "cancelled":
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
    else:
        assert {result["status"] for result in results} == {"ended"}
    assert not shared_module._loops
