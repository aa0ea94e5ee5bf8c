"""Say in words what each value of ``on_running`` does about a batch that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_atscale.builds.request import BuildRequest

if TYPE_CHECKING:
    from airflow_provider_atscale.api.models import Batch


def explain_on_running(on_running: str, batch: Batch, *, is_full_build: bool) -> str:
    """Return what a task that starts now does about a running batch."""
    request = BuildRequest(is_full_build)
    waits = f"waits for it to end, then starts {request.a_kind} build"
    texts = {
        "join": "waits for it to end, because it began before the task and may lack its data; then uses a batch that "
        f"began after the task did, or starts {request.a_kind} build",
        "wait": waits,
        "attach": "waits for it and builds nothing; it may lack data that was loaded after it began"
        if request.is_met_by(batch)
        else f"{waits}: the running batch is not a full build",
        "skip": "skips the task; nothing is started",
        "fail": "fails the task; nothing is started",
    }
    return texts[on_running]
