"""Build a model's aggregates in AtScale."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator, conf

from airflow_provider_atscale.arguments import BUILD_ARGUMENTS, check_literals
from airflow_provider_atscale.links import BuildHistoryLinks
from airflow_provider_atscale.tasks.map_names import BUILD_NAME, NamedPartial

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_atscale.tasks.build import BuildTask
    from airflow_provider_atscale.tasks.plan import TaskPlan


class AtScaleAggregateBuildOperator(BaseOperator):
    """
    Build all aggregates of an AtScale model, and wait until they are built.

    Starts one batch with AtScale's call `Run full or incremental aggregate builds
    <https://documentation.atscale.com/container-api/Public%20Engine%20APIs/aggregates-batch>`__ and succeeds
    only if AtScale says that this batch is done. The call is sent once: after a lost reply the task searches the
    build history for the batch, and on Airflow 3.3+ a retry waits for the batch of the earlier try. AtScale has no
    call to cancel a batch: if the task is stopped or times out, the build goes on in AtScale.

    .. seealso::
        :ref:`Guarantees <guarantees:atscale>` says what the task does in each case of trouble.

    :param catalog: Id, name or caption of the catalog; on the installer edition of the project. (templated)
    :param model: Id, name or caption of the model; on the installer edition of the cube. (templated)
    :param is_full_build: True rebuilds everything. False (default) asks for an incremental build, which AtScale
        also calls a standard build: AtScale decides for each aggregate whether it can be built incrementally.
        Rebuild fully after data has changed outside of the grace period. Parsed strictly: the text ``"False"``,
        rendered by a template, is false. On the container edition, incremental builds by API may need two settings
        that are off by default: ``aggregate.batch.gracePeriodOverrides.enabled`` of the engine and
        ``aggregate.batch.cube.gracePeriodOverrides.enabled`` of the model. (templated)
    :param grace_period_overrides: Dataset names and how far back AtScale looks for changed rows in each. The numbers
        are passed on unchanged, because AtScale's documentation names no unit. Incremental builds only. (templated)
    :param on_running: What to do if a batch of the model already runs. ``join`` (default): if it began after this
        task did, it has the data just loaded, and its outcome is the task's; else wait for it to end and check again.
        So any number of tasks that need the same model share two builds. ``wait``: wait for it to end, then build.
        ``attach``: wait for it instead of building; it may lack data that was loaded after it began, and the
        ``grace_period_overrides``. If a full build is asked for and the batch is a standard one, ``attach`` waits for
        it to end, then builds. ``skip``: skip the task. ``fail``: fail the task. (templated)
    :param failed_aggregates: What to do if the batch is done and some aggregates were not built: ``warn``
        (default), ``fail`` or ``ignore``. (templated)
    :param skip_if_built_within: Skip the task if a successful build finished within this time, as ``timedelta`` or
        seconds. A full build also counts for an incremental request. With ``grace_period_overrides`` only a full
        build counts. Checked once, before ``on_running``; on Airflow 3.3+ not checked by a retry. (templated)
    :param only_if_newer: Skip the task if the newest asset event of its inlets is older than the start of the last
        successful build that serves the request. If nothing is known of either, the task builds. Checked like
        ``skip_if_built_within``. Airflow 3.0+. (templated)
    :param give_up_after: Fail, without retries and without starting a build, if so many builds of the model and kind
        have failed one after the other. The task builds again after it was cleared. None (default): never.
        (templated)
    :param wait_for_completion: Whether to wait until the batch has ended. If False, the task succeeds once the build
        has started; asset events then only mean "started". ``on_running`` still applies. (templated)
    :param deferrable: Whether to wait in the triggerer, which holds no worker. Default: Airflow's
        ``[operators] default_deferrable``.
    :param poll_interval: The longest time between two polls, in seconds. Polling starts after one second and backs
        off up to this value. (templated)
    :param timeout: How long each try waits, as ``timedelta`` or seconds; None: without limit. The earlier of this
        and ``execution_timeout`` ends the wait, in deferrable mode too. The build goes on in AtScale, and on Airflow
        3.3+ a retry attaches to it. (templated)
    :param warn_after: Log one warning if the build takes longer than this, as ``timedelta`` or seconds. None: longer
        than nine of ten of the last good builds of its kind took, if the build history lists five. (templated)
    :param atscale_conn_id: The Airflow connection of type ``atscale``. (templated)
    :return: The id of the batch, in every mode. XCom ``batch`` has ``batch_id``, ``catalog`` and ``model``,
        which are the arguments of :class:`~airflow_provider_atscale.sensors.atscale.AtScaleBatchSensor`, and
        XCom ``batch_result`` the report of the batch. Of a batch that fails the task, XCom ``batch_failure``
        has it.
    :raises AtScaleConfigurationError: If an argument or the connection is invalid. Not retried.
    :raises AtScaleAuthenticationError: If AtScale refuses the credentials. Not retried.
    :raises AtScalePermissionError: If the user lacks a role. Not retried.
    :raises AtScaleNotFoundError: If there is no such catalog or model. Not retried.
    :raises AtScaleStartError: If AtScale refuses to start the batch.
    :raises AtScaleStartUnknownError: If the reply to the start was lost and no batch was found.
    :raises AtScaleGaveUpError: If the last ``give_up_after`` builds have failed. Not retried.
    :raises AtScaleAlreadyRunningError: If a batch runs and ``on_running`` is ``fail``.
    :raises AtScaleBatchFailedError: If the batch ended without success, or with aggregates missing and
        ``failed_aggregates`` is ``fail``.
    :raises AtScaleTimeoutError: If the batch did not end in time.
    :raises AtScaleWaitError: If AtScale could not be read for longer than tolerated.
    """

    template_fields: Sequence[str] = (
        "catalog",
        "model",
        "is_full_build",
        "grace_period_overrides",
        "on_running",
        "failed_aggregates",
        "skip_if_built_within",
        "only_if_newer",
        "give_up_after",
        "wait_for_completion",
        "poll_interval",
        "timeout",
        "warn_after",
        "atscale_conn_id",
    )
    operator_extra_links: Any = BuildHistoryLinks()
    ui_color = "#eaf2fa"
    if not TYPE_CHECKING:
        partial = NamedPartial(BUILD_NAME)

    _task: BuildTask | None = None
    _is_stopped = False

    def __init__(
        self,
        *,
        catalog: str,
        model: str,
        is_full_build: bool | str = False,
        grace_period_overrides: Mapping[str, int | float] | str | None = None,
        on_running: str = "join",
        failed_aggregates: str = "warn",
        skip_if_built_within: timedelta | float | str | None = None,
        only_if_newer: bool | str = False,
        give_up_after: int | str | None = None,
        wait_for_completion: bool | str = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | timedelta | str = 60,
        timeout: timedelta | float | str | None = timedelta(hours=6),
        warn_after: timedelta | float | str | None = None,
        atscale_conn_id: str = "atscale_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.catalog = catalog
        self.model = model
        self.is_full_build = is_full_build
        self.grace_period_overrides = grace_period_overrides
        self.on_running = on_running
        self.failed_aggregates = failed_aggregates
        self.skip_if_built_within = skip_if_built_within
        self.only_if_newer = only_if_newer
        self.give_up_after = give_up_after
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.warn_after = warn_after
        self.atscale_conn_id = atscale_conn_id
        check_literals(self, BUILD_ARGUMENTS)

    def execute(self, context: Context) -> str:
        """
        Start the batch, or reattach to an earlier try's, and wait as asked.

        :param context: The task's context.
        """
        return self._run_in(context).execute()

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """
        Resume after a wait in the triggerer, or restart if Airflow delivers the event of another try.

        :param next_method: The method to call.
        :param next_kwargs: Its arguments.
        :param context: The task's context.
        """
        task = self._run_in(context)
        if task.restarts(next_kwargs):
            return task.restart()
        return super().resume_execution(next_method, next_kwargs, context)

    def execute_after_running(self, context: Context, event: Any = None) -> str:
        """
        Resume after another batch of the model has ended, and start this task's.

        :param context: The task's context.
        :param event: The trigger's event.
        """
        return self._run_in(context).resume_after_running(event)

    def execute_complete(self, context: Context, event: Any = None) -> str:
        """
        Judge this task's batch after the wait in the triggerer.

        :param context: The task's context.
        :param event: The trigger's event.
        """
        return self._run_in(context).resume(event)

    def on_kill(self) -> None:
        """Forbid any further start by this process, and log what becomes of the build."""
        self._is_stopped = True
        if self._task is not None:
            self._task.on_kill()
        else:
            self.log.warning("The task was stopped before a build was started; none will be started")

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """
        Return the aggregate tables that the batch has built, for OpenLineage.

        :param task_instance: The task instance.
        """
        del task_instance
        return self._task.lineage() if self._task else None

    def choose_arguments(self, context: Context) -> None:
        """
        Set arguments that depend on the run; called first in each try, but not at a resume.

        :param context: The task's context.
        """

    def restore_arguments(self, plan: TaskPlan) -> None:
        """
        Set what :meth:`choose_arguments` has set before a wait in the triggerer.

        :param plan: The plan that was made of the arguments.
        """

    def _run_in(self, context: Context) -> BuildTask:
        # Not at the top: what only a running task needs would make every DAG file slower to parse.
        from airflow_provider_atscale.tasks.build import BuildTask

        self._task = BuildTask(self, context, is_stopped=lambda: self._is_stopped)
        return self._task
