"""Run a whole Airflow (web UI, scheduler, triggerer) with a local AtScale engine and its connection."""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
import urllib.error
import urllib.request

from local import configure, end, end_when_killed, engine, environment, fresh_home, say, step


def main() -> int:
    """Run until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edition", choices=["container", "installer"], default="container")
    parser.add_argument("--port", type=int, default=8080, help="port of the web UI (%(default)s)")
    parser.add_argument("--home", default=".airflow", help="its folder, which is emptied first (%(default)s)")
    options = parser.parse_args()
    end_when_killed()
    home = fresh_home(options.home)
    address = f"http://localhost:{options.port}"
    env = environment(home) | {
        "AIRFLOW__API__PORT": str(options.port),
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    }
    ports = ["--port", "0"] + (["--engine-port", "0"] if options.edition == "installer" else [])
    step(f"A local AtScale engine, {options.edition} edition")
    with engine(options.edition, env, home, *ports, "--build-seconds", "20") as (url, connection):
        say(f"    {url}")
        step("An Airflow database and the connection atscale_default")
        configure(env, connection, home / "setup.log")
        step("Airflow: web UI, scheduler, DAG processor, triggerer")
        with (home / "airflow.log").open("w") as out:
            process = subprocess.Popen(
                ["airflow", "standalone"], env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            wait_until_up(process, address)
            say(f"    {address}  (everybody is admin: no login is asked for)")
            say(f"    AtScale's build history: {url}")
            say(f"    Output: {home / 'airflow.log'}. Ctrl-C ends everything.")
            with contextlib.suppress(KeyboardInterrupt):
                process.wait()
        finally:
            end(process)
    return 0


def wait_until_up(process: subprocess.Popen[bytes], address: str) -> None:
    """Wait until the web UI answers."""
    for _ in range(180):
        if process.poll() is not None:
            sys.exit(f"Airflow ended with {process.returncode}; see its output")
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{address}/api/v2/version", timeout=2)
            return
        time.sleep(1)
    sys.exit("Airflow did not come up within three minutes; see its output")


if __name__ == "__main__":
    sys.exit(main())
