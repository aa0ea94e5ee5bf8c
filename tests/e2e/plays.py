"""
What is done to the tasks: each function plays one case until nothing is left to be injured.

A moment is hit by having the engine hold a request until the deed is done. Where a deed needs a duration (an
engine that is away for twenty seconds) it begins at such a moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .processes import freeze, kill, let_pass, reads_from_supervisor, wait_for
from .scene import AFTER_THE_WINDOW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .airflow_site import Site
    from .scene import Scene

    Play = Callable[[Scene], Iterator[None] | None]
    Injury = Callable[[Site, list[Scene]], None]

#: An outage. Longer ones differ only in the number of polls, and the suite has to end some day.
OUTAGE = 20.0


def decorated(play: Play) -> Play:
    """Play with a task that ``@task.atscale_build`` has made."""

    def play_decorated(scene: Scene) -> Iterator[None] | None:
        scene.kind = "decorated"
        return play(scene)

    return play_decorated


# --- a worker is killed -----------------------------------------------------------------------------------


def killed_before_post(victims: str) -> Play:
    """Kill while the read of the history before the POST is under way; then retry and orphan race."""

    def play(scene: Scene) -> None:
        hold = scene.hold("history", times=2)
        scene.start_run()
        scene.wait_held(hold)
        scene.kill_worker(victims)
        scene.wait_held(hold, 2)
        scene.release(hold)
        scene.end_builds()

    return play


def killed_as_post_arrives(victims: str) -> Play:
    """Kill when the POST has arrived and has made no batch; it makes one only after the retry has looked."""

    def play(scene: Scene) -> None:
        post = scene.hold("start.received")
        scene.start_run()
        scene.wait_held(post)
        scene.kill_worker(victims)
        look = scene.hold("history")
        scene.wait_held(look)
        # The look of the retry is answered first, then the batch is made: the worst order there is.
        scene.release(look)
        scene.release(post)
        scene.end_builds()

    return play


def killed_and_post_lost(victims: str) -> Play:
    """Kill when the POST has arrived, and let the POST get lost there."""

    def play(scene: Scene) -> None:
        post = scene.hold("start.received")
        scene.start_run()
        scene.wait_held(post)
        scene.kill_worker(victims)
        scene.release(post, "drop")
        scene.end_builds(timeout=AFTER_THE_WINDOW)

    return play


def killed_before_reply(victims: str) -> Play:
    """Kill when the batch is made and the reply is not sent."""

    def play(scene: Scene) -> None:
        post = scene.hold("start.created")
        scene.start_run()
        scene.wait_held(post)
        scene.kill_worker(victims)
        scene.wait_try(2)
        # Only now the orphan, where there is one, gets its reply.
        scene.release(post)
        scene.end_builds()

    return play


def killed_before_store(victims: str) -> Play:
    """
    Kill between the reply and the store of the id.

    The task's process is frozen until the reply lies in its socket, and dies before it has read it. Where
    the task's process shall live on, its supervisor is frozen instead, and dies while the task waits for it to
    store the id.
    """

    def play(scene: Scene) -> None:
        post = scene.hold("start.created")
        scene.start_run()
        scene.wait_held(post)
        worker = scene.worker()
        if victims == "supervisor":
            freeze(worker.supervisor)
            scene.release(post)
            wait_for(lambda: reads_from_supervisor(worker.task), "the task to store the id", 30)
        else:
            freeze(worker.task)
            scene.release(post)
            wait_for(lambda: _was_answered(scene), "the engine's reply", 30)
        kill(*scene.pids(worker, victims))
        scene.end_builds()

    return play


def _was_answered(scene: Scene) -> bool:
    return any(each.status is not None for each in scene.posts())


def killed_while_waiting(victims: str) -> Play:
    """Kill while the batch is looked at after the id was stored; a deferrable task is about to defer then."""

    def play(scene: Scene) -> None:
        post = scene.hold("start.created")
        scene.start_run()
        scene.wait_held(post)
        look = scene.hold("history")
        scene.release(post)
        scene.wait_held(look)
        scene.kill_worker(victims)
        scene.release(look)
        scene.wait_try(2)
        scene.end_builds()

    return play


def killed_while_judging(victims: str) -> Play:
    """Kill when the batch has ended and its aggregates are being read, after the wait in the triggerer."""

    def play(scene: Scene) -> None:
        scene.start_run()
        scene.wait_waiting()
        read = scene.hold("instances")
        scene.end_builds()
        scene.wait_held(read)
        scene.kill_worker(victims)
        scene.release(read)

    return play


def killed_after_anothers(victims: str) -> Play:
    """Wait for somebody else's batch first; kill when the own one is made and the reply is not sent."""

    def play(scene: Scene) -> None:
        other = scene.control.start_batch(None, scene.model.id)
        scene.start_run()
        scene.wait_waiting(batches=0)
        post = scene.hold("start.created")
        scene.control.end_batch(other.id)
        scene.wait_held(post)
        scene.kill_worker(victims)
        scene.release(post)
        scene.end_builds()

    return play


