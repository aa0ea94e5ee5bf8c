"""What is done to the services and to Airflow's components, and the plays that only this suite has."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from e2e.processes import TookTooLongError, kill, let_pass, session_members, wait_for

from .celery_site import HEARTBEAT_TIMEOUT, CelerySite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from e2e.plays import Injury, Play
    from e2e.scene import Scene

#: How long a service is away.
OUTAGE = 20.0
#: Until all of many tasks have come so far, and until they have all ended.
MANY_SOON = 600.0
#: Below this a build is longer than the broker waits for the worker's word that a task is done.
VISIBILITY_TIMEOUT = 10


# --- a service is away --------------------------------------------------------------------------------------


def away(service: str) -> Injury:
    """Take a service away for a while, and do meanwhile what the plays want done."""

    def injure(site: Any, scenes: list[Scene]) -> None:
        if service == "api-server":
            _api_server_away(site, scenes)
            return
        server = getattr(site, service)
        server.stop()
        _meanwhile(scenes)
        server.start()
        site.settle()

    return injure


def _api_server_away(site: CelerySite, scenes: list[Scene]) -> None:
    # Frozen and not killed: the outage lasts as long as it should, however slowly another would start.
    (name,) = site.names("api-server")
    with frozen(session_members([site.components[name].child.pid])):
        _meanwhile(scenes)
    site.settle()


@contextmanager
def frozen(pids: list[int]) -> Iterator[None]:
    """Freeze processes for a while."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _meanwhile(scenes: list[Scene]) -> None:
    let_pass(1)
    for scene in scenes:
        if scene.meanwhile is not None:
            scene.meanwhile()
    let_pass(OUTAGE - 1)


def before_post(scene: Scene) -> Iterator[None]:
    """Hold the read before the POST until the service is away: the task comes to the POST meanwhile."""
    look = scene.hold("history")
    scene.start_run()
    scene.wait_held(look)
    scene.meanwhile = lambda: scene.release(look)
    yield
    scene.end_builds(timeout=MANY_SOON / 3)


def before_reply(scene: Scene) -> Iterator[None]:
    """Hold the reply to the POST until the service is away: the task has to store the id meanwhile."""
    post = scene.hold("start.created")
    scene.start_run()
    scene.wait_held(post)
    scene.meanwhile = lambda: scene.release(post)
    yield
    let_pass(2)
    scene.end_builds(timeout=MANY_SOON / 3)


def ends_meanwhile(scene: Scene) -> Iterator[None]:
    """End the batch while the service is away."""
    scene.start_run()
    scene.wait_waiting()
    scene.meanwhile = scene.end_builds
    yield


def over(scene: Scene) -> Iterator[None]:
    """Wait for the batch before and after the injury."""
    scene.start_run()
    scene.wait_waiting()
    yield
    scene.let_it_look(2)
    scene.end_builds()


# --- a worker is killed or stopped --------------------------------------------------------------------------


def worker_killed(victims: str) -> Play:
    """
    Kill a Celery worker.

    :param victims: ``machine``: all its processes; ``main``: Celery's main process; its pool dies with
        it, and the processes of the tasks do not.
    """

    def injure(site: Any, scenes: list[Scene]) -> None:
        names = _workers(site, scenes)
        for name in names:
            if victims == "machine":
                site.crash(name)
            else:
                site.dismiss(name)
                kill(site.components[name].child.pid)
        _meanwhile_now(scenes)
        site.replace(*names)

    return injure


def worker_stopped(number: int) -> Injury:
    """Shut the workers down: warm with SIGTERM, cold with SIGQUIT; others take their place."""

    def injure(site: Any, scenes: list[Scene]) -> None:
        names = _workers(site, scenes)
        for name in names:
            site.dismiss(name)
            os.kill(site.components[name].child.pid, number)
        let_pass(2)
        _meanwhile_now(scenes)
        site.replace(*names)

    return injure


def _workers(site: CelerySite, scenes: list[Scene]) -> list[str]:
    """Return the workers that run the scenes' tasks."""
    names = set()
    for scene in scenes:
        for task in scene.tasks():
            if task["state"] == "running" and task["pid"]:
                with suppress(ProcessLookupError):
                    names.add(site.worker_of(int(task["pid"])))
    assert names, "no worker runs a task of these cases"
    return sorted(names)


def _meanwhile_now(scenes: list[Scene]) -> None:
    for scene in scenes:
        if scene.meanwhile is not None:
            scene.meanwhile()


def held(at: str, *, then: str = "continue", ends: bool = False, waits: bool = True) -> Play:
    """
    Hold a request of the task, and go on with it after the worker was killed.

    :param at: where it is held.
    :param then: what becomes of it.
    :param ends: whether the batch ends before the retry comes.
    :param waits: whether the retry waits in this try.
    """

    def play(scene: Scene) -> Iterator[None]:
        request = scene.hold(at)
        scene.start_run()
        scene.wait_held(request)

        def go_on() -> None:
            scene.release(request, then)
            if ends:
                scene.end_builds()

        scene.meanwhile = go_on
        yield
        if ends:
            return
        if waits:
            # Else the batch of the try before would be ended before the retry has seen it run.
            scene.wait_state("running", "deferred", tries=2, timeout=HEARTBEAT_TIMEOUT * 3)
            scene.let_it_look(2)
        scene.end_builds(timeout=HEARTBEAT_TIMEOUT * 3)

    return play


