"""Wait for a batch on a worker."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from airflow_provider_atscale.exceptions import AtScaleTaskStoppedError
from airflow_provider_atscale.waiting.deadline import Deadline, timeout_result
from airflow_provider_atscale.waiting.policy import Wait, WaitPolicy, WaitResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_atscale.api.observation import Observation
    from airflow_provider_atscale.waiting.progress import Progress


def wait_blocking(
    observe: Callable[[], Observation],
    policy: WaitPolicy,
    progress: Progress,
    deadline: Deadline | None,
    is_stopped: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> WaitResult:
    """Wait until a batch has ended, the policy gives up or a deadline passes; poll a last time at the deadline."""
    while True:
        if is_stopped():
            raise AtScaleTaskStoppedError(
                f"The task was stopped while it waited for {policy.subject}; the build goes on in AtScale."
            )
        observation = observe()
        now = clock()
        decision = policy.observe(observation, now, random.random())  # noqa: S311
        progress.log_observation(observation, policy, now)
        if not isinstance(decision, Wait):
            return decision
        if deadline is not None and now >= deadline.at:
            return timeout_result(deadline, policy, now)
        left = decision.seconds if deadline is None else min(decision.seconds, deadline.at - now)
        sleep(max(left, 0.0))
