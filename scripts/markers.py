"""Write the tables and the marked places of pages of the documentation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parent.parent


def table(head: Iterable[str], rows: Iterable[Iterable[str]], align: str | None = None) -> str:
    """Return a Markdown table."""
    head = list(head)
    marks = {"l": "---", "r": "---:"}
    lines = [head, [marks[each] for each in align or "l" * len(head)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def fill(page: str, name: str, text: str) -> str:
    """Return a page with a text at its one place of a name: between the comments ``name`` and ``end of name``."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"the page must have {begin.strip()} and {end}, once")
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{text}\n\n{end}{rest.partition(end)[2]}"


def write(page: Path, text: str) -> int:
    """Write a page; with ``--check`` only compare it. Return the exit code."""
    if "--check" not in sys.argv[1:]:
        page.write_text(text)
    elif not page.exists() or page.read_text() != text:
        sys.stderr.write(f"{page.relative_to(ROOT)} is not up to date: run python {sys.argv[0]}\n")
        return 1
    return 0
