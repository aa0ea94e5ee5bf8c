"""The command ``make airflow``: a whole Airflow beside a local engine, and nothing of it after Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from .processes import ask, free_port, wait_for

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = "scripts/local_airflow.py"
#: Seconds; usually a tenth of it.
PATIENCE = 300.0


#: How it is ended, and what it returns then.
ENDS = {
    # A terminal sends it to the whole group.
    "Ctrl-C": (os.killpg, signal.SIGINT, 0),
    "kill": (os.kill, signal.SIGTERM, 128 + signal.SIGTERM),
}


@pytest.mark.parametrize(("send", "number", "code"), ENDS.values(), ids=ENDS)
def test_it_comes_up_as_it_says_and_leaves_nothing_behind(folder: Path, request, send, number, code) -> None:
    home, output = folder / "local-airflow", folder / "local-airflow.out"
    command = [sys.executable, SCRIPT, "--home", str(home), "--port", str(free_port())]
    with output.open("w") as out:
        process = subprocess.Popen(
            command,
            cwd=request.config.rootpath,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Where the suite was started in the background, Ctrl-C is ignored, and by its children too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    started: list[psutil.Process] = [psutil.Process(process.pid)]
    try:
        wait_for(
            lambda: "Ctrl-C ends everything" in output.read_text() or process.poll() is not None,
            "Airflow",
            PATIENCE,
        )
        said = output.read_text()
        assert process.poll() is None, said
        # By their parents: Airflow's components rename themselves, and with that lose their environment.
        started += started[0].children(recursive=True)
        assert len(started) > 5
        [web] = re.findall(r"(http://localhost:\d+)  \(everybody is admin", said)
        [engine] = re.findall(r"AtScale's build history: (\S+)", said)
        assert ask("GET", f"{web}/api/v2/version", timeout=30).json()["version"].startswith("3.")
        assert "<title>Build history<" in ask("GET", engine, timeout=30).text
        send(process.pid, number)
        assert process.wait(PATIENCE) == code
        _, left = psutil.wait_procs(started, 1)
        assert left == []
    finally:
        for each in started:
            with suppress(psutil.NoSuchProcess):
                each.kill()
