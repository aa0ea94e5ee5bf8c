"""Metrics reach a real StatsD socket through Airflow; without one, nothing fails."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airflow_provider_atscale import metrics
from airflow_provider_atscale.builds.usual import Expectation
from airflow_provider_atscale.client.shared_connection import shared_connection
from airflow_provider_atscale.client.traces import trace_headers
from airflow_provider_atscale.exceptions import AtScaleAuthenticationError
from airflow_provider_atscale.triggers.atscale import AtScaleBatchTrigger
from airflow_provider_atscale.waiting.shared import Subscription

from .conftest import until, whatever_the_edition

#: Set up as a worker or a triggerer does, where the version has it done by them, and emit one of each.
EMIT = """
import asyncio, sys
from importlib import import_module
from airflow.providers.common.compat.sdk import conf

root = "airflow.sdk" if sys.argv[1] == "worker" else "airflow"
try:
    stats = import_module(root + ".observability.stats")
    factory = import_module(root + ".observability.metrics.stats_utils").get_stats_factory
except ImportError:
    pass
else:
    try:
        stats.initialize(factory=factory(), export_legacy_names=False)
    except AttributeError:
        stats.Stats.initialize(factory=factory(stats.Stats))

from airflow_provider_atscale import metrics

def emit():
    metrics.count("atscale.build.started", tags={"kind": "full"})
    metrics.time("atscale.build.duration", 41.5)
    metrics.gauge_of_host("atscale.triggerer.waiters", 7)

async def emit_in_loop():
    emit()

emit() if sys.argv[1] == "worker" else asyncio.run(emit_in_loop())
"""


@pytest.mark.parametrize("where", ["worker", "triggerer"])
def test_statsd_receives_counters_timers_and_gauges(where):
    pytest.importorskip("statsd")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(20)
        env = {
            **os.environ,
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(statsd.getsockname()[1]),
        }
        subprocess.run([sys.executable, "-c", EMIT, where], check=True, env=env, timeout=120)
        received: set[str] = set()
        while len(received) < 4:
            # Airflow emits metrics of its own, too.
            received |= {line for line in statsd.recv(4096).decode().splitlines() if ".atscale." in line}
    assert {
        "airflow.atscale.build.started:1|c",
        "airflow.atscale.build.duration:41500.000000|ms",
        "airflow.atscale.triggerer.waiters:7|g",
        f"airflow.atscale.triggerer.waiters.{socket.gethostname()}:7|g",
    } == received


def test_a_statsd_that_is_not_there_fails_nothing():
    env = {
        **os.environ,
        "AIRFLOW__METRICS__STATSD_ON": "True",
        "AIRFLOW__METRICS__STATSD_HOST": "statsd.invalid",
    }
    subprocess.run([sys.executable, "-c", EMIT, "worker"], check=True, env=env, timeout=120)


class Recorder:
    """Keep what is emitted, as Airflow's ``Stats``."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.gauges: dict[str, list[float]] = {}

    def incr(self, name, number, tags=None):
        self.counts[name] = self.counts.get(name, 0) + number

    def gauge(self, name, value, tags=None):
        self.gauges.setdefault(name, []).append(value)


