"""A sensor that is nothing but a sensor."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import BaseSensorOperator


class Empty(BaseSensorOperator):
    pass
