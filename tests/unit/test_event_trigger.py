"""The event trigger as DAG files and Airflow's database see it."""

from __future__ import annotations

import importlib
import json

import airflow
import pytest
from airflow.providers.common.compat.sdk import AirflowOptionalProviderFeatureException

from airflow_provider_atscale.exceptions import AtScaleConfigurationError

MODULE = "airflow_provider_atscale.triggers.builds"
AIRFLOW = tuple(int(part) for part in airflow.__version__.split(".")[:2])
needs_airflow_3 = pytest.mark.skipif(AIRFLOW < (3, 0), reason="Airflow 2 has no event triggers")


def trigger(**arguments):
    made = importlib.import_module(MODULE).AtScaleBuildEventTrigger
    return made(**{"catalog": "Sales Insights", "model": "Internet Sales", **arguments})


@pytest.mark.skipif(AIRFLOW >= (3, 0), reason="Airflow 3 has event triggers")
def test_airflow_2_says_what_it_lacks_and_what_to_do_instead():
    with pytest.raises(AirflowOptionalProviderFeatureException, match=r"Airflow 3\.0 .*Sensor"):
        importlib.import_module(MODULE)


@needs_airflow_3
@pytest.mark.parametrize(
    "arguments", [{}, {"outcome": "failed", "atscale_conn_id": "other", "poll_interval": 7.5}], ids=str
)
def test_it_survives_the_database(arguments):
    path, values = trigger(**arguments).serialize()
    assert path == f"{MODULE}.AtScaleBuildEventTrigger"
    again = trigger(**json.loads(json.dumps(values)))
    assert again.serialize() == (path, values)
    assert {name: values[name] for name in arguments} == arguments


WRONG = {
    "no catalog": ({"catalog": ""}, "catalog"),
    "no model": ({"model": None}, "model"),
    "an unknown outcome": ({"outcome": "good"}, "any, succeeded, failed"),
    "no connection": ({"atscale_conn_id": " "}, "atscale_conn_id"),
    "no pause": ({"poll_interval": 0}, "poll_interval"),
}


@needs_airflow_3
@pytest.mark.parametrize(("arguments", "expected"), WRONG.values(), ids=WRONG)
def test_invalid_arguments_are_errors_of_the_dag_file(arguments, expected):
    with pytest.raises(AtScaleConfigurationError, match=expected):
        trigger(**arguments)


SHARED = {
    "the same": ({}, True),
    "other batches of the model": ({"outcome": "failed"}, True),
    "another model": ({"model": "Reseller Sales"}, False),
    "another catalog": ({"catalog": "Finance"}, False),
    "another connection": ({"atscale_conn_id": "other"}, False),
    "more often": ({"poll_interval": 5}, False),
}


@pytest.mark.skipif(AIRFLOW < (3, 3), reason="before Airflow 3.3 each trigger polls for itself")
@pytest.mark.parametrize(("arguments", "expected"), SHARED.values(), ids=SHARED)
def test_which_triggers_share_their_polls(arguments, expected):
    assert (trigger().shared_stream_key() == trigger(**arguments).shared_stream_key()) is expected


@needs_airflow_3
@pytest.mark.skipif(AIRFLOW >= (3, 3), reason="Airflow 3.3 has shared streams")
def test_before_airflow_3_3_each_polls_for_itself():
    assert trigger().shared_stream_key() is None


WATERMARKS = {
    "the same": ({}, True),
    "polls more often": ({"poll_interval": 5}, True),
    "other batches of the model": ({"outcome": "failed"}, False),
    "another model": ({"model": "Reseller Sales"}, False),
    "another connection": ({"atscale_conn_id": "other"}, False),
}


@needs_airflow_3
@pytest.mark.parametrize(("arguments", "expected"), WATERMARKS.values(), ids=WATERMARKS)
def test_which_triggers_share_a_watermark(arguments, expected):
    """Watchers of one asset keep their watermarks side by side in its store."""
    assert (trigger()._events.key == trigger(**arguments)._events.key) is expected
