"""Let mapped tasks read well: by what they work on instead of by their number."""

from __future__ import annotations

from typing import Any

#: The database column that holds a mapped task's label is this wide.
WIDTH = 250
_MODEL = 'task.catalog ~ " / " ~ task.model'

BUILD_LABEL = f"{{{{ ({_MODEL})[:{WIDTH}] }}}}"
#: A sensor may know nothing but its batch.
BATCH_LABEL = f"{{{{ ({_MODEL} if task.catalog else task.batch_id or '')[:{WIDTH}] }}}}"


def label(partial: Any, template: str) -> Any:
    """
    Return a partial operator with a label for its mapped tasks, unless the user has chosen one.

    Airflow takes the template from what ``partial`` was given and never asks the operator itself.

    :param partial: What ``Operator.partial`` returned.
    :param template: The label.
    """
    if partial.kwargs.get("map_index_template") is None:
        partial.kwargs["map_index_template"] = template
    return partial
