"""The retry policy in real Airflow: what is retried, when, and what is not."""

from __future__ import annotations

from datetime import timedelta

import pytest

from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator

from . import runs, stored
from .conftest import MODEL, QUICK, WAITS, new_dag

pytestmark = pytest.mark.skipif(not runs.HAS_TASK_STATE, reason="Airflow before 3.3 has no retry policies")


def too_many_requests(engine):
    engine.fault(429, route="start", headers={"Retry-After": "1"})


#: (what happens, the policy's arguments, state, delays of the retries; None is the task's retry_delay)
CASES = {
    "AtScale says when to come back": (too_many_requests, {}, "success", [1.0]),
    "it says so, and that is too late": (
        lambda engine: engine.fault(429, route="start", headers={"Retry-After": "3600"}),
        {"max_retry_after": timedelta(seconds=0.5)},
        "success",
        [0.5],
    ),
    "trouble": (lambda engine: engine.fault(500, route="catalogs"), {}, "success", [None]),
    "a request that AtScale calls wrong": (lambda engine: engine.fault(400, route="start"), {}, "failed", []),
    "wrong credentials": (lambda engine: engine.revoke_api_token(), {}, "failed", []),
    "the build failed": (lambda engine: engine.fail_next("Internet Sales"), {}, "failed", []),
    "the build failed, and the user wants another": (
        lambda engine: engine.fail_next("Internet Sales"),
        {"retry_failed_builds": True},
        "success",
        [None],
    ),
}


def build(policy, **arguments):
    """Build with three retries; return what came of the task, and the decisions about its retries."""
    from airflow_provider_atscale.policies import AtScaleRetryPolicy

    with new_dag() as dag:
        AtScaleAggregateBuildOperator(
            task_id="task", retries=3, retry_policy=AtScaleRetryPolicy(**policy), **MODEL, **QUICK, **arguments
        )
    return runs.run(dag)["task"], stored.retry_decisions(dag.dag_id, "task")


@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize(("happens", "policy", "state", "delays"), CASES.values(), ids=CASES)
def test_what_the_policy_decides(engine, happens, policy, state, delays, mode):
    happens(engine)
    task, decisions = build(policy, **mode)
    assert (task.state, task.tries) == (state, len(delays) + 1), task.errors
    assert [delay for delay, _ in decisions] == delays
    assert all(reason for _, reason in decisions)


@pytest.mark.parametrize("mode", WAITS.values(), ids=WAITS)
def test_a_wait_that_timed_out_goes_on_at_once(engine, mode, when):
    """Each try looks the model up, so the second look-up is the retry's."""
    engine.settings(build_seconds=600)
    when(
        lambda: engine.stats.routes.get("catalogs", 0) == 2,
        lambda: engine.end_batch(engine.batches[0].id),
    )
    task, decisions = build({}, timeout=2.0, **mode)
    assert (task.state, task.tries) == ("success", 2), task.errors
    assert decisions == [(0.0, "A build that was started goes on; a retry attaches to it")]
    assert len(engine.batches) == 1
    assert task.value == engine.batches[0].id
