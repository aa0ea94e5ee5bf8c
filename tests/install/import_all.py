"""Import every module of the package; print the modules, and the warnings that they caused, as JSON."""

import importlib
import json
import pkgutil
import sys
import warnings

import airflow  # noqa: F401 - what Airflow itself warns of is not ours
from airflow.exceptions import AirflowOptionalProviderFeatureException

import airflow_provider_atscale as package

modules, refused, caused = [], [], []
for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            importlib.import_module(module.name)
        except AirflowOptionalProviderFeatureException:
            refused.append(module.name)
        else:
            modules.append(module.name)
    caused += [
        f"{each.filename}:{each.lineno}: {each.message}" for each in seen if package.__name__ in each.filename
    ]
sys.stdout.write("\n" + json.dumps({"modules": modules, "refused": refused, "warnings": caused}) + "\n")
