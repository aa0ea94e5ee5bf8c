"""What users and templates give is read strictly: what is not understood stops the task, with its text."""

from __future__ import annotations

import json
import math
import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_atscale.arguments import (
    parse_bool,
    parse_choice,
    parse_name,
    parse_overrides,
    parse_seconds,
)
from airflow_provider_atscale.exceptions import AtScaleConfigurationError

from .test_models import JSON

WRONG = AtScaleConfigurationError
ANYTHING = JSON | st.just(10**5000) | st.binary() | st.timedeltas() | st.dates()


def short(value):
    """Name a case; Python refuses to write numbers of thousands of digits."""
    try:
        return ascii(value)[:30]
    except ValueError:
        return "thousands of digits"


def read(parse, *args, **kwargs):
    """Return what is read; an error of ours as its class."""
    try:
        return parse(*args, **kwargs)
    except WRONG:
        return WRONG


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True),
        (False, False),
        (1, True),
        (0, False),
        ("true", True),
        ("True", True),
        (" TRUE ", True),
        ("yes", True),
        ("1", True),
        ("false", False),
        ("False", False),
        ("no", False),
        ("0", False),
        ("", WRONG),
        (" ", WRONG),
        ("maybe", WRONG),
        ("on", WRONG),
        ("t", WRONG),
        ("y", WRONG),
        ("None", WRONG),
        ("truefalse", WRONG),
        ("{{ params.full }}", WRONG),
        (None, WRONG),
        (2, WRONG),
        (-1, WRONG),
        (1.0, WRONG),
        (0.0, WRONG),
        ([], WRONG),
        ([True], WRONG),
        (b"true", WRONG),
        (10**5000, WRONG),
        ("9" * 5000, WRONG),
    ],
    ids=short,
)
def test_bool(value, expected):
    assert read(parse_bool, value, "is_full_build") is expected


@given(ANYTHING)
def test_no_unknown_value_is_ever_true(value):
    if read(parse_bool, value, "flag") is True:
        assert value is True or value == 1 or str(value).strip().lower() in ("true", "yes", "1")
        assert not isinstance(value, (float, bytes, list, dict))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("wait", "wait"),
        (" Wait ", "wait"),
        ("FAIL", "fail"),
        ("waits", WRONG),
        ("", WRONG),
        (None, WRONG),
        (["wait"], WRONG),
        (True, WRONG),
    ],
    ids=repr,
)
def test_choice(value, expected):
    assert read(parse_choice, value, "on_running", ("wait", "fail")) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Sales Insights", "Sales Insights"),
        (" x ", "x"),
        ("none", "none"),
        ("", WRONG),
        ("  ", WRONG),
        ("None", WRONG),
        (None, WRONG),
        (7, WRONG),
        (["a"], WRONG),
        (b"a", WRONG),
        (10**5000, WRONG),
        ("\ud800", WRONG),
    ],
    ids=short,
)
def test_name(value, expected):
    assert read(parse_name, value, "catalog") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (60, 60.0),
        (0.5, 0.5),
        ("60", 60.0),
        (" 1.5 ", 1.5),
        (timedelta(minutes=1), 60.0),
        (timedelta(milliseconds=1), 0.001),
        (0, WRONG),
        (-1, WRONG),
        ("-1", WRONG),
        (timedelta(0), WRONG),
        (timedelta(days=-1), WRONG),
        ("nan", WRONG),
        (math.nan, WRONG),
        ("inf", WRONG),
        (math.inf, WRONG),
        (10**400, WRONG),
        (10**5000, WRONG),
        ("9" * 5000, WRONG),
        ("1e999", WRONG),
        ("1 minute", WRONG),
        ("", WRONG),
        ("None", WRONG),
        (True, WRONG),
        (None, WRONG),
        ([60], WRONG),
    ],
    ids=short,
)
def test_seconds(value, expected):
    assert read(parse_seconds, value, "timeout") == expected


