"""
Importing operators and sensors is part of parsing every DAG that uses them, every few seconds.

So it loads nothing beyond what Airflow's own base classes load on that version. Each import is measured in an
interpreter of its own.
"""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest

#: What anybody's operator and sensor modules import, be they empty.
EMPTY = """
from airflow.providers.common.compat.sdk import BaseOperator, BaseSensorOperator, conf

class Operator(BaseOperator):
    operator_extra_links = ()

class Sensor(BaseSensorOperator):
    deferrable = conf.getboolean("operators", "default_deferrable", fallback=False)
"""

#: What anybody's DAG does with them.
EMPTY_DAG = """
from datetime import datetime
from airflow.providers.common.compat.sdk import DAG
with DAG("d", schedule=None, start_date=datetime(2024, 1, 1)):
    Sensor(task_id="w", doc=str(Operator(task_id="b").output))
"""

#: What checks the plain values of a DAG file.
ARGUMENTS = {"arguments", "exceptions", "api", "api.values"}
OURS = {
    f"airflow_provider_atscale.{folder}.{module}": {
        folder,
        f"{folder}.{module}",
        "tasks",
        "tasks.map_names",
        *ARGUMENTS,
    }
    for folder, module in (("operators", "atscale"), ("operators", "checks"), ("sensors", "atscale"))
}
#: The package of the links, and none of them.
LINKS = {"links"}

#: Only a task that runs needs these.
HEAVY = ("requests", "aiohttp", "tenacity", "pendulum", "asyncio.taskgroups", "airflow.triggers.base")


@functools.cache
def modules_after(code: str) -> frozenset[str]:
    """Return the names of all modules that a fresh interpreter has loaded after it ran some code."""
    code += "\nimport sys\nprint('loaded:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    return frozenset(done.stdout.partition("loaded:")[2].split())


@pytest.mark.parametrize("module", OURS)
def test_nothing_is_loaded_that_an_empty_module_does_not_load(module):
    more = modules_after(f"import {module}") - modules_after(EMPTY)
    ours = {name for name in more if name.split(".")[0] == "airflow_provider_atscale"}
    assert more == ours
    allowed = {f"airflow_provider_atscale.{name}" for name in OURS[module] | LINKS}
    assert ours <= {"airflow_provider_atscale", *allowed}


@pytest.mark.parametrize("module", OURS)
@pytest.mark.parametrize("heavy", HEAVY)
def test_nothing_heavy_is_loaded_by_us(module, heavy):
    assert heavy not in modules_after(f"import {module}") - modules_after(EMPTY)


def test_constructing_them_loads_nothing_of_ours_either():
    loaded = modules_after("""
from datetime import datetime
from airflow.providers.common.compat.sdk import DAG
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.sensors.atscale import AtScaleBatchSensor
with DAG("d", schedule=None, start_date=datetime(2024, 1, 1)):
    build = AtScaleAggregateBuildOperator(task_id="b", catalog="c", model="m", deferrable=True)
    AtScaleBatchSensor(task_id="w", batch_id=build.output, catalog="c", model="m", deferrable=True)
""")
    # Airflow may look for installed providers on the way.
    allowed = set.union(LINKS, *OURS.values(), {"get_provider_info"})
    ours = {name for name in loaded if name.startswith("airflow_provider_atscale.")}
    assert ours <= {f"airflow_provider_atscale.{name}" for name in allowed}
    assert not (loaded - modules_after(EMPTY + EMPTY_DAG)) & set(HEAVY)


def test_the_measure_would_notice():
    """What a running task needs is found when it is imported, so its absence above means something."""
    more = modules_after("import airflow_provider_atscale.triggers.atscale") - modules_after(EMPTY)
    assert "airflow_provider_atscale.waiting.shared" in more
    assert "airflow_provider_atscale.client.aiohttp_client" in more
