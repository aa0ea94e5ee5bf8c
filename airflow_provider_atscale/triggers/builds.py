"""
Start DAGs when builds end, no matter who started them: Design Center, AtScale's scheduler, another Airflow.

For Airflow 3.0 and newer, which call it event-driven scheduling: the trigger watches a model, and every batch
that ends becomes an event of the asset that the trigger is attached to.

Delivery guarantees
-------------------

===============  ===========================================================================================
Airflow          each batch that ends is an event
===============  ===========================================================================================
3.3 and newer    at least once, and rarely twice. The batches that have been reported are kept in Airflow's
                 asset state store. A batch is added only after Airflow has taken its event and confirmed that
                 it is stored, so builds that end while no triggerer runs are reported when one runs again. A
                 batch is reported twice if the triggerer dies, or the trigger is stopped, in the second or two
                 between event and confirmation, and if two triggerers run the trigger because each takes the
                 other for dead. The ``batch_id`` in the event identifies it.
3.0 to 3.2       at most once. These versions offer no state store: a triggerer that starts begins again, and
                 builds that end while none runs are never reported.
===============  ===========================================================================================

Builds that ended before a model was watched for the first time are not reported, on any version. One read shows
the newest hundred batches of a model: if more than that end while no triggerer runs, the oldest are missed.
Airflow watches nothing for a paused DAG; after it is unpaused, 3.3 and newer report what ended meanwhile.
Without the permission to read the build history nothing is reported, and the triggerer's log says why.
Airflow itself may start one DAG run for several events that come close together.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowOptionalProviderFeatureException

try:
    from airflow.triggers.base import BaseEventTrigger
except ImportError:
    raise AirflowOptionalProviderFeatureException(
        "AtScaleBuildEventTrigger needs Airflow 3.0 or newer: older versions cannot schedule DAGs on external "
        "events. Schedule the DAG by time and let an AtScaleBatchSensor wait for the model's newest batch."
    ) from None
try:
    from airflow.triggers.shared_stream import SharedStreamProducer
except ImportError:
    # Airflow before 3.3: each trigger polls for itself.
    SharedStreamProducer = None  # type: ignore[assignment, misc, unused-ignore]

from airflow_provider_atscale.arguments import parse_choice, parse_name, parse_seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable

    from airflow.triggers.base import TriggerEvent

    from airflow_provider_atscale.triggers.build_events import BuildEvents, HistorySnapshot

OUTCOMES = ("any", "succeeded", "failed")


class AtScaleBuildEventTrigger(BaseEventTrigger):
    """
    Watch a model, and report each batch that ends; never start or stop anything.

    For an asset watcher:
    ``Asset(..., watchers=[AssetWatcher(name=..., trigger=AtScaleBuildEventTrigger(...))])``.
    The event's payload is the report of the batch, without what only its aggregates could tell. Do not make an
    asset with such a watcher also the outlet of a task that builds the model: the batch would be two events.

    Triggers of one triggerer that watch the same model share one read of its history (Airflow 3.3+).

    :param catalog: Id, name or caption of the catalog; on the installer edition of the project.
    :param model: Id, name or caption of the model; on the installer edition of the cube.
    :param outcome: Which batches to report: ``any``, the default, ``succeeded`` or ``failed``.
    :param atscale_conn_id: The :ref:`Airflow connection <howto/connection:atscale>`.
    :param poll_interval: The longest time between two polls, in seconds; while a batch runs, polls follow its
        length. Default: 60.
    """

    def __init__(
        self,
        *,
        catalog: str,
        model: str,
        outcome: str = "any",
        atscale_conn_id: str = "atscale_default",
        poll_interval: float = 60,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.catalog = parse_name(catalog, "catalog")
        self.model = parse_name(model, "model")
        self.outcome = parse_choice(outcome, "outcome", OUTCOMES)
        self.atscale_conn_id = parse_name(atscale_conn_id, "atscale_conn_id")
        self.poll_interval = parse_seconds(poll_interval, "poll_interval")

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, all of them JSON values and none of them secret."""
        return (
            "airflow_provider_atscale.triggers.builds.AtScaleBuildEventTrigger",
            {
                "catalog": self.catalog,
                "model": self.model,
                "outcome": self.outcome,
                "atscale_conn_id": self.atscale_conn_id,
                "poll_interval": self.poll_interval,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll for this trigger alone, and yield an event for each batch that has ended."""
        # Nothing is confirmed here: Airflow before 3.3 has no store that could keep it.
        snapshots = _build_events().poll_history(
            self.atscale_conn_id, self.catalog, self.model, self.poll_interval
        )
        async for snapshot in snapshots:
            async for event in self._events.report(snapshot):
                yield event

    # --- shared polling (Airflow 3.3+) ---

    def shared_stream_key(self) -> Hashable | None:
        """Return what triggers that share their polls have in common; None if Airflow confirms no events."""
        if SharedStreamProducer is None:
            return None
        return (__name__, self.atscale_conn_id, self.catalog, self.model, self.poll_interval)

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> Any:
        """
        Return the producer that polls for all triggers with the same key.

        :param kwargs: The arguments of one of them.
        """
        events = _build_events()
        return events.make_producer(
            events.poll_history(
                kwargs["atscale_conn_id"], kwargs["catalog"], kwargs["model"], kwargs["poll_interval"]
            )
        )

    async def filter_shared_stream(
        self, shared_stream: AsyncIterator[HistorySnapshot]
    ) -> AsyncIterator[TriggerEvent]:
        """
        Yield an event for each batch that has ended, from snapshots that are shared.

        :param shared_stream: The snapshots.
        """
        async for snapshot in shared_stream:
            self._events.confirm_unclear()
            async for event in self._events.report(snapshot):
                yield event

    @cached_property
    def _events(self) -> BuildEvents:
        events: BuildEvents = _build_events().BuildEvents(self)
        return events


def _build_events() -> Any:
    """Return the module that only a triggerer needs: a DAG file loads nothing of it."""
    from airflow_provider_atscale.triggers import build_events

    return build_events
