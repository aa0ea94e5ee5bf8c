"""Run a piece of work once for all who want it at the same time, and do not repeat a failure at once."""

from __future__ import annotations

import asyncio
import contextvars
import time
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


class _SharedTask:
    """A task, and how many await it."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.waiters = 0


class SharedTasks:
    """Tasks that several await; each goes on as long as anybody awaits it."""

    def __init__(self) -> None:
        self._running: dict[str, _SharedTask] = {}

    async def share(self, key: str, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await a piece of work, which others may be awaiting already under the same key."""
        shared = self._running.get(key)
        if shared is None:
            shared = self._running[key] = _SharedTask(start_task(make()))
            shared.task.add_done_callback(lambda _: self._remove(key, shared))
        shared.waiters += 1
        try:
            return await asyncio.shield(shared.task)
        finally:
            shared.waiters -= 1
            if not shared.waiters and not shared.task.done():
                self._remove(key, shared)
                shared.task.cancel()

    def _remove(self, key: str, shared: _SharedTask) -> None:
        if self._running.get(key) is shared:
            del self._running[key]

    async def close(self) -> None:
        """Cancel all tasks."""
        tasks = [shared.task for shared in self._running.values()]
        self._running.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
