"""
Measure what this provider costs, beside its peers and beside the least that is possible.

Everything happens on this machine: a stub server answers everybody alike, each contestant runs in a process of
its own, and the contestants take turns, so that whatever else the machine does hits all of them. CPU time is
the process's own. Numbers are medians with their range; the last column is the floor.

    python tests/benchmarks/run.py [--quick] [--only TABLE ...]

makes an environment with the peers under ``.bench`` first, and, unless it is quick, writes RESULTS.md. It ends by itself in time: each
table has its seconds, takes as many rounds as they allow, and is left out, with a word about it, where the machine
is too slow for even one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from environment import HOME, python, variables

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
#: Writes the README's tables anew.
README = HERE.parent / "readme" / "generate.py"
OURS = "AtScale"
#: How many seconds a process may need more than its table has.
PATIENCE = 30.0


@dataclass
class Plan:
    """
    How much is measured.

    :param shares: The seconds of each table; the last one has what is left of them all.
    :param rounds: How often the contestants take turns at the most.
    :param seconds: How long waiters are measured.
    :param interval: Seconds between two polls of a waiter.
    :param crowd: The waiters of the largest table.
    :param polls: The polls of the long run.
    :param builds: The builds of the real Airflow; 0: none.
    :param left_out: Contestants that are left out to save time.
    """

    shares: dict[str, float]
    rounds: int
    seconds: float
    interval: float
    crowd: int
    crowd_seconds: float
    polls: int
    builds: int
    left_out: tuple[str, ...] = ()
    interpreter: Path = field(default_factory=Path)
    until: float = 0.0

    def among(self, *names: str) -> list[str]:
        """Return the contestants that take part."""
        return [name for name in names if name not in self.left_out]

    @property
    def left(self) -> float:
        """The seconds that the table which is being made has left."""
        return self.until - time.monotonic()


FULL = Plan(
    shares={
        "import": 50,
        "folder": 60,
        "construct": 20,
        "poll": 130,
        "on-call": 75,
        "tls": 85,
        "in-step": 60,
        "models": 20,
        "crowd": 150,
        "long": 70,
        "airflow": 240,
        "join": 30,
    },
    rounds=3,
    seconds=3.0,
    interval=2.5,
    crowd=10_000,
    crowd_seconds=60.0,
    polls=200_000,
    builds=500,
)
QUICK = Plan(
    shares={
        "import": 15,
        "folder": 15,
        "construct": 10,
        "poll": 30,
        "on-call": 24,
        "tls": 25,
        "in-step": 30,
        "models": 18,
        "crowd": 24,
        "long": 12,
        "airflow": 0,
        "join": 15,
    },
    rounds=1,
    seconds=2.5,
    interval=2.5,
    crowd=3_000,
    crowd_seconds=5.0,
    polls=10_000,
    builds=0,
    left_out=(
        "Databricks",
        "Airbyte",
        "HTTP",
        "HTTP sensor",
        "shared httpx",
        "raw streams",
        "empty with a link",
    ),
)


class NoTimeLeftError(Exception):
    """The machine is too slow for a table."""


# --- processes --------------------------------------------------------------------------------------------


def child(plan: Plan, script: str, *arguments: str, **env: str) -> Any:
    """Run a script of this folder and return the JSON that it prints last."""
    process = subprocess.Popen(
        [plan.interpreter, HERE / script, *arguments],
        env=variables(PYTHONPATH=str(HERE), **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, errors = process.communicate(timeout=max(plan.left, 1.0) + PATIENCE)
    except subprocess.TimeoutExpired:
        raise NoTimeLeftError(f"{script} {' '.join(arguments)} took too long") from None
    finally:
        if process.poll() is None:
            # It may have processes of its own to end.
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=30)
            process.kill()
    if process.returncode:
        raise RuntimeError(f"{script} {' '.join(arguments)} failed:\n{errors[-3000:]}")
    return json.loads(out.strip().splitlines()[-1])


@contextmanager
def stub(plan: Plan, *, tls: bool = False, latency: float = 0.0) -> Iterator[list[str]]:
    """Run the stub server; give the arguments that lead a contestant to it."""
    certificate = HOME / "certificate.pem"
    arguments = ["--latency", str(latency)]
    if tls:
        subprocess.run([plan.interpreter, HERE / "certificate.py", certificate], check=True)
        arguments += ["--certificate", str(certificate)]
    process = subprocess.Popen(
        [plan.interpreter, HERE / "stub.py", *arguments],
        env=variables(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        url = f"http{'s' if tls else ''}://127.0.0.1:{int(process.stdout.readline())}"
        yield ["--url", url, *(["--certificate", str(certificate)] if tls else [])]
    finally:
        process.stdin.close()
        process.wait(10)


def wait(plan: Plan, contestant: str, to: Sequence[str], *arguments: object) -> dict[str, Any]:
    """Let a contestant wait."""
    env = {"SSL_CERT_FILE": to[3]} if len(to) > 2 else {}
    found: dict[str, Any] = child(plan, "waiting.py", contestant, *to, *map(str, arguments), **env)
    return found


def in_turns(
    plan: Plan,
    rounds: int,
    contestants: Sequence[str],
    measure: Callable[[str], Any],
    once: Sequence[str] = (),
) -> dict[str, list[dict[str, Any]]]:
    """Measure in rounds, as many as there is time for; those that no goal is about take part in the first."""
    found: dict[str, list[Any]] = {name: [] for name in contestants}
    for number in range(rounds):
        began = time.monotonic()
        try:
            for name in contestants:
                if number and name in once:
                    continue
                print(f"    round {number + 1} of {rounds}: {name}", flush=True)
                found[name].append(measure(name))
        except NoTimeLeftError:
            if not number:
                raise
            return {name: results[:number] for name, results in found.items()}
        # Without those that are measured once, all rounds after the first are shorter.
        share = 1.0 if number else (len(contestants) - len(once)) / len(contestants)
        if plan.left < share * (time.monotonic() - began):
            break
    return found


# --- tables -----------------------------------------------------------------------------------------------


@dataclass
class Table:
    """A table as it is printed: contestants are its columns, the floor the last one."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    goals: list[tuple[str, bool]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, label: str, values: dict[str, Sequence[float]], digits: int = 0, ratio: bool = True) -> None:
        """Add a row of medians with their ranges, and one of ratios to this provider."""
        middle = {name: statistics.median(found) for name, found in values.items() if found}
        cells = []
        for name in self.columns:
            if name not in middle:
                cells.append("")
                continue
            cells.append(_range(values[name], digits))
        self.rows.append([label, *cells])
        if ratio and middle.get(OURS) and len(self.columns) > 1:
            shares = [_range(ratios(values, OURS, name)) if middle.get(name) else "" for name in self.columns]
            self.rows.append(["AtScale / this", *shares])

    def goal(self, text: str, reached: bool) -> None:
        self.goals.append((text, reached))

    def to_markdown(self) -> str:
        lines = [f"## {self.title}", ""]
        if self.rows:
            lines += self._grid()
        lines += [f"- {'reached' if reached else 'MISSED'}: {text}" for text, reached in self.goals]
        lines += [f"- {note}" for note in self.notes]
        return "\n".join(lines) + "\n"

    def _grid(self) -> list[str]:
        lines = ["| " + " | ".join(["", *self.columns]) + " |", "| --- |" + " ---: |" * len(self.columns)]
        return [*lines, *("| " + " | ".join(row) + " |" for row in self.rows), ""]


