"""
Write what the documentation says of arguments, fields, options, errors and costs from where it is declared.

Each such table is on one page, between two comments with its name. Run as a script, this writes all of them; a test
fails if a page says something else.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

import markers  # noqa: E402
from markers import table  # noqa: E402

#: All pages that are written by hand: Sphinx reads those in ``docs``.
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "CODE_OF_CONDUCT.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)
PACKAGE = ROOT / "airflow_provider_atscale"
RESULTS = ROOT / "tests" / "benchmarks" / "RESULTS.md"

# --- texts ------------------------------------------------------------------------------------------------


def markdown(text: str) -> str:
    """Return a docstring's text as Markdown."""
    text = " ".join(text.split())
    text = re.sub(r":ref:`(.+?) <[^>]*>`", r"\1", text)
    text = re.sub(r"``(.+?)``", r"`\1`", text)
    return re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"`\1`", text)


# --- classes ----------------------------------------------------------------------------------------------


def find_class(module: str, name: str) -> ast.ClassDef:
    """Return a class of the package as it is written; nothing is imported."""
    tree = ast.parse((PACKAGE / module).read_text())
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def described(node: ast.ClassDef | ast.FunctionDef) -> dict[str, str]:
    """Return the meanings of the parameters that a docstring describes, in its order."""
    doc = ast.get_docstring(node) or ""
    found = re.findall(r"^:param (\w+):(.*?)(?=^:|\Z)", doc, re.MULTILINE | re.DOTALL)
    return {name: markdown(meaning) for name, meaning in found}


def signature(node: ast.ClassDef) -> dict[str, str | None]:
    """Return the constructor's parameters with their defaults as they are written, None for none."""
    [init] = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
    return {
        argument.arg: None if default is None else ast.unparse(default)
        for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
    }


def assigned(node: ast.ClassDef, name: str) -> Any:
    """Return the value that a class gives to a name, None where it does not."""
    for each in node.body:
        targets = [each.target] if isinstance(each, ast.AnnAssign) else getattr(each, "targets", [])
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return ast.literal_eval(each.value)  # type: ignore[attr-defined]
    return None


def template_fields(node: ast.ClassDef) -> tuple[str, ...]:
    """Return what a class says is templated."""
    return tuple(assigned(node, "template_fields") or ())


def shown_default(written: str | None) -> str:
    """Return a default as a reader wants it."""
    if written is None:
        return "required"
    if written.startswith("conf.getboolean("):
        section, option = re.findall(r"'(\w+)'", written)[:2]
        return f"`[{section}] {option}`"
    return f"`{written}`".replace("'", '"')


def arguments(module: str, name: str) -> str:
    """Return the table of a class's arguments."""
    node = find_class(module, name)
    defaults, templated = signature(node), template_fields(node)
    rows = []
    for argument, meaning in described(node).items():
        default = shown_default(defaults[argument]) if argument in defaults else "every sensor's"
        mark = " (templated)"
        if argument in templated and mark not in meaning:
            raise ValueError(f"{name} does not say that {argument} is templated")
        cells = [f"`{argument}`", default, meaning.replace(mark, "")]
        rows.append([*cells, "yes" if argument in templated else ""] if templated else cells)
    head = ["argument", "default", "meaning"]
    return table([*head, "templated"] if templated else head, rows)


def methods(module: str, name: str, names: Iterable[str]) -> str:
    """Return the table of a class's methods: arguments, and the first sentence on it."""
    node = find_class(module, name)
    functions = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
    rows = []
    for each in names:
        function = functions[each]
        given = [argument.arg for argument in [*function.args.args[1:], *function.args.kwonlyargs]]
        first = (ast.get_docstring(function) or "").split("\n\n", 1)[0]
        rows.append([f"`{each}({', '.join(given)})`", markdown(first)])
    return table(["method", "what it does"], rows)


# --- what Airflow learns ----------------------------------------------------------------------------------


