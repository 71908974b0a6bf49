"""What may have happened to the file of the journal: in use, foreign, newer, damaged, cut, gone."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from faults.ledger import SINK, Ledger, drained, lost, project
from running import Running, run

pytestmark = pytest.mark.timeout(30)


def journal_of(folder: Path) -> Path:
    return folder / ".runtime" / "journal.db"


def used(folder: Path) -> Path:
    """Return the journal of a runtime that has worked and ended well."""
    with Running(project(folder)) as running:
        asyncio.run(Ledger().load(running, 50, end=0))
        drained(running)
        assert running.stop() == 0
    return journal_of(folder)


def test_a_second_process_on_the_same_journal_refuses_and_names_the_first(tmp_path: Path) -> None:
    with Running(project(tmp_path)) as running:
        second = run(tmp_path, "run")
        assert second.returncode == 1
        assert f"journal.db is in use by process {running.process.pid}; stop that one, or give [journal] url" in second.stderr
        asyncio.run(Ledger().load(running, 20, end=0))
        assert running.stop() == 0


def write_text(path: Path) -> None:
    path.write_text("not a database, but somebody's notes\n" * 500)


def write_foreign_database(path: Path) -> None:
    path.unlink()
    with apsw.Connection(str(path)) as connection:
        connection.execute("CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1)")
    connection.close()


def make_newer(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", 99)
    connection.close()


def damage_a_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(3 * 4096))


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (write_text, r"journal\.db is not a journal of function-runtime; it was left as it is: give \[journal\] url another path"),
        (
            write_foreign_database,
            r"journal\.db is not a journal of function-runtime; it was left as it is: give \[journal\] url another path",
        ),
        (make_newer, r"journal\.db was written by a newer function-runtime \(schema 99, .* or give \[journal\] url another path"),
        (damage_a_page, r"journal\.db (is damaged|cannot be opened)\b.*; restore a backup, or move it away"),
        (cut_off, r"journal\.db (is damaged|cannot be opened)\b.*; restore a backup, or move it away"),
    ],
)
def test_a_file_that_is_no_sound_journal_is_named_with_a_remedy_and_left_as_it_is(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    journal = used(tmp_path)
    spoil(journal)
    before = journal.read_bytes()
    found = run(tmp_path, "run")
    assert found.returncode == 1
    assert re.search(message, found.stderr), found.stderr
    assert "Traceback" not in found.stderr
    assert journal.read_bytes() == before


def test_a_journal_that_cannot_be_read_is_named_with_a_remedy(tmp_path: Path) -> None:
    journal_of(project(tmp_path)).mkdir(parents=True)
    found = run(tmp_path, "run")
    assert found.returncode == 1
    assert "journal.db cannot be read: Is a directory; " in found.stderr
    assert "or give [journal] url another path" in found.stderr


def test_a_log_that_was_deleted_is_noticed_and_what_is_gone_is_counted(tmp_path: Path) -> None:
    ledger = Ledger()
    with Running(project(tmp_path)) as running:
        asyncio.run(ledger.load(running, 100))
    journal_of(tmp_path).with_name("journal.db-wal").unlink()
    with Running(tmp_path) as running:
        missing = lost(running, ledger)
        health = running.api.get("/health").json()
        (fault,) = health["faults"]
        count = re.match(r"(\d+) events that were accepted are gone", fault["message"])
        assert (health["status"], fault["where"]) == ("degraded", "journal.db")
        assert count is not None
        assert int(count[1]) >= len(missing) > 0
        asyncio.run(ledger.load(running, 20, end=0))
        assert running.stop() == 0


def unlink(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    shutil.copy(path, path.with_name("other"))
    path.with_name("other").replace(path)


@pytest.mark.parametrize("remove", [unlink, replace])
def test_a_file_that_is_taken_away_while_it_is_in_use_is_noticed_and_nothing_is_acknowledged(
    tmp_path: Path, remove: Callable[[Path], None]
) -> None:
    ledger = Ledger()
    with Running(project(tmp_path)) as running:
        asyncio.run(ledger.load(running, 50, end=0))
        drained(running)
        remove(journal_of(tmp_path))
        before = set(ledger.accepted)
        asyncio.run(ledger.load(running, 1, end=0))
        assert running.process.wait(5) == 1
        running.stop()
        assert ledger.accepted == before
        assert "journal.db was moved, deleted or replaced while it was in use" in running.log


def test_a_file_that_is_taken_away_is_noticed_when_nothing_comes_in(tmp_path: Path) -> None:
    with Running(project(tmp_path, config=SINK)) as running:
        journal_of(tmp_path).unlink()
        assert running.process.wait(5) == 1