def _range(found: Sequence[float], digits: int = 2) -> str:
    """Write the median, with the range where there is one."""
    middle, low, high = (f"{each:,.{digits}f}" for each in (statistics.median(found), min(found), max(found)))
    return middle if low == high else f"{middle} ({low} to {high})"


def values(found: dict[str, list[Any]], *path: str) -> dict[str, list[float]]:
    """Pick one number of each result."""
    picked: dict[str, list[float]] = {}
    for name, results in found.items():
        for each in results:
            value: Any = each
            for key in path:
                value = value[key]
            picked.setdefault(name, []).append(value)
    return picked


def middle(found: dict[str, list[Any]], name: str, *path: str) -> float:
    return statistics.median(values(found, *path)[name])


def ratios(found: dict[str, Sequence[float]], name: str, other: str) -> list[float]:
    """Compare two contestants within each round, for the machine itself is faster in one than in another."""
    return [a / b for a, b in zip(found[name], found[other], strict=False)]


def ratio_of(found: dict[str, Sequence[float]], name: str, other: str) -> float:
    return statistics.median(ratios(found, name, other))


def table_import(plan: Plan) -> Table:
    names = plan.among("AtScale", "dbt Cloud", "Databricks", "Airbyte", "HTTP", "empty with a link", "empty")
    # Once for nothing: whoever comes first has the modules compiled.
    in_turns(plan, 1, names, lambda name: child(plan, "parsing.py", "import", name))
    found = in_turns(plan, plan.rounds * 2 - 1, names, lambda name: child(plan, "parsing.py", "import", name))
    table = Table("Importing operator and sensor, over `airflow.sdk`", names)
    table.add("CPU, ms", values(found, "cpu_ms"), 1)
    table.add("modules loaded", values(found, "modules"), ratio=False)
    for floor in plan.among("empty", "empty with a link"):
        share = ratio_of(values(found, "cpu_ms"), OURS, floor)
        table.goal(f"at most 2x modules that are {floor}: {share:.2f}x", share <= 2)
    return table


