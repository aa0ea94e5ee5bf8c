"""The decorator takes and returns what the operator takes, and a DAG file that does not use it pays nothing."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from airflow_provider_atscale.arguments import BUILD_ARGUMENTS
from airflow_provider_atscale.decorators import atscale
from airflow_provider_atscale.decorators.atscale import BuildArguments
from airflow_provider_atscale.get_provider_info import get_provider_info
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator

from .test_import_budget import HEAVY, modules_after

CONSTRUCTOR = inspect.signature(inspect.unwrap(AtScaleAggregateBuildOperator.__init__))
OWN = {
    name: each.annotation
    for name, each in CONSTRUCTOR.parameters.items()
    if each.kind is inspect.Parameter.KEYWORD_ONLY
}


def overload() -> dict[str, str]:
    """Return the arguments that an editor shows of the decorator, with their types."""
    tree = ast.parse(Path(atscale.__file__).read_text())
    functions = [each for each in tree.body if isinstance(each, ast.FunctionDef)]
    [longest] = [each for each in functions if len(each.args.kwonlyargs) > 1]
    return {each.arg: ast.unparse(each.annotation) for each in longest.args.kwonlyargs}


def test_an_editor_shows_the_operators_arguments():
    optional = dict.fromkeys(("catalog", "model"), "str | None")
    assert overload() == {**OWN, **optional}


def test_the_function_can_return_what_is_templated():
    assert list(BuildArguments.__annotations__) == list(AtScaleAggregateBuildOperator.template_fields)


@pytest.mark.parametrize("name", BuildArguments.__annotations__)
def test_with_the_types_of_the_operators_arguments(name):
    assert BuildArguments.__annotations__[name].__forward_arg__ == OWN[name]


def test_every_returned_value_is_checked():
    assert set(BUILD_ARGUMENTS) == set(BuildArguments.__annotations__)


def test_airflow_finds_it():
    [entry] = get_provider_info()["task-decorators"]
    module, _, name = entry["class-name"].rpartition(".")
    assert (entry["name"], module) == ("atscale_build", atscale.__name__)
    assert callable(getattr(atscale, name))


USE = """
from datetime import datetime
from airflow.providers.common.compat.sdk import DAG, task
with DAG("d", schedule=None, start_date=datetime(2024, 1, 1)):
    @task{decorator}
    def function():
        return {{}}
    function()
"""


def test_a_dag_file_with_it_loads_nothing_heavy():
    """Beyond what any other decorator of a provider makes Airflow load."""
    more = modules_after(USE.format(decorator=".atscale_build(catalog='c', model='m')")) - modules_after(
        USE.format(decorator=".bash")
    )
    assert not more & set(HEAVY)
    ours = {name.partition(".")[2] for name in more if name.startswith("airflow_provider_atscale.")}
    assert ours <= {
        "api", "api.values", "arguments", "compat", "decorators", "decorators.atscale", "exceptions",
        "get_provider_info", "links", "operators", "operators.atscale", "tasks", "tasks.map_names",
    }  # fmt: skip


def test_a_dag_file_without_it_loads_nothing_of_it():
    loaded = modules_after(USE.format(decorator=""))
    assert not {name for name in loaded if name.startswith("airflow_provider_atscale.decorators")}
