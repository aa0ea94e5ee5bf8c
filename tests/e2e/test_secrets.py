"""After all cases: no credential that was in use is anywhere that Airflow has written."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from cryptography.fernet import Fernet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .stage import Stage


@pytest.fixture(scope="module")
def played(stage: Stage) -> Stage:
    """Wait until there is nothing more to come."""
    if not stage.scenes and not stage.has_cases:
        pytest.skip("no case was selected")
    stage.wait_all()
    return stage


@pytest.fixture(scope="module")
def secrets(played: Stage) -> set[str]:
    """All credentials that were in use: passwords, API tokens, and the JWTs that the engines have seen."""
    found = set().union(*(lane.secrets for lane in played.lanes))
    # A JWT may also be cut: its signature alone is secret enough.
    return found | {each.rsplit(".", 1)[1] for each in found if each.count(".") == 2}


def leaks(text: str, secrets: set[str]) -> list[str]:
    return [f"{secret[:12]}... at {text.index(secret)}" for secret in secrets if secret in text]


def test_the_search_finds_what_is_there(played: Stage, secrets: set[str], folder: Path) -> None:
    assert any(secret.startswith("e2e-api-token-") for secret in secrets)
    assert any(secret.count(".") == 2 for secret in secrets), "no JWT was ever in use"
    # The engines keep their own token.
    assert any(leaks(state.read_text(), secrets) for state in folder.glob("*.state"))


def test_logs_of_tasks_and_triggers(played: Stage, secrets: set[str], folder: Path) -> None:
    logs = [path for path in (folder / "airflow" / "logs").rglob("*") if path.is_file()]
    assert any("attempt=" in path.name for path in logs)
    if any(scene.mode == "deferrable" for scene in played.scenes):
        assert any(".trigger." in path.name for path in logs), "no log of a trigger was written"
    found = {path.name: leaks(path.read_text(errors="replace"), secrets) for path in logs}
    assert {name: what for name, what in found.items() if what} == {}


def test_output_of_airflows_components(played: Stage, secrets: set[str], folder: Path) -> None:
    outputs = [path for path in folder.glob("*.out") if not path.name.startswith("engine")]
    assert len(outputs) >= 5
    found = {path.name: leaks(path.read_text(errors="replace"), secrets) for path in outputs}
    assert {name: what for name, what in found.items() if what} == {}


def test_metadata_database(played: Stage, secrets: set[str]) -> None:
    """XComs, rendered fields, stored task state, the audit log: every cell of every table."""
    seen = 0
    found = []
    for table, text in cells(played.site.home / "airflow.db"):
        seen += 1
        found += [f"{table}: {leak}" for leak in leaks(text, secrets)]
    assert seen > 1000
    assert found == []


def test_arguments_of_triggers(played: Stage, secrets: set[str]) -> None:
    """Rows of triggers live only as long as the wait, so they were collected while they were there."""
    rows = {row for scene in played.scenes for row in scene.trigger_rows}
    if not any(scene.mode == "deferrable" for scene in played.scenes):
        pytest.skip("no deferrable case was selected")
    fernet = Fernet(played.site.fernet_key.encode())
    # Airflow encrypts some of them, and others not.
    texts = [row if row.startswith("{") else fernet.decrypt(row.encode()).decode() for row in rows]
    assert any("batch_id" in text for text in texts)
    assert [leak for text in texts for leak in leaks(text, secrets)] == []


def cells(database: Path) -> Iterator[tuple[str, str]]:
    """Walk all values of a database, with the name of their table."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        db.text_factory = lambda raw: raw.decode(errors="replace")
        tables = [name for (name,) in db.execute("select name from sqlite_master where type = 'table'")]
        for table in tables:
            for row in db.execute(f'select * from "{table}"'):
                for value in row:
                    if isinstance(value, bytes):
                        yield table, value.decode(errors="replace")
                    elif isinstance(value, str):
                        yield table, value