def table_folder(plan: Plan) -> Table:
    names = plan.among("AtScale", "dbt Cloud", "Databricks", "Airbyte", "HTTP", "BaseOperator")
    table = Table("Parsing a folder of 20 DAG files with 10 tasks each", names)
    # Once for nothing, as above.
    in_turns(plan, 1, names, lambda name: child(plan, "parsing.py", "folder", name))
    found = in_turns(plan, plan.rounds, names, lambda name: child(plan, "parsing.py", "folder", name))
    table.add("CPU, ms", values(found, "cpu_ms"))
    share = ratio_of(values(found, "cpu_ms"), OURS, "dbt Cloud")
    table.goal(f"less than dbt Cloud: {share:.2f}x", share < 1)
    table.notes.append(
        "As the DAG processor does it: each file in a process of its own, forked from one that has imported "
        "Airflow. So each file pays for the imports."
    )
    return table


def table_construct(plan: Plan) -> Table:
    found = child(plan, "parsing.py", "construct", str(plan.rounds * 2 + 1))
    names = ["AtScale", "dbt Cloud", "BaseOperator"]
    table = Table("1,000 operators in a DAG", names)
    table.add("constructing, CPU ms", {name: found[name]["cpu_ms"] for name in names}, 1)
    table.add("serialized, bytes per task", {name: found[name]["bytes"] for name in names})
    return table


def table_poll(plan: Plan) -> Table:
    names = plan.among(
        "AtScale", "dbt Cloud", "Databricks", "HTTP sensor", "shared httpx", "shared aiohttp", "raw streams"
    )
    table = Table("One poll, 1,000 waiters on one loop, each on a model (job) of its own", names)
    no_goal = plan.among("Databricks", "HTTP sensor", "shared httpx", "raw streams")
    found = _polls(plan, names, 2 * plan.rounds - 1, table, tls=False, once=no_goal)
    cpu = values(found, "cpu_per_poll_us")
    to_peer, to_bare = (ratio_of(cpu, OURS, each) for each in ("dbt Cloud", "shared aiohttp"))
    table.goal(f"at most 0.5x dbt Cloud's CPU: {to_peer:.2f}x", to_peer <= 0.5)
    table.goal(f"at most 1.2x a bare shared aiohttp session: {to_bare:.2f}x", to_bare <= 1.2)
    # One is that of whoever asks for the counts.
    most = max(each[part]["most_open"] for each in found[OURS] for part in ("start", "steady")) - 1
    table.goal(f"at most 10 TCP connections: {most:.0f}", most <= 10)
    exchanges = max(_sums(found, "exchanges")[OURS])
    table.goal(f"one token exchange: {exchanges:.0f}", exchanges == 1)
    return table


def table_on_call(plan: Plan) -> Table:
    with_it = ["AtScale, metrics", "AtScale, progress"]
    table = Table("The same with metrics to StatsD, and with the XCom `progress`", ["AtScale", *with_it])
    found = _polls(plan, table.columns, 2 * plan.rounds + 1, table, tls=False)
    for name in with_it:
        share = ratio_of(values(found, "cpu_per_poll_us"), name, OURS)
        table.goal(f"{name}: at most 1.05x the CPU without: {share:.2f}x", share <= 1.05)
    table.notes.append(
        "The progress goes through a socket to a supervisor that answers at once: what the supervisor, the API "
        "server and the database do with it is not in the number. Each waiter writes it at its first poll, and "
        "then at a change and every ten minutes."
    )
    return table


