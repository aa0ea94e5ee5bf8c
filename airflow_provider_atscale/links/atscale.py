"""Lead from a task in Airflow to its build in AtScale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, TaskInstanceKey

XCOM_KEY = "_link_AtScaleBuildHistoryLink"


class AtScaleBuildHistoryLink(BaseOperatorLink):
    """
    Open AtScale's build history; works from the moment at which the batch is started.

    The task pushes the address under the link's XCom key right after the start, so that it is there in every mode,
    also if the task fails.
    """

    name = "AtScale Build History"

    @property
    def xcom_key(self) -> str:
        """The XCom key under which the address is kept."""
        return XCOM_KEY

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """
        Return the address that the task has pushed.

        :param operator: The operator.
        :param ti_key: The task instance.
        """
        running: Any = getattr(operator, "_task", None)
        if running is not None and (running.link or not running.is_resumed):
            # In the task's process, where Airflow logs an error for an XCom that was never pushed.
            return running.link or ""
        link: Any = XCom.get_value(key=XCOM_KEY, ti_key=ti_key)
        return link if isinstance(link, str) else ""
