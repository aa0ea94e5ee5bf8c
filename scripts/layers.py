"""Draw which package imports which, from the code, into the architecture page; with ``--check`` only compare."""

from __future__ import annotations

import grimp
from markers import ROOT, fill, table, write

PAGE = ROOT / "docs" / "architecture.md"
PACKAGE = "airflow_provider_atscale"
#: Imported by nearly all others, so arrows to them would say nothing.
LEFT_OUT = {"exceptions", "compat", "metrics", "version", "get_provider_info", "testing", "__main__"}


def draw() -> str:
    """Return the packages as boxes, each above all that it imports, and a table; type checking does not count."""
    graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)
    imports: dict[str, set[str]] = {}
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            pair = (_package(importer), _package(imported))
            if pair[0] != pair[1] and not LEFT_OUT & {*pair, ""}:
                imports.setdefault(pair[0], set()).add(pair[1])
                imports.setdefault(pair[1], set())
    rows = [(f"`{name}`", ", ".join(sorted(imports[name])) or "-") for name in sorted(imports)]
    return f"{_boxes(imports)}\n\n{table(('package', 'imports'), rows)}"


def _boxes(imports: dict[str, set[str]]) -> str:
    def height(name: str) -> int:
        return max((1 + height(below) for below in imports[name]), default=0)

    heights = {name: height(name) for name in imports}
    layers = [sorted(n for n in heights if heights[n] == level) for level in sorted({*heights.values()})]
    width = max(len("   ".join(layer)) for layer in layers) + 2
    lines = []
    for layer in reversed(layers):
        lines += [f"| {'   '.join(layer):^{width}} |", f"+{'-' * (width + 2)}+"]
    return "\n".join(["```{svgbob}", lines[1], *lines, "```"])


def _package(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


if __name__ == "__main__":
    raise SystemExit(write(PAGE, fill(PAGE.read_text(), "layers", draw())))
