"""Run a local AtScale engine from the command line."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import signal
import sys
import threading

from airflow_provider_atscale.testing import core
from airflow_provider_atscale.testing.options import add_settings, read_settings
from airflow_provider_atscale.testing.server import EDITIONS, AtScaleEngine

# Not 8080, where Airflow itself listens.
_DEFAULT_PORTS = {"container": 10580, "installer": 10500}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_atscale.testing",
        description="A local AtScale engine that builds nothing but answers as AtScale does. "
        "For trying out and testing; keep it on this machine.",
    )
    add = parser.add_argument
    add(
        "--edition",
        choices=list(EDITIONS),
        default="container",
        help="which edition to answer as (%(default)s)",
    )
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add("--port", type=int, help="port, 0 for a free one (container 10580; installer 10500, Design Center)")
    add("--engine-port", type=int, default=10502, help="installer: port of the engine (%(default)s)")
    add("--state-file", help="keep batches and tokens in this file over a restart")
    add("--failing-model", action="append", default=[], help="model whose builds fail; may be repeated")
    add("--api-token", default=core.API_TOKEN, help="the valid API token (%(default)s)")
    add("--login", default=core.LOGIN, help="the user (%(default)s)")
    add("--password", default=core.PASSWORD, help="the user's password (%(default)s)")
    add("--client-api-key", default=core.CLIENT_API_KEY, help="installer: client API key (%(default)s)")
    add("--no-request-log", dest="log_requests", action="store_false", help="the same as --no-log-requests")
    add("--verbose", action="store_true", help="print each request")
    add("--json", action="store_true", help="print addresses and connection as one line of JSON")
    add_settings(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run until a signal arrives."""
    options = parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO, format="%(asctime)s %(message)s"
    )
    logging.getLogger("asyncio").setLevel(logging.INFO)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    settings = read_settings(options)
    settings["failing_models"] = dict.fromkeys(options.failing_model, "failed") | settings["failing_models"]
    engine = AtScaleEngine(
        options.edition,
        host=options.host,
        port=_DEFAULT_PORTS[options.edition] if options.port is None else options.port,
        engine_port=options.engine_port,
        state_file=options.state_file,
        api_token=options.api_token,
        login=options.login,
        password=options.password,
        client_api_key=options.client_api_key,
        **settings,
    )
    try:
        engine.start()
    except OSError as error:
        sys.stderr.write(f"Cannot listen: {error}\n")
        return 1
    if options.json:
        connection = json.loads(engine.connection_json())
        _say(json.dumps({"edition": options.edition, "urls": engine.urls, "connection": connection}))
    else:
        for role, url in engine.urls.items():
            _say(f"AtScale engine ({options.edition}, {role.replace('_', ' ')}): {url}")
        _say(f"Build history: {engine.url}/")
        _say(f"AIRFLOW_CONN_ATSCALE_DEFAULT={shlex.quote(engine.connection_json())}")
    # Waiting with a limit keeps signals deliverable on every platform.
    while not ended.wait(1):
        pass
    engine.stop()
    if not options.json:
        _say("Stopped")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