def table_tls(plan: Plan) -> Table:
    names = plan.among("AtScale", "dbt Cloud", "Databricks", "shared aiohttp", "raw streams")
    table = Table("The same over TLS", names)
    found = _polls(plan, names, max(plan.rounds - 1, 1), table, tls=True)
    share = ratio_of(values(found, "cpu_per_poll_us"), OURS, "dbt Cloud")
    table.goal(f"at most 0.4x dbt Cloud's CPU: {share:.2f}x", share <= 0.4)
    memory = middle(found, OURS, "memory_per_waiter_kib")
    table.goal(f"at most 25 KiB of memory per waiter: {memory:.1f} KiB", memory <= 25)
    return table


def _polls(
    plan: Plan, names: Sequence[str], rounds: int, table: Table, *, tls: bool, once: Sequence[str] = ()
) -> dict[str, list[dict[str, Any]]]:
    options = ["--start", "one by one", "--interval", plan.interval, "--seconds", plan.seconds]
    with stub(plan, tls=tls) as to:
        found = in_turns(plan, rounds, names, lambda name: wait(plan, name, to, *options), once)
    table.add("CPU per poll, µs", values(found, "cpu_per_poll_us"))
    table.add("memory per waiter, KiB", values(found, "memory_per_waiter_kib"), 1, ratio=False)
    table.add("connections opened, start and polls", _sums(found, "connections"), ratio=False)
    return found


def _sums(found: dict[str, list[Any]], what: str) -> dict[str, list[float]]:
    return {
        name: [each["start"][what] + each["steady"][what] for each in results]
        for name, results in found.items()
    }


def table_in_step(plan: Plan) -> Table:
    names = plan.among("AtScale", "dbt Cloud", "Databricks", "HTTP sensor", "shared aiohttp", "only sleep")
    table = Table("1,000 waiters begin in the same turn of the loop, as after a restart", names)
    # Peers poll at once; this provider's first looks are spread over its poll interval.
    options = ["--measure", "turns", "--interval", 6, "--seconds", 4, "--patience", 10]

    def measure(name: str) -> dict[str, Any]:
        return wait(plan, name, to, *options, "--warm-up", 0 if name == "only sleep" else 900)

    with stub(plan) as to:
        found = in_turns(plan, max(plan.rounds - 1, 1), names, measure)
    longest = {
        name: [max(each[part]["turns"]["longest"] for part in ("start", "steady")) for each in results]
        for name, results in found.items()
    }
    table.add("longest turn of the loop, CPU ms", longest, 1)
    table.add("connections opened", _sums(found, "connections"), ratio=False)
    most = max(longest[OURS])
    table.goal(f"the loop never stands still for 50 ms, start included: {most:.0f} ms", most < 50)
    return table


def table_models(plan: Plan) -> Table:
    table = Table("1,000 waiters over 50 models", ["AtScale"])
    interval, seconds = 4.0, 8.0
    with stub(plan) as to:
        options = ["--models", 50, "--interval", interval, "--seconds", seconds, "--warm-up", 50]
        found = {OURS: [wait(plan, OURS, to, *options)]}
    polls = found[OURS][0]["steady"]["requests"]
    rounds = seconds / interval + 1
    table.add(
        f"requests in {seconds:.0f} s at an interval of {interval:.0f} s", values(found, "steady", "requests")
    )
    table.add("of them for the most read model", values(found, "steady", "most_of_a_model"))
    table.goal(f"one read per model and round: {polls} for {50 * rounds:.0f}", polls <= 50 * rounds)
    return table


