"""What a DAG file pays for an operator: importing, parsing, constructing and serializing it. Prints JSON."""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path

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


#: How each constructs a task in a DAG file.
TASKS = {
    "AtScale": (
        "from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator as Operator",
        'catalog="Sales Insights", model="Internet Sales"',
    ),
    "dbt Cloud": (
        "from airflow.providers.dbt.cloud.operators.dbt import DbtCloudRunJobOperator as Operator",
        'project_name="Sales Insights", environment_name="Production", job_name="Load"',
    ),
    "Databricks": (
        "from airflow.providers.databricks.operators.databricks import DatabricksRunNowOperator as Operator",
        "job_id=1",
    ),
    "Airbyte": (
        "from airflow.providers.airbyte.operators.airbyte import AirbyteTriggerSyncOperator as Operator",
        'connection_id="sales"',
    ),
    "HTTP": ("from airflow.providers.http.operators.http import HttpOperator as Operator", 'endpoint="build"'),
    "BaseOperator": ("from airflow.sdk import BaseOperator as Operator", ""),
}
FILE = """
from datetime import datetime
from airflow.sdk import DAG
{importing}

with DAG("dag_{number}", schedule=None, start_date=datetime(2026, 1, 1)):
    for number in range(10):
        Operator(task_id=f"task_{{number}}", {arguments})
"""


def folder(who: str) -> dict[str, float]:
    """Parse each file in a process of its own, as the DAG processor does."""
    import airflow.sdk  # noqa: F401
    from airflow.dag_processing.dagbag import DagBag

    importing, arguments = TASKS[who]
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / f"dag_{number}.py" for number in range(20)]
        for number, file in enumerate(files):
            file.write_text(FILE.format(importing=importing, arguments=arguments, number=number))
        before = os.times()
        for file in files:
            pid = os.fork()
            if not pid:
                bag = DagBag(file, bundle_path=Path(name))
                os._exit(0 if len(bag.dags) == 1 and not bag.import_errors else 1)
            if os.waitpid(pid, 0)[1]:
                raise RuntimeError(f"{file.name} of {who} could not be parsed")
        after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {"cpu_ms": used * 1000}


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
    found = {"import": imports, "folder": folder, "construct": lambda rounds: constructs(int(rounds))}[what](
        argument
    )
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
