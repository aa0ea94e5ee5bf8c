"""
AtScale models as Airflow's assets: ``atscale://<host>/<catalog>/<model>``.

Catalog and model are written as people know them, percent-encoded where a URI needs it. An asset is its URI, so
the task that produces it and the DAG that is scheduled on it must spell it alike. Give :func:`create_asset` and
:func:`model_asset` the caption, or the name of what has no caption: an asset alias resolves to that.

Asset events carry JSON values in ``extra``. Where a task of this package has an asset of any kind among its
``outlets``, the event carries the report of the batch; where it has an asset alias, the alias resolves to the
model's own asset, and the report's lists and mappings are JSON texts in that event. A task that was given ids,
as a sensor from XCom ``batch``, knows no names, and its alias resolves to an asset of ids. Airflow emits events
only for tasks that succeed.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow.providers.common.compat.openlineage.facet import Dataset as OpenLineageDataset
    from airflow.providers.common.compat.sdk import Asset

SCHEME = "atscale"
_SHAPE = "atscale://<host>/<catalog>/<model>"
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\]")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_DEFAULT_PORTS = {"https": 443, "http": 80}


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """
    Return the one spelling of a model's URI, or raise ``ValueError`` for what names no model.

    :param uri: The URI, split.
    """
    if uri.username is not None or uri.password is not None:
        raise ValueError(f"{_SHAPE} must not contain login or password; they belong into the connection")
    if uri.query or uri.fragment:
        raise ValueError(f"{_SHAPE} has no query and no fragment")
    parts = uri.path.removeprefix("/").rstrip("/").split("/")
    if len(parts) != 2 or not all(parts):
        raise ValueError(
            f"{_SHAPE} must name exactly one catalog and one model; write a slash inside a name as %2F"
        )
    names = (_name(part) for part in parts)
    return SplitResult(SCHEME, _netloc(uri), "/" + "/".join(quote(name, safe="") for name in names), "", "")


def _netloc(uri: SplitResult) -> str:
    try:
        port = uri.port
    except ValueError as error:
        raise ValueError(f"{_SHAPE}: {error}") from None
    host = uri.hostname or ""
    host = f"[{host}]" if ":" in host else host
    if not _HOST.fullmatch(host):
        raise ValueError(f"{_SHAPE} must contain AtScale's host, not {uri.netloc!r}")
    return host if port in (None, _DEFAULT_PORTS["https"]) else f"{host}:{port}"


def _name(part: str) -> str:
    if _ESCAPE.search(part):
        raise ValueError(f"{part!r} contains a % that begins no escape; write it as %25")
    try:
        name = unquote(part, errors="strict").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{part!r} is not UTF-8") from None
    if not name or name in (".", "..") or not name.isprintable():
        raise ValueError(f"{part!r} is no name of a catalog or model")
    if "{{" in name or "{%" in name:
        raise ValueError(f"{name!r} is a template, and Airflow does not render the URIs of assets")
    return name


def create_asset(*, host: str, catalog: str, model: str, extra: dict[str, Any] | None = None) -> Asset:
    """
    Return the asset of a model.

    :param host: AtScale's host, with its port unless that is 443, or its whole address.
    :param catalog: Name of the catalog; on the installer edition of the project.
    :param model: Name of the model; on the installer edition of the cube.
    :param extra: What else to keep with the asset.
    """
    from airflow.providers.common.compat.sdk import Asset

    where = _host_of(host) if "://" in host else host
    raw = f"{SCHEME}://{where}/{quote(catalog, safe='')}/{quote(model, safe='')}"
    # Airflow 2 only warns of a URI that its provider rejects.
    uri = sanitize_uri(urlsplit(raw)).geturl()
    return Asset(uri=uri, extra=extra)


def model_asset(catalog: str, model: str, atscale_conn_id: str = "atscale_default") -> Asset:
    """
    Return the asset of a model of a connection's server.

    Reads the connection, so it is for tasks. At the top of a DAG file that would be a look-up at each parse:
    give :func:`create_asset` the host there, or use an asset alias.

    :param catalog: Name of the catalog; on the installer edition of the project.
    :param model: Name of the model; on the installer edition of the cube.
    :param atscale_conn_id: The Airflow connection.
    """
    from airflow.providers.common.compat.sdk import BaseHook

    from airflow_provider_atscale.client.settings import parse_connection

    settings = parse_connection(BaseHook.get_connection(atscale_conn_id))
    return create_asset(host=settings.base_url, catalog=catalog, model=model)


def _host_of(address: str) -> str:
    """Return host and port of a server's address, without the port that its scheme has anyway."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return host if parts.port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f"{host}:{parts.port}"


def namespace(server: str) -> str:
    """Return the OpenLineage namespace of a server, which is the beginning of its assets' URIs."""
    return f"{SCHEME}://{_host_of(server)}"


def convert_asset_to_openlineage(asset: Asset, lineage_context: Any) -> OpenLineageDataset:
    """
    Return a model's asset as OpenLineage's dataset.

    :param asset: The asset.
    :param lineage_context: Who uses it, which makes no difference.
    """
    from airflow.providers.common.compat.openlineage.facet import Dataset as OpenLineageDataset

    del lineage_context
    uri = sanitize_uri(urlsplit(asset.uri))
    return OpenLineageDataset(namespace=f"{SCHEME}://{uri.netloc}", name=unquote(uri.path.lstrip("/")))


def publish_report(context: Any, outlets: Iterable[Any], report: Mapping[str, Any], log: Any) -> None:
    """
    Put a batch's report into the events of a task's outlets; never raises, for the batch is done.

    :param context: The task's context.
    :param outlets: The task's outlets, of whatever kind.
    :param report: The report.
    :param log: Where to say what failed.
    """
    for outlet in outlets:
        try:
            _publish_report(context, outlet, report)
        except Exception as error:
            log.warning(
                "The event of outlet %r lacks the report of batch %s (%s: %s)",
                outlet,
                report["batch_id"],
                type(error).__name__,
                error,
            )


def _publish_report(context: Any, outlet: Any, report: Mapping[str, Any]) -> None:
    from airflow.providers.common.compat.sdk import Asset, AssetAlias

    if isinstance(outlet, AssetAlias):
        if report["catalog"] and report["model"]:
            own = create_asset(host=report["server"], catalog=report["catalog"], model=report["model"])
            extra = {name: _flat(value) for name, value in report.items()}
            context["outlet_events"][outlet].add(own, extra=extra)
    elif isinstance(outlet, (Asset, *_references())):
        context["outlet_events"][outlet].extra.update(report)


def _flat(value: Any) -> Any:
    """Return what can be put into a set: Airflow up to 3.1 does that with an alias' event, or else fails."""
    return json.dumps(value) if isinstance(value, (dict, list)) else value


def _references() -> tuple[type, ...]:
    """Return the kinds of outlets that only name an asset; Airflow 2 has none."""
    try:
        from airflow.sdk.definitions.asset import AssetRef
    except ImportError:
        return ()
    return (AssetRef,)
