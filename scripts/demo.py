"""
Load data, rebuild a model's aggregates over HTTP, and wait until they are built.

Starts a local AtScale engine, makes a connection as a user would, runs the example DAG in real Airflow and
prints what the engine saw. Ends with 0 only if the DAG succeeded.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from local import configure, engine, environment, fresh_home, say, step

DAG = "example_atscale_build_after_etl"
#: The lines of Airflow's output that show the DAG's progress.
PROGRESS = re.compile(
    r"\[DAG TEST\] (starting|end task)|(operators|triggers)\.atscale|exceptions\.AtScale|unusual_prefix"
)
NOISE = re.compile(r"\s+\[[\w.]+\](\s+\w+=\S+)*\s*$|^\S+Z\s+\[(\w+)\s*\]\s*")


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edition", choices=["container", "installer"], default="container")
    edition = parser.parse_args().edition
    home = fresh_home(".demo")
    env, log = environment(home), home / "airflow.log"
    ports = ["--port", "0"] + (["--engine-port", "0"] if edition == "installer" else [])
    step(f"A local AtScale engine, {edition} edition; each build takes 8 seconds")
    with engine(edition, env, home, *ports, "--build-seconds", "8") as (url, connection):
        say(f"    {url}")
        step("An Airflow database and the connection atscale_default")
        configure(env, connection, log)
        step(f"The DAG {DAG}: ETL, build (deferrable), report")
        code = run_dag(env, log)
        step("What the engine saw")
        show_engine(url)
    if code:
        say(f"\nThe DAG did not succeed. Airflow's whole output: {log}")
        return 1
    say(
        "\nGreen: the data was loaded, and AtScale built the aggregates. Airflow's whole output: "
        f"{log.relative_to(Path.cwd()) if log.is_relative_to(Path.cwd()) else log}"
    )
    return 0


def run_dag(env: dict[str, str], log: Path) -> int:
    """Run the DAG, print its progress, and return 0 if it succeeded."""
    process = subprocess.Popen(
        ["airflow", "dags", "test", DAG], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    succeeded = in_report = False
    with log.open("a") as out:
        for line in process.stdout or ():
            out.write(line)
            succeeded = succeeded or ("DagRun Finished" in line and "state=success" in line)
            in_report = "The batch:" in line or (in_report and not line.startswith("20"))
            if PROGRESS.search(line) or in_report:
                say("    " + NOISE.sub("", line.rstrip()))
    return process.wait() or (0 if succeeded else 1)


def show_engine(url: str) -> None:
    """Print the start as the engine received it, and its batches."""
    from airflow_provider_atscale.testing import EngineControl

    control = EngineControl(url)
    for request in control.requests:
        if request.route != "start":
            continue
        say(f"    {request.method} {request.path}?{request.query_string}  ->  {request.status}")
        for name, value in request.headers.items():
            if name.lower() in ("content-type", "accept", "authorization", "client-api-key"):
                say(f"      {name}: {value if len(value) < 60 else value[:40] + '...'}")
        if request.body:
            say(f"      {request.body}")
    for batch in control.batches:
        say(f"    batch {batch.id}: {batch.status}, {'full' if batch.is_full_build else 'incremental'}")
    say(f"    requests: {json.dumps(dict(control.stats.routes))}")


if __name__ == "__main__":
    sys.exit(main())
