"""Read from Airflow's configuration how long uncertainty is tolerated."""

from __future__ import annotations

from airflow_provider_atscale.waiting.policy import Tolerance


def tolerance() -> Tolerance:
    """Return how long doubt is borne, as the section ``[atscale]`` of Airflow's configuration says."""
    from airflow.providers.common.compat.sdk import conf

    standard = Tolerance()
    return Tolerance(
        missing=conf.getfloat("atscale", "missing_tolerance", fallback=standard.missing),
        trouble=conf.getfloat("atscale", "trouble_tolerance", fallback=standard.trouble),
        unknown=conf.getfloat("atscale", "unknown_tolerance", fallback=standard.unknown),
        settle=conf.getfloat("atscale", "settle_time", fallback=standard.settle),
    )
