"""Print what a command finds: tables and lines for people, or one JSON document for programs."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Columns, if the output is not a terminal and ``COLUMNS`` says nothing.
_WIDTH = 132


class Output:
    """
    The output of one command; also the log of a build or a wait, whose lines it prints.

    :param as_json: Print one JSON document to stdout, and everything else to stderr.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        #: What the document of an error has besides.
        self.found: Mapping[str, Any] = {}
        self._stdout, self._stderr = sys.stdout, sys.stderr

    def info(self, text: str, *arguments: Any) -> None:
        """Print a line for people, its arguments filled in as a logger does."""
        _write(self._stderr if self.as_json else self._stdout, text % arguments if arguments else text)

    def warning(self, text: str, *arguments: Any) -> None:
        """Print a warning."""
        self.info("Warning: " + text, *arguments)

    error = warning

    def note(self, text: str) -> None:
        """Print a line beside the output."""
        _write(self._stderr, text)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, header: bool = True) -> None:
        """Print a table for people."""
        if self.as_json:
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD if header else None, show_header=header, pad_edge=False)
        for name in columns:
            table.add_column(name, overflow="fold")
        for row in rows:
            # As text: names and messages may contain what rich takes for markup.
            table.add_row(*(Text(cell) for cell in row))
        is_given = self._stdout.isatty() or "COLUMNS" in os.environ
        Console(file=self._stdout, width=None if is_given else _WIDTH, highlight=False).print(table)

    def document(self, value: Mapping[str, Any] | Sequence[Any]) -> None:
        """Print the JSON document, if it is asked for."""
        if self.as_json:
            _write(self._stdout, json.dumps(value, indent=2))


def _write(stream: TextIO, text: str) -> None:
    stream.write(text + "\n")
    stream.flush()
