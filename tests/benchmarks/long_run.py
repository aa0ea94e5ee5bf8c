"""Poll very often, and print as JSON whether memory and open files stay as they were."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from typing import Any

from contestants import Scene, atscale
from waiting import Stub, memory, open_files

WAITERS = 400
#: The provider polls no faster than this.
INTERVAL = 0.1


async def work(scene: Scene, polls: int, until: float) -> dict[str, Any]:
    wait, stub = atscale(scene), Stub(scene)
    before = asyncio.all_tasks()
    half = (time.monotonic() + until) / 2
    tasks = [asyncio.ensure_future(wait(number)) for number in range(WAITERS)]
    found: dict[str, Any] = {}
    while True:
        await asyncio.sleep(1)
        for task in tasks:
            if task.done():
                task.result()
        done = (await asyncio.to_thread(stub.ask, "stats"))["requests"]
        # On a slow machine at least early enough to tell early from late.
        if not found and (done >= polls / 10 or time.monotonic() > half):
            found |= {"memory_early_mib": memory() / 2**20, "files_early": open_files()}
        if done >= polls or time.monotonic() > until:
            break
    found |= {"memory_late_mib": memory() / 2**20, "files_late": open_files(), "polls": done}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    # aiohttp closes its sockets in the next turns.
    await asyncio.sleep(0.1)
    return {**found, "tasks_left": len(asyncio.all_tasks() - before)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--polls", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=3600.0, help="after how long to stop at the latest")
    options = parser.parse_args()
    until = time.monotonic() + options.seconds
    from airflow.sdk.log import configure_logging

    configure_logging(json_output=True, output=open(os.devnull, "wb", buffering=0), sending_to_supervisor=True)
    scene = Scene(options.url, None, INTERVAL, WAITERS)
    sys.__stdout__.write(json.dumps(asyncio.run(work(scene, options.polls, until))) + "\n")


if __name__ == "__main__":
    main()
