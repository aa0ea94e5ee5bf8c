"""Try a connection step by step, from this machine."""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.flow import Response
from airflow_provider_atscale.api.models import HistoryUnavailable, kind_of
from airflow_provider_atscale.api.values import iso
from airflow_provider_atscale.arguments import ON_RUNNING
from airflow_provider_atscale.builds.report import format_duration
from airflow_provider_atscale.builds.request import BuildRequest
from airflow_provider_atscale.builds.usual import LEAST_BATCHES, usual_duration
from airflow_provider_atscale.cli.exit_codes import DONE
from airflow_provider_atscale.cli.run import command
from airflow_provider_atscale.client.base import step
from airflow_provider_atscale.exceptions import AtScaleConfigurationError, AtScaleError
from airflow_provider_atscale.hooks.atscale import AtScaleHook

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from airflow_provider_atscale.api.flow import Flow
    from airflow_provider_atscale.api.models import Batch, History, ModelRef
    from airflow_provider_atscale.cli.output import Output

#: The ``Date`` header has whole seconds, and an answer takes its time.
_CLOCK_PRECISION = 2.0
#: From here on a difference is worth a look: certificates and tokens are checked by both clocks.
_CLOCK_WARNING = 60.0
_TRIES = 2

OK, WARNING, FAILED, NOT_TESTED = "ok", "warning", "failed", "not tested"


@dataclass
class _Findings:
    """What the steps found, for people and for programs."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, step: str, outcome: str, text: str, **facts: Any) -> None:
        self.rows.append((step, outcome, text))
        self.facts.update(facts)

    @contextmanager
    def add_if_failed(self, step: str, text: str) -> Iterator[None]:
        """Add a step if it fails."""
        try:
            yield
        except AtScaleError:
            self.add(step, FAILED, text)
            raise


@command
def check(options: argparse.Namespace, out: Output) -> int:
    """Try host, credentials, rights, clock and, if given, a model; start nothing."""
    if options.catalog is not None and options.model is None:
        raise AtScaleConfigurationError("Give both catalog and model, or none of them.")
    found = _Findings()
    try:
        with closing(AtScaleHook(options.conn_id)) as hook:
            _check(hook, options, found)
    finally:
        out.table(("step", "", "what was found"), found.rows, header=False)
        steps = [dict(zip(("step", "outcome", "text"), row, strict=True)) for row in found.rows]
        out.found = {"steps": steps, **found.facts}
    out.document(out.found)
    return DONE


def _check(hook: AtScaleHook, options: argparse.Namespace, found: _Findings) -> None:
    with found.add_if_failed("connection", options.conn_id):
        edition, url = hook.edition.name, hook.edition.base_url
    found.add("connection", OK, f"{options.conn_id}: {edition} edition at {url}", edition=edition, server=url)
    for name, (what, flow) in zip(("host", "credentials", "history"), hook.edition.probe(), strict=True):
        with found.add_if_failed(name, f"could not {what}"):
            text, clock_difference = hook.get_conn().run(_compare_clocks(flow), tries=_TRIES)
        found.add(name, OK, text)
        if name == "host":
            _add_clock(found, clock_difference)
    found.add("start", NOT_TESTED, "only a start shows whether the user may start builds")
    if options.catalog is None:
        return
    with found.add_if_failed("model", f"{options.model!r} of catalog {options.catalog!r}"):
        ref = hook.resolve_model(options.catalog, options.model)
    ids = f"catalog id {ref.catalog_id}, model id {ref.model_id}"
    found.add("model", OK, f"{ref} ({ids})", catalog_id=ref.catalog_id, model_id=ref.model_id)
    _add_history(hook, ref, options, found)


def _compare_clocks(flow: Flow[str]) -> Flow[tuple[str, float | None]]:
    """Run a flow unchanged, and also return how many seconds the server's clock is ahead of this machine's."""
    difference: float | None = None
    outcome: Any = None
    while True:
        effect, value = step(flow, outcome)
        if effect is None:
            return value, difference
        try:
            outcome = yield effect
        except AtScaleError as error:
            outcome = error
        if isinstance(outcome, Response) and outcome.date is not None:
            # On average half a second has passed since the second that the header names.
            difference = outcome.date.timestamp() + 0.5 - time.time()


def _add_clock(found: _Findings, seconds: float | None) -> None:
    if seconds is None:
        found.add("clock", NOT_TESTED, "the host tells no time", clock_difference=None)
        return
    size = abs(seconds)
    if size < _CLOCK_PRECISION:
        text = f"the host's clock is that of this machine (to {_CLOCK_PRECISION:.0f} s)"
    else:
        text = f"the host's clock is {format_duration(size)} {'ahead of' if seconds > 0 else 'behind'} this machine's"
    found.add("clock", WARNING if size > _CLOCK_WARNING else OK, text, clock_difference=round(seconds, 1))


def _add_history(hook: AtScaleHook, ref: ModelRef, options: argparse.Namespace, found: _Findings) -> None:
    history = hook.get_history(ref)
    if isinstance(history, HistoryUnavailable):
        found.add(
            "running",
            NOT_TESTED,
            f"the build history cannot be read ({history}): a task cannot see a running batch. Give the user "
            f"{hook.edition.view_right}",
        )
        return
    _add_running(history, options, found)
    for is_full_build in (False, True):
        kind = kind_of(is_full_build)
        usual = usual_duration(history, is_full_build)
        if usual is None:
            found.add(
                "usual", NOT_TESTED, f"{kind}: fewer than {LEAST_BATCHES} successful builds in the history"
            )
            continue
        text = (
            f"{kind}: {format_duration(usual.median)}, nine of ten within {format_duration(usual.high)} "
            f"(the last {usual.count} successful builds)"
        )
        facts = {"median": usual.median, "p90": usual.high, "builds": usual.count}
        found.add("usual", OK, text)
        found.facts.setdefault("usual_seconds", {})[kind] = facts


def _add_running(history: History, options: argparse.Namespace, found: _Findings) -> None:
    if not history.running:
        found.add("running", OK, "no batch runs, so a build starts at once", running=None)
        return
    batch = history.running[0]
    effects = {value: explain_on_running(value, batch, is_full_build=options.full) for value in ON_RUNNING}
    for_how_long = ""
    if batch.began is not None and isinstance(history.server_time, datetime):
        age = max((history.server_time - batch.began).total_seconds(), 0.0)
        for_how_long = f", for {format_duration(age)}"
    running = {
        "batch_id": batch.id,
        "kind": batch.kind,
        "status": batch.status,
        "created": iso(batch.created),
        "on_running": effects,
    }
    text = f"batch {batch.id} ({batch.kind}, {batch.status}{for_how_long})"
    found.add("running", OK, text, running=running)
    for value, effect in effects.items():
        found.add("", "", f"on_running={value}: {effect}")


def explain_on_running(on_running: str, batch: Batch, *, is_full_build: bool) -> str:
    """Return what a task that starts now does about a running batch."""
    request = BuildRequest(is_full_build)
    waits = f"waits for it to end, then starts {request.a_kind} build"
    texts = {
        "join": "waits for it to end, because it began before the task and may lack its data; then uses a batch that "
        f"began after the task did, or starts {request.a_kind} build",
        "wait": waits,
        "attach": "waits for it and builds nothing; it may lack data that was loaded after it began"
        if request.is_met_by(batch)
        else f"{waits}: the running batch is not a full build",
        "skip": "skips the task; nothing is started",
        "fail": "fails the task; nothing is started",
    }
    return texts[on_running]
