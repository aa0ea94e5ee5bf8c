"""
Let many waiters wait on one event loop, in a process of their own, and print what that costs as JSON.

A turn of the loop is measured in CPU time of its thread: how long the loop stands still for everybody else,
whatever other processes do on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import selectors
import ssl
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from contestants import CONTESTANTS, Scene, Wait


class Turns(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """A selector that notes how long each turn of its loop keeps the thread."""

    def __init__(self) -> None:
        super().__init__()
        self._began = time.thread_time()
        self._collected = self._collecting = 0.0
        self._turns: list[tuple[float, float]] = []
        gc.callbacks.append(self._collect)

    def _collect(self, phase: str, info: dict[str, int]) -> None:
        del info
        if phase == "start":
            self._collecting = time.thread_time()
        else:
            self._collected += time.thread_time() - self._collecting

    def select(self, timeout: float | None = None) -> Any:
        self._turns.append((time.thread_time() - self._began, self._collected))
        ready = super().select(timeout)
        self._collected = 0.0
        self._began = time.thread_time()
        return ready

    def taken(self) -> dict[str, float]:
        """Return the longest turns in milliseconds: all in all, without, and only garbage collection."""
        turns, self._turns = self._turns, []
        return {
            "longest": max((turn for turn, _ in turns), default=0.0) * 1000,
            "longest_without_gc": max((turn - gc_time for turn, gc_time in turns), default=0.0) * 1000,
            "longest_gc": max((gc_time for _, gc_time in turns), default=0.0) * 1000,
        }


class NoTurns(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """A selector that notes nothing, where CPU time is measured."""

    def taken(self) -> dict[str, float]:
        return {}


class Probe:
    """Wants to run every few milliseconds, and notes how late it does."""

    STEP = 0.005

    def __init__(self) -> None:
        self.late: list[float] = []
        self._handle: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Begin, or go on after something that is not the contestant's."""
        if self._handle is not None:
            self._handle.cancel()
        loop = asyncio.get_running_loop()
        self._due = loop.time() + self.STEP
        self._handle = loop.call_at(self._due, self._run)

    def _run(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        # Whoever had wanted to run in the meantime had to wait as well.
        while self._due <= now:
            self.late.append(now - self._due)
            self._due += self.STEP
        self._handle = loop.call_at(self._due, self._run)

    def end(self) -> dict[str, float]:
        if self._handle is None:
            return {}
        self._handle.cancel()
        late = sorted(self.late)
        at = {"median": 0.5, "p99": 0.99}
        return {name: late[int(len(late) * share)] * 1000 for name, share in at.items()}


def memory() -> int:
    """Return the bytes that this process holds in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


class Stub:
    """Ask the stub for its counts, without disturbing the loop's connections."""

    def __init__(self, scene: Scene) -> None:
        self._url = scene.url
        self._context = ssl.create_default_context(cafile=scene.certificate) if scene.certificate else None

    def ask(self, what: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self._url}/_{what}", context=self._context) as answer:
            counts: dict[str, Any] = json.load(answer)
        return counts


async def work(options: argparse.Namespace, scene: Scene, wait: Wait, turns: Turns | NoTurns) -> dict[str, Any]:
    stub = Stub(scene)
    stub.ask("reset")
    await asyncio.sleep(0)
    gc.collect()
    before = memory()
    # The turn that counts memory is not the contestant's.
    await asyncio.sleep(0)
    turns.taken()
    probe = Probe()
    if options.measure == "turns":
        probe.begin()
    tasks = []
    cpu = time.process_time()
    began = time.monotonic()
    for number in range(options.waiters):
        if options.start == "triggerer":
            # So does the triggerer: it yields twice before each trigger that it creates.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        elif options.start == "one by one":
            due = began + number * options.interval / options.waiters
            await asyncio.sleep(max(due - time.monotonic(), 0))
        tasks.append(asyncio.ensure_future(wait(number)))
    while True:
        await asyncio.sleep(0.2)
        _raise_first(tasks)
        counts = await asyncio.to_thread(stub.ask, "stats")
        if counts["requests"] >= options.warm_up or time.monotonic() - began > options.patience:
            break
    start = {"turns": turns.taken(), "cpu": time.process_time() - cpu, **counts}
    after = memory()
    if options.measure == "turns":
        # Counting memory collects all garbage, which would be the longest turn of all.
        probe.begin()
    await asyncio.to_thread(stub.ask, "reset")
    await asyncio.sleep(0)
    turns.taken()
    cpu = time.process_time()
    began = time.monotonic()
    await asyncio.sleep(options.seconds)
    cpu = time.process_time() - cpu
    steady = {"turns": turns.taken(), "wall": time.monotonic() - began}
    late = probe.end()
    _raise_first(tasks)
    counts = await asyncio.to_thread(stub.ask, "stats")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {
        "start": start,
        "steady": {**steady, **counts},
        "cpu_per_poll_us": cpu / counts["requests"] * 1e6 if counts["requests"] else None,
        "cpu": cpu,
        "late": late,
        "memory_per_waiter_kib": (after - before) / options.waiters / 1024,
        "open_files": open_files(),
    }


def _raise_first(tasks: list[asyncio.Future[None]]) -> None:
    for task in tasks:
        if task.done():
            task.result()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("contestant", choices=list(CONTESTANTS))
    parser.add_argument("--url", required=True)
    parser.add_argument("--certificate")
    parser.add_argument("--waiters", type=int, default=1000)
    parser.add_argument("--models", type=int)
    parser.add_argument("--interval", type=float, default=4.0)
    parser.add_argument("--seconds", type=float, default=8.0, help="how long the steady state is measured")
    parser.add_argument("--start", choices=["at once", "triggerer", "one by one"], default="at once")
    parser.add_argument("--warm-up", type=int, help="requests before the steady state begins")
    parser.add_argument("--patience", type=float, default=60.0)
    parser.add_argument("--measure", choices=["cpu", "turns"], default="cpu")
    parser.add_argument("--profile", help="write a profile of the steady state there")
    options = parser.parse_args()
    if options.warm_up is None:
        # By then everybody has polled, and what comes with a first poll is over.
        options.warm_up = options.waiters * 3 // 2
    scene = Scene(options.url, options.certificate, options.interval, options.models or options.waiters)

    from airflow.sdk.log import configure_logging

    # As in a triggerer: each line becomes JSON and goes to another process, here to nobody.
    configure_logging(json_output=True, output=open(os.devnull, "wb", buffering=0), sending_to_supervisor=True)
    wait = CONTESTANTS[options.contestant](scene)
    turns = Turns() if options.measure == "turns" else NoTurns()
    loop = asyncio.SelectorEventLoop(turns)
    asyncio.set_event_loop(loop)
    profiler = None
    if options.profile:
        import cProfile

        profiler = cProfile.Profile()
        profiler.enable()
    result = loop.run_until_complete(work(options, scene, wait, turns))
    if profiler:
        profiler.disable()
        profiler.dump_stats(options.profile)
    sys.__stdout__.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