def table_crowd(plan: Plan) -> Table:
    names = ["AtScale", "only sleep"]
    table = Table(f"{plan.crowd:,} waiters on one loop, from their start on", names)
    options = ["--waiters", plan.crowd, "--measure", "turns", "--interval", 60]
    options += ["--warm-up", 1, "--seconds", plan.crowd_seconds, "--start", "triggerer", "--patience", 3]

    def measure(name: str) -> dict[str, Any]:
        return wait(plan, name, to, *options)

    with stub(plan, latency=0.02) as to:
        found = in_turns(plan, max(plan.rounds - 1, 1), names, measure)

    def longest(what: str) -> dict[str, list[float]]:
        return {
            name: [max(each[part]["turns"][what] for part in ("start", "steady")) for each in results]
            for name, results in found.items()
        }

    table.add("lag, p99, ms", values(found, "late", "p99"), 1, ratio=False)
    table.add("longest turn without garbage collection, CPU ms", longest("longest_without_gc"), 1, ratio=False)
    table.add("longest garbage collection, CPU ms", longest("longest_gc"), 1, ratio=False)
    table.add("memory per waiter, KiB", values(found, "memory_per_waiter_kib"), 1, ratio=False)
    concurrent = {
        name: [max(each[part]["most_under_way"] for part in ("start", "steady")) for each in results]
        for name, results in found.items()
    }
    table.add("requests at once, at the most", concurrent, ratio=False)
    if plan.crowd >= FULL.crowd:
        p99 = middle(found, OURS, "late", "p99")
        floor = middle(found, "only sleep", "late", "p99")
        table.goal(
            f"lag p99 below 50 ms, start included: {p99:.0f} ms (triggers that only sleep: {floor:.0f} ms)",
            p99 < 50,
        )
    turn = max(longest("longest_without_gc")[OURS])
    table.goal(f"no turn of its own as long as 50 ms: {turn:.0f} ms", turn < 50)
    memory = middle(found, OURS, "memory_per_waiter_kib") - middle(found, "only sleep", "memory_per_waiter_kib")
    table.goal(f"below 20 KiB of memory per trigger over the loop's own: {memory:.1f} KiB", memory < 20)
    most = max(concurrent[OURS])
    table.goal(f"never more than 20 requests at once: {most:.0f}", most <= 20)
    table.notes.append(
        "Created as the triggerer creates them. A full garbage collection looks at all that Airflow has "
        "loaded, whoever's triggers run; the floor shows what it costs without any of ours."
    )
    return table


def table_long(plan: Plan) -> Table:
    table = Table(f"{plan.polls:,} polls", ["AtScale"])
    with stub(plan) as to:
        # Without the start of the processes.
        seconds = f"{max(plan.left - 6, 8.0):.0f}"
        found = {OURS: [child(plan, "long_run.py", *to, "--polls", str(plan.polls), "--seconds", seconds)]}
    for label, key, digits in (
        ("polls", "polls", 0),
        ("memory after the first tenth, MiB", "memory_early_mib", 1),
        ("memory at the end, MiB", "memory_late_mib", 1),
        ("open files after the first tenth", "files_early", 0),
        ("open files at the end", "files_late", 0),
        ("tasks left behind", "tasks_left", 0),
    ):
        table.add(label, values(found, key), digits, ratio=False)
    got = found[OURS][0]
    table.goal(f"as many as were to be: {got['polls']:,}", got["polls"] >= plan.polls)
    growth = got["memory_late_mib"] - got["memory_early_mib"]
    table.goal(f"memory is flat: {growth:+.1f} MiB", growth < 3)
    table.goal("open files are flat", got["files_late"] <= got["files_early"])
    table.goal("nothing is left behind", got["tasks_left"] == 0)
    return table


def table_airflow(plan: Plan) -> Table:
    table = Table(f"{plan.builds} deferred builds in one real triggerer", ["AtScale"])
    if not plan.builds:
        table.notes.append("Not part of a quick run.")
        return table
    got = child(plan, "real_airflow.py", str(plan.builds), "--seconds", f"{plan.left:.0f}")
    found = {OURS: [got]}
    for label, key in (
        ("tasks green", "green"),
        ("builds that AtScale saw", "builds"),
        ("of them waiting in the triggerer at once", "most_deferred"),
        ("requests in 20 s of waiting", "trigger_requests"),
        ("TCP connections open while they wait", "trigger_connections"),
        ("requests at once, at the most", "most_at_once"),
        ("token exchanges in these 20 s", "trigger_exchanges"),
        ("tasks whose XCom `progress` was seen while they waited", "progress_seen"),
        ("seconds", "seconds"),
    ):
        table.add(label, values(found, key), ratio=False)
    table.goal("all green, each built once", got["green"] == got["builds"] == plan.builds)
    return table


