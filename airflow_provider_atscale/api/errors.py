"""Turn an answer that is not a success into a typed error with the server's own words."""

from __future__ import annotations

import re
from collections.abc import Mapping

from airflow_provider_atscale.api.flow import Response, shorten
from airflow_provider_atscale.api.values import text_of
from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleAuthenticationError,
    AtScalePermissionError,
)

#: How many characters of the server's message an error shows.
MAX_SERVER_MESSAGE = 500
#: How many characters of a page are searched for its title.
MAX_PAGE = 4000
_HTML = re.compile(r"\s*<(!doctype html|html)\b", re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]*>([^<]+)</title>", re.IGNORECASE)
#: Answers that say that a call is not allowed or does not exist.
REFUSALS = (401, 403, 404)

NEW_TOKEN = "Generate a new one in Design Center > profile > Account panel > API Token (valid 90 days)"  # noqa: S105
CHECK_CREDENTIALS = f"Check the connection's token or password. {NEW_TOKEN}."


def server_message(response: Response) -> str:
    """Return what the server says about an error, in whichever of its forms it says it."""
    body = response.json_or_none()
    found: list[str] = []
    if isinstance(body, Mapping):
        places = (body, body.get("status"), body.get("response"))
        for place in (place for place in places if isinstance(place, Mapping)):
            found += [_message(place.get(name)) for name in ("message", "error", "error_description")]
    said = ": ".join(filter(None, dict.fromkeys(found))) or _title_of_page(response)
    return shorten(said, MAX_SERVER_MESSAGE) or response.excerpt or "empty answer"


def _title_of_page(response: Response) -> str:
    """Return the title of an HTML page, such as nginx sends if AtScale behind it does not answer."""
    page = response.text[:MAX_PAGE]
    title = _TITLE.search(page)
    if title is None or not _HTML.match(page):
        return ""
    server = response.headers.get("server") or ("nginx" if ">nginx<" in page else "")
    return f"an HTML page '{title[1].strip()}'{f' of {server}' if server else ''}"


def _message(value: object) -> str:
    texts = value if isinstance(value, list) else [value]
    return "; ".join(text for text in texts if isinstance(text, str) and text.strip())


def answer_of(response: Response) -> str:
    """Return what was answered and by whom, for an error."""
    return f"HTTP {response.status}: {server_message(response)} ({response.url})"


def check(
    response: Response, what: str, *, needs: str = "a role that allows it", advice: str = CHECK_CREDENTIALS
) -> None:
    """Raise :func:`error_of` for an answer that is not a success."""
    if not response.ok:
        raise error_of(response, what, needs=needs, advice=advice)


def error_of(response: Response, what: str, *, needs: str, advice: str) -> AtScaleApiError:
    """
    Return the typed error for an answer that is not a success.

    :param what: What the call was for: "read the build history".
    :param needs: What the user needs for it: "the role ...".
    :param advice: What to do if the credentials are refused, a sentence.
    """
    said, status = answer_of(response), response.status
    if status == 401:
        return AtScaleAuthenticationError(
            f"Could not {what}: the credentials were not accepted. {said}. {advice}", status
        )
    if status == 403:
        return AtScalePermissionError(
            f"Could not {what}: permission denied. {said}. The user of the connection needs {needs}.", status
        )
    if 300 <= status < 400:
        target = shorten(re.split(r"[?#]", text_of(response.headers, "location") or "elsewhere")[0])
        return AtScaleApiError(
            f"Could not {what}: {response.url} redirects to {target} and redirects are not followed. "
            "Put the final URL, which responds without a redirect (https?), into the connection's host or, if "
            "they are set, into engine_url and design_center_url.",
            status,
        )
    if status == 429:
        hint = "AtScale gets too many requests: use longer poll intervals, or run fewer tasks at a time"
    elif status >= 500:
        hint = "AtScale, or a proxy in front of it, has a problem: look at its logs"
    else:
        hint = "Check what AtScale's message names in the connection and in the task's arguments"
    return AtScaleApiError(f"Could not {what}: {said}. {hint}.", status, response.retry_after)
