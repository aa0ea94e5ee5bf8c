from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
import requests

from airflow_provider_atscale.testing import AtScaleEngine

if TYPE_CHECKING:
    from collections.abc import Iterator


class Caller:
    """Call an engine as a client of AtScale would."""

    def __init__(self, engine: AtScaleEngine) -> None:
        self.engine = engine
        self.session = requests.Session()
        self.session.trust_env = False

    @property
    def model(self):
        return self.engine.model("Internet Sales")

    def call(self, method: str, path: str, token: str | None = None, role: str | None = None, **kw: Any):
        headers = kw.pop("headers", {})
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        base = self.engine.urls[role] if role else self.engine.url
        return self.session.request(method, base + path, headers=headers, timeout=kw.pop("timeout", 5), **kw)


class ContainerCaller(Caller):
    def jwt(self) -> str:
        return self.call("POST", "/v1/token", self.engine.api_token, json={}).json()["accessToken"]

    def keycloak(self, realm: str = "atscale", **form: str):
        return self.call("POST", f"/auth/realms/{realm}/protocol/openid-connect/token", data=form)

    def start_path(self, full: str = "true") -> str:
        model = self.model
        return (
            f"/v1/aggregates-batch/catalogs/{model.catalog_id}/models/{model.id}"
            f"{'?isFullBuild=' + full if full is not None else ''}"
        )

    def start(self, full: str = "true", **kw: Any):
        kw.setdefault("json", {"gracePeriodOverrides": {}})
        return self.call("POST", self.start_path(full), self.engine.api_token, **kw)

    def history(self, token: str | None = None, **params: Any):
        params = {"catalogId": self.model.catalog_id, "modelId": self.model.id, **params}
        return self.call(
            "GET", "/wapi/p/aggregate/batch-history", token or self.jwt(), params=params, timeout=5
        )

    def instances(self, **params: Any):
        return self.call("GET", "/v1/aggregates/instances", self.engine.api_token, params=params)

    def catalogs(self, token: str | None = None):
        return self.call("GET", "/v1/catalogs", token or self.engine.api_token)


class InstallerCaller(Caller):
    def jwt(self) -> str:
        return self.login().text.strip()

    def login(self, login: str | None = None, password: str | None = None, org: str = "default"):
        pair = f"{login or self.engine.login}:{password or self.engine.password}"
        basic = base64.b64encode(pair.encode()).decode()
        return self.call("GET", f"/{org}/auth", headers={"Authorization": f"Basic {basic}"})

    def engine_call(self, method: str, path: str, token: str | None = None, **kw: Any):
        return self.call(method, path, token or self.jwt(), role="engine", **kw)

    def start(self, form: str = "project_id", **params: Any):
        model = self.model
        path = {
            "project_id": f"/aggregate-batch/orgId/default/projectId/{model.catalog_id}",
            "literal": f"/aggregate-batch/default/{model.catalog_id}",
            "environment": f"/aggregate-batch/orgId/default/envId/prod/{model.catalog_id}",
        }[form]
        cube = {"literal": "cubeID"}.get(form, "cubeId")
        return self.engine_call("POST", path, params={cube: model.id, **params})

    def history(self, **params: Any):
        return self.engine_call("GET", "/aggregate-batch/orgId/default/history", params=params)

    def instances(self, **params: Any):
        return self.engine_call("GET", "/aggregates/orgId/default/instances", params=params)


@pytest.fixture
def container() -> Iterator[ContainerCaller]:
    with AtScaleEngine(build_seconds=60) as engine:
        yield ContainerCaller(engine)


@pytest.fixture
def installer() -> Iterator[InstallerCaller]:
    with AtScaleEngine("installer", build_seconds=60) as engine:
        yield InstallerCaller(engine)
