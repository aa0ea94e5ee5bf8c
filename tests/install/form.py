"""Print, as JSON, the connection form as the web server of this Airflow knows it."""

import json
import sys
from importlib.metadata import version

TYPE = "atscale"
AIRFLOW = tuple(int(part) for part in version("apache-airflow").split(".")[:2])


def from_widgets():
    """Read the widgets of Airflow 2."""
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    assert manager.hooks[TYPE].connection_testable
    form = {"labels": {}, "descriptions": {}, "secret": [], "choices": {}}
    for key, widget in manager.connection_form_widgets.items():
        prefix = f"extra__{TYPE}__"
        if not key.startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        form["labels"][name] = widget.field.args[0]
        form["descriptions"][name] = widget.field.kwargs["description"]
        form["secret"] += [name] if widget.is_sensitive else []
        for validator in widget.field.kwargs["validators"]:
            if hasattr(validator, "values"):
                form["choices"][name] = list(validator.values)
    behaviour = manager.field_behaviours[TYPE]
    form["relabeling"] = behaviour["relabeling"]
    form["placeholders"] = {
        name: text for name, text in behaviour["placeholders"].items() if not name.startswith("extra__")
    }
    form["hidden"] = behaviour["hidden_fields"]
    return form


def from_service():
    """Read what the web server of Airflow 3 sends to the browser."""
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

    (hook,) = [each for each in HookMetaService.hook_meta_data() if each.connection_type == TYPE]
    form = {"labels": {}, "descriptions": {}, "secret": [], "choices": {}}
    for name, field in (hook.extra_fields or {}).items():
        schema = field["schema"]
        form["labels"][name] = schema["title"]
        form["descriptions"][name] = field["description"]
        form["secret"] += [name] if schema.get("format") == "password" else []
        if "enum" in schema:
            form["choices"][name] = list(schema["enum"])
    shown = hook.standard_fields.model_dump() if hook.standard_fields else {}
    shown["schema"] = shown.pop("url_schema", None)
    fields = {name: field for name, field in shown.items() if field}
    form["relabeling"] = {name: field["title"] for name, field in fields.items() if field["title"]}
    form["placeholders"] = {
        name: field["placeholder"] for name, field in fields.items() if field["placeholder"]
    }
    form["hidden"] = [name for name, field in fields.items() if field["hidden"]]
    return form


sys.stdout.write("\n" + json.dumps(from_service() if AIRFLOW >= (3, 0) else from_widgets()) + "\n")
