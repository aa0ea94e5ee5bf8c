"""What Airflow learns about this package; also the one place that declares the connection's form."""

from __future__ import annotations

from typing import Any

CONNECTION_TYPE = "atscale"
HOOK_NAME = "AtScale"
PACKAGE = "airflow_provider_atscale"


def _field(
    label: str, description: str, *, default: Any = None, kind: str = "string", **schema: Any
) -> dict[str, Any]:
    optional: dict[str, Any] = {"type": [kind, "null"], **schema}
    if default is not None:
        optional["default"] = default
    return {"label": label, "description": description, "schema": optional}


#: The fields that are kept in the connection's extras. Only the edition is filled in beforehand: what is filled
#: in is saved, and for saved values that are short Airflow 3.3 warns in each task's log that it does not
#: mask them.
CONNECTION_FIELDS: dict[str, dict[str, Any]] = {
    "edition": _field(
        "Edition",
        "container (catalogs and models, one address) or installer (projects and cubes, two ports).",
        default="container",
        enum=["container", "installer"],
    ),
    "auth_type": _field(
        "Authentication",
        "Empty or auto: a password without login is an API token, login and password are a user's.",
        enum=["auto", "api_token", "password", "client_api_key"],
    ),
    "organization": _field("Organization (installer)", "Id of the organization. Default: default."),
    "realm": _field("Keycloak realm (container)", "Used with login and password. Default: atscale."),
    "client_id": _field(
        "Keycloak client (container)", "Used with login and password. Default: atscale-ai-link."
    ),
    "client_secret": _field(
        "Keycloak client secret (container)", "Only for confidential clients.", format="password"
    ),
    "api_prefix": _field(
        "Public API prefix (container)", "Where the public API begins at the host. Default: /v1."
    ),
    "engine_url": _field(
        "Engine URL (installer)", "Default: the host at port 10502. Set it behind a load balancer."
    ),
    "design_center_url": _field(
        "Design Center URL (installer)", "Default: the host at port 10500. Set it behind a load balancer."
    ),
    "environment": _field(
        "Environment (installer)", "Only for old engines whose paths have an envId, such as 'prod'."
    ),
    "engine_choice": _field(
        "Engine may choose the kind (installer)",
        "true: accept that an old engine, which knows no isFullBuild, chooses between full and incremental "
        "itself. Default: false.",
        enum=["false", "true"],
    ),
    "verify": _field(
        "Verify TLS", "true, false, or the path of a CA bundle on workers and triggerers. Default: true."
    ),
    "timeout": _field("Request timeout", "Seconds that AtScale may take to answer one request. Default: 60."),
    "headers": _field(
        "Request headers", 'Further headers of every request, as JSON: {"X-Team": "data"}.', format="password"
    ),
    "build_history_url": _field(
        "Build history page",
        "The address that your browser shows at Aggregates > Build History; may contain {catalog_id}, "
        "{model_id} and {batch_id}. Without it the task's link leads to the Design Center.",
    ),
}

FIELD_BEHAVIOUR: dict[str, Any] = {
    # Not "extra" too: if that is hidden, the Test button of Airflow 2's form does nothing.
    "hidden-fields": ["schema"],
    "relabeling": {
        "host": "Host",
        "port": "Port",
        "login": "Login",
        "password": "API token, password or key",
    },
    "placeholders": {
        "host": "atscale.example.com, or https://atscale.example.com:8443/base",
        "port": "Container: 443. Installer: leave empty for 10500 and 10502",
        "login": "Leave empty for an API token",
        "password": "API token: Design Center > profile > Account panel",
    },
}

ASSET_URIS: list[dict[str, Any]] = [
    {
        "schemes": ["atscale"],
        "handler": f"{PACKAGE}.assets.atscale.sanitize_uri",
        "factory": f"{PACKAGE}.assets.atscale.create_asset",
        "to_openlineage_converter": f"{PACKAGE}.assets.atscale.convert_asset_to_openlineage",
    }
]


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata."""
    name = "AtScale"
    return {
        "package-name": "airflow-provider-atscale",
        "name": name,
        "description": "Rebuild the aggregates of `AtScale <https://www.atscale.com/>`__ models.\n",
        "integrations": [
            {
                "integration-name": name,
                "external-doc-url": "https://documentation.atscale.com/",
                # Below the folder docs, as Airflow's registry reads them.
                "how-to-guide": [
                    f"/docs/howto/{page}.md" for page in ("operator", "decorator", "sensor", "hook", "trigger")
                ],
                "logo": "/integration-logos/airflow-provider-atscale.svg",
                "tags": ["service"],
            }
        ],
        "operators": [
            {
                "integration-name": name,
                "python-modules": [f"{PACKAGE}.operators.atscale", f"{PACKAGE}.operators.checks"],
            }
        ],
        "sensors": [{"integration-name": name, "python-modules": [f"{PACKAGE}.sensors.atscale"]}],
        "hooks": [{"integration-name": name, "python-modules": [f"{PACKAGE}.hooks.atscale"]}],
        "triggers": [
            {
                "integration-name": name,
                "python-modules": [f"{PACKAGE}.triggers.atscale", f"{PACKAGE}.triggers.builds"],
            }
        ],
        "task-decorators": [
            {"name": "atscale_build", "class-name": f"{PACKAGE}.decorators.atscale.atscale_build_task"}
        ],
        "asset-uris": ASSET_URIS,
        # Their name in Airflow 2.
        "dataset-uris": ASSET_URIS,
        "connection-types": [
            {
                "connection-type": CONNECTION_TYPE,
                "hook-class-name": f"{PACKAGE}.hooks.atscale.AtScaleHook",
                "hook-name": HOOK_NAME,
                "conn-fields": CONNECTION_FIELDS,
                "ui-field-behaviour": FIELD_BEHAVIOUR,
            }
        ],
        # Read by Airflow 3.2 and newer.
        "cli": [f"{PACKAGE}.cli.definition.get_atscale_cli_commands"],
        "extra-links": [f"{PACKAGE}.links.atscale.AtScaleBuildHistoryLink"],
        "config": _config(),
    }


def _config() -> dict[str, Any]:
    return {
        "atscale": {
            "description": "How long the AtScale provider tolerates missing, unreadable or unknown batch "
            "states, and what it reports. The defaults suit most installations.",
            "options": {
                "missing_tolerance": _option("a started batch may be missing from the history.", "300"),
                "trouble_tolerance": _option("AtScale may be unreadable during a wait.", "1800"),
                "unknown_tolerance": _option("a batch may be in an unknown status.", "1800"),
                "settle_time": _option(
                    "an end that only the aggregate instances show must stay the same.", "30"
                ),
                "lost_reply_window": _option(
                    "a batch may take to appear in the history after the reply to its start was lost.",
                    "120",
                ),
                "metrics_model_tags": _flag(
                    "Whether metrics of builds are tagged with catalog and model.", "False"
                ),
                "progress_xcom": _flag(
                    "Whether a wait writes the XCom progress, at most once a minute.", "True"
                ),
                "builds_page": _flag(
                    "Whether Airflow's UI has the page AtScale builds (Airflow 3.1+).", "True"
                ),
            },
        }
    }


def _flag(what: str, default: str) -> dict[str, Any]:
    return {
        "description": f"{what}\n",
        "version_added": "0.1.0",
        "type": "boolean",
        "example": None,
        "default": default,
    }


def _option(what: str, default: str) -> dict[str, Any]:
    return {
        "description": f"Seconds that {what}\n",
        "version_added": "0.1.0",
        "type": "float",
        "example": None,
        "default": default,
    }
