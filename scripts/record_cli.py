"""
Run the commands against the local engine, and write what they print into the documentation.

    python scripts/record_cli.py           # write docs/operate/command-line.md
    python scripts/record_cli.py --check   # fail if the page shows something else

The engine's clock moves by itself during a wait, so that nobody has to wait; ids, ports and times are replaced.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import tempfile
from typing import Any

from markers import ROOT, fill, table, write

PAGE = ROOT / "docs" / "operate" / "command-line.md"
MODEL = ("Sales Insights", "Internet Sales")
ADDRESS = "https://atscale.example.com"


def sessions() -> dict[str, str]:
    """Return what each command prints, by the name of its session."""
    from airflow_provider_atscale.cli.exit_codes import MEANINGS
    from airflow_provider_atscale.hooks.atscale import AtScaleHook
    from airflow_provider_atscale.testing import AtScaleEngine

    recorded = {}
    with AtScaleEngine("container", build_seconds=54, queue_seconds=0) as engine:
        os.environ["AIRFLOW_CONN_ATSCALE_DEFAULT"] = engine.connection_json()
        for _ in range(5):
            engine.start_batch(*MODEL)
            engine.advance(60)
        recorded["check"] = _run("check", *MODEL)
        recorded["models"] = _run("models", "Sales Insights")
        recorded["builds"] = _run("builds", *MODEL, "--limit", "3")
        get_instances = AtScaleHook.get_instances

        def read_while_time_passes(self: AtScaleHook, batch_id: str) -> Any:
            engine.advance(30)
            return get_instances(self, batch_id)

        AtScaleHook.get_instances = read_while_time_passes  # type: ignore[method-assign]
        try:
            recorded["build"] = _run("build", *MODEL, "--yes", hidden=("--poll-interval", "0.01"))
            engine.fail_next("Internet Sales", message="Table not found")
            batch = engine.start_batch(*MODEL)
            recorded["watch"] = _run("watch", batch.id, *MODEL, hidden=("--poll-interval", "0.01"))
        finally:
            AtScaleHook.get_instances = get_instances  # type: ignore[method-assign]
        recorded["typo"] = _run("check", "Sales Insights", "Internet Slaes")
    recorded["cli options"] = _options()
    codes = [(str(code), meaning) for code, meaning in MEANINGS.items()]
    recorded["exit codes"] = table(("exit code", "meaning"), codes)
    return recorded


def _options() -> str:
    """Return a table of all options and the commands that have them."""
    from airflow_provider_atscale.cli.definition import get_atscale_cli_commands

    commands: dict[tuple[str, str], list[str]] = {}
    for command in get_atscale_cli_commands()[0].subcommands:
        for argument in command.args:
            name = argument.flags[0]
            if name.startswith("-"):
                option = f"{name} {argument.kwargs.get('metavar') or ''}".rstrip()
                commands.setdefault((option, argument.kwargs["help"]), []).append(f"`{command.name}`")
    rows = [(f"`{option}`", ", ".join(names), text) for (option, text), names in commands.items()]
    return table(("option", "of", "meaning (default)"), rows)


def _run(*arguments: str, hidden: tuple[str, ...] = ()) -> str:
    from airflow_provider_atscale.__main__ import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main([*arguments, *hidden])
            code: Any = 0
        except SystemExit as ended:
            code = ended.code
    lines = [
        f"$ airflow atscale {shlex.join(arguments)}",
        *printed.getvalue().splitlines(),
        f"(exit code {code})",
    ]
    text = "\n".join(line.rstrip() for line in lines if line.strip())
    return "\n".join(["```text", _made_equal(text), "```"])


def _made_equal(text: str) -> str:
    """Replace what differs from run to run."""
    text = re.sub(r"http://127\.0\.0\.1:\d+", ADDRESS, text)
    text = re.sub(r"\b[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\b", _numbered(), text)
    text = re.sub(r"query [0-9a-f-]{36}", "query 5d1f7c3e-0b7a-5e7c-8a52-0c9b1f6e4d20", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "2025-02-27 09:53:20", text)
    text = re.sub(r"the host's clock .*", "the host's clock is that of this machine (to 2 s)", text)
    text = re.sub(r"clock        (ok|warning)", "clock        ok     ", text)
    return re.sub(r"after \d+ s", "after 0 s", text)


def _numbered() -> Any:
    known: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return known.setdefault(match[0], f"8e2c1d5a-6f3b-4c7d-9a10-{len(known) + 1:012d}")

    return number


def main() -> int:
    """Write the page, or compare it."""
    os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="atscale-airflow-"))
    os.environ["COLUMNS"] = "118"
    page = PAGE.read_text()
    for name, text in sessions().items():
        page = fill(page, name, text)
    return write(PAGE, page)


if __name__ == "__main__":
    raise SystemExit(main())
