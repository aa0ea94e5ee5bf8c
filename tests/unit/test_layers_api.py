"""``api/`` knows AtScale and nothing else: no Airflow, no socket, no clock, no sleep."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_atscale import api

PACKAGE = Path(api.__file__).parent
MODULES = sorted(PACKAGE.glob("*.py"))
#: Enough to read and write values, and no more.
ALLOWED = {
    "__future__", "abc", "base64", "binascii", "collections", "dataclasses", "datetime", "email", "enum",
    "difflib", "functools", "json", "math", "pendulum", "re", "types", "typing", "urllib", "uuid",
}  # fmt: skip
OWN = ("airflow_provider_atscale.exceptions", "airflow_provider_atscale.api")
CLOCKS = {
    "now",
    "utcnow",
    "today",
    "sleep",
    "monotonic",
    "perf_counter",
    "random",
    "uuid4",
    "uuid1",
    "token_hex",
}


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(str(node.module))
    return found


def clocks(tree: ast.AST) -> set[str]:
    """Return the attributes of modules and classes that would read a clock or the dice."""
    return {
        f"{ast.unparse(node.value)}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in CLOCKS
        and ast.unparse(node.value).split(".")[-1]
        in {"datetime", "date", "time", "pendulum", "random", "uuid", "secrets", "asyncio"}
    }


def test_there_is_something_to_look_at():
    assert {"models.py", "flow.py", "auth.py", "container.py", "edition.py"} <= {
        module.name for module in MODULES
    }


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_a_module_imports_no_airflow_no_socket_and_no_clock(module):
    tree = ast.parse(module.read_text())
    foreign = {
        name
        for name in imports(tree)
        if name.split(".")[0] not in ALLOWED and not name.startswith(OWN)
    }  # fmt: skip
    assert foreign == set()
    assert clocks(tree) == set()


def test_the_searchers_find_what_they_look_for():
    tree = ast.parse("import time, requests\nfrom datetime import datetime\nx = datetime.now()\ntime.sleep(1)")
    assert imports(tree) == {"time", "requests", "datetime"}
    assert clocks(tree) == {"datetime.now", "time.sleep"}


def test_importing_them_loads_no_client():
    names = [f"airflow_provider_atscale.api.{module.stem}" for module in MODULES if module.stem != "__init__"]
    code = f"""
import importlib, sys
import airflow_provider_atscale.exceptions
before = set(sys.modules)  # what Airflow itself loads is none of our doing
for name in {names}:
    importlib.import_module(name)
new = {{name.split(".")[0] for name in set(sys.modules) - before}}
print(sorted(new & {{"requests", "aiohttp", "httpx", "tenacity", "urllib3", "asyncio", "airflow"}}))
print("airflow_provider_atscale.client" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-2:]) == (0, ["[]", "False"]), done.stderr
