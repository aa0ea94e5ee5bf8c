"""Wait for a batch on a worker."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from airflow_provider_atscale.exceptions import AtScaleTaskStoppedError
from airflow_provider_atscale.waiting.policy import Wait, WaitPolicy, WaitResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_atscale.api.observation import Observation
    from airflow_provider_atscale.waiting.progress import Progress
from airflow_provider_atscale.waiting.deadline import Deadline, timed_out


def wait_blocking(
    observe: Callable[[], Observation],
    watch: WaitPolicy,
    progress: Progress,
    deadline: Deadline | None,
    is_stopped: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> WaitResult:
    """
    Wait until a batch has ended, the judge gives up or a deadline passes; look a last time at the deadline.

    :param observe: Looks at the batch.
    :param watch: The judge.
    :param progress: The log.
    :param deadline: When to stop waiting.
    :param is_stopped: Whether somebody stopped the task.
    :param clock: Tells the epoch seconds.
    :param sleep: Lets time pass.
    """
    while True:
        if is_stopped():
            raise AtScaleTaskStoppedError(
                f"The task was stopped while it waited for {watch.subject}; the build goes on in AtScale."
            )
        observation = observe()
        now = clock()
        decision = watch.observe(observation, now, random.random())  # noqa: S311
        progress.note(observation, watch, decision, now)
        if not isinstance(decision, Wait):
            return decision
        if deadline is not None and now >= deadline.at:
            return timed_out(deadline, watch, now)
        left = decision.seconds if deadline is None else min(decision.seconds, deadline.at - now)
        sleep(max(left, 0.0))
