"""Run a piece of work once for all who want it at the same time, and do not repeat a failure at once."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from airflow_provider_atscale.exceptions import AtScaleError

T = TypeVar("T")


class FailureCache:
    """Keep a failure for some seconds, so that not every waiter repeats the request."""

    def __init__(self) -> None:
        self._error: AtScaleError | None = None
        self._until = 0.0

    def store(self, error: AtScaleError, seconds: float) -> None:
        """Raise an error in :meth:`check` for so many seconds."""
        self._error, self._until = error, time.monotonic() + seconds

    def check(self) -> None:
        """Raise the stored error, if there is one."""
        if self._error is not None and time.monotonic() < self._until:
            # Each raise would lengthen the traceback.
            raise self._error.with_traceback(None)


def start_task(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task in an empty context: a task inherits its creator's, and with it the log of one trigger."""
    task: asyncio.Task[T] = contextvars.Context().run(asyncio.ensure_future, work)
    # Marks the error as seen: each waiter raises it, but the last one may have been cancelled.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


class SharedTasks:
    """Tasks that several await; each goes on as long as anybody awaits it."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._waiters: Counter[asyncio.Task[Any]] = Counter()

    async def share(self, key: str, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await a piece of work, which others may be awaiting already under the same key."""
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = start_task(make())
            task.add_done_callback(lambda done: self._remove(key, done))
        self._waiters[task] += 1
        try:
            return await asyncio.shield(task)
        finally:
            self._waiters[task] -= 1
            if not self._waiters[task]:
                del self._waiters[task]
                self._remove(key, task)
                task.cancel()

    def _remove(self, key: str, task: asyncio.Task[Any]) -> None:
        if self._running.get(key) is task:
            del self._running[key]

    async def close(self) -> None:
        """Cancel all tasks."""
        tasks = list(self._running.values())
        self._running.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
