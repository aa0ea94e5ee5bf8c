"""What the documentation is made of: headings, fenced blocks, tables, links."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from .generate import PAGES, ROOT

TEXTS = {page: page.read_text() for page in PAGES}


@dataclass(frozen=True)
class Block:
    """
    A fenced block.

    :param page: The page that it stands on.
    :param heading: The heading that it stands under.
    :param language: What it is written in.
    :param text: What it says.
    """

    page: Path
    heading: str
    language: str
    text: str

    @property
    def id(self) -> str:
        """What a test of it is called."""
        place = f"{self.page.relative_to(ROOT)}: {self.heading}: {self.text.splitlines()[0][:40]}"
        return place.replace("/", "_")


def prose(text: str) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def headings(text: str) -> list[str]:
    """Return all headings."""
    return re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)


def slug(heading: str) -> str:
    """Return the anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def section(heading: str) -> str:
    """Return what stands under a heading, without fenced blocks, up to the next one that is not below it."""
    found = []
    for text in map(prose, TEXTS.values()):
        for start in re.finditer(rf"^(#+) {re.escape(heading)}\n", text, re.MULTILINE):
            rest = text[start.end() :]
            end = re.search(rf"^#{{1,{len(start[1])}}} ", rest, re.MULTILINE)
            found.append(rest[: end.start()] if end else rest)
    assert len(found) == 1, (heading, len(found))
    return found[0]


def blocks() -> list[Block]:
    """Return all fenced blocks of all pages; what a directive of Sphinx holds is Sphinx's to check."""
    return [block for page, text in TEXTS.items() for block in blocks_of(page, text)]


def blocks_of(page: Path, text: str) -> list[Block]:
    """Return all fenced blocks of a page."""
    found, heading, lines, language = [], "", None, ""
    for line in text.splitlines():
        fence = re.match(r" *```(\w*|\{[\w-]+\}.*)$", line)
        if fence and lines is None:
            lines, language = [], fence[1]
        elif fence:
            if not language.startswith("{"):
                found.append(Block(page, heading, language, textwrap.dedent("\n".join(lines)) + "\n"))
            lines = None
        elif lines is not None:
            lines.append(line)
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    assert lines is None, f"a block of {page} has no end"
    return found


def rows(heading: str, number: int = 0) -> list[list[str]]:
    """Return the rows of a section's table without its head, each as its cells."""
    tables = re.findall(r"(?:^\|.*\n)+", section(heading), re.MULTILINE)
    lines = tables[number].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