# --- the engine or the way to it fails --------------------------------------------------------------------


def undisturbed(scene: Scene) -> None:
    """Let nothing happen."""
    scene.start_run()
    scene.wait_waiting()
    scene.end_builds()


def batch_is_late(scene: Scene) -> None:
    """Let the batch run until the wait has warned that it is late; report and progress say so, too."""
    scene.start_run(warn_after=3)
    scene.wait_waiting()
    wait_for(lambda: "Late: not done after" in _logs(scene), "the warning", 60)
    scene.end_builds()
    scene.wait_state("success")
    dag_id, run_id = scene.runs[0]
    report, progress = (scene.site.api.xcom(dag_id, run_id, key) for key in ("batch_result", "progress"))
    assert (report["late"], progress["late"], progress["status"]) == (True, True, "done")


def engine_restarts(scene: Scene) -> None:
    """Kill the engine while the task waits, and start it again with the batches that it had."""
    scene.start_run()
    scene.wait_waiting()
    scene.engine.crash()
    let_pass(OUTAGE / 4)
    scene.engine.start()
    scene.let_it_look()
    scene.end_builds()


def engine_away(scene: Scene) -> None:
    """Answer 503 to everything for a while."""
    scene.start_run()
    scene.wait_waiting()
    scene.control.fault(503, times=None)
    let_pass(OUTAGE)
    # Not one lucky answer in all that time.
    scene.let_it_look()
    scene.control.clear_faults()
    scene.let_it_look()
    scene.end_builds()


def engine_away_before(scene: Scene) -> None:
    """Answer 503 to everything before the POST, for longer than one try bears."""
    scene.control.fault(503, times=None)
    scene.start_run()
    scene.wait_state("running", "up_for_retry", "queued", "scheduled")
    let_pass(OUTAGE)
    scene.control.clear_faults()
    scene.end_builds()


def reply_fails(action: str | int, when: str = "after") -> Play:
    """Let the reply to the POST go wrong."""

    def play(scene: Scene) -> None:
        scene.control.fault(action, route="start", **scene.in_start, when=when)
        scene.start_run()
        scene.end_builds(timeout=AFTER_THE_WINDOW)

    return play


def late_history(then: Play) -> Play:
    """List batches in the history only after twenty seconds."""

    def play(scene: Scene) -> None:
        scene.control.settings(history_delay=OUTAGE)
        then(scene)

    return play


def late_reply_cut(scene: Scene) -> None:
    """Cut the reply to the POST."""
    reply_fails("cut")(scene)


# --- credentials ------------------------------------------------------------------------------------------


def token_expires(scene: Scene) -> None:
    """Let the JWTs expire while the task waits."""
    scene.start_run()
    scene.wait_waiting()
    scene.control.expire_tokens()
    scene.let_it_look(2)
    scene.end_builds()


def token_is_rotated(scene: Scene) -> None:
    """Revoke the API token while the task waits; then write a new one into the connection."""
    scene.start_run()
    scene.wait_waiting()
    scene.control.revoke_api_token()
    scene.control.expire_tokens()
    wait_for(lambda: _refusals(scene) >= 1, "a refused token exchange", 60)
    scene.engine.api_token = scene.control.rotate_api_token(scene.engine.api_token + "-new")
    scene.site.api.keep_connection(scene.conn_id, scene.engine.connection("api_token"))
    wait_for(lambda: _is_seen_again(scene), "an accepted look with the new token", 60)
    scene.end_builds()


def _refusals(scene: Scene) -> int:
    return sum(each.route == "token" and each.status == 401 for each in scene.control.requests)


def _is_seen_again(scene: Scene) -> bool:
    looks = [each for each in scene.control.requests if each.route == "history"]
    return bool(looks) and looks[-1].status == 200


def token_is_revoked(scene: Scene) -> None:
    """Revoke the API token while the task waits, for good."""
    scene.start_run()
    scene.wait_waiting()
    scene.control.revoke_api_token()
    scene.control.expire_tokens()
    scene.wait_state("failed", timeout=150)
    scene.end_builds()


def secrets_come_back(scene: Scene) -> None:
    """Send credentials back in error texts while the task waits, as careless gateways do."""
    scene.start_run()
    scene.wait_waiting()
    sent = next(
        each.headers["Authorization"] for each in reversed(scene.control.requests) if each.route == "history"
    )
    text = f"no such session: {sent} {scene.connection['password']}"
    scene.control.fault(500, route="history", query=scene.model.id, body={"message": text}, times=3)
    scene.let_it_look(4)
    scene.end_builds()


# --- people, and other tasks ------------------------------------------------------------------------------


def marked_failed(scene: Scene) -> None:
    """Mark the task as failed while it waits."""
    scene.start_run()
    scene.wait_waiting()
    scene.site.api.mark(*scene.runs[0], "failed")
    scene.wait_state("failed")
    wait_for(scene.is_over, "the run's end", 60)
    wait_for(lambda: "goes on in AtScale" in _logs(scene), "what on_kill says", 30)
    scene.end_builds()


