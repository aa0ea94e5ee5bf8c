"""An operator that has a link, and nothing else."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import BaseOperator, BaseOperatorLink


class Link(BaseOperatorLink):
    name = "Link"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:
        del operator, ti_key
        return ""


class Empty(BaseOperator):
    operator_extra_links = (Link(),)
