"""Run a local AtScale engine from the command line."""

from __future__ import annotations

import argparse
import logging
import shlex
import signal
import sys
import threading

from airflow_provider_atscale.testing import core
from airflow_provider_atscale.testing.server import EDITIONS, AtScaleEngine

# Not 8080, where Airflow itself listens.
_DEFAULT_PORTS = {"container": 10580, "installer": 10500}


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_atscale.testing",
        description="A local AtScale engine that builds nothing but answers as AtScale does. "
        "For trying out and testing; keep it on this machine.",
    )
    add = parser.add_argument
    add("--edition", choices=list(EDITIONS), default="container", help="which edition to be (%(default)s)")
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add("--port", type=int, help="port, 0 for a free one (container 10580; installer 10500, Design Center)")
    add("--engine-port", type=int, default=10502, help="installer: port of the engine (%(default)s)")
    add("--state-file", help="keep batches and tokens here over a restart")
    add("--build-seconds", type=float, default=10.0, help="how long a build takes (%(default)s)")
    add("--token-ttl", type=float, default=3600, help="seconds that a JWT is valid (%(default)s)")
    add("--history-delay", type=float, default=0.0, help="seconds until a batch is in the build history (0)")
    add("--latency", type=float, default=0.0, help="seconds that every request takes (0)")
    add("--clock-offset", type=float, default=0.0, help="seconds that the server's clock is ahead (0)")
    add(
        "--on-second-start",
        choices=["500", "409", "allow"],
        default="500",
        help="what happens to a start while a batch of the model runs (%(default)s)",
    )
    add("--fail-aggregates", type=int, default=0, help="aggregates that each build fails to build (0)")
    add("--failing-model", action="append", default=[], help="model whose builds fail; may be repeated")
    add("--api-token", default=core.API_TOKEN, help="the valid API token (%(default)s)")
    add("--login", default=core.LOGIN, help="the user (%(default)s)")
    add("--password", default=core.PASSWORD, help="the user's password (%(default)s)")
    add("--client-api-key", default=core.CLIENT_API_KEY, help="installer: client API key (%(default)s)")
    add("--no-request-log", action="store_true", help="count requests, but don't keep them")
    add("--verbose", action="store_true", help="print each request")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run until a signal comes."""
    options = parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO, format="%(asctime)s %(message)s"
    )
    logging.getLogger("asyncio").setLevel(logging.INFO)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
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
        build_seconds=options.build_seconds,
        token_ttl=options.token_ttl,
        history_delay=options.history_delay,
        latency=options.latency,
        clock_offset=options.clock_offset,
        on_second_start=options.on_second_start,
        failed_aggregates=options.fail_aggregates,
        failing_models=dict.fromkeys(options.failing_model, "failed"),
        log_requests=not options.no_request_log,
    )
    try:
        engine.start()
    except OSError as error:
        sys.stderr.write(f"Cannot listen: {error}\n")
        return 1
    for role, url in engine.urls.items():
        _say(f"AtScale engine ({options.edition}, {role.replace('_', ' ')}): {url}")
    _say(f"Build history: {engine.url}/")
    _say(f"AIRFLOW_CONN_ATSCALE_DEFAULT={shlex.quote(engine.connection_json())}")
    # Waiting with a limit keeps signals deliverable on every platform.
    while not ended.wait(1):
        pass
    engine.stop()
    _say("Stopped")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
