"""Turn an answer that is not a success into a typed error with the server's own words."""

from __future__ import annotations

import json
import re

from airflow_provider_atscale.api.flow import Response, shorten
from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleAuthenticationError,
    AtScalePermissionError,
)

#: How much of the server's own words an error message may show.
SAID = 500


NEW_TOKEN = "Generate a new one in Design Center > profile > Account panel > API Token (valid 90 days)"  # noqa: S105


def server_message(response: Response) -> str:
    """Return what the server says about an error, in whichever of its forms it says it."""
    try:
        body = json.loads(response.body)
    except (ValueError, RecursionError):
        return response.excerpt or "empty answer"
    found: list[str] = []
    if isinstance(body, dict):
        status, inner = body.get("status"), body.get("response")
        places = [body, *(place for place in (status, inner) if isinstance(place, dict))]
        for place in places:
            for name in ("message", "error", "error_description"):
                value = place.get(name)
                if isinstance(value, list):
                    value = "; ".join(str(item) for item in value)
                if isinstance(value, str) and value.strip() and value not in found:
                    found.append(value)
    return shorten(": ".join(found), SAID) or response.excerpt or "empty answer"


def check(response: Response, what: str, *, role: str | None = None) -> None:
    """
    Raise the typed error for an answer that is not a success.

    :param response: The answer.
    :param what: What the call was for, as in "could not ...".
    :param role: The role that the call needs, for the text of a 403.
    """
    if response.ok:
        return
    said = f"{response.url} answered HTTP {response.status}: {server_message(response)}"
    if response.status == 401:
        raise AtScaleAuthenticationError(
            f"Could not {what}: the credentials were not accepted. {said}. Check the connection's token or "
            f"password. {NEW_TOKEN}.",
            401,
        )
    if response.status == 403:
        needs = f"the role {role}" if role else "a role that allows it"
        raise AtScalePermissionError(
            f"Could not {what}: the user may not. {said}. The user of the connection needs {needs}.", 403
        )
    if 300 <= response.status < 400:
        target = shorten(re.split(r"[?#]", response.headers.get("location", "elsewhere"))[0])
        raise AtScaleApiError(
            f"Could not {what}: {response.url} redirects to {target} and redirects are not followed. "
            "Put the address (https?) that answers itself into the connection's host or, where these are set, "
            "into engine_url and design_center_url.",
            response.status,
        )
    if response.status == 429:
        hint = "AtScale is asked too often: ask for longer poll intervals, or for fewer tasks at a time"
    elif response.status >= 500:
        hint = "AtScale, or a proxy before it, is in trouble: look at its logs"
    else:
        hint = "Check what AtScale's message names in the connection and in the task's arguments"
    raise AtScaleApiError(f"Could not {what}: {said}. {hint}.", response.status)
