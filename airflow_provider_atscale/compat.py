"""What differs between versions of Airflow, as far as common-compat does not hide it, and of Python."""

from __future__ import annotations

import contextlib
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

# asyncio.wait_for drops a cancellation that comes together with the result, before Python 3.12.
if sys.version_info >= (3, 11):
    import asyncio

    time_limit = asyncio.timeout
else:
    # aiohttp brings it.
    import async_timeout

    time_limit = async_timeout.timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime

    from airflow.providers.common.compat.sdk import Connection, Context

#: Where Airflow keeps ``mask_secret``: since 3.1, in 3.0, before 3.0.
_MASKERS = ("airflow.sdk.log", "airflow.sdk.execution_time.secrets_masker", "airflow.utils.log.secrets_masker")
#: Where it keeps ``determine_kwargs``, which the oldest allowed common-compat does not know: newer, older versions.
_CALLERS = ("airflow.sdk.bases.decorator", "airflow.utils.operator_helpers")


def _find(function: str, modules: tuple[str, ...]) -> Callable[..., Any]:
    for name in modules:
        try:
            found: Callable[..., Any] = getattr(import_module(name), function)
        except (ImportError, AttributeError):
            continue
        return found
    raise ImportError(f"Airflow has no {function} in any of {', '.join(modules)}")


def determine_kwargs(
    function: Callable[..., Any], args: Collection[Any], context: Mapping[str, Any]
) -> Mapping[str, Any]:
    """
    Return the named arguments with which Airflow calls a function of a DAG file.

    :param context: The task's context, and the named arguments that the DAG file gives.
    """
    named: Mapping[str, Any] = _find("determine_kwargs", _CALLERS)(function, args, context)
    return named


def mask_secret(secret: str) -> None:
    """Hide a value from all logs."""
    _find("mask_secret", _MASKERS)(secret)


async def amask_secret(secret: str) -> None:
    """Hide a value from all logs, without blocking the event loop."""
    try:
        from airflow.sdk.log import amask_secret as mask
    except ImportError:
        from asgiref.sync import sync_to_async

        # Not asyncio.to_thread: from a thread that asgiref does not know, the triggerers of Airflow 3.0 and
        # 3.1 send the message on an event loop of its own, never read the reply, and are out of step with
        # their supervisor from then on.
        await sync_to_async(mask_secret)(secret)
    else:
        await mask(secret)


async def aget_connection(conn_id: str) -> Connection:
    """Read a connection without blocking the event loop."""
    from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook, Connection

    # Before Airflow 3.3.2, which brought that method, the asynchronous way masks secrets with a blocking call.
    if hasattr(Connection, "aextra_dejson"):
        from airflow.providers.common.compat.connection import get_async_connection

        # ``dag.test()`` runs triggers where only the blocking way finds what Airflow's database keeps.
        with contextlib.suppress(AirflowNotFoundException):
            return await get_async_connection(conn_id)
    from asgiref.sync import sync_to_async

    found: Connection = await sync_to_async(BaseHook.get_connection)(conn_id)
    return found


async def apush_xcom(ti: Any, key: str, value: Any) -> None:
    """
    Write an XCom of a deferred task, from its trigger.

    :param ti: The trigger's task instance, which has no method for it on most versions.
    """
    from airflow.providers.common.compat.sdk import XCom

    names = ("dag_id", "task_id", "run_id", "map_index")
    where = {name: getattr(ti, name) for name in names}
    if hasattr(XCom, "aset"):
        await XCom.aset(key, value, **where)
    else:
        from asgiref.sync import sync_to_async

        # Not asyncio.to_thread, as in amask_secret.
        await sync_to_async(XCom.set)(key, value, **where)


def first_reschedule_date(context: Context, retries: int | None) -> datetime | None:
    """Return when a rescheduled sensor poked for the first time in all its tries; None if it does now."""
    ti: Any = context["ti"]
    first: datetime | None
    if hasattr(ti, "get_first_reschedule_date"):
        first = ti.get_first_reschedule_date(context)
        return first
    # Airflow 2 has no better name for it.
    first = import_module("airflow.sensors.base")._orig_start_date(
        dag_id=ti.dag_id,
        task_id=ti.task_id,
        run_id=ti.run_id,
        map_index=ti.map_index,
        try_number=(ti.max_tries or 0) - (retries or 0) + 1,
    )
    return first
