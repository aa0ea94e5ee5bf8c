"""What Airflow learns about the package, checked by the schemas that the installed Airflow brings along."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import airflow
import pytest
from airflow.providers.common.compat.sdk import AirflowOptionalProviderFeatureException
from jsonschema import Draft7Validator

from airflow_provider_atscale.client import settings as connection
from airflow_provider_atscale.client.settings import parse_connection
from airflow_provider_atscale.get_provider_info import (
    CONNECTION_FIELDS,
    CONNECTION_TYPE,
    FIELD_BEHAVIOUR,
    get_provider_info,
)
from airflow_provider_atscale.waiting.policy import Tolerance

from .flows import connection as conn

INFO = get_provider_info()
AIRFLOW = Path(airflow.__file__).parent


def schema(name: str) -> dict:
    path = AIRFLOW / name
    if not path.exists():
        pytest.skip(f"this Airflow ships no {name}")
    return json.loads(path.read_text())


def errors(rules: dict, value: object) -> list[str]:
    return [f"{list(error.path)}: {error.message}" for error in Draft7Validator(rules).iter_errors(value)]


def test_provider_info_is_valid():
    assert errors(schema("provider_info.schema.json"), INFO) == []


@pytest.mark.parametrize("section", ["connection-types", "config", "integrations", "task-decorators"])
def test_a_section_is_valid_as_part_of_a_providers_metadata(section):
    whole = schema("provider.yaml.schema.json")
    rules = whole["properties"].get(section)
    if rules is None:
        pytest.skip(f"this Airflow knows no section {section}")
    if section == "connection-types" and "conn-fields" not in rules["items"]["properties"]:
        pytest.skip("this Airflow takes the form from the hook")
    # Paths of icons and docs exist in Airflow's own repository only; everything else is as demanding here.
    assert errors({**rules, "definitions": whole.get("definitions", {})}, INFO[section]) == []


def test_guides_and_logo_are_there():
    """Airflow's registry reads guides from the root of the repository and the logo from the folder ``docs``."""
    docs = Path(__file__).parents[2] / "docs"
    [integration] = INFO["integrations"]
    assert all((docs.parent / guide.lstrip("/")).exists() for guide in integration["how-to-guide"])
    assert (docs / integration["logo"].lstrip("/")).read_text().startswith("<svg")


def test_a_wrong_form_would_be_noticed():
    rules = schema("provider.yaml.schema.json")["properties"]["connection-types"]
    if "conn-fields" not in rules["items"]["properties"]:
        pytest.skip("this Airflow takes the form from the hook")
    assert errors(rules, [{"connection-type": "x", "conn-fields": {"a": {"label": 7}}}])


def modules() -> list[str]:
    named = []
    for section in ("operators", "sensors", "hooks", "triggers"):
        for entry in INFO[section]:
            named += entry["python-modules"]
    return named


@pytest.mark.parametrize("module", modules())
def test_every_module_that_is_named_is_there(module):
    try:
        importlib.import_module(module)
    except AirflowOptionalProviderFeatureException as reason:
        # What a version of Airflow lacks is told in so many words, and the providers manager knows the class.
        pytest.skip(str(reason))


@pytest.mark.parametrize(
    "path", [*INFO["extra-links"], *(each["hook-class-name"] for each in INFO["connection-types"])]
)
def test_every_class_that_is_named_is_there(path):
    module, _, name = path.rpartition(".")
    assert isinstance(getattr(importlib.import_module(module), name), type)


def test_the_hook_is_the_connection_types_own():
    from airflow_provider_atscale.hooks.atscale import AtScaleHook

    [entry] = INFO["connection-types"]
    assert (entry["connection-type"], entry["hook-name"]) == (AtScaleHook.conn_type, AtScaleHook.hook_name)
    assert AtScaleHook.conn_type == CONNECTION_TYPE


def test_old_airflow_gets_the_same_form_from_the_hook():
    from airflow_provider_atscale.hooks.atscale import AtScaleHook

    old = AtScaleHook.get_ui_field_behaviour()
    assert {name.replace("_", "-"): value for name, value in old.items()} == FIELD_BEHAVIOUR


def test_the_forms_defaults_are_the_connections_own():
    """A form saved as it opens, or with the defaults that it tells, must mean what an empty one means."""
    filled_in = {
        name: each["schema"]["default"]
        for name, each in CONNECTION_FIELDS.items()
        if "default" in each["schema"]
    }
    told = {
        name: found[1]
        for name, each in CONNECTION_FIELDS.items()
        if (found := re.search(r"Default: (\S+)\.$", each["description"]))
    }
    assert set(told) == {
        "organization",
        "realm",
        "client_id",
        "api_prefix",
        "engine_choice",
        "verify",
        "timeout",
    }
    assert parse_connection(conn(**filled_in)) == parse_connection(conn(**told)) == parse_connection(conn())


def test_the_form_fills_in_nothing_that_airflow_warns_of():
    """Airflow masks what a connection's extras hold, and warns of what is too short for that."""
    for each in CONNECTION_FIELDS.values():
        assert len(each["schema"].get("default", "long enough")) >= 5


def test_the_forms_choices_are_the_connections_own():
    assert tuple(CONNECTION_FIELDS["edition"]["schema"]["enum"]) == connection.EDITIONS
    assert tuple(CONNECTION_FIELDS["auth_type"]["schema"]["enum"]) == connection.AUTH_TYPES


@pytest.mark.parametrize("name", ["client_secret", "headers"])
def test_secret_fields_are_hidden_in_the_form(name):
    assert CONNECTION_FIELDS[name]["schema"]["format"] == "password"


@pytest.mark.parametrize(
    ("option", "attribute"),
    [
        ("missing_tolerance", "missing"),
        ("trouble_tolerance", "trouble"),
        ("unknown_tolerance", "unknown"),
        ("settle_time", "confirm_end_after"),
    ],
)
def test_an_options_default_is_the_judges_own(option, attribute):
    assert float(INFO["config"]["atscale"]["options"][option]["default"]) == getattr(Tolerance(), attribute)
