"""
Many deferred builds in the one triggerer of a real Airflow, against a local engine. Prints JSON.

All tasks defer before the first build ends, so that all wait in the triggerer at once.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

from tests.e2e.airflow_site import DAGS, ENDED, Site  # noqa: E402
from tests.e2e.engines import CATALOG, Engine  # noqa: E402
from tests.e2e.processes import Stable, wait_for  # noqa: E402

DAG_ID = "crowd"
RUN_ID = "crowd"
PATIENCE = 3600.0

DAG_FILE = """
from datetime import timedelta
from airflow.sdk import DAG, task
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator

with DAG("crowd", schedule=None, max_active_tasks=2000):

    @task
    def models(**context):
        return context["dag_run"].conf["models"]

    AtScaleAggregateBuildOperator.partial(
        task_id="build", catalog="sales_insights_main", deferrable=True, poll_interval=10,
        timeout=timedelta(hours=6), retries=0,
    ).expand(model=models())
"""


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def work(builds: int, folder: Path) -> dict[str, Any]:
    began = time.monotonic()
    stable = Stable(folder)
    try:
        engine = Engine(stable, "engine")
        engine.start()
        models = [f"model_{number:04d}" for number in range(builds)]
        for model in models:
            engine.control.add_model(CATALOG, model, aggregates=2)
        dags = folder / "dags"
        shutil.copytree(DAGS, dags, ignore=shutil.ignore_patterns("__pycache__"))
        (dags / "crowd.py").write_text(DAG_FILE)
        site = Site(stable, folder / "airflow")
        site.env |= {
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__PARALLELISM": "4",
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
        until = time.monotonic() + PATIENCE
        while most < builds and time.monotonic() < until:
            time.sleep(5)
            most = max(most, count("deferred"))
            say(f"{most} deferred")
            if any(count(state) for state in ("failed", "upstream_failed")):
                break
        # From here on nothing but the triggerer asks.
        engine.control.clear_requests()
        time.sleep(30)
        stats = engine.control.stats
        say("ending the builds")
        for batch in engine.control.batches:
            engine.control.end_batch(batch.id)
        wait_for(lambda: site.api.run_state(DAG_ID, RUN_ID) in ENDED, "the run", PATIENCE, 5)
        records = engine.control.batches
        return {
            "green": count("success"),
            "builds": len(records),
            "most_deferred": most,
            "trigger_requests": stats.requests,
            "trigger_connections": stats.connections_open,
            "trigger_exchanges": stats.token_exchanges,
            "most_at_once": stats.max_in_flight,
            "seconds": time.monotonic() - began,
        }
    finally:
        stable.close()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="atscale-bench-") as folder:
        sys.stdout.write(json.dumps(work(int(sys.argv[1]), Path(folder))) + "\n")


if __name__ == "__main__":
    main()
