"""Let many tasks need one model at once, by each way of ``on_running``, in simulated time; print the counts as JSON."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from unit.flows import NOW
from unit.join_world import STANDARD, Chooser, Made, Plan, Task, World

from airflow_provider_atscale.exceptions import AtScaleError

#: Seconds that a batch takes, and within which all tasks arrive: some of them just before its end.
LENGTH = ARRIVALS = 60.0
NUMBERS = (2, 10, 50, 200)


class Timed(World):
    """
    A world in which each step takes its time, and the one whose turn comes first goes on.

    :param plan: What is simulated.
    :param seed: Of the times.
    """

    def __init__(self, plan: Plan, seed: int) -> None:
        super().__init__(plan, Chooser())
        self._random = random.Random(seed)

    def run(self) -> World:
        while left := [task for task in self.tasks if task.state != "ended"]:
            task = min(left, key=_moment)
            self.now = max(self.now, _moment(task))
            self._go_on(task)
        return self

    def _stop(self, task: Task, until: float = 0.0) -> None:
        seen = until + self._random.uniform(0.2, 2.0) if until else self.now + self._random.uniform(0.05, 0.15)
        super()._stop(task, seen)

    def _sleep(self, task: Task, seconds: float) -> None:
        super()._stop(task, self.now + seconds)

    def _chance(self) -> float:
        return self._random.random()


class Reusing(Timed):
    """The same tasks by dbt Cloud's rule: take the newest run that has not ended, else start one."""

    def _try(self, task: Task) -> Made:
        self._stop(task)
        running = [each for each in self.batches if each.ends > self.now]
        if running:
            mine = running[-1]
        else:
            self._stop(task)
            if any(each.ends > self.now for each in self.batches):
                raise AtScaleError("refused")
            self.events += 1
            mine = Made(str(self.events), self.events, self.now, self.now + LENGTH, task.request, task.number)
            self.batches.append(mine)
        self._stop(task, mine.ends)
        return mine


def _moment(task: Task) -> float:
    return task.arrival if task.state == "new" else task.wakes


def measure(number: int) -> dict[str, Any]:
    """Return what becomes of so many tasks, by each way."""
    times = random.Random(number)
    arrivals = (0.0, *sorted(times.uniform(0.0, ARRIVALS) for _ in range(number - 1)))
    found = {}
    for way in ("join", "wait", "attach", "as dbt Cloud reuses"):
        known = way if way in ("join", "wait", "attach") else "join"
        plan = Plan((replace(STANDARD, on_running=known),) * number, arrivals, (LENGTH,), passing=0)
        world = (Timed if way == known else Reusing)(plan, number)
        world.run()
        greens = [green for task in world.tasks for green in task.green]
        found[way] = {
            "builds": len(world.batches),
            "seconds": world.now - NOW,
            "stale": sum(batch.number < loaded for loaded, batch in greens),
        }
    return found


if __name__ == "__main__":
    most = int(sys.argv[1])
    print(json.dumps({str(number): measure(number) for number in NUMBERS if number <= most}))
