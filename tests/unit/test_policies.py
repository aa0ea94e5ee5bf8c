"""What the retry policy decides about each error, as the table in ``exceptions`` says."""

from __future__ import annotations

import copy
import importlib
import json
import pickle
import re
import sys
from datetime import timedelta

import airflow
import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowOptionalProviderFeatureException

from airflow_provider_atscale import exceptions
from airflow_provider_atscale.api.errors import error_of
from airflow_provider_atscale.api.flow import Response

MODULE = "airflow_provider_atscale.policies"
AIRFLOW = tuple(int(part) for part in airflow.__version__.split(".")[:2])
if AIRFLOW >= (3, 3):
    from airflow.sdk import RetryAction, RetryDecision

    from airflow_provider_atscale.policies import AtScaleRetryPolicy
needs_policies = pytest.mark.skipif(AIRFLOW < (3, 3), reason="Airflow before 3.3 has no retry policies")

AT_ONCE = timedelta(0)
#: What each word of the table's column means: (action, delay).
DECISIONS = {
    "at once": ("retry", AT_ONCE),
    "delay": ("retry", None),
    "fail": ("fail", None),
    "not asked": ("fail", None),
    "by status": ("retry", None),
}
TABLE = dict(
    re.findall(r"^:class:`(\w+)`\s+(?:yes|no)\s+(\w+(?: \w+)*)\s{2,}", exceptions.__doc__ or "", re.MULTILINE)
)


def decide(error, **arguments) -> RetryDecision:
    decision = AtScaleRetryPolicy(**arguments).evaluate(error, try_number=1, max_tries=3)
    assert decision.reason or decision.action is RetryAction.DEFAULT
    return decision


def asked(error, **arguments) -> tuple[str, timedelta | None]:
    decision = decide(error, **arguments)
    return decision.action.value, decision.retry_delay


def test_the_table_has_a_decision_for_every_class():
    assert len(TABLE) > 20
    assert set(TABLE.values()) == set(DECISIONS)


@needs_policies
@pytest.mark.parametrize("name", TABLE)
def test_the_policy_decides_as_the_table_says(name):
    assert asked(getattr(exceptions, name)("what, where, and what to do")) == DECISIONS[TABLE[name]]


STATUSES = {
    None: "retry", 302: "fail", 400: "fail", 404: "fail", 405: "fail", 408: "retry", 409: "retry", 425: "retry",
    429: "retry", 500: "retry", 502: "retry", 503: "retry", 599: "retry",
}  # fmt: skip


@needs_policies
@pytest.mark.parametrize(("status", "action"), STATUSES.items())
@pytest.mark.parametrize(
    "error", [name for name in TABLE if TABLE[name] == "by status"], ids=lambda name: name[7:]
)
def test_an_answer_is_judged_by_its_status(error, status, action):
    assert asked(getattr(exceptions, error)("no", status)) == (action, None)


@needs_policies
def test_an_answer_that_is_not_atscales_may_be_another_later():
    assert asked(exceptions.AtScaleMalformedAnswerError("a login page", 200)) == ("retry", None)


@needs_policies
@pytest.mark.parametrize("error", [ValueError("x"), AirflowException("x"), KeyboardInterrupt()], ids=repr)
def test_errors_of_others_are_left_to_the_task(error):
    assert asked(error) == ("default", None)


@needs_policies
@pytest.mark.parametrize("name", [name for name in TABLE if TABLE[name] == "fail"])
def test_failed_builds_are_repeated_if_the_user_wants_it(name):
    assert asked(getattr(exceptions, name)("no"), retry_failed_builds=True) == ("retry", None)


@needs_policies
@pytest.mark.parametrize("retries", [False, True])
def test_the_reason_holds_for_a_sensor_which_builds_nothing(retries):
    reason = decide(exceptions.AtScaleBatchFailedError("no"), retry_failed_builds=retries).reason
    assert "build again" not in str(reason)
    assert "builds again" not in str(reason)


# --- Retry-After ------------------------------------------------------------------------------------------


def answer(status: int, **headers: str) -> Response:
    return Response(status, {"date": "Wed, 21 Oct 2015 07:28:00 GMT", **headers}, b"", "http://atscale/v1")


HOUR = timedelta(hours=1)
#: (the header, the delay)
HEADERS = {
    "a number": ("90", timedelta(seconds=90)),
    "zero": ("0", None),
    "a date": ("Wed, 21 Oct 2015 07:30:00 GMT", timedelta(minutes=2)),
    "a date that is over": ("Wed, 21 Oct 2015 07:20:00 GMT", None),
    "longer than allowed": ("86400", HOUR),
    "absurdly long": ("9" * 400, HOUR),
    "no number": ("soon", None),
    "nothing": ("", None),
}


@needs_policies
@pytest.mark.parametrize(("header", "delay"), HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("status", [429, 500, 503])
def test_retry_after_is_honoured(header, delay, status):
    error = error_of(answer(status, **{"retry-after": header}), "read", needs="a role", advice="Look.")
    for each in (error, copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert asked(each) == ("retry", delay)


@needs_policies
def test_the_reason_says_what_was_asked_for_and_what_shortened_it():
    error = exceptions.AtScaleApiError("no", 503, 7200.0)
    assert decide(error).reason == (
        "AtScale asks to come back after 7200 s (Retry-After); max_retry_after is 3600 s"
    )
    assert decide(error, max_retry_after=timedelta(hours=3)).reason == (
        "AtScale asks to come back after 7200 s (Retry-After)"
    )


@needs_policies
def test_retry_after_does_not_help_an_answer_that_will_not_change():
    assert asked(exceptions.AtScaleApiError("no", 400, 60.0)) == ("fail", None)


@needs_policies
def test_the_longest_delay_may_be_given_in_seconds():
    assert asked(exceptions.AtScaleApiError("no", 503, 7200.0), max_retry_after=60) == (
        "retry",
        timedelta(seconds=60),
    )


@needs_policies
@pytest.mark.parametrize(
    "arguments",
    [
        {"max_retry_after": timedelta(-1)},
        {"max_retry_after": timedelta(0)},
        {"max_retry_after": None},
        {"max_retry_after": "1h"},
        {"retry_failed_builds": "maybe"},
    ],
    ids=str,
)
def test_an_invalid_argument_fails_the_import_of_the_dag(arguments):
    """Airflow would log the error on a worker, and ignore the policy."""
    with pytest.raises(exceptions.AtScaleConfigurationError, match=f"{next(iter(arguments))} is "):
        AtScaleRetryPolicy(**arguments)


# --- Airflow ----------------------------------------------------------------------------------------------


@needs_policies
@pytest.mark.parametrize(
    "arguments", [{}, {"retry_failed_builds": True, "max_retry_after": timedelta(minutes=5)}], ids=str
)
def test_it_survives_serialization(arguments):
    policy = AtScaleRetryPolicy(**arguments)
    values = json.loads(json.dumps(policy.serialize()))
    assert vars(AtScaleRetryPolicy.deserialize(values)) == vars(policy)


def test_an_older_airflow_says_what_it_lacks_and_what_to_do_instead(monkeypatch):
    monkeypatch.setitem(sys.modules, "airflow.sdk.definitions.retry_policy", None)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    with pytest.raises(AirflowOptionalProviderFeatureException, match=r"Airflow 3\.3 .*Leave retry_policy out"):
        importlib.import_module(MODULE)
