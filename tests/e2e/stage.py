"""
Play the cases: side by side in one Airflow where they injure only what is their own, one injury after the other
where they injure Airflow itself.

A lane is an engine, a connection to it and one case at a time, so that whatever a case does to its engine
concerns no other case.
"""

from __future__ import annotations

import queue
import re
import secrets
import threading
import time
import traceback
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .airflow_site import Site
from .engines import Engine
from .processes import STOPPING, wait_for
from .scene import Observed, Scene

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from .cases import Case
    from .plays import Injury
    from .processes import Stable

#: So many cases at a time. Most of a case is waiting, but starting a task costs a second of CPU.
AT_ONCE = 8
#: Of the lanes.
EDITIONS = ("container",) * 6 + ("installer",) * 2


@dataclass(frozen=True)
class Outcome:
    """
    How a case went.

    :param case: the case.
    :param observed: what was seen, None where nothing was.
    :param trouble: why the case was not played to its end.
    :param seconds: how long it took.
    """

    case: Case
    observed: Observed | None
    trouble: str | None
    seconds: float

    def differences(self) -> list[str]:
        """Say what was seen otherwise than expected."""
        found = [f"not played to its end: {self.trouble}"] if self.trouble else []
        return found + (self.case.differences(self.observed) if self.observed else [])


class Lane:
    """
    An engine, and the connection to it.

    :param stable: who starts processes.
    :param number: which one.
    :param edition: of the engine.
    """

    def __init__(self, stable: Stable, number: int, edition: str) -> None:
        self.engine = Engine(stable, f"engine-{number}", edition)
        self.conn_id = f"lane_{number}"
        self.secrets: set[str] = set()

    def prepare(self, site: Site, auth: str) -> dict[str, Any]:
        """Give the engine a new token, and Airflow the connection with it, which is returned."""
        self.engine.api_token = self.engine.control.rotate_api_token(f"e2e-api-token-{secrets.token_hex(16)}")
        connection = self.engine.connection(auth)
        site.api.keep_connection(self.conn_id, connection)
        return connection

    def tidy(self) -> None:
        """Undo what a case has done to the engine, and note the credentials that were in use."""
        control = self.engine.control
        control.reset()
        control.settings(history_delay=0, on_second_start="allow")
        self.secrets |= {self.engine.api_token, self.engine.password, self.engine.client_api_key}
        for request in control.requests:
            bearer = re.fullmatch(r"Bearer (.+)", request.headers.get("Authorization", ""))
            if bearer:
                self.secrets.add(bearer[1])
        for batch in control.batches:
            if batch.ended is None:
                control.end_batch(batch.id)
        control.clear_requests()


