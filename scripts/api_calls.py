"""Write docs/api-calls.md from the table of calls; with ``--check`` only compare."""

from __future__ import annotations

import sys
from pathlib import Path

from airflow_provider_atscale.api.calls import CALLS

PAGE = Path(__file__).parent.parent / "docs" / "api-calls.md"
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
        lines += ["| call | server | used to | source | confidence |", "|---|---|---|---|---|"]
        lines += [
            f"| `{each.method} {each.path}` | {each.server} | {each.purpose} | {each.source} | {each.confidence} |"
            for each in CALLS
            if each.edition == edition
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Write the page, or compare it."""
    if "--check" not in sys.argv:
        PAGE.write_text(render())
    elif not PAGE.exists() or PAGE.read_text() != render():
        print("docs/api-calls.md is not up to date: run python scripts/api_calls.py")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
