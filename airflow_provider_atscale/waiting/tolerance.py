"""Read from Airflow's configuration how long uncertainty is tolerated."""

from __future__ import annotations

from airflow_provider_atscale.waiting.policy import Tolerance


def load_tolerance() -> Tolerance:
    """Return how long uncertainty is tolerated, from the section ``[atscale]`` of Airflow's configuration."""
    from airflow.providers.common.compat.sdk import conf

    default = Tolerance()
    return Tolerance(
        missing=conf.getfloat("atscale", "missing_tolerance", fallback=default.missing),
        trouble=conf.getfloat("atscale", "trouble_tolerance", fallback=default.trouble),
        unknown=conf.getfloat("atscale", "unknown_tolerance", fallback=default.unknown),
        confirm_end_after=conf.getfloat("atscale", "settle_time", fallback=default.confirm_end_after),
    )
