"""The start call, which is sent once, and what its answer means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from airflow_provider_atscale.api.errors import answer_of, error_of
from airflow_provider_atscale.api.flow import Flow, Pause, Request, Response
from airflow_provider_atscale.api.models import Batch, ModelRef, parse_batch
from airflow_provider_atscale.api.values import text_of, value_at
from airflow_provider_atscale.exceptions import (
    AtScaleAuthenticationError,
    AtScaleConnectionError,
    AtScaleMalformedAnswerError,
    AtScaleNotFoundError,
    AtScalePermissionError,
    AtScaleStartError,
)


@dataclass(frozen=True, slots=True)
class Started:
    """The server accepted the start and told the batch's id."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class LostReply:
    """The server got the start, and whether it started a batch is not known."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """
    The server answered 409 or 500, which is also how it says that a batch of the model runs already.

    :param error: What to raise if no batch runs.
    """

    error: AtScaleStartError


StartOutcome = Started | LostReply | Refused


def post_once(request: Request, before_post: Callable[[], None]) -> Flow[Response | LostReply]:
    """
    Send the start POST. Only a refused connection, over which nothing was sent, is tried again.
    ``before_post`` is called right before each try; if it raises, nothing is sent.
    """
    pauses = iter((0.5, 2.0))
    while True:
        before_post()
        try:
            response: Response = yield request
        except AtScaleConnectionError as error:
            if error.sent:
                return LostReply(str(error))
            pause = next(pauses, None)
            if pause is None:
                raise
        else:
            return response
        yield Pause(pause)


def read_start(response: Response, ref: ModelRef, *, needs: str, advice: str, hint: str = "") -> StartOutcome:
    """
    Return what an answer to the start means.

    :param needs: What the user needs for the call, for the error.
    :param advice: What to do if the credentials are refused, a sentence.
    :param hint: Why the server may call the request itself wrong (HTTP 400), a sentence.
    """
    said, status = answer_of(response), response.status
    if response.ok:
        return _read_success(response, ref)
    if status == 408 or status > 501:
        # Gateways answer so if AtScale takes too long, some with status codes of their own (520 to 530, 599).
        return LostReply(said)
    if status in (409, 500):
        return Refused(
            AtScaleStartError(
                f"AtScale refused to build {ref}: {said}. No running batch of it was found that would explain "
                "it; look at AtScale's engine log.",
                status,
                response.retry_after,
            )
        )
    if status == 404:
        raise AtScaleNotFoundError(
            f"AtScale cannot build {ref}: {said}. Check that it is deployed and that both ids are right "
            "(Deployed Catalogs > catalog > Build > Copy cURL shows them).",
            404,
        )
    error = error_of(response, f"start a build of {ref}", needs=needs, advice=advice)
    if isinstance(error, (AtScaleAuthenticationError, AtScalePermissionError)):
        raise error
    message = f"{error} {hint}".rstrip() if status == 400 else str(error)
    raise AtScaleStartError(message, status, error.retry_after)


def _read_success(response: Response, ref: ModelRef) -> StartOutcome:
    try:
        body = response.json()
    except AtScaleMalformedAnswerError as error:
        return LostReply(str(error))
    # The installer edition may wrap the body.
    places = [place for place in (body, value_at(body, "response")) if isinstance(place, Mapping)]
    for row in (place.get("batch") for place in places):
        if isinstance(row, Mapping):
            # The id alone makes it a start; the status only informs.
            batch = parse_batch({**row, "status": text_of(row, "status") or "new"})
            if batch is not None:
                return Started(batch)
    if any(place.get("success") is False for place in places):
        raise AtScaleStartError(
            f"AtScale did not start a build of {ref}: {answer_of(response)}.", response.status
        )
    return LostReply(str(response.malformed("has no batch id")))