def over_retry(scene: Scene) -> Iterator[None]:
    """Wait on a worker that is killed; the next try waits for the same batch."""
    scene.start_run()
    scene.wait_waiting()
    yield
    scene.wait_state("running", "deferred", tries=2, timeout=HEARTBEAT_TIMEOUT * 3)
    scene.let_it_look(3)
    scene.end_builds()


# --- a triggerer, a scheduler -------------------------------------------------------------------------------


def triggerer(deed: Callable[[CelerySite, str, list[Scene]], None]) -> Injury:
    """Do something to the triggerer that waits for the first of the scenes."""

    def injure(site: Any, scenes: list[Scene]) -> None:
        deed(site, site.triggerer_named(scenes[0].tasks()[0]["trigger_id"]), scenes)

    return injure


def kill_it(site: CelerySite, name: str, scenes: list[Scene]) -> None:
    """Kill the component, and start another."""
    site.crash(name)
    site.replace(name)


def stop_it(site: CelerySite, name: str, scenes: list[Scene]) -> None:
    """Stop the component as a process manager does, and start another."""
    site.dismiss(name)
    child = site.components[name].child
    os.kill(child.pid, signal.SIGTERM)
    with suppress(TookTooLongError):
        wait_for(lambda: child.poll() is not None, f"{name} to stop", 30)
    site.crash(name)
    site.replace(name)


def freeze_it(site: CelerySite, name: str, scenes: list[Scene]) -> None:
    """Freeze the component with its children until another has its triggers, then let it go on."""
    ids = [task["trigger_id"] for scene in scenes for task in scene.tasks()]
    with frozen(session_members([site.components[name].child.pid])):
        wait_for(
            lambda: all(site.triggerer_named(each) != name for each in ids), "another to take its triggers", 60
        )
        let_pass(3)
    let_pass(3)


def scheduler_killed(site: Any, scenes: list[Scene]) -> None:
    """Kill the scheduler that has queued the first scene's task; start another when its tasks are adopted."""
    name = site.scheduler_named(scenes[0].tasks()[0]["id"])
    site.crash(name)

    def adopted() -> bool:
        tasks = [task for scene in scenes for task in scene.tasks() if task["state"] == "running"]
        return all(site.scheduler_named(task["id"]) != name for task in tasks)

    wait_for(adopted, "the other scheduler to adopt the tasks", 60)
    site.replace(name)


# --- many builds --------------------------------------------------------------------------------------------


def many(count: int) -> Play:
    """Wait for so many builds at once, before and after the injury; then all end."""

    def play(scene: Scene) -> Iterator[None]:
        scene.models += [scene.add_model(number) for number in range(1, count)]
        scene.start_run(models=[model.name for model in scene.models])
        wait_for(lambda: scene.states().count("deferred") == count, f"{count} deferred tasks", MANY_SOON, 1)
        wait_for(lambda: _taken(scene) == count, f"{count} triggers in a triggerer", 60, 1)
        yield
        scene.end_builds(count)

    return play


def _taken(scene: Scene) -> int:
    ids = {task["trigger_id"] for task in scene.tasks()}
    rows = scene.site.query("select id, triggerer_id from trigger")
    return sum(trigger in ids and at is not None for trigger, at in rows)


def one_triggerer_killed(site: Any, scenes: list[Scene]) -> None:
    """Kill the triggerer that has the most triggers, and start none: the other has to take them all."""
    rows = site.query(
        "select j.hostname, count(*) from trigger t join job j on j.id = t.triggerer_id "
        "group by j.hostname order by 2 desc"
    )
    assert len(rows) == 2, f"not over two triggerers: {rows}"
    site.crash(rows[0][0])
    wait_for(
        lambda: (
            not site.query(
                "select 1 from trigger t join job j on j.id = t.triggerer_id where j.hostname = ?", rows[0][0]
            )
        ),
        "the other triggerer to take the triggers",
        60,
    )


# --- redelivery ---------------------------------------------------------------------------------------------


def redelivered(site: Any, scenes: list[Scene]) -> None:
    """Start a worker that has the broker deliver again what runs for longer than the visibility timeout."""
    option = "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT"
    name = site.start_component("worker", **{option: str(VISIBILITY_TIMEOUT)})
    site.wait_ready(name)
    said = "Task already running elsewhere"
    workers = site.names("worker")
    wait_for(
        lambda: sum(site.stable.output(each).count(said) for each in workers) >= len(scenes),
        "the tasks to be delivered again",
        90,
        1,
    )
