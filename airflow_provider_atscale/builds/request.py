"""What a task was asked to build."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """
    The build that a task was asked for, its arguments checked.

    :param is_full_build: Whether everything is rebuilt.
    :param overrides: Grace period overrides.
    :param on_running: What to do if a batch of the model already runs.
    :param wait_for_completion: Whether the task waits for its batch.
    :param give_up_after: After how many failed batches of the kind no other is started; None: never.
    """

    is_full_build: bool
    overrides: Mapping[str, int | float] = field(default_factory=dict)
    on_running: str = "join"
    wait_for_completion: bool = True
    give_up_after: int | None = None
