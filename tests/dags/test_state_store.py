"""What Airflow's API, and so its tab "Task State Store", shows of a build; and what clearing it means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_provider_atscale.builds.state import _OUTCOMES, KEY, LOOK_KEY
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.tasks.wait import STATE_KEY

from . import runs, stored
from .conftest import MODEL, QUICK, WAITS, new_dag
from .test_retries import DiesAfterTheStart

pytestmark = pytest.mark.skipif(not runs.HAS_TASK_STATE, reason="Airflow before 3.3 has no task state store")


@pytest.fixture(scope="module")
def api():
    """Return a client of Airflow's public API, in this process."""
    with pytest.MonkeyPatch.context() as env:
        env.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "True")
        yield stored.Api()


def build(operator=AtScaleAggregateBuildOperator, **arguments):
    """Build; return the DAG's id and what came of the task."""
    with new_dag() as dag:
        operator(task_id="task", **MODEL, **QUICK, **arguments)
    return dag.dag_id, runs.run(dag)["task"]


@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
def test_a_build_reads_well(engine, api, mode):
    dag_id, task = build(**mode)
    value = api.state_store(dag_id, "task")["atscale_build"]
    expected = {
        "model": "Internet Sales",
        "catalog": "Sales Insights",
        "status": "done",
        "batch_id": task.value,
        "origin": "started",
    }
    assert expected.items() <= value.items()
    assert value["history_url"] == next(iter(task.links.values()))


def test_the_documentation_shows_such_a_value(engine, api):
    dag_id, _ = build()
    value = api.state_store(dag_id, "task")["atscale_build"]
    page = (Path(__file__).parents[2] / "docs" / "operate" / "state-store.md").read_text()
    shown = json.loads(page.partition("```text\n")[2].partition("```")[0])
    assert list(shown) == list(value)
    assert {name: list(shown[name]) for name in ("key", "intent")} == {
        name: list(value[name]) for name in ("key", "intent")
    }
    assert all(f"`{key}`" in page for key in (KEY, LOOK_KEY, STATE_KEY))
    assert all(f"| `{status}` |" in page for status in ("starting", "started", *_OUTCOMES))


def test_a_failed_build_says_so(engine, api):
    engine.fail_next("Internet Sales")
    dag_id, _ = build()
    value = api.state_store(dag_id, "task")["atscale_build"]
    assert (value["status"], value["batch_id"]) == ("failed", engine.batches[0].id)


def test_no_secret_is_in_it(engine, api):
    dag_id, _ = build()
    text = str(api.state_store(dag_id, "task"))
    conn = engine.connection()
    assert all(secret not in text for secret in (conn["password"], conn.get("login") or conn["password"]))


class ClearedBetweenTheTries(DiesAfterTheStart):
    """Somebody deletes what is stored after the first try has died."""

    api: stored.Api

    def _run_in(self, context):
        ti = context["ti"]
        if ti.try_number == 2:
            self.api.clear_state_store(ti.dag_id, ti.task_id)
        return super()._run_in(context)


@pytest.mark.parametrize("on_running", ["wait", "attach"])
def test_after_it_was_cleared_a_retry_meets_its_own_batch_as_a_running_one(
    engine, api, on_running, monkeypatch
):
    monkeypatch.setattr(ClearedBetweenTheTries, "api", api, raising=False)
    engine.settings(build_seconds=1.5)
    dag_id, task = build(ClearedBetweenTheTries, retries=1, on_running=on_running)
    assert (task.state, task.tries) == ("success", 2), task.errors
    assert len(engine.batches) == {"wait": 2, "attach": 1}[on_running]
    assert all(batch.overlapped_with == [] for batch in engine.batches)
    assert api.state_store(dag_id, "task")["atscale_build"]["batch_id"] == task.value
