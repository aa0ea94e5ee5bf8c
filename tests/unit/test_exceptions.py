"""One class for each thing that a reader can do about it, as the module's table says."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
)

from airflow_provider_atscale import exceptions
from airflow_provider_atscale.exceptions import (
    AtScaleApiError,
    AtScaleBatchFailedError,
    AtScaleConnectionError,
    AtScaleError,
    AtScaleSensorTimeoutError,
    AtScaleTimeoutError,
)

CLASSES = {
    name: each
    for name, each in vars(exceptions).items()
    if inspect.isclass(each) and each.__module__ == exceptions.__name__
}
TABLE = dict(re.findall(r"^:class:`(\w+)`\s+(yes|no)\s+\S", exceptions.__doc__ or "", re.MULTILINE))


def test_the_table_has_every_class_and_no_other():
    assert set(TABLE) == set(CLASSES) - {"AtScaleError"}


@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_table_says_which_errors_are_retried(name):
    fails_at_once = issubclass(CLASSES[name], (AirflowFailException, AirflowSensorTimeout))
    assert TABLE[name] == ("no" if fails_at_once else "yes")


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_class_is_ours_and_says_what_it_is_for(name):
    assert issubclass(CLASSES[name], AtScaleError)
    assert issubclass(CLASSES[name], AirflowException)
    assert CLASSES[name].__doc__


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_an_error_survives_the_way_between_processes(name):
    error = CLASSES[name]("what, where, and what to do")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert str(twin) == "what, where, and what to do"


def test_what_an_error_knows_survives_too():
    api = pickle.loads(pickle.dumps(AtScaleApiError("no", 429, 7.0)))
    assert (api.http_status_code, api.retry_after, str(api)) == (429, 7.0, "no")
    connection = pickle.loads(pickle.dumps(AtScaleConnectionError("no", sent=False)))
    assert (connection.sent, str(connection)) == (False, "no")


def test_a_lost_connection_may_have_carried_the_request():
    assert AtScaleConnectionError("no").sent is True


def test_families():
    assert issubclass(exceptions.AtScaleAggregatesFailedError, AtScaleBatchFailedError)
    assert issubclass(AtScaleSensorTimeoutError, AtScaleTimeoutError)
    assert issubclass(AtScaleSensorTimeoutError, AirflowSensorTimeout)
    assert not issubclass(AtScaleSensorTimeoutError, AirflowFailException)
