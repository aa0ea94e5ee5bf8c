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

    Command = Callable[[argparse.Namespace, Output], int]


def command(function: Command) -> Callable[[argparse.Namespace], None]:
    """
    Make a command of a function that returns an exit code.

    :param function: Gets the options and the output.
    """

    @functools.wraps(function)
    def run(options: argparse.Namespace) -> None:
        raise SystemExit(_run(function, options))

    return run


def describe_error(error: Exception) -> str:
    """Return an error as a command prints it."""
    if isinstance(error, AtScaleError):
        return str(error)
    return f"{type(error).__name__}: {error}. --debug shows the traceback."


def _run(function: Command, options: argparse.Namespace) -> int:
    out = Output(as_json=options.json)
    _prepare_airflow()
    send_logs_to_stderr(is_debug=options.debug)
    try:
        return function(options, out)
    except KeyboardInterrupt:
        out.note("Stopped. A build that was started goes on in AtScale.")
        return STOPPED
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        code, text = exit_code_of(error), describe_error(error)
        out.note(f"Error: {text}")
        out.document({"error": {"type": type(error).__name__, "message": text, "exit_code": code}})
        return code


def _prepare_airflow() -> None:
    """Let connections also be read from Airflow's database, as ``airflow connections`` does."""
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")


def send_logs_to_stderr(*, is_debug: bool) -> None:
    """
    Send logs to stderr, and only warnings unless all are asked for.

    :param is_debug: Whether all are asked for.
    """
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