@pytest.fixture
def stats(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(metrics, "_stats", lambda in_triggerer: recorder)
    return recorder


def trigger(ref, batch_id, **arguments):
    return AtScaleBatchTrigger(
        atscale_conn_id="atscale_default",
        catalog_id=ref.catalog_id,
        model_id=ref.model_id,
        catalog=ref.catalog,
        model=ref.model,
        batch_id=batch_id,
        since=time.time(),
        poll_interval=0.2,
        **arguments,
    )


@whatever_the_edition
def test_a_triggerer_reports_waiters_reads_tokens_and_late_builds(engine, ref, stats, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_ATSCALE_DEFAULT", engine.connection_json())
    batch = engine.start_batch(None, ref.model_id)
    expectation = Expectation(warn_after=0.001).to_json()

    async def main():
        waiting = [anext(trigger(ref, batch.id, expectation=expectation).run()) for _ in range(3)]
        tasks = [asyncio.ensure_future(each) for each in waiting]
        await until(lambda: engine.stats.routes.get("history", 0) >= 3, 15)
        engine.end_batch(batch.id)
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert stats.gauges["atscale.triggerer.waiters"] == [1, 2, 3, 2, 1, 0]
    assert stats.counts["atscale.triggerer.reads"] == engine.stats.routes["history"]
    assert stats.counts["atscale.triggerer.shared_reads"] >= 2
    assert (stats.counts["atscale.token.renewed"], stats.counts["atscale.build.late"]) == (1, 3)


def test_counters_of_polls_are_emitted_at_most_once_a_second(stats):
    times = [100.0, 100.1, 100.9, 101.0, 101.5]
    clock = iter(times)
    counters = metrics.Counters(lambda: next(clock))
    seen = []
    for _ in times:
        counters.add("reads", 1)
        seen.append(stats.counts["reads"])
    counters.flush()
    assert (seen, stats.counts["reads"]) == ([1, 1, 1, 4, 4], 5)


@whatever_the_edition
def test_waiters_of_an_abandoned_loop_are_not_counted(ref, stats):
    def subscription():
        return Subscription(shared_connection("atscale_default"), ref, "a-batch")

    async def abandon():
        await subscription().__aenter__()

    async def wait():
        async with subscription():
            pass

    loop = asyncio.new_event_loop()
    loop.run_until_complete(abandon())
    loop.close()
    asyncio.run(wait())
    assert stats.gauges["atscale.triggerer.waiters"] == [1, 1, 0]


@whatever_the_edition
def test_both_clients_count_tokens_and_refused_logins(make_caller, ref, stats):
    make_caller().run(lambda edition: edition.history(ref))
    with pytest.raises(AtScaleAuthenticationError):
        make_caller(password="not-the-right-one").run(lambda edition: edition.history(ref))
    assert stats.counts == {"atscale.token.renewed": 1, "atscale.login.refused": 1}


@whatever_the_edition
def test_the_trace_of_a_task_is_passed_on(engine, make_caller):
    trace = pytest.importorskip("opentelemetry.trace")
    assert trace_headers() == {}
    context = trace.SpanContext(0xA, 0xB, is_remote=False, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(context)):
        expected = {"traceparent": f"00-{'a':0>32}-{'b':0>16}-01"}
        assert trace_headers() == expected
        make_caller().run(lambda edition: edition.models(), tries=1)
    make_caller().run(lambda edition: edition.models(), tries=1)
    sent = [request.headers.get("traceparent") for request in engine.requests if request.route == "catalogs"]
    assert sent == [expected["traceparent"], None]


def test_without_opentelemetry_there_is_no_trace(monkeypatch):
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)
    assert trace_headers() == {}


BUILD = ("started", "joined", "attached", "adopted", "done", "failed", "late", "lost", "duration")
NAMES = (
    *(f"atscale.build.{name}" for name in BUILD),
    *(f"atscale.triggerer.{name}" for name in ("waiters", "reads", "shared_reads")),
    "atscale.token.renewed",
    "atscale.login.refused",
)
OPERATE = Path(__file__).resolve().parents[2] / "docs" / "operate"


def test_the_page_and_the_dashboard_have_each_metric_and_no_other():
    told = set(re.findall(r"^\| `(atscale\.[a-z_.]+)`", (OPERATE / "metrics.md").read_text(), re.MULTILINE))
    panels = json.loads((OPERATE / "atscale-grafana.json").read_text())["panels"]
    queries = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    drawn = set(re.findall(r"airflow_(atscale_[a-z_]+[a-z])", queries))
    assert told == set(NAMES)
    assert drawn == {name.replace(".", "_") for name in NAMES}
