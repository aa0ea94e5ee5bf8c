"""
Fill Airflow's database with builds, as tasks and triggers of this package leave them: for pictures and tests.

    AIRFLOW_HOME=... python tests/dags/builds_data.py --models 6 --builds 20
"""

from __future__ import annotations

import argparse
import sys
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from random import Random
from typing import Any

SERVER = "https://atscale.example.com"
CATALOGS = {
    "Sales Insights": ("Internet Sales", "Reseller Sales", "Sales Targets"),
    "Finance": ("General Ledger", "Budget"),
    "Supply Chain": ("Inventory", "Shipments"),
}
MESSAGE = "sales_by_month: Table not found: warehouse.sales.fact_internet_sales"


@dataclass
class Told:
    """
    A build, as Airflow's database has it.

    :param dag_id: The DAG.
    :param run_id: The DAG run.
    :param began: When it began.
    :param state: The task instance's state.
    :param xcoms: What the task has pushed.
    :param extra: The extra of the asset's event; None for none.
    :param uri: The asset's URI.
    :param task_id: The task.
    :param map_index: Its place if it is mapped.
    """

    dag_id: str
    run_id: str
    began: datetime
    state: str = "success"
    xcoms: dict[str, Any] = field(default_factory=dict)
    extra: Any = None
    uri: str = ""
    task_id: str = "build_aggregates"
    map_index: int = -1


