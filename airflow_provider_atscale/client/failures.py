"""Remember a recent failure instead of repeating the request."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_atscale.exceptions import (
        AtScaleError,
    )


class FailureCache:
    """A failure that stands for a while, so that not everybody brings it about again."""

    def __init__(self) -> None:
        self._error: AtScaleError | None = None
        self._until = 0.0

    def note(self, error: AtScaleError, seconds: float) -> None:
        """
        Let a failure stand.

        :param error: The failure.
        :param seconds: For how long.
        """
        self._error, self._until = error, time.monotonic() + seconds

    def check(self) -> None:
        """Raise the failure while it stands."""
        if self._error is not None and time.monotonic() < self._until:
            # Each raise would lengthen the traceback that it carries.
            raise self._error.with_traceback(None)
