"""Journals of every earlier version are taken up, also when the process is killed in the middle of it."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from faults.journals import CONFIG, EVENTS, FOLDER, FUNCTIONS, KEPT, LINES, dump, load, standing
from faults.ledger import event, listing, post, project, until
from faults.tracing import injecting, needs_strace
from running import Running, environment, run

from runtime.clock import SystemClock
from runtime.contracts import Query
from runtime.errors import JournalError
from runtime.journal.sqlite.journal import SqliteJournal
from runtime.journal.sqlite.schema import APPLICATION_ID, MIGRATIONS
from runtime.records import Entry, Shelf

pytestmark = pytest.mark.timeout(60)

DUMPS = {int(path.stem.removeprefix("schema-")): path for path in FOLDER.glob("schema-*.sql")}
VERSIONS = sorted(DUMPS)

OPEN = """
import asyncio, sys
from pathlib import Path
from runtime.clock import SystemClock
from runtime.journal.sqlite.journal import SqliteJournal

async def main():
    journal = SqliteJournal(Path(sys.argv[1]), SystemClock(), keep=3e9)
    await journal.open()
    await journal.close()

if sys.argv[2]:
    from faults.broken import BUILDS
    BUILDS[sys.argv[2]]()
asyncio.run(main())
"""
TESTS = str(Path(__file__).parent.parent)


def journal_of(folder: Path, version: int) -> Path:
    """Return the path of a journal as that version left it."""
    path = folder / ".runtime" / "journal.db"
    load(path, DUMPS[version].read_text())
    return path


def opening(path: Path, build: str = "") -> tuple[str, ...]:
    """Return a command that opens a journal and closes it."""
    return (sys.executable, "-c", OPEN, str(path), build)


async def open_and_close(path: Path) -> None:
    journal = SqliteJournal(path, SystemClock(), keep=3e9)
    await journal.open()
    await journal.close()


def version_of(path: Path) -> int:
    """Return the version that whoever opens the database finds, and see that it is whole."""
    connection = apsw.Connection(str(path))
    assert connection.pragma("integrity_check") == "ok"
    version = int(connection.pragma("user_version"))
    connection.close()
    return version


def test_every_earlier_version_has_a_dump_and_none_comes_later() -> None:
    missing = sorted(set(range(1, len(MIGRATIONS))) - set(VERSIONS))
    assert not missing, f"make schema-N.sql for {missing} in tests/data/journals by `python tests/faults/journals.py FILE` on that version"
    assert max(VERSIONS) <= len(MIGRATIONS)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_dump_is_of_the_version_it_says(tmp_path: Path, version: int) -> None:
    assert version_of(journal_of(tmp_path, version)) == version


@pytest.mark.parametrize("version", VERSIONS)
async def test_all_that_a_journal_of_an_earlier_version_holds_is_there(tmp_path: Path, version: int) -> None:
    journal = SqliteJournal(journal_of(tmp_path, version), SystemClock(), keep=3e9)
    await journal.open()

    async def the(id: str) -> Entry:
        (entry,) = await journal.find(id)
        return entry

    async def ids(shelf: Shelf) -> list[str]:
        return [entry.event.id for entry in await journal.read(shelf)]

    assert {id: (await the(id)).status.replace("retrying", "queued") for id in KEPT} == KEPT
    assert await ids(Shelf("begun")) == ["order-1", "held-1"]
    assert await ids(Shelf("lane", "order", 4)) == ["order-2"]
    assert await ids(Shelf("key", "h", 4)) == ["held-2"]
    assert await ids(Shelf("lane", "held", 9)) == ["held-3"]
    assert await ids(Shelf("sink", "notes")) == ["note-1"]
    assert [entry.event.id for entry in await journal.read_due((0.0, 0), 1e11)] == ["later-2"]
    order, held, bad = await the("order-1"), await the("held-1"), await the("bad-1")
    assert (order.event.key, order.event.data, order.steps["first"].result, order.steps["second"].attempts) == ("k", 1, 10, 1)
    assert (held.crashes, (await the("note-1")).ran, (await the("note-1")).sinks) == (1, True, ("notes",))
    assert bad.steps["bad"].error is not None
    assert (bad.steps["bad"].error.type, bad.steps["bad"].error.message) == ("ValueError", "never 1")
    assert "raise ValueError" in bad.steps["bad"].error.traceback
    assert await journal.state("plain", "k") == {"sum": 3}
    assert (await journal.cursor("lines"))["lines"] == 3
    counts = await journal.counts()
    assert (counts.open, counts.done, counts.dead, counts.discarded, counts.unrouted) == (7, 6, 1, 1, 1)
    assert len(await journal.query(Query(limit=100))) == counts.accepted == len(EVENTS) + 3
    await journal.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_process_goes_on_with_a_journal_of_an_earlier_version(tmp_path: Path, version: int) -> None:
    project(tmp_path, FUNCTIONS, CONFIG)
    journal_of(tmp_path, version)
    (tmp_path / "in.jsonl").write_text(f"{LINES}4\n")
    (tmp_path / "open").touch()
    with Running(tmp_path) as running:
        ends = dict.fromkeys(KEPT, "done") | {"bad-1": "dead", "bad-2": "discarded", "nobody-1": "unrouted", "later-2": "queued"}
        until(lambda: standing(running) == ends)
        assert [one["status"] for one in listing(running, type="shipped")] == ["unrouted", "unrouted"]
        assert [event(running, one)["steps"][0]["attempts"] for one in ("held-2", "held-3")] == [1, 1]
        until(lambda: running.api.get("/api/stats").json()["accepted"] == len(EVENTS) + 6)  # three lines, a fourth, two shipped
        assert running.api.post(f"/api/events/{event(running, 'bad-1')['uid']}/retry").is_success
        post(running, ("new", "note"))
        until(lambda: event(running, "new")["status"] == "done")
        assert running.stop() == 0
    assert (tmp_path / "out" / "notes.jsonl").read_text().count("\n") == 2


def kill_at_each_write(path: Path, make: Callable[[], object], allowed: set[int], step: int = 1, build: str = "") -> list[int]:
    """Kill what opens a journal at one write after another; return the versions that were found, after the next start all is well."""
    found = []
    for when in range(1, 200, step):
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        make()
        command = injecting(path.parent / "strace", f"pwrite64:signal=SIGKILL:when={when}", command=opening(path, build))
        environ = environment() | {"PYTHONPATH": TESTS}
        killed = subprocess.run(command, env=environ, check=False, capture_output=True, timeout=30)
        if killed.returncode == 0:
            break
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        copy = path.parent / "copy" / path.name
        shutil.copytree(path.parent, copy.parent)
        if path.exists():
            found.append(version_of(copy))
            assert found[-1] in allowed, f"killed at write {when}"
        asyncio.run(open_and_close(path))
        assert version_of(path) == len(MIGRATIONS)
    return found


@needs_strace
@pytest.mark.parametrize("version", [version for version in VERSIONS if version < len(MIGRATIONS)])
def test_a_kill_at_any_write_of_a_migration_leaves_one_version_or_another_whole(tmp_path: Path, version: int) -> None:
    path = tmp_path / ".runtime" / "journal.db"
    versions = range(version, len(MIGRATIONS) + 1)
    found = kill_at_each_write(path, lambda: journal_of(tmp_path, version), set(versions))
    assert set(found) == set(versions)
    made = ("INSERT INTO events", "INSERT INTO progress", "INSERT INTO counts (name, number) VALUES ('listed'")
    kept = [line for line in dump(path) if line.startswith("INSERT INTO") and not line.startswith(made)]
    assert [line for line in DUMPS[version].read_text().splitlines() if line in kept] == kept


@needs_strace
def test_a_kill_at_a_write_of_a_new_journal_leaves_one_that_opens(tmp_path: Path) -> None:
    found = kill_at_each_write(tmp_path / ".runtime" / "journal.db", lambda: None, set(range(len(MIGRATIONS) + 1)), step=3)
    assert {0, len(MIGRATIONS)} <= set(found)


@needs_strace
def test_a_migration_that_is_not_one_transaction_would_be_noticed(tmp_path: Path) -> None:
    path = tmp_path / ".runtime" / "journal.db"
    with pytest.raises(JournalError, match="cannot be opened"):
        kill_at_each_write(path, lambda: journal_of(tmp_path, 1), set(range(len(MIGRATIONS) + 1)), step=3, build="halved")


def test_an_empty_file_becomes_a_journal(tmp_path: Path) -> None:
    project(tmp_path, FUNCTIONS, CONFIG)
    path = tmp_path / ".runtime" / "journal.db"
    path.parent.mkdir()
    path.touch()
    with Running(tmp_path) as running:
        post(running, ("a", "plain"))
        until(lambda: event(running, "a")["status"] == "done")
        assert running.stop() == 0
    assert version_of(path) == len(MIGRATIONS)


def test_a_later_version_that_only_the_log_knows_of_is_refused(tmp_path: Path) -> None:
    project(tmp_path, FUNCTIONS, CONFIG)
    path = journal_of(tmp_path, max(VERSIONS))
    newer = apsw.Connection(str(path))
    newer.pragma("journal_mode", "wal")
    newer.pragma("user_version", 99)
    before = path.read_bytes()
    assert int.from_bytes(before[60:64], "big") < 99
    found = run(tmp_path, "run")
    assert found.returncode == 1
    assert "journal.db was written by a newer function-runtime (schema 99, " in found.stderr
    assert path.read_bytes() == before
    newer.close()
    assert int.from_bytes(path.read_bytes()[68:72], "big") == APPLICATION_ID
