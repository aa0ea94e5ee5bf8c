"""How tasks keep their arguments."""

from __future__ import annotations

from typing import Any


class KeepsFields:
    """
    Keep a task's own arguments as they are, and give the others to Airflow's constructor.

    Airflow runs code of its own for each attribute of a task that is set. While a task is constructed that
    does nothing, but for a dozen arguments it takes longer than all else that a task of ours adds to
    Airflow's. So they are kept in one go; set later, an attribute goes through Airflow's code as always.

    :param base: The arguments of Airflow's classes.
    :param fields: The task's own.
    """

    def __init__(self, *, base: dict[str, Any], **fields: Any) -> None:
        super().__init__(**base)
        if KeepsFields in type(self).__bases__:
            vars(self).update(fields)
            return
        # A subclass of a user may have made a property of one.
        for name, value in fields.items():
            setattr(self, name, value)
