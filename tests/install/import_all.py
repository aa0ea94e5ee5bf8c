"""Import every module of the package; print the modules, and the warnings that they caused, as JSON."""

import importlib
import json
import pkgutil
import sys
import warnings

import airflow  # noqa: F401 - what Airflow itself warns of is not ours

import airflow_provider_atscale as package

modules, caused = [], []
for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        importlib.import_module(module.name)
    modules.append(module.name)
    caused += [
        f"{each.filename}:{each.lineno}: {each.message}" for each in seen if package.__name__ in each.filename
    ]
sys.stdout.write("\n" + json.dumps({"modules": modules, "warnings": caused}) + "\n")
