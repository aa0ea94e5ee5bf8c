"""The calls that both editions of AtScale have, as a protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from airflow_provider_atscale.api.flow import Flow
    from airflow_provider_atscale.api.history import Found
    from airflow_provider_atscale.api.models import History, HistoryUnavailable, Instances, ModelRef
    from airflow_provider_atscale.api.start import StartOutcome


class Edition(Protocol):
    """
    One edition's calls, each a flow.

    ``history`` and ``batches`` differ in what they are for: ``history`` is read before and after a start to
    learn what runs, and says when it may not be read; ``batches`` is what a wait polls, knows the ids that it
    looks for and falls back to the batch's instances.
    """

    name: str
    base_url: str
    #: What a user needs to read the build history, as in "the role ...".
    view_right: str

    def resolve(self, catalog: str, model: str) -> Flow[ModelRef]:
        """Find a deployed model by ids, names or captions."""
        ...

    def models(self, catalog: str | None = None) -> Flow[list[ModelRef]]:
        """List the deployed models, of one catalog or of all."""
        ...

    def check_overrides(self, overrides: Mapping[str, Any]) -> None:
        """Raise where there are grace period overrides and the edition takes none; no request is sent."""
        ...

    def history(self, ref: ModelRef) -> Flow[History | HistoryUnavailable]:
        """Read a model's newest batches; return the reason as text where that is not possible."""
        ...

    def batches(self, ref: ModelRef, wanted: Collection[str]) -> Flow[Found]:
        """
        Look for batches of a model by their ids; those not listed yet are not in the answer.

        Where several are wanted, one that cannot be judged has its error there and is not the others' trouble.
        """
        ...

    def start(
        self,
        ref: ModelRef,
        *,
        is_full_build: bool,
        grace_period_overrides: Mapping[str, Any],
        before_post: Callable[[bool], None],
    ) -> Flow[StartOutcome]:
        """Start a batch, with one POST that is never repeated."""
        ...

    def instances(self, batch_id: str, ref: ModelRef | None = None) -> Flow[Instances]:
        """Read all aggregate instances of a batch."""
        ...

    def locate(self, batch_id: str) -> Flow[ModelRef | None]:
        """Find the model of a batch through the batch's instances; None while it has none."""
        ...

    def probe(self) -> Iterator[tuple[str, Flow[str]]]:
        """Return the steps that test a connection: what each step does, and the flow that does it."""
        ...

    def history_url(self, ref: ModelRef | None, batch_id: str | None) -> str:
        """Return the address at which people see the build history."""
        ...


def fill_history_url(template: str | None, default: str, ref: ModelRef | None, batch_id: str | None) -> str:
    """Return the configured address with its ids filled in, else the default."""
    if not template:
        return default
    values = {
        "catalog_id": ref.catalog_id if ref else "",
        "model_id": ref.model_id if ref else "",
        "batch_id": batch_id or "",
    }
    for name, value in values.items():
        template = template.replace("{" + name + "}", quote(value, safe=""))
    return template
