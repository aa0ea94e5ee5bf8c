"""List the deployed models."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING

from airflow_provider_atscale.cli.exit_codes import DONE
from airflow_provider_atscale.cli.run import command
from airflow_provider_atscale.hooks.atscale import AtScaleHook

if TYPE_CHECKING:
    import argparse

    from airflow_provider_atscale.api.models import ModelRef
    from airflow_provider_atscale.cli.output import Output


@command
def models(options: argparse.Namespace, out: Output) -> int:
    """List the models of one catalog or of all, with their ids."""
    with closing(AtScaleHook(options.conn_id)) as hook:
        refs: list[ModelRef] = hook.run(lambda edition: edition.models(options.catalog))
    out.document([asdict(ref) for ref in refs])
    if not refs:
        out.info("No model is deployed.")
    else:
        rows = [(ref.catalog, ref.model, ref.catalog_id, ref.model_id) for ref in refs]
        out.table(("catalog", "model", "catalog id", "model id"), rows)
    return DONE