def table_join(plan: Plan) -> Table:
    ways = ["join", "wait", "attach", "as dbt Cloud reuses"]
    table = Table("Tasks of one model that arrive within one build of 60 s, by `on_running`", ways)
    got = child(plan, "joining.py", "50" if plan is QUICK else "200")
    for number, found in got.items():
        for label, key, digits in (
            ("builds", "builds", 0),
            ("seconds until the last is green", "seconds", 0),
            ("green without their data", "stale", 0),
        ):
            table.add(f"{number} tasks: {label}", {way: [found[way][key]] for way in ways}, digits, ratio=False)
    joins = [found["join"] for found in got.values()]
    most, stale = max(each["builds"] for each in joins), sum(each["stale"] for each in joins)
    table.goal(f"at most 2 builds for any number of tasks: {most}", most <= 2)
    table.goal(f"nothing green without its data: {stale}", stale == 0)
    table.notes.append(
        "The operator's own code on a simulated server that refuses a second start, in simulated time: each task's "
        "data is loaded when the task arrives, a request takes about 0.1 s, an end is seen within 2 s. "
        "dbt Cloud's rule (`reuse_existing_run`) is its operator's, written down again: take the newest run that has "
        "not ended, else start one; a refused start is tried again."
    )
    return table


TABLES: dict[str, Callable[[Plan], Table]] = {
    "import": table_import,
    "folder": table_folder,
    "construct": table_construct,
    "poll": table_poll,
    "on-call": table_on_call,
    "tls": table_tls,
    "in-step": table_in_step,
    "models": table_models,
    "crowd": table_crowd,
    "long": table_long,
    "airflow": table_airflow,
    "join": table_join,
}


def make(name: str, plan: Plan) -> Table:
    """Make a table, or say why there is none."""
    reason = "the tables before it took too long"
    if plan.left >= plan.shares[name] / 3:
        try:
            return TABLES[name](plan)
        except NoTimeLeftError as error:
            reason = str(error)
        except RuntimeError as error:
            # The other tables are worth having.
            print(error, flush=True)
            reason = str(error).splitlines()[0].rstrip(":")
    return Table(name, [], notes=[f"Not measured: {reason}."])


# --- the page ---------------------------------------------------------------------------------------------


def page(tables: Sequence[Table], versions: dict[str, str], took: float) -> str:
    """Return the page of results."""
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    head = f"""# What waiting costs

Written by `make bench` in {took:.1f} minutes, of which much is Airflow's own time for the tasks of the last table. Run
it to repeat everything: it makes its own environment with the peers from the package index, once, and then ends
within 17 minutes (`make bench QUICK=1` prints the most telling columns within 3, and writes no page). All servers
are on the same machine. The contestants take turns; numbers are medians (with their range where there was more
than one round), CPU time is that of the measured process, and ratios are taken within each round. Compare columns,
not pages: the ratios travel from machine to machine, the numbers do not.

{os.cpu_count()} cores; Python {platform.python_version()}; {packages}.
"""
    return head + "\n" + "\n".join(table.to_markdown() for table in tables)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller tables: under 3 minutes")
    parser.add_argument("--only", nargs="+", choices=list(TABLES), help="only these tables; writes no page")
    parser.add_argument("--builds", type=int, help="builds in the real Airflow")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    plan.interpreter = python()
    if options.builds is not None:
        plan.builds = options.builds
    plan.until = time.monotonic() + 60
    versions = child(plan, "versions.py")
    began = plan.until = time.monotonic()
    tables = []
    chosen = options.only or list(TABLES)
    for name in chosen:
        # What one table leaves the next ones may take, and what it has taken too much they lack.
        plan.until += plan.shares[name]
        print(f"==> {name}, {plan.left:.0f} seconds", flush=True)
        table = make(name, plan)
        print("\n" + table.to_markdown(), flush=True)
        tables.append(table)
    is_whole = all(table.rows or not plan.shares[name] for name, table in zip(chosen, tables, strict=True))
    took = (time.monotonic() - began) / 60
    print(f"Done in {took:.1f} minutes")
    if not options.only and not options.quick:
        RESULTS.write_text(page(tables, versions, took), encoding="utf-8")
        # The README shows some of it.
        subprocess.run([plan.interpreter, README], check=True)
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