@given(ANYTHING)
def test_seconds_are_positive_and_finite(value):
    seconds = read(parse_seconds, value, "timeout")
    assert seconds is WRONG or 0 < seconds < math.inf


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, {}),
        ("", {}),
        (" ", {}),
        ("None", {}),
        ("null", {}),
        ({}, {}),
        ("{}", {}),
        ({"factinternetsales": 30}, {"factinternetsales": 30}),
        ({"a": 1.5, "b": 0}, {"a": 1.5, "b": 0}),
        ('{"factinternetsales": 30}', {"factinternetsales": 30}),
        ({"a": "30"}, {"a": 30}),
        ({"a": "1.5"}, {"a": 1.5}),
        ({"a": -1}, WRONG),
        ({"a": "-1"}, WRONG),
        ({"a": True}, WRONG),
        ({"a": "true"}, WRONG),
        ({"a": None}, WRONG),
        ({"a": "null"}, WRONG),
        ({"a": "100s"}, WRONG),
        ({"a": ""}, WRONG),
        ({"a": math.nan}, WRONG),
        ({"a": "NaN"}, WRONG),
        ({"a": math.inf}, WRONG),
        ({"a": 10**400}, WRONG),
        ({"a": 10**5000}, WRONG),
        ({"\ud800": 30}, WRONG),
        ('{"\\ud800": 30}', WRONG),
        ({"a": [30]}, WRONG),
        ({"a": "[" * 100_000}, WRONG),
        ({"": 30}, WRONG),
        ({" ": 30}, WRONG),
        ({7: 30}, WRONG),
        ({None: 30}, WRONG),
        ('"factinternetsales"', WRONG),
        ("30", WRONG),
        ("[]", WRONG),
        ("{'factinternetsales': 30}", WRONG),
        ("{", WRONG),
        ("[" * 100_000, WRONG),
        ([("a", 30)], WRONG),
        (30, WRONG),
        (True, WRONG),
    ],
    ids=short,
)
def test_overrides(value, expected):
    assert read(parse_overrides, value, is_full_build=False) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(None, {}), ({}, {}), ("", {}), ({"a": 30}, WRONG), ('{"a": 30}', WRONG)], ids=repr
)
def test_a_full_build_knows_no_grace_periods(value, expected):
    assert read(parse_overrides, value, is_full_build=True) == expected


@given(ANYTHING | st.dictionaries(st.text(), JSON) | st.dictionaries(st.text(), JSON).map(json.dumps))
def test_overrides_are_names_and_numbers_that_json_can_carry(value):
    overrides = read(parse_overrides, value, is_full_build=False)
    if overrides is not WRONG:
        assert all(isinstance(name, str) and name.strip() for name in overrides)
        assert all(type(period) in (int, float) and 0 <= period < math.inf for period in overrides.values())
        assert json.loads(json.dumps(overrides)) == overrides


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: parse_bool("maybe", "is_full_build"), "is_full_build is 'maybe'; it must be true or false"),
        (
            lambda: parse_choice("x", "on_running", ("wait", "fail")),
            "on_running is 'x'; it must be one of wait",
        ),
        (
            lambda: parse_name(None, "catalog"),
            "catalog is None; give the id, the name or the caption",
        ),
        (lambda: parse_seconds(-1, "timeout"), "timeout is -1; it must be a timedelta or a number of seconds"),
        (
            lambda: parse_overrides("{'a': 30}", is_full_build=False),
            'grace_period_overrides is "{\'a\': 30}"; it must be a mapping, as in {"factinternetsales": 30}. A '
            "template that renders one must end in '| tojson'.",
        ),
        (
            lambda: parse_overrides({"a": "100s"}, is_full_build=False),
            "grace_period_overrides['a'] is '100s'",
        ),
        (lambda: parse_overrides({7: 1}, is_full_build=False), "grace_period_overrides has 7 for a dataset"),
        (
            lambda: parse_overrides({"a": 30}, is_full_build=True),
            "grace_period_overrides is {'a': 30}, but is_full_build is true: grace periods exist for "
            "incremental builds only. Leave one of the two out.",
        ),
    ],
    ids=["bool", "choice", "name", "seconds", "mapping", "number", "dataset", "full build"],
)
def test_the_error_names_the_argument_its_value_and_what_it_must_be(call, said):
    with pytest.raises(WRONG, match=re.escape(said)):
        call()