def provider_info() -> Mapping[str, Any]:
    """Return the provider's metadata, from a module that imports nothing."""
    namespace: dict[str, Any] = {"__name__": "get_provider_info"}
    exec(compile((PACKAGE / "get_provider_info.py").read_text(), "get_provider_info.py", "exec"), namespace)
    return {"info": namespace["get_provider_info"](), "fields": namespace["CONNECTION_FIELDS"]}


def connection_fields() -> str:
    """Return the table of the fields that are kept in the extras."""
    rows = []
    for name, field in provider_info()["fields"].items():
        schema = field["schema"]
        meaning, default = _split_default(field["description"])
        default = f"`{schema['default']}`" if "default" in schema else default
        choices = ", ".join(f"`{choice}`" for choice in schema.get("enum", ()))
        rows.append(
            [f"`{name}`", field["label"], default, meaning + (f" One of {choices}." if choices else "")]
        )
    return table(["field", "in the form", "default", "meaning"], rows)


def _split_default(description: str) -> tuple[str, str]:
    """Return a field's description without its default, and the default."""
    found = re.search(r"\s*Default: (.+?)\.(?=\s|$)", description)
    if found:
        said = found[1]
        meaning = (description[: found.start()] + description[found.end() :]).strip()
        return meaning, said if " " in said else f"`{said}`"
    found = re.match(r"Empty or (\w+): ", description)
    if found:
        return description.removeprefix("Empty or "), f"`{found[1]}`"
    return description, ""


def options() -> str:
    """Return the table of the section ``[atscale]`` of Airflow's configuration."""
    rows = []
    for name, option in provider_info()["info"]["config"]["atscale"]["options"].items():
        meaning = option["description"].strip()
        rows.append([f"`{name}`", option["default"], meaning])
    return table(["option", "default", "meaning"], rows)


def errors() -> str:
    """Return the table that the exceptions' module has of them."""
    doc = ast.get_docstring(ast.parse((PACKAGE / "exceptions.py").read_text())) or ""
    rows = re.findall(r"^:class:`(\w+)`\s+(yes|no)\s+(\w+(?: \w+)*)\s{2,}(.+)$", doc, re.MULTILINE)
    return table(
        ["class", "retried", "`AtScaleRetryPolicy`", "what to do"],
        [[f"`{name}`", retried, policy, markdown(advice)] for name, retried, policy, advice in rows],
    )


# --- examples ---------------------------------------------------------------------------------------------


def needs(tree: ast.Module) -> str:
    """Return the oldest Airflow on which a DAG file can be imported, as its imports tell."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in imports for alias in node.names}
    if "AtScaleRetryPolicy" in names:
        return "3.3"
    return "3.0" if any(node.module == "airflow.sdk" for node in imports) else "2.11"


def examples() -> str:
    """Return the table of the example DAGs."""
    rows = []
    for file in sorted((ROOT / "example_dags").glob("*.py")):
        tree = ast.parse(file.read_text())
        first = markdown((ast.get_docstring(tree) or "").split("\n\n", 1)[0])
        first = re.sub(r" \(Airflow [\d.]+ and newer\)", "", first)
        name = file.stem.removeprefix("example_atscale_")
        rows.append([f"[`{name}`](../../example_dags/{file.name})", needs(tree), first])
    return table(["example", "Airflow", "what it shows"], rows)


def engine_settings() -> str:
    """Return the table of the local engine's settings."""
    node = find_class("testing/settings.py", "Settings")
    declared = {
        each.target.id: ast.unparse(each.value)
        for each in node.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and each.value is not None
    }
    # A default that is made anew for each engine is an empty mapping; one that has a name is a tuple of words.
    named = {"field(default_factory=dict)": "{}", "START_FORMS": "all"}
    rows = []
    for name, meaning in described(node).items():
        default = declared[name].replace("'", '"')
        rows.append([f"`{name}`", f"`{named.get(declared[name], default)}`", meaning])
    return table(["setting", "default", "meaning"], rows)


# --- costs ------------------------------------------------------------------------------------------------

