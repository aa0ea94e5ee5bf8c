"""Retry reads after transient failures: one policy for both clients."""

from __future__ import annotations

import time
from typing import Any

import tenacity

from airflow_provider_atscale.exceptions import AtScaleConnectionError

#: The statuses after which a read is retried.
TRANSIENT = (429, 502, 503, 504)
#: How often a read is tried.
TRIES = 5
#: After refused credentials, the connection is read again at most once in so many seconds.
RELOAD_INTERVAL = 30.0
#: The last poll of a wait is made at its deadline. It may take so many seconds, if it gets no answer.
LAST_POLL = 5.0
#: The longest pause, in seconds, that a server's ``Retry-After`` can ask for.
LONGEST_PAUSE = 60.0

_IS_TRANSIENT = tenacity.retry_if_exception_type(AtScaleConnectionError) | tenacity.retry_if_result(
    lambda response: response.status in TRANSIENT
)
_BACKOFF = tenacity.wait_exponential(multiplier=0.5, max=15.0) + tenacity.wait_random(0, 0.5)


def retry_policy(tries: int, until: float | None) -> dict[str, Any]:
    """
    Return the arguments of tenacity's ``Retrying``; after ``until``, in epoch seconds, nothing is tried
    again.
    """

    def is_over(state: tenacity.RetryCallState) -> bool:
        if state.attempt_number >= tries:
            return True
        return until is not None and time.time() + _pause(state) >= until

    return {
        "retry": _IS_TRANSIENT,
        "wait": _pause,
        "stop": is_over,
        # The last answer is the outcome, not an error about retries.
        "retry_error_callback": lambda state: state.outcome.result() if state.outcome else None,
    }


def _pause(state: tenacity.RetryCallState) -> float:
    """Return the seconds until the next try: those that the server asks for, else a growing number."""
    outcome = state.outcome
    if outcome is not None and not outcome.failed:
        asked: float | None = outcome.result().retry_after
        if asked is not None:
            return min(asked, LONGEST_PAUSE)
    return _BACKOFF(state)
