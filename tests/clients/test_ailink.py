"""
AI-Link logs in against the local engine and lists what is published.

Out of the engine's scope, and therefore an error of the client here, which the tests name:

- the licence. ``connect`` logs in and then asks for the licence of AI-Link, which the engine does not know.
- drafts of the installer edition's projects, which live in the Design Center.
- the logout of Keycloak at the end; the client ignores its failure.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from airflow_provider_atscale.testing import AtScaleEngine


def unknown_calls(engine):
    """Return the calls that the engine does not answer."""
    return {f"{request.method} {request.path}" for request in engine.requests if request.route == "unknown"}


def test_the_container_edition(told_by):
    with AtScaleEngine() as engine:
        told = told_by(
            "3.1.3", "ailink_container.py", url=engine.url, login=engine.login, password=engine.password
        )
        unknown = unknown_calls(engine)
        rejected = [request.path for request in engine.requests if request.status == 401]
    assert told["version_accepted"] is True
    assert told["connect"].startswith("InaccessibleAPIError")
    assert told["connected"] is True
    names = ["finance_main", "sales_insights_main"]
    assert [(each["catalog_name"], each["repo_name"]) for each in told["catalogs"]] == [(n, n) for n in names]
    assert [each["name"] for each in told["repos"]] == names
    # An expired token makes the client log in again.
    assert told["repos_after_expiry"] == told["repos"]
    assert "/api/repo" in rejected
    assert told["wrong_password"].startswith("AuthenticationError: 401")
    assert unknown == {
        "GET /api/license/entitlement/FEATURE_AILINK",
        "POST /auth/realms/atscale/protocol/openid-connect/logout",
    }


def test_the_installer_edition(told_by, host_with_default_ports):
    with AtScaleEngine("installer", host=host_with_default_ports, port=10500, engine_port=10502) as engine:
        told = told_by(
            "2.8.2",
            "ailink_installer.py",
            server=f"http://{urlsplit(engine.url).hostname}",
            engine_url=engine.urls["engine"],
            login=engine.login,
            password=engine.password,
        )
        unknown = unknown_calls(engine)
        model = engine.model("Internet Sales")
    assert told["version_accepted"] is True
    assert told["connect"].startswith("InaccessibleAPIError")
    assert told["connected"] is True
    assert told["user"] == "etl"
    assert told["organizations"] == ["default"]
    assert told["published"] == ["Finance", "Sales Insights"]
    # Of several published versions the client takes the one that the provider builds.
    assert told["newest"] == model.catalog_id
    assert told["drafts"].startswith("InaccessibleAPIError")
    assert told["wrong_password"].startswith("AuthenticationError")
    assert unknown == {"GET /license/capabilities", "GET /api/1.0/org/default/projects"}
