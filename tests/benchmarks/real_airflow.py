"""
Many deferred builds in the one triggerer of a real Airflow, against a local engine. Prints JSON.

All tasks defer before the first build ends, so that all wait in the triggerer at once. It ends by itself: where the
machine is too slow for the time that it is given, builds end earlier, and the numbers say so.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

from tests.e2e.airflow_site import DAGS, ENDED, Site  # noqa: E402
from tests.e2e.engines import CATALOG, Engine  # noqa: E402
from tests.e2e.processes import Stable, TookTooLongError, wait_for  # noqa: E402

DAG_ID = "crowd"
RUN_ID = "crowd"
#: How long the triggerer is watched while nothing else happens, in seconds.
WATCHED = 20.0
#: The part of the time left by which all builds must be deferred: the way back takes as long as the way there.
BY_THEN = 0.55

DAG_FILE = """
from datetime import timedelta
from airflow.sdk import DAG, task
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator

CATALOG = "{catalog}"

with DAG("crowd", schedule=None, max_active_tasks=2000):

    @task
    def models(**context):
        return context["dag_run"].conf["models"]

    AtScaleAggregateBuildOperator.partial(
        task_id="build", catalog=CATALOG, deferrable=True, poll_interval=10,
        timeout=timedelta(hours=6), retries=0,
    ).expand(model=models())
"""


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def work(builds: int, seconds: float, folder: Path) -> dict[str, Any]:
    began = time.monotonic()
    until = began + seconds
    stable = Stable(folder)
    try:
        engine = Engine(stable, "engine", "container")
        engine.start()
        models = [f"model_{number:04d}" for number in range(builds)]
        for model in models:
            engine.control.add_model(CATALOG, model, aggregates=2)
        dags = folder / "dags"
        shutil.copytree(DAGS, dags, ignore=shutil.ignore_patterns("__pycache__"))
        (dags / "crowd.py").write_text(DAG_FILE.replace("{catalog}", CATALOG))
        site = Site(stable, folder / "airflow")
        site.env |= {
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            # A worker idles a second or two after each task until it notices that it has ended.
            "AIRFLOW__CORE__PARALLELISM": "12",
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "2000",
            "AIRFLOW__CORE__MAX_MAP_LENGTH": "4000",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "300",
        }
        site.start()
        wait_for(lambda: site.api.has_dag(DAG_ID), "the DAG", 90, 0.5)
        site.api.keep_connection("atscale_default", engine.connection("api_token"))
        say("Airflow is up")
        site.api.trigger(DAG_ID, RUN_ID, {"models": models})

        def count(state: str) -> int:
            statement = (
                "select count(*) from task_instance where dag_id = ? and task_id = 'build' and state = ?"
            )
            found: int = site.query(statement, DAG_ID, state)[0][0]
            return found

        most = 0
        enough = time.monotonic() + BY_THEN * (until - time.monotonic() - WATCHED)
        while most < builds and time.monotonic() < enough:
            time.sleep(2)
            most = max(most, count("deferred"))
            say(f"{most} deferred")
            if any(count(state) for state in ("failed", "upstream_failed")):
                break
        # From here on nothing but the triggerer asks, unless the time was too short.
        engine.control.clear_requests()
        time.sleep(WATCHED)
        stats = engine.control.stats
        progress = site.query("select count(*) from xcom where dag_id = ? and key = 'progress'", DAG_ID)[0][0]
        say("ending the builds")

        def has_ended() -> bool:
            # Also what began only now.
            for batch in engine.control.batches:
                if batch.ended is None:
                    engine.control.end_batch(batch.id)
            say(f"{count('success')} green")
            return site.api.run_state(DAG_ID, RUN_ID) in ENDED

        try:
            wait_for(has_ended, "the run", until - time.monotonic(), 2)
        except TookTooLongError as error:
            say(str(error))
        records = engine.control.batches
        return {
            "green": count("success"),
            "builds": len(records),
            "most_deferred": most,
            "trigger_requests": stats.requests,
            "trigger_connections": stats.connections_open,
            "trigger_exchanges": stats.token_exchanges,
            "most_at_once": stats.max_in_flight,
            "progress_seen": progress,
            "seconds": time.monotonic() - began,
        }
    finally:
        stable.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("builds", type=int)
    parser.add_argument("--seconds", type=float, default=3600.0, help="after how long to be done at the latest")
    options = parser.parse_args()
    # Whoever is impatient leaves no processes behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    with tempfile.TemporaryDirectory(prefix="atscale-bench-", ignore_cleanup_errors=True) as folder:
        sys.stdout.write(json.dumps(work(options.builds, options.seconds, Path(folder))) + "\n")


if __name__ == "__main__":
    main()
