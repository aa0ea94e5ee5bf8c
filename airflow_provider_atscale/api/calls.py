"""
Every call that this package sends to AtScale: its path, where it is described, and how sure it is.

Requests take their URLs from here, so the table and the code cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass
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

    :param edition: The edition that has it.
    :param method: HTTP method.
    :param path: Path with ``{placeholders}``; ``{prefix}`` is the connection's ``api_prefix``, ``/v1``.
    :param purpose: What it is used for.
    :param source: Where it is described.
    :param confidence: How sure it is that AtScale has it in this form: high, medium or low.
    :param server: Which server of the installer edition has it: the engine or the Design Center.
    """

    edition: str
    method: str
    path: str
    purpose: str
    source: str
    confidence: str
    server: str = "host"

    def url(self, base_url: str, prefix: str = "/v1", **ids: str) -> str:
        """
        Return the URL of the call.

        :param base_url: The server's address, without a slash at the end.
        :param prefix: Where the public API begins.
        :param ids: The values of the other placeholders; they are quoted.
        """
        quoted = {name: quote(value, safe="") for name, value in ids.items()}
        return base_url + self.path.format(prefix=prefix, **quoted)


def _container(method: str, path: str, purpose: str, source: str, confidence: str) -> Call:
    return Call("container", method, path, purpose, source, confidence)


def _engine(method: str, path: str, purpose: str, source: str, confidence: str) -> Call:
    return Call("installer", method, path, purpose, source, confidence, server="engine")


CATALOGS = _container(
    "GET", "{prefix}/catalogs", "find catalog and model by name", f"{DOCUMENTED}; {ATSCALE_TOOLS}", HIGH
)
START = _container(
    "POST",
    "{prefix}/aggregates-batch/catalogs/{catalog}/models/{model}",
    "start a batch",
    DOCUMENTED,
    HIGH,
)
INSTANCES = _container(
    "GET", "{prefix}/aggregates/instances", "read the aggregates of a batch", DOCUMENTED, HIGH
)
HISTORY = _container(
    "GET", "/wapi/p/aggregate/batch-history", "read the status of batches", ATSCALE_TOOLS, MEDIUM
)
TOKEN = _container("POST", "{prefix}/token", "exchange the API token", ATSCALE_TOOLS, MEDIUM)
KEYCLOAK_LOGIN = _container(
    "POST",
    "/auth/realms/{realm}/protocol/openid-connect/token",
    "log in with a password",
    ATSCALE_TOOLS,
    HIGH,
)
VERSION = _container("GET", "/engine/version", "test a connection", ATSCALE_TOOLS, HIGH)

INSTALLER_PROJECTS = _engine(
    "GET",
    "/projects/published/orgId/{organization}",
    "find project and cube by name",
    ATSCALE_TOOLS,
    MEDIUM,
)
INSTALLER_OLD_PROJECTS = _engine(
    "GET",
    "/projects/orgId/{organization}/envId/{environment}",
    "find project and cube by name on old engines",
    ATSCALE_TOOLS,
    LOW,
)
INSTALLER_START = _engine(
    "POST",
    "/aggregate-batch/orgId/{organization}/projectId/{project}",
    "start a batch",
    OTHER_CLIENTS,
    MEDIUM,
)
INSTALLER_START_IN_WORDS = _engine(
    "POST",
    "/aggregate-batch/{organization}/{project}",
    "start a batch, after a 404 to the call before",
    DOCUMENTED_IN_WORDS,
    LOW,
)
INSTALLER_OLD_START = _engine(
    "POST",
    "/aggregate-batch/orgId/{organization}/envId/{environment}/{project}",
    "start a batch on old engines, after a 404 to the calls before",
    ATSCALE_TOOLS,
    MEDIUM,
)
INSTALLER_HISTORY = _engine(
    "GET",
    "/aggregate-batch/orgId/{organization}/history",
    "read the status of batches",
    OTHER_CLIENTS,
    MEDIUM,
)
INSTALLER_LAST_BATCHES = _engine(
    "GET",
    "/aggregate-batch/orgId/{organization}/envId/{environment}",
    "read the last batch of each cube on old engines",
    ATSCALE_TOOLS,
    MEDIUM,
)
INSTALLER_INSTANCES = _engine(
    "GET",
    "/aggregates/orgId/{organization}/instances",
    "read the aggregates of a batch",
    DOCUMENTED,
    HIGH,
)
INSTALLER_VERSION = _engine("GET", "/version", "test a connection", ATSCALE_TOOLS, HIGH)
INSTALLER_LOGIN = Call(
    "installer",
    "GET",
    "/{organization}/auth",
    "log in with a password",
    DOCUMENTED,
    HIGH,
    server="Design Center",
)

CALLS = tuple(each for each in list(globals().values()) if isinstance(each, Call))
