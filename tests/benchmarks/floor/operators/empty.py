"""An operator that is nothing but an operator."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import BaseOperator


class Empty(BaseOperator):
    pass
