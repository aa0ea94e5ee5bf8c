"""Run a local AtScale engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_atscale.cli.run import command

if TYPE_CHECKING:
    import argparse

    from airflow_provider_atscale.cli.output import Output

_OPTIONS = ("edition", "port", "engine_port", "build_seconds", "failing_model", "state_file")


@command
def engine(options: argparse.Namespace, out: Output) -> int:
    """Run until Ctrl-C."""
    from airflow_provider_atscale.testing.__main__ import main

    del out
    arguments = [*(["--verbose"] if options.debug else []), *(["--json"] if options.json else [])]
    for name in _OPTIONS:
        value = getattr(options, name)
        if value is not None:
            arguments += ["--" + name.replace("_", "-"), str(value)]
    return main(arguments)
