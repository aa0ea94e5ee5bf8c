"""What a task was asked to build."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_atscale.api.models import kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_atscale.api.models import Batch


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """
    The build that a task was asked for, its arguments checked.

    :param give_up_after: After how many failed batches of the kind no other is started; None: never.
    """

    is_full_build: bool
    overrides: Mapping[str, int | float] = field(default_factory=dict)
    on_running: str = "join"
    wait_for_completion: bool = True
    give_up_after: int | None = None

    @property
    def a_kind(self) -> str:
        """The kind with its article: ``a full`` or ``an incremental``."""
        return f"{'a' if self.is_full_build else 'an'} {kind_of(self.is_full_build)}"

    def is_met_by(self, batch: Batch) -> bool:
        """Return whether a batch is of the kind, or may be; a full one builds what an incremental one does."""
        return batch.is_full_build is not False or not self.is_full_build