def main() -> int:
    """Fill the database."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=6)
    parser.add_argument("--builds", type=int, default=20)
    options = parser.parse_args()
    store(list(builds(options.models, options.builds)))
    return 0


def builds(models: int, each: int, now: datetime | None = None) -> list[Told]:
    """
    Return builds of models, the same ones for the same numbers.

    :param models: How many models.
    :param each: How many builds each has.
    :param now: When the newest build begins.
    """
    now = now or datetime.now(timezone.utc)
    random = Random(7)
    names = [(catalog, model) for catalog, models in CATALOGS.items() for model in models]
    told = []
    for number in range(models):
        catalog, model = names[number % len(names)]
        if number >= len(names):
            model = f"{model} {number // len(names) + 1}"
        usual = random.choice((95.0, 420.0, 2460.0, 5400.0))
        for place in range(each):
            began = now - timedelta(days=each - place - 1, minutes=random.randrange(20, 90))
            told.append(_build(random, number, catalog, model, usual, began, is_newest=place == each - 1))
    return told


def _build(
    random: Random, number: int, catalog: str, model: str, usual: float, began: datetime, *, is_newest: bool
) -> Told:
    luck, seconds = random.random(), usual * random.uniform(0.8, 1.2)
    if is_newest:
        # So that a site of few models has one of each.
        luck = {0: 0.01, 1: 0.06, 2: 0.11, 3: 0.16}.get(number % 25, 0.5)
    dag_id = f"load_{model.lower().replace(' ', '_')}"
    report = make_report(catalog, model, began, seconds, usual)
    told = Told(dag_id, f"scheduled__{began.isoformat()}", began)
    told.uri = f"atscale://atscale.example.com/{catalog}/{model}".replace(" ", "%20")
    link = f"{SERVER}/build-history?batchId={report['batch_id']}"
    ids = {"batch_id": report["batch_id"], "catalog": report["catalog_id"], "model": report["model_id"]}
    told.xcoms = {"batch": ids, "_link_AtScaleBuildHistoryLink": link, "return_value": report["batch_id"]}
    if luck < 0.05:
        report |= {"status": "failed", "failed_aggregates": 2, "failures": [_failure(), _failure("by_region")]}
        report["error"] = f"Failed after {seconds / 60:.0f} min: 2 of 40 aggregates were not built: {MESSAGE}"
        told.state, told.xcoms["batch_failure"] = "failed", report
        return told
    if 0.15 < luck < 0.2 and is_newest:
        told.state = "deferred"
        told.began = began = datetime.now(timezone.utc) - timedelta(seconds=usual * 1.6)
        told.xcoms["progress"] = {
            "batch_id": report["batch_id"],
            "status": "inprogress",
            "since": began.isoformat(),
            "usual_seconds": usual,
            "late": True,
            "aggregates": {"built": 23, "total": 40},
        }
        return told
    if luck < 0.1:
        report |= {"seconds": usual * 1.9, "late": True}
    elif luck < 0.15:
        report |= {"failed_aggregates": 1, "failures": [_failure()]}
    told.xcoms["batch_result"] = told.extra = report
    return told


def make_report(catalog: str, model: str, began: datetime, seconds: float, usual: float) -> dict[str, Any]:
    """
    Return the report of a good batch.

    :param catalog: Name of the catalog.
    :param model: Name of the model.
    :param began: When the batch began.
    :param seconds: How long it took.
    :param usual: How long it usually takes.
    """
    ended = began + timedelta(seconds=seconds)
    return {
        "batch_id": _id(f"{catalog}{model}{began}"),
        "server": SERVER,
        "catalog": catalog,
        "model": model,
        "catalog_id": _id(catalog),
        "model_id": _id(f"{catalog}/{model}"),
        "status": "done",
        "kind": "incremental",
        "requested_kind": "incremental",
        "start": "started",
        "joined_at": None,
        "created": began.isoformat(),
        "started": began.isoformat(),
        "ended": ended.isoformat(),
        "seconds": round(seconds, 1),
        "usual_seconds": usual,
        "late": False,
        "instances": {"active": 40},
        "rows": 1_204_311,
        "aggregates": 40,
        "failed_aggregates": 0,
        "repaired_attempts": 0,
        "failures": [],
    }


def _failure(aggregate: str = "sales_by_month") -> dict[str, Any]:
    message = MESSAGE.partition(": ")[2]
    return {"aggregate": aggregate, "status": "failed", "message": message, "query_id": None}


def _id(text: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, text))


def store(told: list[Told]) -> None:
    """
    Write builds to the database.

    :param told: The builds.
    """
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.models.dag import DagModel
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import insert, select

    bundle = "builds-data"
    with create_session(scoped=False) as session:
        known = set(session.scalars(select(DagModel.dag_id)))
        if session.scalar(select(DagBundleModel.name).where(DagBundleModel.name == bundle)) is None:
            session.execute(insert(DagBundleModel), [{"name": bundle, "active": True}])
        dag_ids = sorted({each.dag_id for each in told} - known)
        _insert(session, DagModel, [_dag(each, bundle) for each in dag_ids])
        runs = {(each.dag_id, each.run_id): each.began for each in told}
        _insert(session, DagRun, [_run(dag_id, run_id, began) for (dag_id, run_id), began in runs.items()])
        rows = session.execute(select(DagRun.id, DagRun.dag_id, DagRun.run_id)).all()
        numbers = {(dag_id, run_id): number for number, dag_id, run_id in rows}
        _insert(session, TaskInstance, [_task(each) for each in told])
        xcoms = [_xcom(each, key, numbers) for each in told for key in each.xcoms]
        _insert(session, XComModel, xcoms)
        assets = dict(session.execute(select(AssetModel.uri, AssetModel.id)).all())
        new = sorted({each.uri for each in told if each.extra is not None} - set(assets))
        _insert(session, AssetModel, [{"name": uri, "uri": uri, "group": "asset", "extra": {}} for uri in new])
        assets = dict(session.execute(select(AssetModel.uri, AssetModel.id)).all())
        events = [_event(each, assets[each.uri]) for each in told if each.extra is not None]
        _insert(session, AssetEvent, events)


def _insert(session: Any, model: Any, rows: list[dict[str, Any]]) -> None:
    from sqlalchemy import insert

    if rows:
        session.execute(insert(model), rows)


def _dag(dag_id: str, bundle: str) -> dict[str, Any]:
    return {
        "dag_id": dag_id,
        "bundle_name": bundle,
        "max_active_tasks": 16,
        "max_active_runs": 16,
        "max_consecutive_failed_dag_runs": 0,
        "has_task_concurrency_limits": False,
        "is_stale": False,
    }


def _run(dag_id: str, run_id: str, began: datetime) -> dict[str, Any]:
    return {
        "dag_id": dag_id,
        "run_id": run_id,
        "run_type": "scheduled",
        "run_after": began,
        "state": "success",
    }


def _task(told: Told) -> dict[str, Any]:
    return {
        "dag_id": told.dag_id,
        "run_id": told.run_id,
        "task_id": told.task_id,
        "map_index": told.map_index,
        "pool": "default_pool",
        "state": told.state,
        "start_date": told.began,
        "try_number": 1,
    }


def _xcom(told: Told, key: str, numbers: dict[tuple[str, str], int]) -> dict[str, Any]:
    return {
        "dag_run_id": numbers[told.dag_id, told.run_id],
        "dag_id": told.dag_id,
        "run_id": told.run_id,
        "task_id": told.task_id,
        "map_index": told.map_index,
        "key": key,
        "value": told.xcoms[key],
        "timestamp": told.began,
    }


def _event(told: Told, asset_id: int) -> dict[str, Any]:
    return {
        "asset_id": asset_id,
        "extra": told.extra,
        "timestamp": told.began,
        "source_dag_id": told.dag_id,
        "source_run_id": told.run_id,
        "source_task_id": told.task_id,
        "source_map_index": told.map_index,
    }


if __name__ == "__main__":
    sys.exit(main())
