"""Lead from Airflow to AtScale; what a link is made of is imported when somebody asks for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_atscale.links.atscale import AtScaleBuildHistoryLink


class BuildHistoryLinks:
    """``operator_extra_links`` of a class, whose links a DAG file does not pay for."""

    def __get__(self, task: object, operator: type | None = None) -> tuple[AtScaleBuildHistoryLink]:
        from airflow_provider_atscale.links.atscale import AtScaleBuildHistoryLink

        return (AtScaleBuildHistoryLink(),)
