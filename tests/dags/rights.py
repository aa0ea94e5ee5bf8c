"""An auth manager whose users lack one right each, by their names; Airflow's own knows only roles."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

#: The user who can read no DAG but those that begin so.
ONE_DAG = "only_"


class Rights(SimpleAuthManager):
    """Refuse what a user's name says."""

    def is_authorized_asset(self, *, user: Any, **asked: Any) -> bool:
        return user.username != "no_assets" and super().is_authorized_asset(user=user, **asked)

    def is_authorized_dag(
        self, *, user: Any, access_entity: Any = None, details: Any = None, **asked: Any
    ) -> bool:
        if user.username == "no_xcoms" and access_entity is DagAccessEntity.XCOM:
            return False
        if user.username == "no_dags":
            return False
        dag_id = details.id if details else None
        if user.username == "xcoms_of_one_dag" and access_entity is DagAccessEntity.XCOM:
            return dag_id is not None and dag_id.startswith(ONE_DAG)
        if user.username == "one_dag" and dag_id is not None and not dag_id.startswith(ONE_DAG):
            return False
        return super().is_authorized_dag(user=user, access_entity=access_entity, details=details, **asked)
