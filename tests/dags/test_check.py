"""The check of a model's aggregates: what it reads, what fails it, what it leaves behind."""

from __future__ import annotations

from datetime import timedelta

import pytest

from airflow_provider_atscale.exceptions import (
    AtScaleAggregateCheckError,
    AtScaleConfigurationError,
    AtScaleNotFoundError,
)
from airflow_provider_atscale.operators.checks import AtScaleAggregateCheckOperator

from .conftest import MODEL, run_task, whatever_the_edition

NAMES = ("Sales Insights", "Internet Sales")


def built(engine, **outcome):
    """Let a full build of the model end."""
    batch = engine.start_batch(*NAMES, is_full_build=True)
    return engine.end_batch(batch.id, **outcome)


def check(context, **arguments):
    return AtScaleAggregateCheckOperator(task_id="check", **{**MODEL, **arguments}).execute(context)


def test_a_model_that_passes(engine):
    built(engine)
    engine.start_batch("Sales Insights", "Reseller Sales")
    done = run_task(
        AtScaleAggregateCheckOperator,
        params={"age": "3600"},
        max_age="{{ params.age }}",
        min_active="{{ 5 + 1 }}",
        min_rows=1,
        **MODEL,
    )
    assert done.state == "success"
    assert done.value == done.xcoms["check_result"]
    assert [done.value[name] for name in ("active", "failed", "pending", "misses")] == [6, 0, 0, []]
    assert done.links
    assert len(engine.batches) == 2


def test_a_model_that_does_not(engine):
    built(engine, failed_aggregates=2, message="No space left")
    done = run_task(AtScaleAggregateCheckOperator, min_active=5, **MODEL)
    assert done.state == "failed"
    assert isinstance(done.error, AtScaleAggregateCheckError)
    text = str(done.error)
    assert "model 'Internet Sales' of catalog 'Sales Insights' at http://127.0.0.1:" in text
    assert "4 aggregates are active (2 failed, 0 pending), and min_active is 5" in text
    assert text.count("failed: No space left") == 2
    assert "Build the aggregates of the model" in text
    misses = done.xcoms["check_result"]["misses"]
    assert len(misses) == 3
    assert all(miss["aggregate"] in text for miss in misses if miss["aggregate"])


@whatever_the_edition
def test_old_aggregates(engine, context):
    engine.advance(-7200)
    built(engine)
    assert check(context, max_age=timedelta(hours=3))["misses"] == []
    with pytest.raises(AtScaleAggregateCheckError, match=r"built 2.0 h ago, .* max_age is 60 min"):
        check(context, max_age=3600)


@whatever_the_edition
def test_retried_aggregates_count_once(engine, context):
    built(engine, repaired_aggregates=2)
    assert [check(context)[name] for name in ("active", "failed")] == [6, 0]


@whatever_the_edition
def test_list_that_may_be_cut(engine, logged):
    engine.settings(instances_paging="ignored")
    built(engine)
    built(engine)
    done = run_task(AtScaleAggregateCheckOperator, **MODEL)
    assert done.value["truncated"]
    assert "the check can have missed some" in logged()


@whatever_the_edition
def test_no_such_model(engine, context):
    with pytest.raises(AtScaleNotFoundError):
        check(context, model="Nothing")


BAD = {
    "nothing to check": ({"max_failed": None, "min_active": None}, "There is nothing to check"),
    "a threshold that everything passes": ({"max_failed": None, "min_active": 0}, "There is nothing to check"),
    "a negative count": ({"max_failed": -1}, "max_failed is -1; it must be a whole number"),
    "half an aggregate": ({"min_active": "0.5"}, "min_active is '0.5'"),
    "a flag": ({"min_rows": True}, "min_rows is True"),
    "an age that is none": ({"max_age": "a day"}, "max_age is 'a day'"),
    "no age": ({"max_age": 0}, "max_age is 0"),
    "a model that rendered to None": ({"model": "None"}, "model is 'None'"),
    "an empty connection id": ({"atscale_conn_id": ""}, "atscale_conn_id is ''"),
}


@whatever_the_edition
@pytest.mark.parametrize(("arguments", "text"), BAD.values(), ids=BAD)
def test_bad_arguments(engine, context, arguments, text):
    with pytest.raises(AtScaleConfigurationError) as caught:
        check(context, **arguments)
    assert text in str(caught.value)
    assert engine.requests == []
