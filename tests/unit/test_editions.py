"""Which edition a connection is for is known to ``api/`` and to the making of connections alone."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import airflow_provider_atscale
from airflow_provider_atscale.api.container import ContainerEdition
from airflow_provider_atscale.api.edition import Edition
from airflow_provider_atscale.api.installer import InstallerEdition
from airflow_provider_atscale.client.settings import EDITIONS

PACKAGE = Path(airflow_provider_atscale.__file__).parent
#: Where editions may be told apart; ``testing/`` is the servers' side of them.
FOLDERS = ("api", "testing")
MODULES = ("client/settings.py", "client/editions.py")
#: Where their names are written down, as choices of a form's field, and nothing is decided by them.
FORM = "get_provider_info.py"

NAMES = {*EDITIONS, "ContainerEdition", "InstallerEdition"}
#: What an edition tells of itself for people to read; nothing may hang on it.
FOR_PEOPLE = {"name", "catalog_word", "model_word", "view_right"}


def knows_editions(source: str) -> list[str]:
    """Return the lines in which a module tells one edition from the other."""
    tree = ast.parse(source)
    found = set()
    for node in ast.walk(tree):
        named = {
            ast.Constant: lambda node: node.value,
            ast.Name: lambda node: node.id,
            ast.Attribute: lambda node: node.attr,
            ast.alias: lambda node: node.name,
            ast.ImportFrom: lambda node: (node.module or "").rpartition(".")[2],
        }.get(type(node))
        if named is not None and named(node) in NAMES:
            found.add(node.lineno)
        if isinstance(node, (ast.If, ast.IfExp, ast.While, ast.Match, ast.Compare)):
            deciding = node.subject if isinstance(node, ast.Match) else getattr(node, "test", node)
            found |= {each.lineno for each in ast.walk(deciding) if _asks_for_the_edition(each)}
    return [source.splitlines()[line - 1].strip() for line in sorted(found)]


def _asks_for_the_edition(node: ast.AST) -> bool:
    """Whether an expression is what an edition, or the settings, call the edition."""
    if not isinstance(node, ast.Attribute):
        return False
    owner = node.value
    of_edition = getattr(owner, "attr", getattr(owner, "id", None)) == "edition" and node.attr in FOR_PEOPLE
    return of_edition or (
        node.attr == "edition" and getattr(owner, "attr", getattr(owner, "id", "")) == "settings"
    )


BRANCHES = {
    "a name": 'if edition == "installer": pass',
    "another name": 'urls = {"container": a}[edition]',
    "a class": "isinstance(hook.edition, InstallerEdition)",
    "an import": "from airflow_provider_atscale.api.installer import InstallerEdition",
    "an import of the whole": "from airflow_provider_atscale.api import container",
    "a name in the connection": 'hook.settings.edition != "other"',
    "a branch on its name": "if hook.edition.name[0] == 'i': pass",
    "a branch on its words": "x = 1 if self._hook.edition.catalog_word == word else 2",
    "a match": "match settings.edition:\n    case 'x': pass",
}
NO_BRANCHES = {
    "what it is called, for a reader": 'f"Connection ({client.edition.name} edition) works"',
    "its calls": "if not hook.edition.history(ref): pass",
    "the protocol that both follow": "from airflow_provider_atscale.api.edition import Edition",
    "the connection's field": 'edition = extra.get("edition")',
}


@pytest.mark.parametrize("source", BRANCHES.values(), ids=BRANCHES)
def test_what_is_a_branch_on_the_edition(source):
    assert knows_editions(source)


@pytest.mark.parametrize("source", NO_BRANCHES.values(), ids=NO_BRANCHES)
def test_what_is_none(source):
    assert knows_editions(source) == []


OUTSIDE = [
    module
    for module in sorted(PACKAGE.rglob("*.py"))
    if module.relative_to(PACKAGE).parts[0] not in FOLDERS
    and module.relative_to(PACKAGE).as_posix() not in (*MODULES, FORM)
]


def test_there_is_something_to_look_at():
    names = {str(module.relative_to(PACKAGE)) for module in OUTSIDE}
    assert {
        "client/base.py",
        "builds/start.py",
        "operators/atscale.py",
        "sensors/atscale.py",
        "triggers/atscale.py",
    } <= names
    assert knows_editions((PACKAGE / "client/editions.py").read_text())


@pytest.mark.parametrize("module", OUTSIDE, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_nobody_else_tells_the_editions_apart(module):
    assert knows_editions(module.read_text()) == []


def test_the_form_only_offers_them():
    """All that it says of them is in the declaration of a field."""
    form = ast.parse((PACKAGE / FORM).read_text())
    named = [node for node in ast.walk(form) if isinstance(node, ast.Constant) and node.value in EDITIONS]
    fields = [node for node in ast.walk(form) if isinstance(node, ast.Call)]
    declared = [each for call in fields for keyword in call.keywords for each in ast.walk(keyword)]
    assert named
    assert [node.lineno for node in named if node not in declared] == []


CALLS = [name for name, member in vars(Edition).items() if inspect.isfunction(member) and name[0] != "_"]


@pytest.mark.parametrize("edition", [ContainerEdition, InstallerEdition])
@pytest.mark.parametrize("call", CALLS)
def test_both_are_asked_in_the_same_words(edition, call):
    """Or whoever asks would have to know whom."""

    def words(owner: type) -> list[tuple[str, object, object]]:
        parameters = inspect.signature(getattr(owner, call)).parameters.values()
        return [(each.name, each.kind, each.default) for each in parameters]

    assert words(edition) == words(Edition)
