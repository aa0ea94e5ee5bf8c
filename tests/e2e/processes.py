"""
Processes: start them, find them, injure them, and leave none behind.

Each component gets a session of its own. Whatever it starts stays in that session, also the process groups that
Airflow makes for tasks and the orphans of a killed parent, so a session is what is ended at the end.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

PAUSE = 0.1
#: Set when the suite is to end: nobody waits any longer.
STOPPING = threading.Event()


class TookTooLongError(AssertionError):
    """Say what did not come in time."""


def wait_for(look: Callable[[], Any], what: str, timeout: float, pause: float = PAUSE) -> Any:
    """Look until there is something true, and return it."""
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TookTooLongError(f"waited {timeout:.0f} s in vain for {what}")
        if STOPPING.wait(pause):
            raise TookTooLongError(f"the suite was stopped while it waited for {what}")


def let_pass(seconds: float) -> None:
    """Let time pass, where a deed needs a duration."""
    if STOPPING.wait(seconds):
        raise TookTooLongError("the suite was stopped")


def ask(method: str, url: str, **options: Any) -> requests.Response:
    """
    Send a request to a server of this machine.

    Past any proxy: looking for one in the environment fails now and then, for pytest changes that while the
    cases are played in threads.
    """
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, **options)


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def is_alive(pid: int) -> bool:
    """Tell whether a process runs, or could: a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def title(pid: int) -> str:
    """Return a process's title."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def parent(pid: int) -> int:
    """Return a process's parent."""
    return psutil.Process(pid).ppid()


def kill(*pids: int) -> None:
    """End processes as a crash would, and wait until they are gone."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            raise TookTooLongError(f"some of the processes {pids} did not die")
        time.sleep(0.02)


def freeze(pid: int) -> None:
    """Stop a process where it stands."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, f"process {pid} to stop", 10)


def reads_from_supervisor(pid: int) -> bool:
    """
    Tell whether a task's process is blocked on the answer of its supervisor.

    Its channel to the supervisor is its standard input, so it is: asleep in a read or recvfrom of file 0.
    """
    try:
        call = Path(f"/proc/{pid}/syscall").read_text().split()
    except OSError:
        return False
    return len(call) > 1 and call[0] in _READS and int(call[1], 16) == 0


#: read and recvfrom, by machine; others than these two are not known to run Airflow in CI.
_READS = {"x86_64": ("0", "45"), "aarch64": ("63", "207")}.get(os.uname().machine, ())


def session_members(leaders: Iterable[int]) -> list[int]:
    """List the processes of some sessions."""
    wanted = set(leaders)
    members = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(process.pid) in wanted and is_alive(process.pid):
                members.append(process.pid)
    return members


class Stable:
    """
    Keep all processes that the suite starts.

    :param folder: where their output goes, and the list of what runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ledger = folder / "sessions.json"
        self._leaders: dict[int, float] = {}
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    def sweep(self) -> int:
        """End what an earlier run has left, should it have been killed; return how many processes that were."""
        if not self._ledger.exists():
            return 0
        left = []
        for leader, created in json.loads(self._ledger.read_text()).items():
            # A process id that is in use again by another leader of a session is not ours.
            with suppress(psutil.NoSuchProcess):
                if abs(psutil.Process(int(leader)).create_time() - created) > 1:
                    continue
            left += session_members([int(leader)])
        kill(*left)
        self._ledger.unlink()
        return len(left)

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a component in a session of its own."""
        with self._lock, (self.folder / f"{name}.out").open("ab") as output:
            if self._is_closed:
                raise TookTooLongError("the suite was stopped")
            child = subprocess.Popen(
                list(command),
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.folder,
            )
            self._children[child.pid] = child
            self._leaders[child.pid] = psutil.Process(child.pid).create_time()
            self._ledger.write_text(json.dumps(self._leaders))
            return child

    def run(self, name: str, command: Sequence[str], env: Mapping[str, str], timeout: float) -> None:
        """Run a command to its end."""
        child = self.start(name, command, env)
        try:
            code = child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TookTooLongError(f"{name} took longer than {timeout:.0f} s") from None
        if code:
            said = (self.folder / f"{name}.out").read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{name} ended with {code}: {said}")

    def crash(self, child: subprocess.Popen[bytes]) -> None:
        """End a component and all that it has started, at once."""
        kill(*session_members([child.pid]))
        child.wait(10)

    def output(self, name: str) -> str:
        """Return what a component has printed."""
        return (self.folder / f"{name}.out").read_text(errors="replace")

    def close(self) -> None:
        """End everything, and let nothing more be started."""
        with self._lock:
            self._is_closed = True
        for _ in range(3):
            left = session_members(self._leaders)
            if not left:
                break
            kill(*left)
        for child in list(self._children.values()):
            with suppress(subprocess.TimeoutExpired):
                child.wait(5)
        self._ledger.unlink(missing_ok=True)
