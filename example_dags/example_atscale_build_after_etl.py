"""
Load data, then rebuild the aggregates on it: the everyday use of this provider.

A small ETL reads new orders from the CSV file beside this DAG, computes what each order is worth and writes
the result into a table, here of SQLite. When the data is loaded, the next task builds the aggregates of the
AtScale model on it and waits in the triggerer, so it holds no worker while AtScale builds. The DAG goes on only
when the aggregates are built; its last task prints the report of the batch.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import sqlite3
import tempfile
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import dag, task

from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator

log = logging.getLogger(__name__)

ORDERS = Path(__file__).with_name("internet_sales.csv")
WAREHOUSE = Path(os.environ.get("ATSCALE_EXAMPLE_FOLDER", tempfile.gettempdir())) / "example_warehouse.db"


@dag(
    schedule=None,
    catchup=False,
    default_args={
        "atscale_conn_id": "atscale_default",
        "catalog": "Sales Insights",
        "model": "Internet Sales",
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
    },
    tags=["atscale", "example"],
    doc_md=__doc__,
)
def example_atscale_build_after_etl():
    @task
    def extract() -> list[dict[str, str]]:
        """Read the new orders."""
        with ORDERS.open(newline="") as file:
            return list(csv.DictReader(file))

    @task
    def transform(orders: list[dict[str, str]]) -> list[dict[str, Any]]:
        """Compute what each order is worth."""
        return [
            {
                "order_number": order["order_number"],
                "order_date": order["order_date"],
                "product": order["product"],
                "sales_amount": round(int(order["quantity"]) * float(order["unit_price"]), 2),
            }
            for order in orders
        ]

    @task
    def load(sales: list[dict[str, Any]]) -> int:
        """Write the sales into the fact table; loading the same orders again changes nothing."""
        with closing(sqlite3.connect(WAREHOUSE)) as warehouse, warehouse:
            warehouse.execute(
                "CREATE TABLE IF NOT EXISTS factinternetsales "
                "(order_number TEXT PRIMARY KEY, order_date TEXT, product TEXT, sales_amount REAL)"
            )
            warehouse.executemany(
                "INSERT OR REPLACE INTO factinternetsales "
                "VALUES (:order_number, :order_date, :product, :sales_amount)",
                sales,
            )
            (rows,) = warehouse.execute("SELECT count(*) FROM factinternetsales").fetchone()
        log.info("%s holds %s rows", WAREHOUSE, rows)
        return rows

    @task
    def report(batch_result: dict[str, Any]) -> None:
        """Print what AtScale has built."""
        log.info("The batch:\n%s", json.dumps(batch_result, indent=2))

    # [START howto_operator_atscale_build]
    build_aggregates = AtScaleAggregateBuildOperator(task_id="build_aggregates", deferrable=True)

    load(transform(extract())) >> build_aggregates
    report(build_aggregates.output["batch_result"])
    # [END howto_operator_atscale_build]


example_atscale_build_after_etl()
