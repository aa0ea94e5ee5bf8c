"""
Who waits: this provider's trigger, its peers' triggers, and what the libraries below them need at the least.

Each contestant is a factory: a number in, a coroutine out that polls "its" job for ever. Peers are set up as
their documentation says, and wait through the same connection mechanism of Airflow.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

Wait = Callable[[int], Coroutine[Any, Any, None]]
#: Every contestant that shares connections gets as many as this provider opens.
SHARED_CONNECTIONS = 8


@dataclass(frozen=True)
class Scene:
    """
    What all contestants have in common.

    :param url: Address of the stub server.
    :param certificate: The PEM file that the stub's certificate is trusted by; None without TLS.
    :param interval: Seconds between two polls of one waiter.
    :param models: Over how many models this provider's waiters are spread.
    """

    url: str
    certificate: str | None
    interval: float
    models: int

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    @property
    def scheme(self) -> str:
        return urlsplit(self.url).scheme

    def history_url(self, number: int) -> str:
        return (
            f"{self.url}/wapi/p/aggregate/batch-history?page=1&limit=20"
            f"&catalogId=catalog&modelId={self.model(number)}"
        )

    def model(self, number: int) -> str:
        return f"model-{number % self.models:05d}"

    def tls(self) -> ssl.SSLContext | bool:
        return ssl.create_default_context(cafile=self.certificate) if self.certificate else False


async def _fires(trigger: Any) -> None:
    """Run a trigger as the triggerer does."""
    async for event in trigger.run():
        raise AssertionError(f"{type(trigger).__name__} stopped waiting: {event}")


def atscale(scene: Scene, *, progress: bool = False) -> Wait:
    """This provider."""
    _connection(
        "atscale_default",
        conn_type="atscale",
        host=scene.url,
        password="api-token",
        extra={"verify": scene.certificate} if scene.certificate else {},
    )
    from airflow_provider_atscale.triggers.atscale import AtScaleBatchTrigger

    began = time.time() - 86400

    def wait(number: int) -> Coroutine[Any, Any, None]:
        model = scene.model(number)
        trigger = AtScaleBatchTrigger(
            atscale_conn_id="atscale_default",
            catalog_id="catalog",
            model_id=model,
            catalog="Sales Insights",
            model="Internet Sales",
            batch_id=f"batch-of-{model}",
            since=began,
            poll_interval=scene.interval,
            deadline={"at": began + 10 * 86400, "limit": "timeout"},
            payload={"conn_id": "atscale_default", "model": model},
            push_progress=progress,
        )
        if progress:
            trigger.task_instance = _TASK_INSTANCE
        return _fires(trigger)

    return wait


#: The task instance that a trigger belongs to.
_TASK_INSTANCE: Any = SimpleNamespace(dag_id="dag", task_id="task", run_id="run", map_index=-1)


def atscale_with_metrics(scene: Scene) -> Wait:
    """This provider, its metrics sent to StatsD as a triggerer sends them."""
    from airflow.observability import stats
    from airflow.observability.metrics.stats_utils import get_stats_factory

    # It stays open as long as the process lives.
    statsd = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    statsd.bind(("127.0.0.1", 0))
    _OPEN.append(statsd)
    os.environ["AIRFLOW__METRICS__STATSD_ON"] = "True"
    os.environ["AIRFLOW__METRICS__STATSD_HOST"] = "127.0.0.1"
    os.environ["AIRFLOW__METRICS__STATSD_PORT"] = str(statsd.getsockname()[1])
    stats.initialize(factory=get_stats_factory(), export_legacy_names=False)
    return atscale(scene)


def atscale_with_progress(scene: Scene) -> Wait:
    """This provider, the progress of each wait written as XCom to a supervisor that answers at once."""
    from airflow_provider_atscale.triggers import atscale as module

    reader, writer = socket.socketpair()
    _OPEN.extend((reader, writer))
    writer.setblocking(False)

    async def write(ti: Any, key: str, value: Any) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(writer, json.dumps([ti.dag_id, ti.task_id, ti.run_id, key, value]).encode())
        reader.recv(65536)

    module.apush_xcom = write
    return atscale(scene, progress=True)


_OPEN: list[socket.socket] = []


def dbt_cloud(scene: Scene) -> Wait:
    """dbt Cloud's ``DbtCloudRunJobTrigger``."""
    _connection(
        "dbt_cloud_default", conn_type="dbt_cloud", host=f"127.0.0.1:{scene.port}", login="1", password="token"
    )
    from airflow.providers.dbt.cloud.hooks.dbt import DbtCloudHook
    from airflow.providers.dbt.cloud.triggers.dbt import DbtCloudRunJobTrigger

    if not scene.certificate:
        # The hook knows https only, so for the tables without TLS its address is changed, and nothing else.
        secure = DbtCloudHook.get_request_url_params

        def plain(*args: Any, **kwargs: Any) -> Any:
            url, params = secure(*args, **kwargs)
            return url.replace("https://", "http://"), params

        DbtCloudHook.get_request_url_params = staticmethod(plain)  # type: ignore[method-assign]

    def wait(number: int) -> Coroutine[Any, Any, None]:
        return _fires(
            DbtCloudRunJobTrigger(
                conn_id="dbt_cloud_default",
                run_id=number,
                end_time=time.time() + 86400,
                poll_interval=scene.interval,
                account_id=1,
            )
        )

    return wait


