"""Start a build as the operator does, and wait for it."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

from airflow_provider_atscale.api.models import kind_of
from airflow_provider_atscale.arguments import ON_RUNNING, parse_choice, parse_overrides
from airflow_provider_atscale.builds.request import BuildRequest
from airflow_provider_atscale.builds.start import BuildStarter
from airflow_provider_atscale.builds.state import BuildKey, BuildStateStore
from airflow_provider_atscale.builds.steps import BuildContext, OwnBatch, Skip
from airflow_provider_atscale.cli.exit_codes import DONE, NOT_STARTED, USAGE
from airflow_provider_atscale.cli.run import command
from airflow_provider_atscale.cli.watch import Waiter, WaitOptions
from airflow_provider_atscale.exceptions import (
    AtScaleConfigurationError,
    AtScaleConnectionError,
    AtScaleTimeoutError,
)
from airflow_provider_atscale.hooks.atscale import AtScaleHook
from airflow_provider_atscale.tasks.conclusion import WaitContext, conclude
from airflow_provider_atscale.waiting.policy import Ended, GaveUp

if TYPE_CHECKING:
    import argparse

    from airflow_provider_atscale.api.models import ModelRef
    from airflow_provider_atscale.cli.output import Output


@command
def build(options: argparse.Namespace, out: Output) -> int:
    """Ask, start a build, wait for it, and tell by the exit code how it ended."""
    request = _read_request(options)
    wait = WaitOptions.read(options)
    with closing(AtScaleHook(options.conn_id)) as hook:
        hook.edition.check_overrides(request.overrides)
        ref = hook.resolve_model(options.catalog, options.model)
        if not options.yes and not _is_confirmed(hook, ref, request, out):
            return USAGE
        waiter = Waiter(hook, ref, wait, out)
        try:
            batch = _obtain_batch(waiter, request)
        except Skip as skip:
            out.info(str(skip))
            out.document({"skipped": str(skip), "exit_code": NOT_STARTED})
            return NOT_STARTED
        out.info(
            f"Batch {batch.batch_id} ({batch.origin}). Build history: {hook.history_url(ref, batch.batch_id)}"
        )
        if options.no_wait:
            out.document({"batch_id": batch.batch_id, "catalog": ref.catalog_id, "model": ref.model_id})
            return DONE
        report = waiter.wait_for_end(
            batch.batch_id,
            origin=batch.origin,
            next_step=f"To go on waiting: watch {batch.batch_id}.",
            is_full_build=request.is_full_build,
        )
    out.document(report)
    return DONE


def _read_request(options: argparse.Namespace) -> BuildRequest:
    overrides: dict[str, str] = {}
    for pair in options.grace_period:
        dataset, separator, number = pair.partition("=")
        if not separator:
            raise AtScaleConfigurationError(f"--grace-period is {pair!r}; it must be DATASET=NUMBER.")
        overrides[dataset] = number
    return BuildRequest(
        options.full,
        parse_overrides(overrides, is_full_build=options.full),
        parse_choice(options.on_running, "--on-running", ON_RUNNING),
    )


def _is_confirmed(hook: AtScaleHook, ref: ModelRef, request: BuildRequest, out: Output) -> bool:
    kind = kind_of(request.is_full_build)
    question = f"{kind.capitalize()} build of {ref} at {hook.edition.base_url}"
    if not sys.stdin.isatty():
        raise AtScaleConfigurationError(
            f"{question}: nothing was started, because nobody can be asked. Give --yes."
        )
    out.note(f"{question}: start it? [y/N]")
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    out.note("Nothing was started.")
    return False


def _obtain_batch(waiter: Waiter, request: BuildRequest) -> OwnBatch:
    """Obtain a batch as a task does that is tried once."""
    hook, ref, options = waiter.hook, waiter.ref, waiter.options
    key = BuildKey(hook.edition.base_url, ref.catalog_id, ref.model_id, request.is_full_build, -1, 0, 0)
    hook.until = options.deadline.at if options.deadline else None
    state = BuildStateStore(_Memory(), key)
    advice = "look into the build history before you run the command again"
    context = BuildContext(hook, ref, request, state, waiter.out, advice=advice)

    def wait_for_other(other: str) -> None:
        result = waiter.wait(other)
        if not isinstance(result, Ended) and not (isinstance(result, GaveUp) and result.kind == "missing"):
            next_step = "Somebody else started it; this command has started nothing."
            conclude(result, WaitContext(hook.edition.base_url, ref, other, next_step=next_step), lambda: ())
        if options.is_over:
            raise AtScaleTimeoutError(
                f"Nothing was started: --timeout passed while batch {other} of {ref} at {hook.edition.base_url} "
                "ran, which has ended now."
            )

    try:
        return BuildStarter(context).obtain_own_batch(wait_for_other)
    except AtScaleConnectionError as error:
        if not options.is_over:
            raise
        raise AtScaleTimeoutError(f"Nothing was started: --timeout passed. {error}") from error


class _Memory(dict[str, Any]):
    """Keep the state of a build as long as the command runs: a lost start is searched for after each wait."""

    def set(self, key: str, value: Any) -> None:
        """Store a value."""
        self[key] = value
