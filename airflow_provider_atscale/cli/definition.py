"""
The commands ``airflow atscale ...``, as Airflow's command line reads them.

Airflow 3.2 and newer imports this module for each of its commands, so it imports nothing of ours: what a command
needs is loaded when it runs. ``python -m airflow_provider_atscale`` has the same commands on every Airflow.
"""

from __future__ import annotations

from airflow.cli.cli_config import ActionCommand, Arg, CLICommand, GroupCommand, lazy_load_command

_CONN_ID = Arg(
    ("--conn-id",),
    help="the Airflow connection of type atscale (atscale_default)",
    default="atscale_default",
    metavar="ID",
)
_JSON = Arg(("--json",), help="print one JSON document to stdout", action="store_true")
_DEBUG = Arg(("--debug",), help="log everything, and show the traceback of an error", action="store_true")

_MODEL = (
    Arg(("catalog",), help="id, name or caption of the catalog (installer edition: the project)"),
    Arg(("model",), help="id, name or caption of the model (installer edition: the cube)"),
)
_MAYBE_CATALOG = Arg(("catalog",), help="id, name or caption of the catalog", nargs="?")
_MAYBE_MODEL = Arg(("model",), help="id, name or caption of the model", nargs="?")
_FULL = Arg(("--full",), help="a full build instead of an incremental one", action="store_true")
_TIMEOUT = Arg(("--timeout",), help="seconds after which the wait ends (no limit)", metavar="SECONDS")
_POLL_INTERVAL = Arg(
    ("--poll-interval",), help="the longest time between two polls (10)", default="10", metavar="SECONDS"
)
_FAILED_AGGREGATES = Arg(
    ("--failed-aggregates",),
    help="if the batch is done and aggregates are missing: warn, fail or ignore (warn)",
    default="warn",
    metavar="WORD",
)


def _command(name: str, text: str, *args: Arg, epilog: str | None = None) -> ActionCommand:
    """Return a command; its function has its name, and so has the module."""
    function = lazy_load_command(f"airflow_provider_atscale.cli.{name}.{name}")
    return ActionCommand(name=name, help=text, func=function, args=(*args, _JSON, _DEBUG), epilog=epilog)


COMMANDS = (
    _command(
        "check",
        "Try host, credentials, rights, clock and, if given, a model",
        _MAYBE_CATALOG,
        _MAYBE_MODEL,
        _FULL,
        _CONN_ID,
    ),
    _command("models", "List the deployed models", _MAYBE_CATALOG, _CONN_ID),
    _command(
        "builds",
        "List the newest builds of a model",
        *_MODEL,
        Arg(("--limit",), help="how many builds to list, at most 100 (10)", type=int, default=10, metavar="N"),
        _CONN_ID,
    ),
    _command(
        "watch",
        "Show the progress of a batch until it ends",
        Arg(("batch_id",), help="the batch", metavar="batch"),
        _MAYBE_CATALOG,
        _MAYBE_MODEL,
        _TIMEOUT,
        _POLL_INTERVAL,
        _FAILED_AGGREGATES,
        _CONN_ID,
    ),
    _command(
        "build",
        "Start a build as the operator does, and wait for it; asks before it starts",
        *_MODEL,
        _FULL,
        Arg(
            ("--grace-period",),
            help="grace period override of a dataset; may be repeated",
            action="append",
            default=[],
            metavar="DATASET=N",
        ),
        Arg(
            ("--on-running",),
            help="what to do if a batch of the model runs, as the operator's on_running",
            default="join",
            metavar="WORD",
        ),
        _FAILED_AGGREGATES,
        _TIMEOUT,
        _POLL_INTERVAL,
        Arg(("--no-wait",), help="return as soon as the build has started", action="store_true"),
        Arg(("--yes",), help="do not ask", action="store_true"),
        _CONN_ID,
    ),
    _command(
        "engine",
        "Run a local AtScale engine, to try the provider out",
        Arg(("--edition",), help="container or installer (container)", metavar="NAME"),
        Arg(("--port",), help="port to listen on, 0 for a free one", type=int, metavar="N"),
        Arg(("--engine-port",), help="installer: port of the engine", type=int, metavar="N"),
        Arg(("--build-seconds",), help="how long a build takes (10)", type=float, metavar="N"),
        Arg(("--failing-model",), help="model whose builds fail", metavar="NAME"),
        Arg(("--state-file",), help="keep batches and tokens in this file", metavar="PATH"),
        epilog="All settings: python -m airflow_provider_atscale.testing --help",
    ),
)


GROUP = GroupCommand(
    name="atscale",
    help="Look at AtScale builds, and start one",
    description="Look at AtScale's models and builds through an Airflow connection. Only 'build' starts something, "
    "and it asks before.",
    subcommands=COMMANDS,
)


def get_atscale_cli_commands() -> list[CLICommand]:
    """Return the commands for Airflow's command line."""
    return [GROUP]
