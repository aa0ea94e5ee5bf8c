"""What each exit code of the commands means."""

from __future__ import annotations

from airflow_provider_atscale import exceptions as errors

DONE = 0
OTHER = 1
USAGE = 2
NOT_STARTED = 9
STOPPED = 130

#: Of an error, the first class that fits decides.
CODES: dict[type[Exception], int] = {
    errors.AtScaleConfigurationError: USAGE,
    errors.AtScaleConnectionError: 3,
    errors.AtScaleMalformedAnswerError: 3,
    errors.AtScaleAuthenticationError: 4,
    errors.AtScalePermissionError: 5,
    errors.AtScaleNotFoundError: 6,
    errors.AtScaleBatchNotFoundError: 6,
    errors.AtScaleBatchFailedError: 7,
    errors.AtScaleBatchSupersededError: 7,
    errors.AtScaleTimeoutError: 8,
    errors.AtScaleWaitError: 8,
    errors.AtScaleAlreadyRunningError: NOT_STARTED,
    errors.AtScaleGaveUpError: NOT_STARTED,
    errors.AtScaleStartError: 10,
    errors.AtScaleStartUnknownError: 11,
}

#: The table of the docs.
MEANINGS = {
    DONE: "All is well; for `watch` and `build`: the batch ended well.",
    OTHER: "Another error. `--debug` shows the traceback.",
    USAGE: "Wrong arguments or connection settings, an unknown connection, or `build` was not confirmed.",
    3: "AtScale cannot be reached, or what answers is not AtScale.",
    4: "AtScale refused the credentials.",
    5: "The user lacks a right.",
    6: "There is no such catalog, model or batch.",
    7: "The batch failed; with `--failed-aggregates fail` also: aggregates are missing.",
    8: "The wait ended before the batch did: `--timeout`, or AtScale could not be read for too long.",
    NOT_STARTED: "Nothing was started: a batch already runs, and `--on-running` is `skip` or `fail`.",
    10: "AtScale refused to start the build.",
    11: "The reply to the start was lost: AtScale may or may not have started a build.",
    STOPPED: "You stopped the command. A build that was started goes on in AtScale.",
}


def exit_code_of(error: BaseException) -> int:
    """Return the exit code of an error."""
    return next((code for kind, code in CODES.items() if isinstance(error, kind)), OTHER)