class Stage:
    """
    Play cases.

    :param stable: who starts processes.
    :param home: Airflow's home.
    :param cases: the cases to play.
    :param site: Airflow, if it is not the usual one.
    :param editions: of the lanes.
    """

    def __init__(
        self,
        stable: Stable,
        home: Path,
        cases: Iterable[Case],
        *,
        site: Site | None = None,
        editions: Sequence[str] = EDITIONS,
    ) -> None:
        self.site = site or Site(stable, home)
        self.scenes: list[Scene] = []
        self.lanes = [Lane(stable, number, edition) for number, edition in enumerate(editions)]
        self._free: dict[str, queue.SimpleQueue[Lane]] = {name: queue.SimpleQueue() for name in editions}
        self._futures: dict[str, Future[Outcome]] = {case.id: Future() for case in cases}
        self._cases = list(cases)
        self._director = threading.Thread(target=self._direct, name="director", daemon=True)

    def open(self) -> None:
        """Start everything, and begin to play."""
        with ThreadPoolExecutor(len(self.lanes)) as pool:
            list(pool.map(lambda lane: lane.engine.start(), self.lanes))
        for lane in self.lanes:
            self._free[lane.engine.edition].put(lane)
        self.site.start()
        self._director.start()

    def outcome(self, case: Case) -> Outcome:
        """Wait for a case's outcome."""
        # Far more than any case takes: cases wait for their turn, and each is bounded by itself.
        return self._futures[case.id].result(1800)

    @property
    def has_cases(self) -> bool:
        """Whether any case was selected."""
        return bool(self._cases)

    def wait_all(self) -> None:
        """Wait until all cases were played."""
        for future in self._futures.values():
            future.result(1800)

    def close(self) -> None:
        """Begin nothing new, and end what is under way."""
        STOPPING.set()
        if self._director.is_alive():
            self._director.join(30)
        self.site.close()

    # --- the order of play ---

    def _direct(self) -> None:
        try:
            self._play_all()
        except BaseException as error:
            self._give_up(f"the stage broke down: {error!r}")
            raise

    def _play_all(self) -> None:
        alone = [case for case in self._cases if case.injury is None]
        together: dict[Injury, list[Case]] = defaultdict(list)
        for case in self._cases:
            if case.injury is not None:
                together[case.injury].append(case)
        with ThreadPoolExecutor(min(len(self.lanes), AT_ONCE)) as pool:
            # Longest first, so that no long one is the last to run alone.
            for case in sorted(alone, key=lambda case: -case.seconds):
                pool.submit(self._play, case)
        for group in together.values():
            if STOPPING.is_set():
                break
            self._play_together(group)
        self._give_up("the suite was stopped")

    def _give_up(self, why: str) -> None:
        for case in self._cases:
            if not self._futures[case.id].done():
                self._futures[case.id].set_result(Outcome(case, None, why, 0))

    def _play(self, case: Case) -> None:
        began = time.monotonic()
        if STOPPING.is_set():
            self._futures[case.id].set_result(Outcome(case, None, "the suite was stopped", 0))
            return
        lane = self._free[case.edition].get()
        scene = observed = trouble = None
        try:
            scene = self._set(case, lane)
            case.play(scene)
            observed = self._finish(case, scene)
        except Exception:
            trouble = traceback.format_exc(limit=-4)
            observed = self._look_again(scene)
        finally:
            self._clear_away(scene, lane)
        self._futures[case.id].set_result(Outcome(case, observed, trouble, time.monotonic() - began))

    def _play_together(self, cases: list[Case]) -> None:
        began = time.monotonic()
        lanes = [self._free[case.edition].get() for case in cases]
        scenes: list[Scene] = []
        troubles: dict[str, str] = {}
        seen: dict[str, Observed] = {}
        plays: dict[str, Iterator[None]] = {}

        def step(case: Case, scene: Scene, *, last: bool) -> None:
            try:
                next(plays[case.id], None)
                if last:
                    seen[case.id] = self._finish(case, scene)
            except Exception:
                troubles[case.id] = traceback.format_exc(limit=-4)
                after = self._look_again(scene)
                if after is not None:
                    seen[case.id] = after

        try:
            for case, lane in zip(cases, lanes, strict=True):
                scene = self._set(case, lane)
                scenes.append(scene)
                plays[case.id] = case.play(scene)  # type: ignore[assignment]
            with ThreadPoolExecutor(len(cases)) as pool:
                list(pool.map(lambda pair: step(*pair, last=False), zip(cases, scenes, strict=True)))
                assert cases[0].injury is not None
                cases[0].injury(self.site, scenes)
                list(pool.map(lambda pair: step(*pair, last=True), zip(cases, scenes, strict=True)))
        except Exception:
            for case in cases:
                troubles.setdefault(case.id, traceback.format_exc(limit=-4))
        finally:
            for number, lane in enumerate(lanes):
                self._clear_away(scenes[number] if number < len(scenes) else None, lane)
        for case in cases:
            outcome = Outcome(case, seen.get(case.id), troubles.get(case.id), time.monotonic() - began)
            self._futures[case.id].set_result(outcome)

    # --- one case ---

    def _set(self, case: Case, lane: Lane) -> Scene:
        connection = lane.prepare(self.site, case.auth)
        name = re.sub(r"\W+", "_", case.id)
        scene = Scene(self.site, lane.engine, name, case.mode, lane.conn_id, connection)
        self.scenes.append(scene)
        return scene

    @staticmethod
    def _finish(case: Case, scene: Scene) -> Observed:
        wait_for(scene.is_over, "the end of the runs", case.to_the_end, 0.3)
        return scene.observe()

    @staticmethod
    def _look_again(scene: Scene | None) -> Observed | None:
        """Return what can be seen of a case that went wrong."""
        with suppress(Exception):
            return scene.observe() if scene is not None else None
        return None

    def _clear_away(self, scene: Scene | None, lane: Lane) -> None:
        try:
            if scene is not None:
                scene.leave()
            lane.tidy()
        except Exception:
            traceback.print_exc()
        self._free[lane.engine.edition].put(lane)
