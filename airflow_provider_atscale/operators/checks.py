"""Check the aggregates of a model in AtScale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_atscale.arguments import CHECK_ARGUMENTS, check_literals
from airflow_provider_atscale.links import BuildHistoryLinks
from airflow_provider_atscale.tasks.map_names import BUILD_NAME, NamedPartial

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_atscale.tasks.check import CheckTask


class AtScaleAggregateCheckOperator(BaseOperator):
    """
    Check that the aggregates of an AtScale model are built, new enough and not empty.

    Reads the model's aggregate instances once and fails if they miss a threshold. It starts nothing: use it after a
    build, or alone in a DAG with a schedule. Each aggregate counts once, however often AtScale has built it. An
    aggregate that was built stays active until AtScale deletes it, even if a later attempt failed: ``max_age`` finds
    those.

    :param catalog: Id, name or caption of the catalog; on the installer edition of the project. (templated)
    :param model: Id, name or caption of the model; on the installer edition of the cube. (templated)
    :param max_failed: How many aggregates may have failed: no instance of them is good. Default: 0. None: not
        checked. (templated)
    :param min_active: How many aggregates must be active. Default: 1. None: not checked. (templated)
    :param max_age: How long ago each active aggregate may have been built at most, as ``timedelta`` or seconds, by
        the worker's clock. None: not checked. (templated)
    :param min_rows: How many rows each active aggregate must have. None: not checked. (templated)
    :param atscale_conn_id: The Airflow connection of type ``atscale``. (templated)
    :return: The report. XCom ``check_result`` has it too, also if the check fails.
    :raises AtScaleConfigurationError: If an argument or the connection is invalid, or nothing is checked. Not
        retried.
    :raises AtScaleAuthenticationError: If AtScale refuses the credentials. Not retried.
    :raises AtScalePermissionError: If the user lacks a role. Not retried.
    :raises AtScaleNotFoundError: If there is no such catalog or model. Not retried.
    :raises AtScaleAggregateCheckError: If the aggregates miss a threshold.
    """

    template_fields: Sequence[str] = (
        "catalog",
        "model",
        "max_failed",
        "min_active",
        "max_age",
        "min_rows",
        "atscale_conn_id",
    )
    operator_extra_links: Any = BuildHistoryLinks()
    ui_color = "#eaf2fa"
    if not TYPE_CHECKING:
        partial = NamedPartial(BUILD_NAME)

    _task: CheckTask | None = None

    def __init__(
        self,
        *,
        catalog: str,
        model: str,
        max_failed: int | str | None = 0,
        min_active: int | str | None = 1,
        max_age: timedelta | float | str | None = None,
        min_rows: int | str | None = None,
        atscale_conn_id: str = "atscale_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.catalog = catalog
        self.model = model
        self.max_failed = max_failed
        self.min_active = min_active
        self.max_age = max_age
        self.min_rows = min_rows
        self.atscale_conn_id = atscale_conn_id
        check_literals(self, CHECK_ARGUMENTS)

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Read the aggregates and judge them.

        :param context: The task's context.
        """
        # Not at the top: what only a running task needs would make every DAG file slower to parse.
        from airflow_provider_atscale.tasks.check import CheckTask

        self._task = CheckTask(self, context)
        return self._task.execute()