def _logs(scene: Scene) -> str:
    return "\n".join(text for run in scene.runs for text in scene.site.logs(*run).values())


def cleared_while_waiting(scene: Scene) -> None:
    """Clear the task while it waits for its batch."""
    scene.start_run()
    scene.wait_waiting()
    scene.site.api.clear(*scene.runs[0])
    scene.wait_try(2)
    scene.end_builds()
    scene.end_builds(2)


def cleared_when_green(scene: Scene) -> None:
    """Clear the task after it has succeeded."""
    scene.start_run()
    scene.end_builds()
    scene.wait_state("success")
    wait_for(scene.is_over, "the run's end", 60)
    scene.site.api.clear(*scene.runs[0])
    scene.end_builds(2)
    scene.wait_state("success", tries=2)


def siblings_cleared(scene: Scene) -> None:
    """Clear three mapped tasks at once while each waits for its batch."""
    scene.models += [scene.add_model(1), scene.add_model(2)]
    scene.start_run(models=[model.name for model in scene.models])
    scene.wait_waiting(3)
    scene.site.api.clear(*scene.runs[0])
    scene.wait_try(2)
    scene.end_builds(3)
    scene.end_builds(6)


def at_once(mapped: bool, *, on_running: str = "wait") -> Play:
    """
    Build one model twice at once: both see no batch that runs, both post, and AtScale refuses one.

    :param mapped: two mapped tasks of one run, or two runs.
    """

    def play(scene: Scene) -> None:
        scene.control.settings(on_second_start="500")
        first = scene.hold("history", times=2)
        if mapped:
            scene.start_run(models=[scene.model.name] * 2, on_running=on_running)
        else:
            scene.start_run(on_running=on_running)
            scene.start_run(on_running=on_running)
        scene.wait_held(first, 2)
        scene.release(first)
        scene.wait_batches(1)
        scene.wait_posts(2)
        if on_running in ("skip", "fail"):
            wait_for(lambda: set(scene.states()) & {"skipped", "failed"}, "the one that does not build", 60)
        else:
            scene.wait_try(1)
        scene.end_builds()
        if on_running == "wait":
            scene.end_builds(2)

    return play


def joined_by_many(scene: Scene) -> Iterator[None]:
    """
    Let three DAGs and twenty mapped tasks of a fourth need one model at once, and injure them in the middle.

    The worker of the first one dies between the start and its reply. While all wait in the triggerer, the injury.
    """
    reply = scene.hold("start.created")
    scene.start_run(on_running="join")
    scene.wait_held(reply)
    scene.kill_worker("both")
    scene.release(reply)
    for dag in ("two", "three"):
        scene.start_run(dag, on_running="join")
    scene.start_run(models=[scene.model.name] * 20, on_running="join")
    wait_for(lambda: len(scene.tasks()) == 23, "all tasks", 120)
    scene.wait_state("deferred", timeout=240)
    scene.wait_triggered()
    yield
    scene.let_it_look(2)
    scene.end_builds()
    scene.end_builds(2)


# --- Airflow's own components -----------------------------------------------------------------------------
#
# These plays pause where they yield, for one injury that all of them meet.


def over(scene: Scene) -> Iterator[None]:
    """Wait for the own batch before and after the injury."""
    scene.start_run()
    scene.wait_waiting()
    yield
    scene.let_it_look(2)
    scene.end_builds()


def over_before_own(scene: Scene) -> Iterator[None]:
    """Wait for somebody else's batch before and after the injury, then build."""
    other = scene.control.start_batch(None, scene.model.id)
    scene.start_run()
    scene.wait_waiting(batches=0)
    yield
    scene.let_it_look(2)
    scene.control.end_batch(other.id)
    scene.end_builds()


def over_sync(scene: Scene) -> Iterator[None]:
    """Wait on a worker that the injury makes an orphan; the next try waits on another."""
    scene.start_run()
    scene.wait_waiting()
    scene.worker()
    yield
    scene.wait_try(2)
    scene.end_builds()


def triggerer_killed(victims: str) -> Injury:
    """Kill the triggerer, and start another."""

    def injure(site: Site, scenes: list[Scene]) -> None:
        (number,) = site.triggerers
        site.crash_triggerer(number, victims)
        site.start_triggerer()
        site.wait_triggerers(1)

    return injure


def one_of_two_triggerers_killed(site: Site, scenes: list[Scene]) -> None:
    """Start a second triggerer, and kill the one that waits for the first of the scenes."""
    site.start_triggerer()
    site.wait_triggerers(2)
    site.crash_triggerer(site.triggerer_of(scenes[0].tasks()[0]["trigger_id"]))


def scheduler_killed(site: Site, scenes: list[Scene]) -> None:
    """Kill the scheduler, and start another; the executor's processes of the first live on."""
    site.crash_scheduler()
    site.start_scheduler()
    site.wait_scheduler()
