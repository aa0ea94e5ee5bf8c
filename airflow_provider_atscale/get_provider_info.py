"""What Airflow learns about this package; also the one place that declares the connection's form."""

from __future__ import annotations

from typing import Any

CONNECTION_TYPE = "atscale"
HOOK_NAME = "AtScale"
PACKAGE = "airflow_provider_atscale"


def _field(label: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {"type": ["string", "null"], **schema}}


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


def _option(description: str, default: str, kind: str = "float") -> dict[str, Any]:
    return {
        "description": f"{description}\n",
        "version_added": "0.1.0",
        "type": kind,
        "example": None,
        "default": default,
    }


#: The section ``[atscale]`` of Airflow's configuration.
OPTIONS: dict[str, dict[str, Any]] = {
    "missing_tolerance": _option("Seconds that a started batch may be missing from the history.", "300"),
    "trouble_tolerance": _option("Seconds that AtScale may be unreadable during a wait.", "1800"),
    "unknown_tolerance": _option("Seconds that a batch may be in an unknown status.", "1800"),
    "settle_time": _option(
        "Seconds that an end that only the aggregate instances show must stay the same.", "30"
    ),
    "lost_reply_window": _option(
        "Seconds that a batch may take to appear in the history after the reply to its start was lost.", "120"
    ),
    "metrics_model_tags": _option(
        "Whether metrics of builds are tagged with catalog and model.", "False", "boolean"
    ),
    "progress_xcom": _option(
        "Whether a wait writes the XCom progress, at most once a minute.", "True", "boolean"
    ),
    "builds_page": _option(
        "Whether Airflow's UI has the page AtScale builds (Airflow 3.1+).", "True", "boolean"
    ),
}


def _modules(*names: str) -> list[dict[str, Any]]:
    return [{"integration-name": HOOK_NAME, "python-modules": [f"{PACKAGE}.{name}" for name in names]}]


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata."""
    return {
        "package-name": "airflow-provider-atscale",
        "name": HOOK_NAME,
        "description": "Rebuild the aggregates of `AtScale <https://www.atscale.com/>`__ models.\n",
        "integrations": [
            {
                "integration-name": HOOK_NAME,
                "external-doc-url": "https://documentation.atscale.com/",
                # Below the folder docs, as Airflow's registry reads them.
                "how-to-guide": [
                    f"/docs/howto/{page}.md" for page in ("operator", "decorator", "sensor", "hook", "trigger")
                ],
                "logo": "/integration-logos/airflow-provider-atscale.svg",
                "tags": ["service"],
            }
        ],
        "operators": _modules("operators.atscale", "operators.checks"),
        "sensors": _modules("sensors.atscale"),
        "hooks": _modules("hooks.atscale"),
        "triggers": _modules("triggers.atscale", "triggers.builds"),
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
        "config": {
            "atscale": {
                "description": "How long the AtScale provider tolerates missing, unreadable or unknown batch "
                "states, and what it reports. The defaults suit most installations.",
                "options": OPTIONS,
            }
        },
    }
