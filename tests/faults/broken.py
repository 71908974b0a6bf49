"""Builds of the runtime that are broken on purpose: `python broken.py NAME run`. What checks a promise must fail on them.

`full` is no worse than the real one: it finds a disk full where nobody may fill one.
"""

from __future__ import annotations

import copy
import sys
import time
from pathlib import Path
from typing import Any

import apsw

from runtime.cli import main
from runtime.journal.sqlite.files import Reserve
from runtime.journal.sqlite.journal import SqliteJournal
from runtime.journal.sqlite.writer import Batch, Job, Writer


class Early:
    """A connection that answers what waits for a commit a moment before it commits."""

    def __init__(self, connection: apsw.Connection, writer: Writer, jobs: list[Job]) -> None:
        self._connection = connection
        self._writer = writer
        self._jobs = jobs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *arguments: Any) -> Any:
        if sql == "COMMIT":
            self._writer._answer([copy.copy(job) for job in self._jobs])
            for job in self._jobs:
                job.then = None
            time.sleep(0.03)
        return self._connection.execute(sql, *arguments)


def early() -> None:
    """Answer before the commit."""
    transact = Writer._transact

    def answer_first(self: Writer, batch: Batch, jobs: list[Job]) -> None:
        batch.connection = Early(batch.connection, self, jobs)  # type: ignore[assignment]
        transact(self, batch, jobs)

    Writer._transact = answer_first  # type: ignore[method-assign]


def synchronous(value: str) -> None:
    """Sync less than every commit."""
    connect = SqliteJournal._connect

    def connect_carelessly(self: SqliteJournal) -> apsw.Connection:
        connection = connect(self)
        connection.pragma("synchronous", value)
        return connection

    SqliteJournal._connect = connect_carelessly  # type: ignore[method-assign]


def deaf() -> None:
    """Take an error of the disk for a success."""
    transact = Writer._transact

    def carry_on(self: Writer, batch: Batch, jobs: list[Job]) -> None:
        try:
            transact(self, batch, jobs)
        except apsw.IOError:
            return

    Writer._transact = carry_on  # type: ignore[method-assign]


def full() -> None:
    """Find the disk full as long as there is a file `full`: only what was running has room, once the reserve is given up."""
    transact = Writer._transact
    hold = Reserve.hold

    def find_no_room(self: Writer, batch: Batch, jobs: list[Job]) -> None:
        if Path("full").exists() and any(job.writes and (self._reserve.is_there or not job.kept) for job in jobs):
            raise apsw.FullError("database or disk is full")
        transact(self, batch, jobs)

    Writer._transact = find_no_room  # type: ignore[method-assign]
    Reserve.hold = lambda self: not Path("full").exists() and hold(self)  # type: ignore[method-assign]


BUILDS = {
    "early": early,
    "off": lambda: synchronous("off"),
    "normal": lambda: synchronous("normal"),
    "deaf": deaf,
    "full": full,
}


def command(build: str) -> tuple[str, ...]:
    """Return the command that starts a build."""
    return (sys.executable, __file__, build, "run")


if __name__ == "__main__":
    BUILDS[sys.argv.pop(1)]()
    sys.exit(main())
