"""Raise a recent failure again instead of repeating the request."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_atscale.exceptions import AtScaleError


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
