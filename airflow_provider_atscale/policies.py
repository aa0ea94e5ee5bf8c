"""Decide by the class of an error whether and when Airflow retries a task (Airflow 3.3 and newer)."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowOptionalProviderFeatureException,
    AirflowSensorTimeout,
)

try:
    from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
except ImportError:
    raise AirflowOptionalProviderFeatureException(
        "AtScaleRetryPolicy needs Airflow 3.3 or newer: older versions have no retry policies. Leave retry_policy "
        "out: the task is retried as its retries and retry_delay say, and errors that no retry can cure fail it "
        "at once."
    ) from None

from airflow_provider_atscale.arguments import parse_bool, parse_seconds
from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleBatchFailedError,
    AtScaleBatchSupersededError,
    AtScaleError,
    AtScaleMalformedAnswerError,
    AtScaleTimeoutError,
    AtScaleWaitError,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

#: Answers with these statuses, or with 500 and more, may be others later.
_MAY_CHANGE = (408, 409, 425, 429)


class AtScaleRetryPolicy(RetryPolicy):
    """
    Decide by the class of AtScale's error whether and when a task is retried (Airflow 3.3+).

    .. seealso::
        The column "policy" of the table in :mod:`airflow_provider_atscale.exceptions`.

    Give it to an operator, sensor or ``default_args`` as ``retry_policy``. It never extends the task's ``retries``.
    A delay is that of ``retry_delay`` and ``retry_exponential_backoff``, unless AtScale's answer says when to come
    back. Errors of other packages are retried as if there were no policy.

    :param retry_failed_builds: Whether to build again if AtScale ended the batch without success, or aggregates are
        missing and ``failed_aggregates`` is ``fail``. False (default): the task fails at once, because the next
        build may take as long and fail alike, and a batch may have been cancelled on purpose. Leave it False for a
        sensor: its retry looks at the same batch.
    :param max_retry_after: The longest delay that a ``Retry-After`` header can ask for, as ``timedelta`` or seconds.
        Default: 1 hour.
    :raises AtScaleConfigurationError: If an argument is invalid. The import of the DAG file fails.
    """

    def __init__(
        self, *, retry_failed_builds: bool = False, max_retry_after: timedelta | float = timedelta(hours=1)
    ) -> None:
        # Airflow asks the policy on a worker; an error there is logged, and the policy is ignored.
        self.retry_failed_builds = parse_bool(retry_failed_builds, "retry_failed_builds")
        self.max_retry_after = timedelta(seconds=parse_seconds(max_retry_after, "max_retry_after"))

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,
        max_tries: int,
        context: Context | None = None,
    ) -> RetryDecision:
        """
        Decide whether and when to retry.

        :param exception: The exception that ended the try.
        :param try_number: The number of the try; decides nothing.
        :param max_tries: How often the task is tried; decides nothing.
        :param context: The task's context; decides nothing.
        """
        del try_number, max_tries, context
        if not isinstance(exception, AtScaleError):
            return RetryDecision.default()
        if isinstance(exception, (AirflowFailException, AirflowSensorTimeout)):
            # Airflow does not ask about them, but another policy may that asks this one.
            return RetryDecision.fail("No retry can cure this error")
        if isinstance(exception, (AtScaleBatchFailedError, AtScaleBatchSupersededError)):
            if self.retry_failed_builds:
                return RetryDecision.retry(reason="A failed build is tried again (retry_failed_builds)")
            return RetryDecision.fail("The build failed: read AtScale's message first")
        if isinstance(exception, (AtScaleTimeoutError, AtScaleWaitError)):
            return RetryDecision.retry(timedelta(0), "A build that was started goes on; a retry attaches to it")
        if isinstance(exception, AtScaleApiError):
            return self._judge_answer(exception)
        return RetryDecision.retry(reason="A retry may succeed")

    def _judge_answer(self, error: AtScaleApiError) -> RetryDecision:
        status = error.http_status_code
        is_lasting = status is not None and status < 500 and status not in _MAY_CHANGE
        if is_lasting and not isinstance(error, AtScaleMalformedAnswerError):
            return RetryDecision.fail(f"AtScale would answer HTTP {status} again: correct what the error names")
        if not error.retry_after:
            # A delay of 0 would use up all tries within seconds.
            return RetryDecision.retry(reason="AtScale may answer otherwise later")
        longest = self.max_retry_after.total_seconds()
        delay = timedelta(seconds=min(error.retry_after, longest))
        asked = f"AtScale asks to come back after {error.retry_after:.0f} s (Retry-After)"
        return RetryDecision.retry(
            delay, f"{asked}; max_retry_after is {longest:.0f} s" if error.retry_after > longest else asked
        )

    def serialize(self) -> dict[str, Any]:
        """Return the policy as JSON values."""
        return {
            "__type": "AtScaleRetryPolicy",
            "retry_failed_builds": self.retry_failed_builds,
            "max_retry_after": self.max_retry_after.total_seconds(),
        }

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> AtScaleRetryPolicy:
        """
        Return the policy that :meth:`serialize` has returned as JSON values.

        :param data: The values.
        """
        return cls(
            retry_failed_builds=data["retry_failed_builds"],
            max_retry_after=timedelta(seconds=data["max_retry_after"]),
        )
