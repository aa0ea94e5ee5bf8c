"""What a DAG file pays for an operator: importing, constructing and serializing it. Prints JSON."""

from __future__ import annotations

import gc
import json
import sys
import time

IMPORTS = {
    "AtScale": ("airflow_provider_atscale.operators.atscale", "airflow_provider_atscale.sensors.atscale"),
    "dbt Cloud": ("airflow.providers.dbt.cloud.operators.dbt", "airflow.providers.dbt.cloud.sensors.dbt"),
    "Databricks": (
        "airflow.providers.databricks.operators.databricks",
        "airflow.providers.databricks.sensors.databricks",
    ),
    "Airbyte": ("airflow.providers.airbyte.operators.airbyte", "airflow.providers.airbyte.sensors.airbyte"),
    "HTTP": ("airflow.providers.http.operators.http", "airflow.providers.http.sensors.http"),
    "empty with a link": ("floor.operators.linked", "floor.sensors.empty"),
    "empty": ("floor.operators.empty", "floor.sensors.empty"),
}


def imports(who: str) -> dict[str, float]:
    import importlib

    import airflow.sdk  # noqa: F401 - every DAG file imports it

    before = set(sys.modules)
    gc.collect()
    cpu = time.process_time()
    for module in IMPORTS[who]:
        importlib.import_module(module)
    cpu = time.process_time() - cpu
    return {"cpu_ms": cpu * 1000, "modules": len(set(sys.modules) - before)}


def constructs(rounds: int) -> dict[str, dict[str, list[float]]]:
    import json
    from datetime import datetime

    from airflow.providers.dbt.cloud.operators.dbt import DbtCloudRunJobOperator
    from airflow.sdk import DAG, BaseOperator
    from airflow.serialization.serialized_objects import DagSerialization
    from floor.operators.templated import Keeping

    from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator

    makers = {
        "AtScale": lambda n: AtScaleAggregateBuildOperator(
            task_id=f"task_{n:04d}", catalog="Sales Insights", model="Internet Sales"
        ),
        "dbt Cloud": lambda n: DbtCloudRunJobOperator(
            task_id=f"task_{n:04d}",
            project_name="Sales Insights",
            environment_name="Production",
            job_name="Load",
        ),
        "as many arguments": lambda n: Keeping(
            task_id=f"task_{n:04d}", one="Sales Insights", two="Internet Sales"
        ),
        "BaseOperator": lambda n: BaseOperator(task_id=f"task_{n:04d}"),
    }
    found: dict[str, dict[str, list[float]]] = {name: {"cpu_ms": [], "bytes": []} for name in makers}
    for _ in range(rounds):
        for name, make in makers.items():
            with DAG("dag", schedule=None, start_date=datetime(2026, 1, 1)) as dag:
                gc.collect()
                cpu = time.process_time()
                for number in range(1000):
                    make(number)
                found[name]["cpu_ms"].append((time.process_time() - cpu) * 1000)
            tasks = DagSerialization.to_dict(dag)["dag"]["tasks"]
            found[name]["bytes"].append(len(json.dumps(tasks)) / 1000)
    return found


def main() -> None:
    what, argument = sys.argv[1:]
    found = imports(argument) if what == "import" else constructs(int(argument))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
