"""Run a piece of work once for all who want it at the same time."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class _SharedTask:
    """A task, and how many await it."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.waiters = 0


class SharedTasks:
    """
    Tasks that several await.

    Each has an empty context, because a task inherits the context of its creator, and with it the log of one
    trigger. It goes on as long as anybody awaits it.
    """

    def __init__(self) -> None:
        self._running: dict[str, _SharedTask] = {}

    async def share(self, key: str, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await a piece of work, which others may be awaiting already under the same key."""
        shared = self._running.get(key)
        if shared is None:
            # ensure_future copies the context of its caller; this one is empty.
            shared = _SharedTask(contextvars.Context().run(asyncio.ensure_future, make()))
            self._running[key] = shared
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
        if shared.task.done() and not shared.task.cancelled():
            # Marks the error as seen: each waiter raises it, but the last one may have been cancelled.
            shared.task.exception()

    async def close(self) -> None:
        """Cancel all tasks."""
        tasks = [shared.task for shared in self._running.values()]
        self._running.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
