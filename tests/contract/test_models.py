"""Catalogs and models: found by id, name or caption; what fits none or several is an error that helps."""

from __future__ import annotations

import pytest

from airflow_provider_atscale.exceptions import AtScaleNotFoundError

from .conftest import routes


@pytest.mark.parametrize("catalog", ["id", "name", "caption"])
@pytest.mark.parametrize("model", ["id", "name", "caption"])
def test_resolve(engine, edition, caller, ref, catalog, model):
    if (edition, catalog) == ("installer", "caption"):
        pytest.skip(
            "the installer edition lists no captions of projects: their names are what people call them"
        )
    found = engine.model("Internet Sales")
    name = {"container": "sales_insights_main", "installer": "Sales Insights"}[edition]
    catalogs = {"id": found.catalog_id, "name": name, "caption": "Sales Insights"}
    models = {"id": found.id, "name": "internet_sales", "caption": "Internet Sales"}
    resolved = caller.run(lambda edition: edition.resolve(catalogs[catalog], models[model]))
    assert (resolved.catalog_id, resolved.model_id) == (ref.catalog_id, ref.model_id)
    assert len(engine.requests) == (0 if (catalog, model) == ("id", "id") else engine.stats.requests)


def test_two_ids_cost_no_request(engine, caller, ref):
    caller.run(lambda edition: edition.resolve(ref.catalog_id, ref.model_id))
    assert engine.requests == []


@pytest.mark.parametrize(
    ("catalog", "model", "texts"),
    [
        ("Sales", "Internet Sales", ["'Sales'", "'Finance', 'Sales Insights'"]),
        ("sales insights", "Internet Sales", ["'sales insights'", "exactly as shown"]),
        ("Sales Insights", "Internet Slaes", ["'Internet Slaes' (did you mean 'Internet Sales'?) in "]),
        ("Sales Insihgts", "Internet Sales", ["'Sales Insihgts' (did you mean 'Sales Insights'?) in "]),
        ("Sales Insights", "Nothing", ["'Nothing'", "'Internet Sales', 'Reseller Sales'"]),
        ("Sales Insights", "General Ledger", ["'General Ledger'", "'Sales Insights'"]),
    ],
)
def test_what_fits_none_lists_what_there_is(caller, catalog, model, texts):
    with pytest.raises(AtScaleNotFoundError) as caught:
        caller.run(lambda edition: edition.resolve(catalog, model))
    for text in texts:
        assert text in str(caught.value)


def test_what_fits_two_lists_their_ids(engine, caller):
    other = engine.add_model("Sales Insights", "copy", caption="Internet Sales")
    with pytest.raises(AtScaleNotFoundError, match=r"2 \w+s in .* are called 'Internet Sales'") as caught:
        caller.run(lambda edition: edition.resolve("Sales Insights", "Internet Sales"))
    assert other.id in str(caught.value)
    assert engine.model("internet_sales").id in str(caught.value)


def test_models_of_one_name_in_two_catalogs(engine, caller):
    other = engine.add_model("Finance", "internet_sales", caption="Internet Sales")
    resolved = caller.run(lambda edition: edition.resolve("Finance", "Internet Sales"))
    assert resolved.model_id == other.id


def test_list(caller):
    everything = caller.run(lambda edition: edition.models())
    assert [(each.catalog, each.model) for each in everything] == [
        ("Sales Insights", "Internet Sales"),
        ("Sales Insights", "Reseller Sales"),
        ("Finance", "General Ledger"),
    ]
    finance = caller.run(lambda edition: edition.models("Finance"))
    assert [each.model for each in finance] == ["General Ledger"]


FIELDS_OF_THE_LIST = {"container": "host and api_prefix", "installer": "organization and engine_url"}


def test_list_that_is_not_there_says_how_to_do_without(engine, edition, make_caller):
    engine.fault(404, route="catalogs")
    with pytest.raises(AtScaleNotFoundError, match=f"{FIELDS_OF_THE_LIST[edition]} .* by their ids"):
        make_caller("api_token", environment="").run(lambda edition: edition.models())
    assert routes(engine) == ["catalogs"]
