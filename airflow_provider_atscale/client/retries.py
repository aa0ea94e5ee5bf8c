"""Repeat reads after trouble that passes: one policy for both clients."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import tenacity

from airflow_provider_atscale.exceptions import (
    AtScaleConnectionError,
)

if TYPE_CHECKING:
    from airflow_provider_atscale.api.flow import Response

#: Answers that a read is repeated after.
TRANSIENT = (429, 502, 503, 504)


#: How often a read is tried.
TRIES = 5


#: The longest pause that a server's Retry-After is granted.
LONGEST_PAUSE = 60.0


_BACKOFF = tenacity.wait_exponential(multiplier=0.5, max=15.0) + tenacity.wait_random(0, 0.5)


def _is_transient(state: tenacity.RetryCallState) -> bool:
    """Whether an outcome is worth another try: the answer says so, or there was none."""
    outcome = state.outcome
    if outcome is None:
        return False
    if outcome.failed:
        return isinstance(outcome.exception(), AtScaleConnectionError)
    return outcome.result().status in TRANSIENT


def _pause(state: tenacity.RetryCallState) -> float:
    """Return the seconds until the next try: what the server asks for, else growing ones with jitter."""
    outcome = state.outcome
    if outcome is not None and not outcome.failed:
        asked = _retry_after(outcome.result())
        if asked is not None:
            return min(asked, LONGEST_PAUSE)
    return _BACKOFF(state)


def _retry_after(response: Response) -> float | None:
    """Return the seconds of a ``Retry-After`` header, which may be a number or a date."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        # A date without a zone, which is no proper one, cannot be compared and is a TypeError too.
        return max((parsedate_to_datetime(value) - response.date).total_seconds(), 0.0)  # type: ignore[operator]
    except (TypeError, ValueError):
        return None


def _policy(tries: int) -> dict[str, Any]:
    """Return the retry policy of reads: the same for both drivers."""
    return {
        "retry": _is_transient,
        "wait": _pause,
        "stop": tenacity.stop_after_attempt(tries),
        # The last answer is the outcome, not an error about retries.
        "retry_error_callback": lambda state: state.outcome.result() if state.outcome else None,
    }
