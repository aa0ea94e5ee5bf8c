"""Build a model's aggregates with arguments that a function of the DAG file chooses: ``@task.atscale_build``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypedDict, overload

from airflow.providers.common.compat.sdk import (
    DecoratedOperator,
    context_merge,
    task_decorator_factory,
)
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_1_PLUS

from airflow_provider_atscale.arguments import BUILD_ARGUMENTS, parse_bool, parse_overrides, shown
from airflow_provider_atscale.compat import determine_kwargs
from airflow_provider_atscale.exceptions import AtScaleConfigurationError
from airflow_provider_atscale.operators.atscale import AtScaleAggregateBuildOperator
from airflow_provider_atscale.tasks.map_names import DECORATED_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import ParamSpec

    from airflow.providers.common.compat.sdk import Context
    from airflow.sdk.bases.decorator import Task

    from airflow_provider_atscale.tasks.plan import TaskPlan

    Parameters = ParamSpec("Parameters")

NAME = "@task.atscale_build"


class BuildArguments(TypedDict, total=False):
    """
    What the function of ``@task.atscale_build`` can return: any templated argument of the operator.

    See :class:`~airflow_provider_atscale.operators.atscale.AtScaleAggregateBuildOperator` for their meaning.
    """

    catalog: str
    model: str
    is_full_build: bool | str
    grace_period_overrides: Mapping[str, int | float] | str | None
    on_running: str
    failed_aggregates: str
    skip_if_built_within: timedelta | float | str | None
    only_if_newer: bool | str
    give_up_after: int | str | None
    wait_for_completion: bool | str
    poll_interval: float | timedelta | str
    timeout: timedelta | float | str | None
    warn_after: timedelta | float | str | None
    atscale_conn_id: str


class _AtScaleBuildDecoratedOperator(DecoratedOperator, AtScaleAggregateBuildOperator):
    """
    Build aggregates with the arguments that a function returns.

    :param python_callable: The function.
    :param op_args: Positional arguments of the function. (templated)
    :param op_kwargs: Named arguments of the function. (templated)
    :param catalog: As of the operator; None if the function returns it. (templated)
    :param model: As of the operator; None if the function returns it. (templated)
    """

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *AtScaleAggregateBuildOperator.template_fields,
    )
    template_fields_renderers = DecoratedOperator.template_fields_renderers
    custom_operator_name = NAME
    # The tab Rendered Templates shows what the function has returned. Airflow 2 cannot; Airflow 3.0 fails after a try
    # that is to be repeated.
    overwrite_rtif_after_execution = AIRFLOW_V_3_1_PLUS

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        catalog: str | None = None,
        model: str | None = None,
        **kwargs: Any,
    ) -> None:
        is_mapped = getattr(self, "_BaseOperator__from_mapped", False)
        if kwargs.get("map_index_template") == DECORATED_NAME and not is_mapped:
            del kwargs["map_index_template"]
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            catalog=catalog,
            model=model,
            **kwargs,
        )

    def execute(self, context: Context) -> str:
        """
        Start the batch, or reattach to an earlier try's, and wait as asked.

        :param context: The task's context.
        """
        # That of Airflow's class needs a method that no operator of Airflow 3.0 has.
        return AtScaleAggregateBuildOperator.execute(self, context)

    def choose_arguments(self, context: Context) -> None:
        """
        Call the function, and set the arguments that it returns.

        :param context: The task's context.
        """
        context_merge(context, self.op_kwargs)
        named = determine_kwargs(self.python_callable, self.op_args, context)
        returned = self.python_callable(*self.op_args, **named)
        self._check_keys(returned)
        chosen = ", ".join(f"{name}={shown(value)}" for name, value in returned.items())
        self.log.info("The function %r chose %s", self._function, chosen or "nothing")
        for name, value in returned.items():
            setattr(self, name, value)
        self._check_values(returned)

    def restore_arguments(self, plan: TaskPlan) -> None:
        """
        Show what applies in the tab Rendered Templates: a resume renders the decorator's arguments again.

        :param plan: The plan that was made of the arguments.
        """
        self.catalog, self.model, self.atscale_conn_id = plan.ref.catalog, plan.ref.model, plan.conn_id
        self.failed_aggregates, self.poll_interval = plan.failed_aggregates, plan.poll_interval
        if plan.build is not None:
            self.is_full_build, self.grace_period_overrides = plan.build.is_full_build, plan.build.overrides
            self.on_running, self.wait_for_completion = plan.build.on_running, plan.build.wait_for_completion

    @property
    def _function(self) -> str:
        return getattr(self.python_callable, "__name__", type(self.python_callable).__name__)

    def _check_keys(self, returned: Any) -> None:
        if not isinstance(returned, Mapping):
            raise AtScaleConfigurationError(
                f"The function {self._function!r} of {NAME} returned {shown(returned)}; it must return a mapping of "
                'arguments, such as {"is_full_build": True}, or {} to change none. To skip the build, raise '
                "AirflowSkipException."
            )
        allowed = BuildArguments.__annotations__
        for key in returned:
            if key not in allowed:
                raise AtScaleConfigurationError(
                    f"The function {self._function!r} of {NAME} returned the key {shown(key)}, which is not an "
                    f"argument that it can set. Allowed: {', '.join(allowed)}."
                )

    def _check_values(self, returned: Mapping[str, Any]) -> None:
        missing = [name for name in ("catalog", "model") if getattr(self, name) is None]
        if missing:
            raise AtScaleConfigurationError(
                f"{' and '.join(missing)} of {NAME} must be given to the decorator or returned by the function "
                f"{self._function!r}."
            )
        try:
            for name, value in returned.items():
                BUILD_ARGUMENTS[name](value, name)
            if "grace_period_overrides" in returned:
                is_full_build = parse_bool(self.is_full_build, "is_full_build")
                parse_overrides(self.grace_period_overrides, is_full_build=is_full_build)
        except AtScaleConfigurationError as error:
            raise AtScaleConfigurationError(
                f"The function {self._function!r} of {NAME} returned a value that cannot be used: {error}"
            ) from None


@overload
def atscale_build_task(
    python_callable: Callable[Parameters, Mapping[str, Any]],
) -> Task[Parameters, Mapping[str, Any]]: ...
@overload
def atscale_build_task(
    *,
    catalog: str | None = None,
    model: str | None = None,
    is_full_build: bool | str = ...,
    grace_period_overrides: Mapping[str, int | float] | str | None = ...,
    on_running: str = ...,
    failed_aggregates: str = ...,
    skip_if_built_within: timedelta | float | str | None = ...,
    only_if_newer: bool | str = ...,
    give_up_after: int | str | None = ...,
    wait_for_completion: bool | str = ...,
    deferrable: bool = ...,
    poll_interval: float | timedelta | str = ...,
    timeout: timedelta | float | str | None = ...,
    warn_after: timedelta | float | str | None = ...,
    atscale_conn_id: str = ...,
    **kwargs: Any,
) -> Callable[[Callable[Parameters, Mapping[str, Any]]], Task[Parameters, Mapping[str, Any]]]: ...
def atscale_build_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
    """
    Make a build task of a function that returns the arguments that depend on the run.

    In DAG files it is ``@task.atscale_build``. Each try calls the function first, before it reads or starts anything.
    The function returns :class:`BuildArguments`, a mapping of the operator's arguments, or ``{}`` for none. If it
    raises ``AirflowSkipException``, the build is skipped. All else is as in
    :class:`~airflow_provider_atscale.operators.atscale.AtScaleAggregateBuildOperator`.

    :param python_callable: The function.
    :param kwargs: The operator's arguments. ``catalog`` and ``model`` can also be returned by the function.
    :return: The decorated function. Calling it in a DAG adds the task; its result is the batch's id.
    :raises AtScaleConfigurationError: In the task, if the function returns no mapping, an unknown key or an invalid
        value. Not retried.
    """
    kwargs.setdefault("map_index_template", DECORATED_NAME)
    return task_decorator_factory(
        python_callable=python_callable,
        # The result is the batch's id; Airflow would take the function's annotation for the result's type.
        multiple_outputs=False,
        decorated_operator_class=_AtScaleBuildDecoratedOperator,
        **kwargs,
    )
