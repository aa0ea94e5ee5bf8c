"""Run the commands of ``airflow atscale`` on any Airflow."""

from __future__ import annotations

import argparse
import sys


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line: the same commands as ``airflow atscale``."""
    from airflow_provider_atscale.cli.definition import COMMANDS, GROUP

    parser = argparse.ArgumentParser(prog="python -m airflow_provider_atscale", description=GROUP.description)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for each in COMMANDS:
        sub = commands.add_parser(each.name, help=each.help, description=each.help, epilog=each.epilog)
        for arg in each.args:
            arg.add_to_parser(sub)
        sub.set_defaults(func=each.func)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run one command; it ends the process with its exit code."""
    options = make_parser().parse_args(arguments)
    options.func(options)


if __name__ == "__main__":
    main(sys.argv[1:])
