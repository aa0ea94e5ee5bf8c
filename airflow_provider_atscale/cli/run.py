"""Run a command: errors become one text and an exit code, and logs stay out of the output."""

from __future__ import annotations

import functools
import logging
import os
import sys
import traceback
from typing import TYPE_CHECKING

from airflow_provider_atscale.cli.exit_codes import STOPPED, exit_code_of
from airflow_provider_atscale.cli.output import Output
from airflow_provider_atscale.exceptions import AtScaleError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def command(function: Callable[[argparse.Namespace, Output], int]) -> Callable[[argparse.Namespace], None]:
    """Make a command of a function that returns an exit code."""

    @functools.wraps(function)
    def run(options: argparse.Namespace) -> None:
        out = Output(as_json=options.json)
        # Let connections also be read from Airflow's database, as ``airflow connections`` does.
        os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
        send_logs_to_stderr(is_debug=options.debug)
        try:
            code = function(options, out)
        except KeyboardInterrupt:
            out.note("Stopped. A build that was started goes on in AtScale.")
            code = STOPPED
        except Exception as error:
            if options.debug:
                traceback.print_exc()
            code = _tell(error, out)
        raise SystemExit(code)

    return run


def _tell(error: Exception, out: Output) -> int:
    """Print an error, and return its exit code."""
    code, name, text = exit_code_of(error), type(error).__name__, str(error)
    if not isinstance(error, AtScaleError):
        text = f"{name}: {text}. --debug shows the traceback."
    out.note(f"Error: {text}")
    out.document({**out.found, "error": {"type": name, "message": text, "exit_code": code}})
    return code


def send_logs_to_stderr(*, is_debug: bool) -> None:
    """Send logs to stderr, and only warnings unless all are asked for."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            # A new one, because Airflow 2's handler cannot be given another stream.
            replacement = logging.StreamHandler(sys.stderr)
            replacement.setFormatter(handler.formatter)
            replacement.setLevel(handler.level)
            # Among them is the one that masks secrets.
            replacement.filters = list(handler.filters)
            root.removeHandler(handler)
            root.addHandler(replacement)
    root.setLevel(logging.DEBUG if is_debug else logging.WARNING)
