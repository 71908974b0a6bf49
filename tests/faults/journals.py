"""Journals as earlier versions of the runtime left them: `python journals.py FILE` makes one by the version that is installed.

Each version of the schema has a dump in `tests/data/journals`; it is made before the next version comes.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import apsw
from faults.ledger import Connection, event, project, until
from running import Running

FOLDER = Path(__file__).parent.parent / "data" / "journals"

FUNCTIONS = """
import asyncio
from pathlib import Path

from runtime import Context, function


@function(on="plain")
async def plain(data: int, state: dict) -> int:
    state["sum"] = state.get("sum", 0) + data
    return state["sum"]


@function(on="note")
async def note(data: int) -> None: ...


@function(on="bad", retries=0)
async def bad(data: int) -> None:
    raise ValueError(f"never {data}")


@function(on="order")
async def first(data: int) -> int:
    return 10 * data


@function(after="first", retries=9, backoff=30, emits="shipped")
async def second(first: int) -> int:
    if not Path("open").exists():
        raise OSError("not yet")
    return first


@function(on="held", concurrency=1)
async def held(data: int) -> int:
    while not Path("open").exists():
        await asyncio.sleep(0.01)
    return data
"""

CONFIG = """
[journal]
keep = 3_000_000_000
[sources.lines]
plugin = "jsonl"
path = "in.jsonl"
type = "plain"
key = "'lines'"
[sinks.notes]
plugin = "jsonl"
path = "out/notes.jsonl"
on = "note"
retries = 0
"""

LINES = "1\n2\n3\n"

EVENTS: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("plain-1", "plain", {"partitionkey": "k"}),
    ("plain-2", "plain", {"partitionkey": "k"}),
    ("note-1", "note", {}),
    ("bad-1", "bad", {}),
    ("bad-2", "bad", {}),
    ("nobody-1", "nobody", {}),
    ("order-1", "order", {"partitionkey": "k"}),
    ("order-2", "order", {"partitionkey": "k"}),
    ("held-1", "held", {"partitionkey": "h"}),
    ("held-2", "held", {"partitionkey": "h"}),
    ("held-3", "held", {"priority": 9}),
    ("later-1", "plain", {"due": "2026-01-01T00:00:00Z"}),
    ("later-2", "plain", {"due": "2100-01-01T00:00:00Z"}),
)

KEPT = {
    "plain-1": "done",
    "plain-2": "done",
    "note-1": "queued",  # at its sink, which cannot be opened
    "bad-1": "dead",
    "bad-2": "discarded",
    "nobody-1": "unrouted",
    "order-1": "queued",  # waits for another attempt
    "order-2": "queued",  # behind it
    "held-1": "queued",  # was executing in a crash
    "held-2": "queued",
    "held-3": "queued",
    "later-1": "done",
    "later-2": "queued",
}


def standing(running: Running) -> dict[str, str]:
    """Return how each event of `EVENTS` stands."""
    return {id: event(running, id)["status"] for id, _, _ in EVENTS}


async def post_all(web: str) -> None:
    async with Connection.open(web) as connection:
        for id, type, more in EVENTS:
            await connection.post(id, type, int(id[-1]), **more)


def make(folder: Path) -> Path:
    """Return the path of a journal that has everything in it, as the runtime leaves it when it has ended."""
    import asyncio

    project(folder, FUNCTIONS, CONFIG)
    (folder / "in.jsonl").write_text(LINES)
    (folder / "out").write_text("where a folder should be")
    with Running(folder) as running:
        asyncio.run(post_all(running.web))
        waits = KEPT | {"order-1": "retrying", "held-1": "running", "held-3": "queued"}
        until(lambda: event(running, "held-1")["status"] == "running" and event(running, "order-1")["status"] == "retrying")
        running.stop(signal.SIGKILL)
    with Running(folder) as running:
        running.api.post(f"/api/events/{event(running, 'bad-2')['uid']}/discard").raise_for_status()
        until(lambda: {id: status for id, status in standing(running).items() if waits[id] != status}.keys() <= {"order-1"})
        assert running.stop() == 0
    return folder / ".runtime" / "journal.db"


def dump(path: Path) -> Iterator[str]:
    """Yield the statements that make a database."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    for pragma in ("application_id", "user_version"):
        yield f"PRAGMA {pragma} = {connection.pragma(pragma)};"
    for name, kind, sql in list(connection.execute("SELECT name, type, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid")):
        yield f"{sql};"
        if kind == "table":
            columns = [column for _, column, *_ in connection.execute(f"PRAGMA table_info({name})")]
            values = " || ', ' || ".join(f"quote({column})" for column in columns)
            for (row,) in connection.execute(f"SELECT {values} FROM {name}"):
                yield f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({row});"
    connection.close()


def load(path: Path, statements: str) -> None:
    """Make a database of a dump."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = apsw.Connection(str(path))
    connection.execute(statements)
    connection.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        Path(sys.argv[1]).write_text("\n".join(dump(make(Path(made)))) + "\n")
