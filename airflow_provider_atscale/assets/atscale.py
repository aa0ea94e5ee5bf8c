"""
AtScale models as Airflow's assets: ``atscale://<host>/<catalog>/<model>``.

Catalog and model are their captions, or their names if they have no caption, percent-encoded as needed.
Airflow identifies an asset by its URI, so the task that produces it and the DAG that is scheduled on it must
use the same spelling. Give :func:`create_asset` and :func:`model_asset` the caption: an asset alias resolves to
that.

If a task of this package has an asset among its ``outlets``, the event's ``extra`` is the report of the batch.
If it has an asset alias, the alias resolves to the model's asset, and lists and mappings in ``extra`` are JSON
texts. A task that was given ids, for example a sensor by XCom ``batch``, knows no names: its alias resolves to
an asset of ids. Airflow emits events only for tasks that succeed.
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
    Return the normal form of a model's URI, or raise ``ValueError`` if it names no model.

    :param uri: The URI, split.
    """
    if uri.username is not None or uri.password is not None:
        raise ValueError(f"{_SHAPE} must not contain login or password; put them into the Airflow connection")
    if uri.query or uri.fragment:
        raise ValueError(f"{_SHAPE} has no query and no fragment; remove them")
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
        raise ValueError(f"{part!r} is not the name of a catalog or model")
    if "{{" in name or "{%" in name:
        raise ValueError(f"{name!r} is a template, but Airflow does not render the URIs of assets")
    return name


def create_asset(*, host: str, catalog: str, model: str, extra: dict[str, Any] | None = None) -> Asset:
    """
    Return the asset of a model.

    :param host: AtScale's host, or its whole address, without the usual port (443; installer edition: 10500 and
        10502) and with any other port.
    :param catalog: Name of the catalog; on the installer edition of the project.
    :param model: Name of the model; on the installer edition of the cube.
    :param extra: Further JSON values to store with the asset.
    """
    from airflow.providers.common.compat.sdk import Asset

    netloc = _host_of(host) if "://" in host else host
    raw = f"{SCHEME}://{netloc}/{quote(catalog, safe='')}/{quote(model, safe='')}"
    # Airflow 2 only warns of a URI that its provider rejects.
    uri = sanitize_uri(urlsplit(raw)).geturl()
    return Asset(uri=uri, extra=extra)


def model_asset(catalog: str, model: str, atscale_conn_id: str = "atscale_default") -> Asset:
    """
    Return the asset of a model on a connection's server.

    Use it in tasks only, because it reads the connection. At the top of a DAG file, which would read it at each
    parse, give :func:`create_asset` the host, or use an asset alias.

    :param catalog: Name of the catalog; on the installer edition of the project.
    :param model: Name of the model; on the installer edition of the cube.
    :param atscale_conn_id: The Airflow connection.
    """
    from airflow.providers.common.compat.sdk import BaseHook

    from airflow_provider_atscale.client.settings import parse_connection

    settings = parse_connection(BaseHook.get_connection(atscale_conn_id))
    return create_asset(host=settings.base_url, catalog=catalog, model=model)


def _host_of(address: str) -> str:
    """Return host and port of a server's address, without the default port of its scheme."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return host if parts.port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f"{host}:{parts.port}"


def namespace(server: str) -> str:
    """Return the OpenLineage namespace of a server: the beginning of its assets' URIs."""
    return f"{SCHEME}://{_host_of(server)}"


def convert_asset_to_openlineage(asset: Asset, lineage_context: Any) -> OpenLineageDataset:
    """
    Return a model's asset as an OpenLineage dataset.

    :param asset: The asset.
    :param lineage_context: Not used.
    """
    from airflow.providers.common.compat.openlineage.facet import Dataset as OpenLineageDataset

    del lineage_context
    uri = sanitize_uri(urlsplit(asset.uri))
    return OpenLineageDataset(namespace=f"{SCHEME}://{uri.netloc}", name=unquote(uri.path.lstrip("/")))


def publish_report(context: Any, outlets: Iterable[Any], report: Mapping[str, Any], log: Any) -> None:
    """
    Put a batch's report into the events of a task's outlets; a failure is logged, because the batch is done.

    :param context: The task's context.
    :param outlets: The task's outlets of any kind.
    :param report: The report.
    :param log: The logger.
    """
    for outlet in outlets:
        try:
            _publish_report(context, outlet, report)
        except Exception as error:
            log.warning(
                "Could not add the report of batch %s to the event of outlet %r (%s: %s)",
                report["batch_id"],
                outlet,
                type(error).__name__,
                error,
            )


def _publish_report(context: Any, outlet: Any, report: Mapping[str, Any]) -> None:
    from airflow.providers.common.compat.sdk import Asset, AssetAlias

    if isinstance(outlet, AssetAlias):
        if report["catalog"] and report["model"]:
            asset = create_asset(host=report["server"], catalog=report["catalog"], model=report["model"])
            extra = {name: _flat(value) for name, value in report.items()}
            context["outlet_events"][outlet].add(asset, extra=extra)
    elif isinstance(outlet, (Asset, *_references())):
        context["outlet_events"][outlet].extra.update(report)


def _flat(value: Any) -> Any:
    """Return a hashable value: Airflow up to 3.1 puts the values of an alias' event into a set."""
    return json.dumps(value) if isinstance(value, (dict, list)) else value


def _references() -> tuple[type, ...]:
    """Return the outlet classes that only reference an asset; Airflow 2 has none."""
    try:
        from airflow.sdk.definitions.asset import AssetRef
    except ImportError:
        return ()
    return (AssetRef,)
