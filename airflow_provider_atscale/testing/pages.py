"""The build history as a page for humans."""

from __future__ import annotations

from datetime import datetime, timezone
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_atscale.testing.batches import Batch
    from airflow_provider_atscale.testing.store import Store

_SHOWN = 200
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1d2733}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.4rem .7rem;border-bottom:1px solid #e1e6eb;vertical-align:top}
th{font-weight:600;color:#5a6773}code{font-size:.85em}
.s{display:inline-block;padding:0 .6em;border-radius:1em;background:#e8ecf0}
.done,.active,.success{background:#d8f1df}.failed,.error,.cancelled,.invalid{background:#fbdcdc}
.inprogress,.running{background:#fdf0cc}
"""


def history_page(store: Store, edition: str, batch_id: str | None = None) -> str:
    """Return the page of the newest batches, or of one batch and its instances."""
    batches = [b for b in reversed(store.batches.values()) if batch_id in (None, b.id)][:_SHOWN]
    parts = [_table(store, batches)] if batches else ["<p>No builds.</p>"]
    if batch_id is not None and batches:
        parts.append(_instances(store, batches[0]))
    if batch_id is not None:
        parts.append('<p><a href="/_engine/history">All builds</a></p>')
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Build history</title>"
        f"<style>{_STYLE}</style></head><body><h1>Build history</h1>"
        f"<p>Local AtScale engine, {escape(edition)} edition. Server time {_time(store.now())} UTC.</p>"
        f"{''.join(parts)}</body></html>"
    )


def login_page() -> str:
    """Return the login page that a proxy shows without a session."""
    return (
        "<!doctype html><html><head><title>Sign in</title></head><body><h1>Sign in</h1>"
        "<form method='post' action='/login'><input name='username'><input name='password' type='password'>"
        "<button>Sign in</button></form></body></html>"
    )


def gateway_page(status: int, phrase: str) -> str:
    """Return the error page of a proxy that gets no answer."""
    title = f"{status} {escape(phrase)}"
    return (
        f"<html><head><title>{title}</title></head>"
        f"<body><center><h1>{title}</h1></center><hr><center>nginx</center></body></html>"
    )


def _table(store: Store, batches: list[Batch]) -> str:
    rows = "".join(_row(store, batch) for batch in batches)
    return (
        "<table><tr><th>Catalog</th><th>Model</th><th>Kind</th><th>Status</th><th>Created</th><th>Started</th>"
        f"<th>Ended</th><th>Aggregates</th><th>Started by</th><th>Batch</th></tr>{rows}</table>"
    )


def _row(store: Store, batch: Batch) -> str:
    now = store.now()
    instances = store.built(batch)
    built = len({i.aggregate.id for i in instances if i.status == "active"})
    wanted = len({i.aggregate.id for i in instances})
    cells = [
        escape(store.catalogs[batch.catalog_id].caption),
        escape(store.models[batch.model_id].caption),
        "full" if batch.is_full_build else "incremental",
        _badge(batch.status(now)),
        _time(batch.created),
        _time(batch.started(now)),
        _time(batch.ended(now)),
        f"{built} of {wanted} built",
        escape(batch.by),
        f'<a href="/_engine/history?batchId={escape(batch.id)}"><code>{escape(batch.id)}</code></a>',
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _instances(store: Store, batch: Batch) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(i.aggregate.table_schema)}.{escape(i.aggregate.table_name)}</code></td>"
        f"<td>{_badge(i.status)}</td><td>{_time(i.started)}</td><td>{_time(i.ended)}</td>"
        f"<td>{i.aggregate.rows if i.status == 'active' else ''}</td><td>{escape(i.message)}</td></tr>"
        for i in store.instances(batch)
    )
    return (
        "<h2>Instances</h2><table><tr><th>Table</th><th>Status</th><th>Started</th><th>Ended</th><th>Rows</th>"
        f"<th>Message</th></tr>{rows}</table>"
    )


def _badge(status: str) -> str:
    return f'<span class="s {escape(status)}">{escape(status)}</span>'


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
