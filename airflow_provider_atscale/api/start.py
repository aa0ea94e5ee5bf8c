"""The start call, which is sent once, and what its answer means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from airflow_provider_atscale.api.errors import check, server_message
from airflow_provider_atscale.api.flow import Flow, Pause, Request, Response
from airflow_provider_atscale.api.models import Batch, ModelRef, parse_batch
from airflow_provider_atscale.api.values import text_of
from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleConnectionError,
    AtScaleError,
    AtScaleMalformedAnswerError,
    AtScaleNotFoundError,
    AtScaleStartError,
)


@dataclass(frozen=True, slots=True)
class Started:
    """The server accepted the start and told the batch's id."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class LostReply:
    """
    The server got the start, and what it made of it is not known.

    :param reason: What came instead of an answer.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """
    The server answered 409 or 500, which is also how it says that a batch of the model runs already.

    :param error: What to raise where no batch runs.
    """

    error: AtScaleError


StartOutcome = Started | LostReply | Refused


def post_once(
    request: Request, headers: Mapping[str, str], before_post: Callable[[], None]
) -> Flow[Response | LostReply]:
    """
    Send the start POST: once, unless the connection was refused and so nothing was sent.

    :param request: The POST, without credentials.
    :param headers: The credentials.
    :param before_post: Called right before each try; nothing is sent where it raises.
    """
    for pause in (0.5, 2.0, None):
        before_post()
        try:
            response: Response = yield request.with_headers(headers)
        except AtScaleConnectionError as error:
            if error.sent:
                return LostReply(str(error))
            if pause is None:
                raise
            yield Pause(pause)
        else:
            return response
    raise AssertionError("unreachable")  # pragma: no cover


def read_start(response: Response, ref: ModelRef, role: str) -> StartOutcome:
    """
    Return what an answer to the start means.

    :param response: The answer.
    :param ref: The model, for the error.
    :param role: The role that the call needs, for the error.
    """
    said = f"{response.url} answered HTTP {response.status}: {server_message(response)}"
    if response.ok:
        try:
            body = response.json()
        except AtScaleMalformedAnswerError as error:
            return LostReply(str(error))
        inner = body.get("response") if isinstance(body, Mapping) else None
        places = [place for place in (body, inner) if isinstance(place, Mapping)]
        for place in places:
            row = place.get("batch")
            if isinstance(row, Mapping):
                # The status only informs here; the id alone makes it a start.
                batch = parse_batch({**row, "status": text_of(row, "status") or "new"})
                if batch is not None:
                    return Started(batch)
        if any(place.get("success") is False for place in places):
            raise AtScaleStartError(f"AtScale did not start a build of {ref}: {said}.", response.status)
        return LostReply(str(response.malformed("has no batch id")))
    if response.status == 408 or response.status > 501:
        # Gateways say so when they stop waiting for AtScale, some with numbers of their own (520 to 530, 599).
        return LostReply(said)
    if response.status in (409, 500):
        return Refused(
            AtScaleStartError(
                f"AtScale refused to build {ref}: {said}. No running batch of it was found that would explain "
                "it; look at AtScale's engine log.",
                response.status,
            )
        )
    if response.status == 404:
        raise AtScaleNotFoundError(
            f"AtScale cannot build {ref}: {said}. Check that it is deployed and that both ids are right "
            "(Deployed Catalogs > catalog > Build > Copy cURL shows them).",
            404,
        )
    if response.status in (401, 403):
        check(response, f"start a build of {ref}", role=role)
    try:
        check(response, f"start a build of {ref}", role=role)
    except AtScaleApiError as error:
        raise AtScaleStartError(str(error), response.status) from None
    raise AssertionError("unreachable")  # pragma: no cover
