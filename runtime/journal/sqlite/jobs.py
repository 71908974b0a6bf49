"""What the writer is handed: appends, records and questions, each with who waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec

from runtime.errors import JournalError
from runtime.journal.sqlite.changes import Changes
from runtime.journal.sqlite.rows import Row, entry_of
from runtime.journal.sqlite.writing import Batch
from runtime.records import Entry

log = logging.getLogger("runtime.journal")


class Job(msgspec.Struct, eq=False, kw_only=True):
    """Work in a transaction; `kept` is tried again on a full disk, what does not write is done there, too."""

    writes: ClassVar[bool] = True
    kept: ClassVar[bool] = False

    def run(self, batch: Batch) -> None:
        """Do it; in the thread of the writer, and again when the transaction has to be tried again."""
        raise NotImplementedError

    def answer(self, error: JournalError | None) -> None:
        """Tell those who wait, on the loop: it is on disk, or failed."""
        raise NotImplementedError


class Call(msgspec.Struct, eq=False):
    """One call of `append`: where its own entries begin in those of the job, and how many they are."""

    future: asyncio.Future[list[Entry]]
    then: Callable[[Sequence[Entry], list[Entry]], None] | None
    begin: int
    count: int


class Append(Job):
    """The calls of `append` that came one after the other; `is_plain` when each entry is new, queued and for no sink.

    `revive` gives the object that stands for an entry in this process.
    """

    revive: Callable[[Entry], Entry]
    horizon: float
    is_plain: bool = True
    entries: list[Entry] = []
    rows: list[Row] = []
    cursors: list[tuple[str, bytes]] = []
    calls: list[Call] = []
    firsts: list[Entry | Row | None] | None = None

    def run(self, batch: Batch) -> None:
        """Insert the entries that are new."""
        if self.is_plain and self.rows:
            batch.append(self.rows)
        elif self.rows:
            self.firsts = batch.append_any(self.entries, self.rows, self.horizon)
            batch.counts["duplicates"] += len(self.firsts) - self.firsts.count(None)
        for cursor in self.cursors:
            batch.connection.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", cursor)

    def answer(self, error: JournalError | None) -> None:
        """Give each call its own entries, or the first ones of their ids."""
        entries = self.entries
        if error is None and self.firsts is not None:
            entries = [self._first_of(entry, first) for entry, first in zip(entries, self.firsts, strict=True)]
        for call in self.calls:
            accepted = entries[call.begin : call.begin + call.count]
            if error is None and call.then is not None:
                try:
                    call.then(self.entries[call.begin : call.begin + call.count], accepted)
                except Exception:
                    log.exception("an append is recorded, but what follows it failed: a mistake of the runtime")
            if not call.future.done():
                if error is None:
                    call.future.set_result(accepted)
                else:
                    call.future.set_exception(error)

    def _first_of(self, entry: Entry, first: Entry | Row | None) -> Entry:
        if first is None:
            return entry
        entry.seq = 0
        return first if isinstance(first, Entry) else self.revive(entry_of(first))


class Record(Job):
    """A call of `record`, with the rows of what was emitted; its answer tells for each of those whether it was dropped."""

    kept: ClassVar[bool] = True

    future: asyncio.Future[list[bool]]
    changes: Changes
    states: list[tuple[str, str | None, bytes]]
    rows: list[Row]
    horizon: float
    dropped: list[bool] = []

    def run(self, batch: Batch) -> None:
        """Write what has changed, then what was emitted."""
        batch.record(self.changes, self.states)
        if self.rows:
            self.dropped = [first is not None for first in batch.append_any(self.changes.emitted, self.rows, self.horizon)]

    def answer(self, error: JournalError | None) -> None:
        """Tell who waits."""
        settle(self.future, self.dropped, error)


class Question(Job):
    """Something to be asked when what was handed in before it is there."""

    writes: ClassVar[bool] = False

    future: asyncio.Future[Any]
    ask: Callable[[Batch], Any]
    found: Any = None

    def run(self, batch: Batch) -> None:
        """Ask it."""
        batch.flush()
        self.found = self.ask(batch)

    def answer(self, error: JournalError | None) -> None:
        """Tell who waits."""
        settle(self.future, self.found, error)


class Tending(Job):
    """Lets old entries go, at most `limit`; nobody waits for it."""

    tend: Callable[[Batch, int], None]
    limit: int

    def run(self, batch: Batch) -> None:
        """Let them go."""
        self.tend(batch, self.limit)

    def answer(self, error: JournalError | None) -> None:
        """Tell nobody."""


def settle(future: asyncio.Future[Any], answer: object, error: JournalError | None) -> None:
    """Give an answer, or an error, to who still waits."""
    if future.done():
        return
    if error is None:
        future.set_result(answer)
    else:
        future.set_exception(error)
