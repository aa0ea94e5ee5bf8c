"""
What can go wrong with an AtScale build, one class for each thing that a reader can do about it.

Two families. Errors that no retry can cure also derive from ``AirflowFailException``: the task fails at
once, its retries are not used, and Airflow does not ask a retry policy about them. All others leave the
decision to the task's ``retries`` (and, on Airflow 3.3+, to its ``retry_policy``). The column "policy" says what
:class:`~airflow_provider_atscale.policies.AtScaleRetryPolicy` decides: ``at once``, ``delay`` (after the answer's
``Retry-After``, else after the task's ``retry_delay``), ``fail``, or ``by status``: a delay for an answer that may
change (HTTP 408, 409, 425, 429, 5xx), else ``fail``.

======================================  =======  =========  ==========================================================
class                                   retries  policy     what to do
======================================  =======  =========  ==========================================================
:class:`AtScaleConfigurationError`      no       not asked  correct the connection's field or the operator's argument
:class:`AtScaleAuthenticationError`     no       not asked  give the connection a valid token or password
:class:`AtScalePermissionError`         no       not asked  give the user the role that the message names
:class:`AtScaleNotFoundError`           no       not asked  correct the catalog's or the model's name; deploy it
:class:`AtScaleConnectionError`         yes      delay      check host, port, TLS and network
:class:`AtScaleApiError`                yes      by status  read AtScale's own message; look at its logs
:class:`AtScaleMalformedAnswerError`    yes      delay      look for a proxy or login page between Airflow and AtScale
:class:`AtScaleStartError`              yes      by status  AtScale refused to start the batch: read its message
:class:`AtScaleStartUnknownError`       yes      delay      nothing: a retry looks for the batch before it starts one
:class:`AtScaleGaveUpError`             no       not asked  mend the model; then clear the task, which builds again
:class:`AtScaleAlreadyRunningError`     yes      delay      wait for the other batch, or choose another ``on_running``
:class:`AtScaleBatchFailedError`        yes      fail       read the failed aggregates' messages; a retry builds again
:class:`AtScaleAggregatesFailedError`   yes      fail       the same; or set ``failed_aggregates="warn"``
:class:`AtScaleAggregateCheckError`     yes      delay      build the model's aggregates, or correct the thresholds
:class:`AtScaleBatchSupersededError`    yes      fail       if the later build ended well, mark the task as success
:class:`AtScaleBatchNotFoundError`      yes      delay      look for the batch in AtScale's Build History page
:class:`AtScaleWaitError`               yes      at once    AtScale could not be read for long; a retry attaches again
:class:`AtScaleTimeoutError`            yes      at once    raise ``timeout``; the build goes on, a retry attaches
:class:`AtScaleSensorTimeoutError`      no       not asked  raise the sensor's ``timeout``; the build goes on
:class:`AtScaleEventError`              yes      delay      trigger and operator differ in their version: see the text
:class:`AtScaleTaskStoppedError`        yes      delay      somebody stopped the task; the build, if started, goes on
======================================  =======  =========  ==========================================================
"""

from __future__ import annotations

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
)


class AtScaleError(AirflowException):
    """Base of everything that this provider raises."""


class AtScaleConfigurationError(AtScaleError, AirflowFailException):
    """A field of the connection or an argument of the task cannot be used. Correct what the text names."""


class AtScaleApiError(AtScaleError):
    """
    AtScale answered with an error, or with something that the call does not promise.

    :param message: What happened, where, and what to do.
    :param http_status_code: Status of the answer; None if there was no answer.
    :param retry_after: Seconds of the answer's ``Retry-After`` header; None if it had none.
    """

    def __init__(
        self, message: str, http_status_code: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.http_status_code = http_status_code
        self.retry_after = retry_after


class AtScaleAuthenticationError(AtScaleApiError, AirflowFailException):
    """AtScale does not accept the credentials. Put a valid token or password into the connection."""


class AtScalePermissionError(AtScaleApiError, AirflowFailException):
    """AtScale knows the user but refuses the call. Give the user the role that the text names."""


class AtScaleNotFoundError(AtScaleApiError, AirflowFailException):
    """There is no such catalog or model, or its name fits several. Correct the name or deploy the model."""


class AtScaleConnectionError(AtScaleError):
    """
    AtScale did not answer. Check host, port, TLS settings and network.

    :param message: What happened, where, and what to do.
    :param sent: Whether the request may have reached AtScale; False only if it certainly did not.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class AtScaleMalformedAnswerError(AtScaleApiError):
    """An answer is not what the call returns: a login page, truncated JSON, a wrong type."""


class AtScaleStartError(AtScaleApiError):
    """AtScale refused to start the batch. Its own message is in the text."""


class AtScaleStartUnknownError(AtScaleError):
    """
    The reply to the start was lost: AtScale may or may not have started a build.

    A retry of the task looks for the batch before it starts one.
    """


class AtScaleAlreadyRunningError(AtScaleError):
    """A batch of this model runs already and ``on_running="fail"`` was chosen."""


class AtScaleGaveUpError(AtScaleError, AirflowFailException):
    """The last builds of the model have all failed, as many as ``give_up_after`` says. Clear the task to build."""


class AtScaleBatchFailedError(AtScaleError):
    """The batch ended without success. The text has the first failed aggregates and their messages."""


class AtScaleAggregatesFailedError(AtScaleBatchFailedError):
    """The batch is done, aggregates are missing from it, and ``failed_aggregates="fail"`` was chosen."""


class AtScaleAggregateCheckError(AtScaleError):
    """The aggregates of a model miss a threshold of the check. The text names the aggregates and the reasons."""


class AtScaleBatchSupersededError(AtScaleError):
    """
    A later build has replaced all aggregates of the batch, so its outcome can no longer be told.

    Only a user without the right to read the build history sees this. A retry builds again.
    """


class AtScaleBatchNotFoundError(AtScaleError):
    """The batch does not appear in the model's build history."""


class AtScaleWaitError(AtScaleError):
    """AtScale could not be read, or not understood, for longer than tolerated. The build goes on."""


class AtScaleTimeoutError(AtScaleError):
    """The batch did not end in time. The build goes on in AtScale; a retry of the task attaches to it."""


class AtScaleSensorTimeoutError(AtScaleTimeoutError, AirflowSensorTimeout):
    """The batch did not end before the sensor's ``timeout``. As with every sensor, not retried."""


class AtScaleEventError(AtScaleError):
    """The trigger's event cannot be trusted, so nothing is taken from it and the task fails."""


class AtScaleTaskStoppedError(AtScaleError):
    """The task was stopped while it worked. A build that was started goes on in AtScale."""
