"""Name mapped tasks after their catalog and model instead of by number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

#: The database column that holds a mapped task's name is this wide.
WIDTH = 250
_MODEL = 'task.catalog ~ " / " ~ task.model'

BUILD_NAME = f"{{{{ ({_MODEL})[:{WIDTH}] }}}}"
# Without a name the number stays: of an empty name, the web UI shows nothing that one could click on.
#: The function of a decorated task may be what sets them.
DECORATED_NAME = f"{{{{ ({_MODEL})[:{WIDTH}] if task.catalog and task.model else ti.map_index }}}}"
#: A sensor may have nothing but its batch id.
BATCH_NAME = f"{{{{ ({_MODEL} if task.catalog else task.batch_id or ti.map_index | string)[:{WIDTH}] }}}}"


class NamedPartial:
    """
    ``Operator.partial`` that also names the mapped tasks, unless the user does.

    Airflow takes ``map_index_template`` from what ``partial`` was given, and never asks the operator itself.
    """

    def __init__(self, template: str) -> None:
        self._template = template
        self._owner: Any = None

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner = owner

    def __get__(self, task: Any, operator: type | None = None) -> Callable[..., Any]:
        # Asked of a task, Airflow's own returns a function that explains why that is wrong.
        asked: Any = operator if task is None else task
        inherited: Callable[..., Any] = super(self._owner, asked).partial  # type: ignore[misc]

        def partial(**kwargs: Any) -> Any:
            made = inherited(**kwargs)
            if made.kwargs.get("map_index_template") is None:
                made.kwargs["map_index_template"] = self._template
            return made

        return partial