PEERS = ("AtScale", "dbt Cloud", "Databricks")
#: Beginnings of a heading and of a row of the results page, and what the documentation calls them.
MEASURED = (
    ("Importing operator and sensor", "CPU, ms", "importing operator and sensor, CPU ms"),
    ("One poll, 1,000 waiters", "CPU per poll", "one poll of 1,000 waiters, CPU µs"),
    ("The same over TLS", "CPU per poll", "the same over TLS, CPU µs"),
    ("The same over TLS", "memory per waiter", "memory per waiter over TLS, KiB"),
    ("The same over TLS", "connections opened", "TCP connections opened by 1,000 waiters"),
    ("1,000 waiters begin", "longest turn", "longest turn of the loop as they begin, CPU ms"),
)


def measured(results: str) -> dict[str, list[dict[str, str]]]:
    """Return the tables of a results page by their headings: one mapping of column to cell for each row."""
    found: dict[str, list[dict[str, str]]] = {}
    for part in re.split(r"^## ", results, flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        lines = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in line] for line in lines]
        if len(cells) > 2:
            found[heading.strip()] = [dict(zip(cells[0], row, strict=False)) for row in cells[2:]]
    return found


def costs(results: str | None = None) -> str:
    """Return the short table of the measured costs, and which goals were missed."""
    page = RESULTS.read_text() if results is None else results
    tables = measured(page)
    rows = []
    for heading, label, called in MEASURED:
        row = next(
            (
                row
                for name in tables
                if name.startswith(heading)
                for row in tables[name]
                if row[""].startswith(label)
            ),
            {},
        )
        if row:
            rows.append([called, *(re.sub(r" \(.*", "", row.get(peer, "")) for peer in PEERS)])
    if not rows:
        raise ValueError(f"{RESULTS.name} has none of the tables that the documentation shows")
    short = table(["medians", *PEERS], rows, "lrrr")
    goals = [
        (heading.strip(), kind, said)
        for heading, text in re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", page, re.MULTILINE)
        for kind, said in re.findall(r"^- (MISSED|reached): (.+)$", text, re.MULTILINE)
    ]
    missed = [f"- {heading}: {said}" for heading, kind, said in goals if kind == "MISSED"]
    told = f"{len(goals) - len(missed)} of {len(goals)} measured goals were reached"
    return "\n".join(
        [short, "", f"{told}. Missed:" if missed else f"{told}.", *([""] if missed else []), *missed]
    )


# --- the pages --------------------------------------------------------------------------------------------

TABLES: Mapping[str, Callable[[], str]] = {
    "operator": lambda: arguments("operators/atscale.py", "AtScaleAggregateBuildOperator"),
    "check operator": lambda: arguments("operators/checks.py", "AtScaleAggregateCheckOperator"),
    "sensor": lambda: arguments("sensors/atscale.py", "AtScaleBatchSensor"),
    "watcher": lambda: arguments("triggers/builds.py", "AtScaleBuildEventTrigger"),
    "batch trigger": lambda: arguments("triggers/atscale.py", "AtScaleBatchTrigger"),
    "hook": lambda: methods(
        "hooks/atscale.py",
        "AtScaleHook",
        (
            "list_models",
            "list_instances",
            "resolve_model",
            "start_batch",
            "get_batches",
            "get_instances",
            "get_history",
        ),
    ),
    "connection": connection_fields,
    "options": options,
    "errors": errors,
    "examples": examples,
    "engine settings": engine_settings,
    "costs": costs,
}


def fill(texts: Mapping[Path, str]) -> dict[Path, str]:
    """Return pages with all tables as they should be."""
    filled = dict(texts)
    for name, make in TABLES.items():
        pages = [page for page, text in filled.items() if f"<!-- {name} -->\n" in text]
        if len(pages) != 1:
            raise ValueError(f"Exactly one page must have a place for {name!r}; found: {pages}")
        filled[pages[0]] = markers.fill(filled[pages[0]], name, make())
    return filled


def main() -> None:
    """Write the pages that are not up to date."""
    texts = {page: page.read_text() for page in PAGES}
    for page, text in fill(texts).items():
        if text != texts[page]:
            page.write_text(text)
            sys.stdout.write(f"{page.relative_to(ROOT)} is up to date again\n")


if __name__ == "__main__":
    main()
