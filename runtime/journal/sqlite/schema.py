"""The schema of the journal's database, and how an older one becomes the present one.

`user_version` is the number of migrations that have run, each of them atomic. `events` holds what was accepted: in
columns what is needed to find it, and the rest packed (see `rows`). `progress` holds how an event stands since something
of it was recorded; one that has no row there is queued. So both are only ever added to at their end, and the pages of
what was accepted are written once. (Rewriting the row of an event when it ends costs two times as much, and leaves
pages half empty, since it has become longer.)

`stage` tells what a waiting event waits for: that of `progress` when it has a row there. That of `events` is also its
place in the indexes over waiting events. Most events are done before anybody could want to look for them there: those
behind the number `listed` of `counts` are not in the index of their lane (`NEW`), and are looked for by themselves.
An id is a column only where it is looked up: those the runtime makes lead back to their event by themselves.

The columns `status`, `ended`, `crashes`, `reason`, `steps` and `waits` of `events` are those of schema 2, and read no more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import apsw

from runtime.errors import JournalError

APPLICATION_ID: Final = 0x66726A6C  # "frjl", in the header of the file

LANE: Final = 0  # waits in the lane of its type and level
DUE: Final = 1  # waits for its time
BEGUN: Final = 2  # has recorded steps, or was executing in a crash
RAN: Final = 3  # its functions have ended, sinks have not
NEW: Final = 4  # waits in the lane of its type and level, and is not in the indexes yet

MIGRATIONS: Final = (
    """
    CREATE TABLE events (
        seq       INTEGER PRIMARY KEY,
        status    INTEGER NOT NULL,
        stage     INTEGER,
        type      TEXT NOT NULL,
        level     INTEGER NOT NULL,
        key       TEXT,
        id        TEXT,
        source    TEXT,
        accepted  REAL NOT NULL,
        due       REAL NOT NULL,
        ended     REAL,
        cause     INTEGER,
        retries   INTEGER,
        crashes   INTEGER NOT NULL DEFAULT 0,
        reason    TEXT NOT NULL DEFAULT '',
        event     BLOB NOT NULL,
        steps     BLOB
    ) STRICT;
    CREATE INDEX lane  ON events (type, level, seq) WHERE stage = 0;
    CREATE INDEX keyed ON events (key, level, seq) WHERE stage = 0 AND key IS NOT NULL;
    CREATE INDEX due   ON events (due, seq) WHERE stage = 1;
    CREATE INDEX begun ON events (seq) WHERE stage = 2;
    CREATE INDEX dead  ON events (seq) WHERE status = 3;
    CREATE INDEX ids   ON events (id, source) WHERE id IS NOT NULL;
    CREATE INDEX ended ON events (ended) WHERE ended IS NOT NULL AND status <> 3;
    CREATE INDEX cause ON events (cause) WHERE cause IS NOT NULL;
    CREATE TABLE deliveries (sink TEXT, seq INTEGER, PRIMARY KEY (sink, seq)) STRICT, WITHOUT ROWID;
    CREATE TABLE counts (name TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE states (function TEXT, key TEXT, value BLOB NOT NULL, PRIMARY KEY (function, key)) STRICT, WITHOUT ROWID;
    CREATE TABLE cursors (source TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
    """,
    """
    ALTER TABLE events ADD COLUMN waits BLOB;
    """,
    """
    CREATE TABLE progress (
        seq       INTEGER PRIMARY KEY,
        status    INTEGER NOT NULL,
        stage     INTEGER,
        ended     REAL,
        retries   INTEGER,
        crashes   INTEGER NOT NULL,
        reason    TEXT NOT NULL,
        steps     BLOB,
        waits     BLOB
    ) STRICT;
    INSERT INTO progress SELECT seq, status, stage, ended, retries, crashes, reason, steps, waits FROM events
        WHERE status <> 0 OR stage IS NULL OR stage > 1 OR steps IS NOT NULL OR waits IS NOT NULL OR crashes > 0 OR reason <> '';
    DROP INDEX begun;
    DROP INDEX dead;
    DROP INDEX ended;
    CREATE INDEX begun ON progress (seq) WHERE stage = 2;
    CREATE INDEX dead  ON progress (seq) WHERE status = 3;
    CREATE INDEX ended ON progress (ended) WHERE ended IS NOT NULL AND status <> 3;
    INSERT INTO counts SELECT 'listed', coalesce(max(seq), 0) FROM events;
    """,
)

HEADER: Final = b"SQLite format 3\x00"


def check_header(path: Path) -> None:
    """See to it that a file is one of ours and not of a later version, without touching it.

    Raises:
        JournalError: it is not; says what to do.
    """
    try:
        head = _head(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise JournalError(f"{path} cannot be read: {error.strerror}; mend its permissions, or give [journal] url another path") from None
    if not head:
        return
    if not head.startswith(HEADER) or int.from_bytes(head[68:72], "big") != APPLICATION_ID:
        raise JournalError(f"{path} is not a journal of function-runtime; it was left as it is: give [journal] url another path")
    _check_version(path, int.from_bytes(head[60:64], "big"))


def _check_version(path: Path, version: int) -> None:
    if version > len(MIGRATIONS):
        raise JournalError(
            f"{path} was written by a newer function-runtime (schema {version}, this one knows {len(MIGRATIONS)}); it was left as it is:"
            " install that version again, or give [journal] url another path"
        )


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100)


def sign(connection: apsw.Connection) -> None:
    """Write into a new file whose it is, before anything else: the header is where it is looked for after a crash."""
    if not connection.pragma("page_count"):
        connection.pragma("application_id", APPLICATION_ID)


def migrate(connection: apsw.Connection) -> None:
    """Bring a database to the present schema, one atomic step for each version.

    Raises:
        JournalError: it has a later one, of which its log knows and its header does not yet.
    """
    present = int(connection.pragma("user_version"))
    _check_version(Path(connection.filename), present)
    for version in range(present, len(MIGRATIONS)):
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(MIGRATIONS[version])
            connection.pragma("user_version", version + 1)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
