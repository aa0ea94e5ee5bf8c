"""Write docs/api-calls.md from the table of calls; with ``--check`` only compare."""

from __future__ import annotations

from markers import ROOT, table, write

from airflow_provider_atscale.api.calls import CALLS

PAGE = ROOT / "docs" / "api-calls.md"
HEAD = """\
# Every call that is sent to AtScale

`python scripts/api_calls.py` writes this page from `airflow_provider_atscale/api/calls.py`, from which the requests
take their URLs, too. `{prefix}` is the connection's `api_prefix`, by default `/v1`. "Confidence" says how sure it is
that AtScale has the call in this form.
"""


def render() -> str:
    """Return the page."""
    lines = [HEAD]
    for edition in dict.fromkeys(each.edition for each in CALLS):
        lines += [f"## {edition.capitalize()} edition\n"]
        rows = [
            (f"`{each.method} {each.path}`", each.server, each.purpose, each.source, each.confidence)
            for each in CALLS
            if each.edition == edition
        ]
        lines += [table(("call", "server", "used to", "source", "confidence"), rows), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(write(PAGE, render()))
