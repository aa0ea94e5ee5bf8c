"""
Every call that this package sends to AtScale: its path, where it is described, and how sure it is.

Requests take their URLs from here, so the table and the code cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from urllib.parse import quote

DOCUMENTED = "AtScale's documentation"
DOCUMENTED_IN_WORDS = "AtScale's documentation, in words only"
ATSCALE_TOOLS = "AtScale's own tools"
OTHER_CLIENTS = "clients that others have published"

HIGH, MEDIUM, LOW = "high", "medium", "low"


@dataclass(frozen=True, slots=True)
class Call:
    """
    A call of AtScale's API.

    :param server: The server that has it: the host or, on the installer edition, the engine or Design Center.
    :param path: Path with ``{placeholders}``; ``{prefix}`` is the connection's ``api_prefix``, ``/v1``.
    :param confidence: How sure it is that AtScale has it in this form: high, medium or low.
    """

    edition: str
    server: str
    method: str
    path: str
    purpose: str
    source: str
    confidence: str

    def url(self, base_url: str, prefix: str = "/v1", **ids: str) -> str:
        """Return the URL of the call at a server's address without a slash at the end; the ids are quoted."""
        quoted = {name: quote(value, safe="") for name, value in ids.items()}
        return base_url + self.path.format(prefix=prefix, **quoted)


_host, _engine = partial(Call, "container", "host"), partial(Call, "installer", "engine")

_BATCHES = "/aggregate-batch/orgId/{organization}"
_BATCHES_START = "{prefix}/aggregates-batch/catalogs/{catalog}/models/{model}"
_REALM_TOKEN = "/auth/realms/{realm}/protocol/openid-connect/token"  # noqa: S105

CATALOGS = _host("GET", "{prefix}/catalogs", "find models by name", ATSCALE_TOOLS, HIGH)
START = _host("POST", _BATCHES_START, "start a batch", DOCUMENTED, HIGH)
INSTANCES = _host(
    "GET", "{prefix}/aggregates/instances", "read the aggregates of a batch or model", DOCUMENTED, HIGH
)
HISTORY = _host("GET", "/wapi/p/aggregate/batch-history", "read the status of batches", ATSCALE_TOOLS, MEDIUM)
TOKEN = _host("POST", "{prefix}/token", "exchange the API token", ATSCALE_TOOLS, MEDIUM)
KEYCLOAK_LOGIN = _host("POST", _REALM_TOKEN, "log in with a password", ATSCALE_TOOLS, HIGH)
VERSION = _host("GET", "/engine/version", "test a connection", ATSCALE_TOOLS, HIGH)

INSTALLER_PROJECTS = _engine(
    "GET", "/projects/published/orgId/{organization}", "find cubes by name", ATSCALE_TOOLS, MEDIUM
)
INSTALLER_OLD_PROJECTS = _engine(
    "GET", "/projects/orgId/{organization}/envId/{environment}", "the same on old engines", ATSCALE_TOOLS, LOW
)
INSTALLER_START = _engine("POST", _BATCHES + "/projectId/{project}", "start a batch", OTHER_CLIENTS, MEDIUM)
INSTALLER_START_IN_WORDS = _engine(
    "POST", "/aggregate-batch/{organization}/{project}", "start a batch, after a 404", DOCUMENTED_IN_WORDS, LOW
)
INSTALLER_OLD_START = _engine(
    "POST", _BATCHES + "/envId/{environment}/{project}", "start a batch on old engines", ATSCALE_TOOLS, MEDIUM
)
INSTALLER_HISTORY = _engine("GET", _BATCHES + "/history", "read the status of batches", OTHER_CLIENTS, MEDIUM)
INSTALLER_LAST_BATCHES = _engine(
    "GET", _BATCHES + "/envId/{environment}", "read the status of batches on old engines", ATSCALE_TOOLS, MEDIUM
)
INSTALLER_INSTANCES = _engine(
    "GET",
    "/aggregates/orgId/{organization}/instances",
    "read the aggregates of a batch or cube",
    DOCUMENTED,
    HIGH,
)
INSTALLER_VERSION = _engine("GET", "/version", "test a connection", ATSCALE_TOOLS, HIGH)
INSTALLER_LOGIN = Call(
    "installer", "Design Center", "GET", "/{organization}/auth", "log in with a password", DOCUMENTED, HIGH
)

CALLS = tuple(each for each in list(globals().values()) if isinstance(each, Call))
