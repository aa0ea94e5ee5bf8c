"""Print the versions of what is compared, as JSON."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

NAMES = {
    "Airflow": "apache-airflow",
    "aiohttp": "aiohttp",
    "httpx": "httpx",
    "dbt Cloud": "apache-airflow-providers-dbt-cloud",
    "Databricks": "apache-airflow-providers-databricks",
    "Airbyte": "apache-airflow-providers-airbyte",
    "HTTP": "apache-airflow-providers-http",
}

sys.stdout.write(json.dumps({name: version(package) for name, package in NAMES.items()}) + "\n")