def databricks(scene: Scene) -> Wait:
    """Databricks' ``DatabricksExecutionTrigger``."""
    _connection(
        "databricks_default",
        conn_type="databricks",
        host="127.0.0.1",
        schema=scene.scheme,
        port=scene.port,
        password="token",
    )
    from airflow.providers.databricks.triggers.databricks import DatabricksExecutionTrigger

    def wait(number: int) -> Coroutine[Any, Any, None]:
        return _fires(
            DatabricksExecutionTrigger(
                run_id=number,
                databricks_conn_id="databricks_default",
                polling_period_seconds=scene.interval,  # type: ignore[arg-type]
            )
        )

    return wait


def http_sensor(scene: Scene) -> Wait:
    """The HTTP provider's ``HttpSensorTrigger``."""
    _connection("http_default", conn_type="http", host="127.0.0.1", schema=scene.scheme, port=scene.port)
    from airflow.providers.http.triggers.http import HttpSensorTrigger

    def wait(number: int) -> Coroutine[Any, Any, None]:
        del number
        return _fires(HttpSensorTrigger(endpoint="not-yet", poke_interval=scene.interval))

    return wait


def shared_httpx(scene: Scene) -> Wait:
    """One httpx client, and nothing else."""
    import httpx

    client = httpx.AsyncClient(
        limits=httpx.Limits(max_connections=SHARED_CONNECTIONS),
        verify=scene.tls() if scene.certificate else True,  # type: ignore[arg-type]
        timeout=60,
        trust_env=False,
    )

    async def wait(number: int) -> None:
        url = scene.history_url(number)
        while True:
            answer = await client.get(url, headers={"Authorization": "Bearer token"})
            json.loads(answer.content)
            await _pause(scene.interval)

    return wait


def shared_aiohttp(scene: Scene) -> Wait:
    """One aiohttp session, and nothing else."""
    import aiohttp

    session: aiohttp.ClientSession | None = None

    async def wait(number: int) -> None:
        nonlocal session
        if session is None:
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=SHARED_CONNECTIONS, ssl=scene.tls())
            )
        url = scene.history_url(number)
        while True:
            async with session.get(url, headers={"Authorization": "Bearer token"}) as answer:
                json.loads(await answer.read())
            await _pause(scene.interval)

    return wait


def raw_streams(scene: Scene) -> Wait:
    """asyncio's streams with a hand-written request: nobody can be cheaper in Python."""
    free: asyncio.LifoQueue[tuple[asyncio.StreamReader, asyncio.StreamWriter] | None] = asyncio.LifoQueue()
    for _ in range(SHARED_CONNECTIONS):
        free.put_nowait(None)
    context = scene.tls() or None

    async def wait(number: int) -> None:
        target = scene.history_url(number).removeprefix(scene.url)
        request = (
            f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{scene.port}\r\n"
            "Accept: application/json\r\nAuthorization: Bearer token\r\n\r\n"
        ).encode()
        while True:
            pair = await free.get()
            if pair is None:
                pair = await asyncio.open_connection("127.0.0.1", scene.port, ssl=context)
            reader, writer = pair
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            json.loads(await reader.readexactly(length))
            free.put_nowait(pair)
            await _pause(scene.interval)

    return wait


def only_sleep(scene: Scene) -> Wait:
    """A trigger that only sleeps: what the loop itself costs."""
    from airflow.triggers.base import BaseTrigger, TriggerEvent

    class Sleeper(BaseTrigger):
        def serialize(self) -> tuple[str, dict[str, Any]]:
            return "", {}

        async def run(self) -> Any:
            while True:
                await _pause(scene.interval)
            yield TriggerEvent(None)

    def wait(number: int) -> Coroutine[Any, Any, None]:
        del number
        return _fires(Sleeper())

    return wait


async def _pause(interval: float) -> None:
    await asyncio.sleep(interval * random.uniform(0.9, 1.1))


def _connection(conn_id: str, **fields: Any) -> None:
    if "extra" in fields:
        fields["extra"] = json.dumps(fields["extra"])
    os.environ[f"AIRFLOW_CONN_{conn_id.upper()}"] = json.dumps(fields)


CONTESTANTS: dict[str, Callable[[Scene], Wait]] = {
    "AtScale": atscale,
    "AtScale, metrics": atscale_with_metrics,
    "AtScale, progress": atscale_with_progress,
    "dbt Cloud": dbt_cloud,
    "Databricks": databricks,
    "HTTP sensor": http_sensor,
    "shared httpx": shared_httpx,
    "shared aiohttp": shared_aiohttp,
    "raw streams": raw_streams,
    "only sleep": only_sleep,
}
