"""Wait for a batch in AtScale that was started elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseSensorOperator, conf

from airflow_provider_atscale.arguments import WAIT_ARGUMENTS, check_literals
from airflow_provider_atscale.links import BuildHistoryLinks
from airflow_provider_atscale.tasks.map_names import BATCH_NAME, NamedPartial

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from airflow.providers.common.compat.sdk import Context, PokeReturnValue

    from airflow_provider_atscale.tasks.wait import WaitTask


class AtScaleBatchSensor(BaseSensorOperator):
    """
    Wait until an AtScale batch has ended well.

    Takes what :class:`~airflow_provider_atscale.operators.atscale.AtScaleAggregateBuildOperator` returns, in
    every mode of sensors: ``poke``, ``reschedule`` and deferrable. It only reads: it starts and stops nothing.

    ``soft_fail`` means the same in every mode: a timeout or a failed batch is skipped; wrong configuration or
    credentials are not.

    :param batch_id: The batch. ``newest`` (default): the model's newest batch; if it has already ended, the sensor
        returns at once. An XCom that is None is an error. (templated)
    :param catalog: Id, name or caption of the batch's catalog; on the installer edition of the project. Without
        ``catalog`` and ``model`` the sensor finds the model through the batch's aggregates, so it does not find a
        batch that has none. (templated)
    :param model: Id, name or caption of the batch's model; on the installer edition of the cube. (templated)
    :param failed_aggregates: What to do if the batch is done and some aggregates were not built: ``warn``
        (default), ``fail`` or ``ignore``. (templated)
    :param warn_after: Log one warning if the build takes longer than this, as ``timedelta`` or seconds. None: longer
        than nine of ten of the last good builds of its kind took, if the build history lists five. (templated)
    :param atscale_conn_id: The Airflow connection of type ``atscale``. (templated)
    :param deferrable: Whether to wait in the triggerer, which holds no worker. Default: Airflow's
        ``[operators] default_deferrable``.
    :param poke_interval: As for every sensor. In poke and deferrable mode it is the longest time between two polls:
        polling starts after one second and backs off up to this value.
    :param timeout: As for every sensor: when it has passed, the sensor fails and is not retried.
    :return: The id of the batch. XCom ``batch_result`` has the report of the batch; of a batch that fails the
        task, XCom ``batch_failure`` has it.
    :raises AtScaleConfigurationError: If an argument or the connection is invalid. Not retried.
    :raises AtScaleAuthenticationError: If AtScale refuses the credentials at the first poll. Not retried.
    :raises AtScalePermissionError: If the user lacks a role at the first poll. Not retried.
    :raises AtScaleNotFoundError: If there is no such catalog or model. Not retried.
    :raises AtScaleBatchFailedError: If the batch ended without success, or with aggregates missing and
        ``failed_aggregates`` is ``fail``.
    :raises AtScaleBatchNotFoundError: If the build history never lists the batch.
    :raises AtScaleSensorTimeoutError: If the batch did not end in time. Not retried.
    :raises AtScaleWaitError: If AtScale could not be read for longer than tolerated.
    """

    template_fields: Sequence[str] = (
        "batch_id",
        "catalog",
        "model",
        "failed_aggregates",
        "warn_after",
        "atscale_conn_id",
    )
    operator_extra_links: Any = BuildHistoryLinks()
    ui_color = "#eaf2fa"
    if not TYPE_CHECKING:
        partial = NamedPartial(BATCH_NAME)

    _task: WaitTask | None = None

    def __init__(
        self,
        *,
        batch_id: str = "newest",
        catalog: str | None = None,
        model: str | None = None,
        failed_aggregates: str = "warn",
        warn_after: timedelta | float | str | None = None,
        atscale_conn_id: str = "atscale_default",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.batch_id = batch_id
        self.catalog = catalog
        self.model = model
        self.failed_aggregates = failed_aggregates
        self.warn_after = warn_after
        self.atscale_conn_id = atscale_conn_id
        self.deferrable = deferrable
        check_literals(self, WAIT_ARGUMENTS)

    def execute(self, context: Context) -> Any:
        """
        Wait, in any mode.

        :param context: The task's context.
        """
        return self._run_in(context).execute(super().execute)

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """
        Poll the batch once.

        :param context: The task's context.
        """
        from airflow.providers.common.compat.sdk import PokeReturnValue

        batch_id = self._run_in(context).poke()
        return False if batch_id is None else PokeReturnValue(is_done=True, xcom_value=batch_id)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """
        Resume after the wait in the triggerer, or restart if Airflow delivers the event of another try.

        :param next_method: The method to call.
        :param next_kwargs: Its arguments.
        :param context: The task's context.
        """
        task = self._run_in(context)
        with task.soft_fail():
            if task.restarts(next_kwargs):
                return task.restart(super().execute)
            return super().resume_execution(next_method, next_kwargs, context)

    def execute_complete(self, context: Context, event: Any = None) -> str:
        """
        Judge the batch after the wait in the triggerer.

        :param context: The task's context.
        :param event: The trigger's event.
        """
        return self._run_in(context).resume(event)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """
        Return the aggregate tables that the batch has built, for OpenLineage.

        :param task_instance: The task instance.
        """
        del task_instance
        return self._task.lineage() if self._task else None

    def _get_next_poke_interval(self, *args: Any, **kwargs: Any) -> float:
        """Back off from short delays to ``poke_interval``, unless the user chooses another way."""
        delay = self._task.next_poke_delay() if self._task else None
        if self.mode != "poke" or self.exponential_backoff or delay is None:
            return float(super()._get_next_poke_interval(*args, **kwargs))
        return delay

    def _run_in(self, context: Context) -> WaitTask:
        # Not at the top: what only a running task needs would make every DAG file slower to parse.
        from airflow_provider_atscale.tasks.wait import WaitTask

        # dag.test() of Airflow 2 resumes a deferred task with the same operator, and another context.
        if self._task is None or self._task.context is not context:
            self._task = WaitTask(self, context)
        return self._task
