"""Print what a command finds: tables and lines for people, or one JSON document for programs."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

#: Columns, if the output is not a terminal and ``COLUMNS`` says nothing.
_WIDTH = 132


class Output:
    """
    The output of one command.

    :param as_json: Print one JSON document to stdout, and everything else to stderr.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._stdout, self._stderr = sys.stdout, sys.stderr

    def line(self, text: str) -> None:
        """Print a line for people."""
        stream = self._stderr if self.as_json else self._stdout
        stream.write(text + "\n")
        stream.flush()

    def note(self, text: str) -> None:
        """Print a line beside the output."""
        self._stderr.write(text + "\n")
        self._stderr.flush()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, header: bool = True) -> None:
        """Print a table for people."""
        if self.as_json:
            return
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD if header else None, show_header=header, pad_edge=False)
        for name in columns:
            table.add_column(name, overflow="fold")
        for row in rows:
            # As text: names and messages may contain what rich takes for markup.
            table.add_row(*(Text(cell) for cell in row))
        self._console().print(table)

    def document(self, value: Mapping[str, Any] | Sequence[Any]) -> None:
        """Print the JSON document, if it is asked for."""
        if self.as_json:
            self._stdout.write(json.dumps(value, indent=2) + "\n")
            self._stdout.flush()

    def _console(self) -> Console:
        from rich.console import Console

        is_given = self._stdout.isatty() or "COLUMNS" in os.environ
        return Console(file=self._stdout, width=None if is_given else _WIDTH, highlight=False)


class LineLog:
    """
    A log that prints lines instead.

    :param out: The output.
    """

    def __init__(self, out: Output) -> None:
        self._out = out

    def info(self, text: str, *arguments: Any) -> None:
        """Print a line."""
        self._out.line(text % arguments)

    def warning(self, text: str, *arguments: Any) -> None:
        """Print a warning."""
        self._out.line("Warning: " + text % arguments)

    error = warning
