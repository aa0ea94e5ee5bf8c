"""``only_if_newer`` and ``give_up_after`` in real DAG runs."""

from __future__ import annotations

import time

import pytest
from airflow.providers.common.compat.sdk import Asset, BaseOperator

from airflow_provider_atscale.exceptions import AtScaleConfigurationError, AtScaleGaveUpError
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator

from . import runs
from .conftest import MODEL, QUICK, new_dag, run_task, whatever_the_edition

pytestmark = whatever_the_edition


class Load(BaseOperator):
    """Stand in for a task that loads a table."""

    def execute(self, context):
        return None


@pytest.mark.skipif(runs.VERSION < (3, 0), reason="before Airflow 3.0 there is no only_if_newer")
def test_a_build_follows_each_load_and_no_other(engine):
    """Events of a real upstream table: built, skipped because nothing is new, built after the next load."""
    table = Asset(name="factinternetsales", uri="x://warehouse/factinternetsales")
    with new_dag() as load:
        Load(task_id="load", outlets=[table])
    with new_dag() as build:
        AtScaleAggregateBuildOperator(
            task_id="task", inlets=[table], outlets=[], only_if_newer=True, **MODEL, **QUICK
        )
    states = []
    for loads in (True, False, True):
        if loads:
            runs.run(load)
            # A doubt of two seconds leads to a build.
            time.sleep(3.1)
        states.append(runs.run(build)["task"].state)
    assert states == ["success", "skipped", "success"]
    assert len(engine.batches) == 2


@pytest.mark.skipif(runs.VERSION >= (3, 0), reason="Airflow 3 has it")
def test_airflow_2_has_no_only_if_newer(engine):
    task = run_task(AtScaleAggregateBuildOperator, only_if_newer=True, retries=2, **MODEL, **QUICK)
    assert isinstance(task.error, AtScaleConfigurationError)
    assert engine.batches == []


def test_a_broken_model_is_not_built_for_ever(engine):
    """The task's own builds fail; the retry after the second one starts no third, and there is no further retry."""
    engine.settings(failing_models={"Internet Sales": "failed"})
    task = run_task(AtScaleAggregateBuildOperator, give_up_after=2, retries=5, **MODEL, **QUICK)
    assert task.state == "failed"
    assert isinstance(task.errors[-1], AtScaleGaveUpError)
    assert task.tries == 3
    assert len(engine.batches) == 2
