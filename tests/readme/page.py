"""What the README is made of: headings, fenced blocks, tables, links."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

from .generate import README

TEXT = README.read_text()


@dataclass(frozen=True)
class Block:
    """
    A fenced block.

    :param heading: The heading that it stands under.
    :param language: What it is written in.
    :param text: What it says.
    """

    heading: str
    language: str
    text: str

    @property
    def id(self) -> str:
        """What a test of it is called."""
        return f"{self.heading}: {self.text.splitlines()[0][:40]}".replace("/", "_")


def prose(text: str = TEXT) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def headings(text: str = TEXT) -> list[str]:
    """Return all headings."""
    return re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)


def slug(heading: str) -> str:
    """Return the anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def section(heading: str) -> str:
    """Return what stands under a heading, without fenced blocks, up to the next one that is not below it."""
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^\1 |\Z)", prose(), re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[2]


def blocks() -> list[Block]:
    """Return all fenced blocks."""
    found, heading, lines, language = [], "", None, ""
    for line in TEXT.splitlines():
        fence = re.match(r" *```(\w*)$", line)
        if fence and lines is None:
            lines, language = [], fence[1]
        elif fence:
            found.append(Block(heading, language, textwrap.dedent("\n".join(lines)) + "\n"))
            lines = None
        elif lines is not None:
            lines.append(line)
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    assert lines is None, "a block has no end"
    return found


def rows(heading: str, number: int = 0) -> list[list[str]]:
    """Return the rows of a section's table without its head, each as its cells."""
    tables = re.findall(r"(?:^\|.*\n)+", section(heading), re.MULTILINE)
    lines = tables[number].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
