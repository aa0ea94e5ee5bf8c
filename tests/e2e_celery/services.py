"""PostgreSQL and Redis of Debian's packages, on loopback, in a temporary directory."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2e.processes import free_port, kill, wait_for

if TYPE_CHECKING:
    from e2e.processes import Stable

PACKAGES = {"postgresql": "initdb", "redis-server": "redis-server"}
USER = "airflow"
#: PostgreSQL refuses to run as root; its package makes this user.
POSTGRES_USER = "postgres"


def missing_packages() -> list[str]:
    """List the Debian packages that are not installed."""
    return [package for package, program in PACKAGES.items() if find_program(program) is None]


def find_program(name: str) -> str | None:
    """Return the path of a program; PostgreSQL's are not on the path."""
    found = shutil.which(name)
    if found:
        return found
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: path.parts[-3])
    return str(versions[-1]) if versions else None


def _program(name: str) -> str:
    found = find_program(name)
    assert found is not None, f"{name} is not installed"
    return found


class Service:
    """
    Run a server that can be taken away and brought back with its data.

    :param stable: who starts processes.
    :param name: what to call it.
    """

    def __init__(self, stable: Stable, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"e2e-{name}-"))
        self._stable = stable
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        raise NotImplementedError

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop the server with its data written, and wait until it has ended."""
        if self._child is not None and self._child.poll() is None:
            os.kill(self._child.pid, number)
            try:
                self._child.wait(15)
            except subprocess.TimeoutExpired:
                kill(self._child.pid)

    def close(self) -> None:
        """Stop the server, and remove its data."""
        with suppress(ProcessLookupError):
            self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _listens(self) -> bool:
        with closing(socket.socket()) as sock:
            sock.settimeout(1)
            return sock.connect_ex(("127.0.0.1", self.port)) == 0


class Redis(Service):
    """
    Run Redis; it keeps what is queued over a restart.

    :param stable: who starts processes.
    """

    def __init__(self, stable: Stable) -> None:
        super().__init__(stable, "redis")
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = {
            "--port": self.port,
            "--bind": "127.0.0.1",
            "--dir": self.folder,
            "--appendonly": "yes",
            "--save": "",
        }
        words = [str(word) for option in options.items() for word in option]
        self._child = self._stable.start(self.name, [_program("redis-server"), *words], dict(os.environ))
        wait_for(self._listens, "Redis", 30)

    def close(self) -> None:
        self.stop(signal.SIGTERM)
        super().close()


class Postgres(Service):
    """
    Run PostgreSQL.

    :param stable: who starts processes.
    """

    def __init__(self, stable: Stable) -> None:
        super().__init__(stable, "postgres")
        self._data = self.folder / "data"
        self._address = f"{USER}@127.0.0.1:{self.port}/{USER}"
        self.url = f"postgresql+psycopg2://{self._address}"

    def create(self) -> None:
        """Make the database cluster."""
        if os.getuid() == 0:
            entry = pwd.getpwnam(POSTGRES_USER)
            os.chown(self.folder, entry.pw_uid, entry.pw_gid)
        words = ["-D", str(self._data), "-U", USER, "-A", "trust", "--no-sync", "-E", "UTF8"]
        command = self._as_its_user([_program("initdb"), *words])
        self._stable.run("initdb", command, self._env(), 60)

    def start(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "max_connections": 300,
            # The machine does not lose its power; without this each commit waits for the disk.
            "fsync": "off",
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = self._as_its_user([_program("postgres"), "-D", str(self._data), *words])
        self._child = self._stable.start(self.name, command, self._env())
        wait_for(self._answers, "PostgreSQL", 30)

    def create_database(self) -> None:
        """Make the database."""
        with closing(self._connect("postgres")) as connection:
            connection.autocommit = True
            connection.cursor().execute(f"create database {USER}")

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the database, with ``?`` for each value."""
        with closing(self._connect(USER)) as connection, connection.cursor() as cursor:
            cursor.execute(statement.replace("?", "%s"), values)
            return cursor.fetchall()

    def _connect(self, database: str) -> Any:
        import psycopg2

        return psycopg2.connect(
            host="127.0.0.1", port=self.port, user=USER, dbname=database, connect_timeout=10
        )

    def _answers(self) -> bool:
        import psycopg2

        try:
            self._connect("postgres").close()
        except psycopg2.OperationalError:
            return False
        return True

    def _as_its_user(self, command: list[str]) -> list[str]:
        if os.getuid() != 0:
            return command
        # Each becomes the next: the process that is started is the server's, and can be ended as such.
        become = ["setpriv", f"--reuid={POSTGRES_USER}", f"--regid={POSTGRES_USER}", "--clear-groups"]
        return ["env", f"--chdir={self.folder}", *become, *command]

    @staticmethod
    def _env() -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
