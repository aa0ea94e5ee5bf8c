"""Run the check of a model's aggregates: read once, judge, report."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

from airflow_provider_atscale.arguments import CHECK_ARGUMENTS, parse_arguments
from airflow_provider_atscale.builds.health import Thresholds, describe_misses, make_check_report
from airflow_provider_atscale.exceptions import AtScaleAggregateCheckError, AtScaleConfigurationError
from airflow_provider_atscale.tasks.base import RunningTask

#: The XCom of the report; it is also there if the check fails.
KEY = "check_result"


class CheckTask(RunningTask):
    """One run of the check operator."""

    def execute(self) -> dict[str, Any]:
        """Read the aggregates of the model and return the report; raise if the model misses a threshold."""
        given = parse_arguments(self.operator, CHECK_ARGUMENTS)
        thresholds = Thresholds(
            **{name: given[name] for name in ("max_failed", "min_active", "max_age", "min_rows")}
        )
        if thresholds.check_nothing:
            raise AtScaleConfigurationError(
                "There is nothing to check: max_failed and max_age are None, and min_active and min_rows are None "
                "or 0. Give at least one of them."
            )
        with closing(self.hook) as hook:
            ref = hook.resolve_model(given["catalog"], given["model"])
            self.publish_link(ref, None)
            instances = hook.get_model_instances(ref)
            server = hook.settings.base_url
        report = make_check_report(instances, thresholds, server=server, ref=ref, now=time.time())
        self.push(KEY, report)
        if report["truncated"]:
            self.log.warning(
                "AtScale lists %s aggregate instances of %s and may have more: the check can have missed some",
                len(instances),
                ref,
            )
        if report["misses"]:
            raise AtScaleAggregateCheckError(
                f"The aggregates of {ref} at {server} do not pass the check: {describe_misses(report)}. Build the "
                f"aggregates of the model, or correct the thresholds, and clear this task. See {self.link}."
            )
        self.log.info(
            "Passed: %s active, %s failed and %s pending aggregates, %s rows, the oldest of %s. %s at %s",
            *(report[name] for name in ("active", "failed", "pending", "rows", "oldest")),
            ref,
            server,
        )
        return report
