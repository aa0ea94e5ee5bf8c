"""Limit the concurrent requests to one server."""

from __future__ import annotations

import asyncio

from airflow_provider_atscale.compat import time_limit

#: How many requests one triggerer sends to one server at once.
MAX_REQUESTS = 8


class ConcurrencyLimiter:
    """
    Limit the concurrent requests to one server, whatever the number of connections to it.

    :param limit: How many requests are sent at once.
    """

    def __init__(self, limit: int = MAX_REQUESTS) -> None:
        self.limit = limit
        self._semaphore = asyncio.Semaphore(limit)

    async def acquire(self, seconds: float) -> None:
        """
        Wait for a slot; raise ``asyncio.TimeoutError`` if none is free in time.

        :param seconds: The longest wait.
        """
        if self._semaphore.locked():
            async with time_limit(seconds):
                await self._semaphore.acquire()
        else:
            await self._semaphore.acquire()

    def release(self) -> None:
        """Free a slot."""
        self._semaphore.release()
