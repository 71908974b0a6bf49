"""The journal on SQLite: nothing that was accepted is lost, whatever happens to the process.

It hands its work to one thread (see `writer`) and reads for people through a connection of its own, so that a long
search holds up no commit. Places in the order of acceptance are given on the loop, which alone calls it; rows are
made there too, once for each event and once for each record of it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Self

import apsw
from msgspec.structs import force_setattr

from runtime.codec import to_builtins
from runtime.contracts import Clock, Counts, Journal, Query
from runtime.errors import Fault, JournalError
from runtime.journal.sqlite import reading, schema
from runtime.journal.sqlite.changes import changes_of
from runtime.journal.sqlite.files import Lock, Marks, Reserve, fill
from runtime.journal.sqlite.jobs import Append, Call, Question, Record
from runtime.journal.sqlite.known import Known
from runtime.journal.sqlite.mover import Mover
from runtime.journal.sqlite.rows import Row, pack, row_of, unpack
from runtime.journal.sqlite.writer import BUSY, DAMAGED, FILLED, FULL, Writer
from runtime.journal.sqlite.writing import Batch
from runtime.records import QUEUED, Entry, Outcome, Shelf, uid_of
from runtime.settings import JournalSettings

log = logging.getLogger("runtime.journal")

STATEMENTS = 300  # that are kept compiled: each for some numbers of rows
MANY_STATES = 10_000  # states kept in memory
SMALL = 64 * 1024 * 1024  # bytes up to which a file is checked as a whole when it is opened


class SqliteJournal(Journal):
    """See `Journal` for the contract; `keep` and `dedupe` in seconds, `max_bytes` is the size above which ended entries go earlier."""

    persistent: ClassVar[bool] = True

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        keep: float = 86_400.0,
        dedupe: float = 3600.0,
        max_bytes: int = 10_000_000_000,
        lost: Callable[[JournalError], None] = lambda _: None,
    ) -> None:
        self._notes: list[Fault] = []
        self._is_open = False
        self._path = path
        self._clock = clock
        self._keep = max(keep, dedupe)  # an id is known as long as its entry is there
        self._dedupe = dedupe
        self._max_bytes = max_bytes
        self._lost = lost
        self._known = Known()
        self._states: dict[tuple[str, str | None], dict[str, Any]] = {}
        self._seq = 0

    @classmethod
    def from_settings(cls, settings: JournalSettings, clock: Clock, *, folder: Path, lost: Callable[[JournalError], None]) -> Self:
        """Return the journal of `sqlite:PATH`."""
        path = settings.url.removeprefix("sqlite:")
        if not path or path.startswith("//"):
            raise ValueError('expected "sqlite:PATH", as in "sqlite:.runtime/journal.db"')
        return cls(folder / path, clock, keep=settings.keep, dedupe=settings.dedupe, max_bytes=settings.max_bytes, lost=lost)

    @property
    def faults(self) -> list[Fault]:
        """What is wrong though it works: events that are gone, a disk that is full."""
        full = [Fault(self._path.name, FULL)] if self._is_open and self._thread.is_full else []
        return [*self._notes, *full]

    def reconfigure(self, settings: JournalSettings) -> bool:
        """Take new limits; see `Journal.reconfigure`."""
        self._keep = max(settings.keep, settings.dedupe)
        self._dedupe = settings.dedupe
        self._max_bytes = settings.max_bytes
        return True

    # --- open and close -------------------------------------------------------------------------------

    async def open(self) -> None:
        """Make ready; see `Journal.open`."""
        connection = await asyncio.get_running_loop().run_in_executor(None, self._prepare)
        self._thread = Writer(
            self._path,
            connection,
            self._marks,
            self._reserve,
            self._mover,
            listed=self._listed,
            is_due=self._is_due,
            tend=self._prune,
            lost=self._on_lost,
        )
        self._thread.start()
        self._is_open = True
        self._readers = ThreadPoolExecutor(1, "journal-reader")

    def _prepare(self) -> apsw.Connection:
        """Lock, check and take up the database."""
        schema.check_header(self._path)
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = Lock(self._beside("lock"))
            self._lock.take(self._path)
        except OSError as error:
            raise _unopened(self._path, error) from None
        try:
            return self._take_up()
        except (apsw.Error, OSError) as error:
            self._lock.release()
            raise _unopened(self._path, error) from error
        except JournalError:
            self._lock.release()
            raise

    def _take_up(self) -> apsw.Connection:
        """Return the connection that writes, with the database in its present schema and the last crash charged."""
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # events are nobody else's business
        self._marks = Marks(self._beside("marks"))
        self._reserve = Reserve(self._beside("reserve"))
        self._reserve.hold()
        connection = self._connect()
        self._check(connection)
        schema.migrate(connection)
        self._seq = self._count_crashes(connection)
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        fill(self._beside("wal", "-"), FILLED)
        self._mover = Mover(self._connect())
        self._reader = self._open_reader()
        return connection

    def _beside(self, what: str, sign: str = ".") -> Path:
        return self._path.with_name(f"{self._path.name}{sign}{what}")

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(str(self._path), statementcachesize=STATEMENTS)
        connection.set_busy_timeout(BUSY)
        schema.sign(connection)
        for name, value in (("journal_mode", "wal"), ("synchronous", "full"), ("journal_size_limit", SMALL), ("cache_size", -32_000)):
            connection.pragma(name, value)
        connection.wal_autocheckpoint(0)  # see `Mover`
        return connection

    def _check(self, connection: apsw.Connection) -> None:
        if self._path.exists() and self._path.stat().st_size <= SMALL:
            found = connection.pragma("quick_check")
            if found != "ok":
                raise JournalError(f"{self._path} is damaged ({found}); {DAMAGED}")

    def _count_crashes(self, connection: apsw.Connection) -> int:
        """Charge entries that were executing when the last process ended, list all that wait, and return the last `seq`."""
        executing = self._marks.found()
        last = reading.last_seq(connection)
        batch = Batch(connection, reading.listed(connection))
        connection.execute("BEGIN IMMEDIATE")
        batch.charge(executing)
        batch.list_waiting(last)
        connection.execute("COMMIT")
        self._listed = batch.listed
        self._marks.clear()
        if self._marks.committed > last:
            missing = self._marks.committed - last
            message = f"{missing} events that were accepted are gone: a part of the journal was cut off or deleted outside the runtime"
            log.error("%s: %s", self._path, message)
            self._notes.append(Fault(self._path.name, message))
        self._marks.committed = last
        return last

    def _open_reader(self) -> apsw.Connection:
        """Return the connection for people, with all files open that it will ever need: later there may be no descriptors."""
        reader = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
        reader.set_busy_timeout(BUSY)
        reader.pragma("user_version")
        return reader

    async def close(self) -> None:
        """Write what is under way and let go."""
        self._readers.submit(self._reader.close)
        self._readers.shutdown(wait=True)
        await self._thread.close()  # the last to close, for only who may write takes the log away
        self._marks.close()
        self._lock.release()

    # --- write ----------------------------------------------------------------------------------------

    async def append(
        self,
        entries: Sequence[Entry],
        *,
        cursor: tuple[str, Any] | None = None,
        then: Callable[[Sequence[Entry], list[Entry]], None] | None = None,
    ) -> list[Entry]:
        """Accept entries; see `Journal.append`."""
        rows = self._rows(entries)
        kept = None if cursor is None else (cursor[0], pack(cursor[1]))
        writer = self._thread
        last = writer.latest
        job = last if type(last) is Append else Append(revive=self._known.revive, horizon=self._clock.time() - self._dedupe)
        future: asyncio.Future[list[Entry]] = writer.loop.create_future()
        job.calls.append(Call(future, then, len(job.entries), len(entries)))
        job.entries += entries
        job.rows += rows
        job.is_plain = job.is_plain and _are_plain(entries)
        if kept is not None:
            job.cursors.append(kept)
        if job is not last:
            writer.submit(job)
        return await future

    def _rows(self, entries: Sequence[Entry]) -> list[Row]:
        """Give entries their places, and their events ids, and return their rows.

        Raises:
            MalformedEvent: the data of one cannot be kept; no place is taken.
        """
        seq, rows = self._seq, []
        for entry in entries:
            seq += 1
            entry.seq = seq
            if not entry.event.id:
                force_setattr(entry.event, "id", uid_of(entry.accepted, seq))
            rows.append(row_of(entry))
        self._seq = seq
        self._known.add(entries)
        return rows

    async def record(self, outcomes: Sequence[Outcome]) -> None:
        """Record outcomes; see `Journal.record`."""
        changes = changes_of(outcomes)
        self._known.add(changes.entries.values())
        rows = self._rows(changes.emitted)
        future: asyncio.Future[list[bool]] = self._thread.loop.create_future()
        horizon = self._clock.time() - self._dedupe
        self._thread.submit(Record(future=future, changes=changes, states=changes.packed_states(), rows=rows, horizon=horizon))
        for one, is_dropped in zip(changes.emitted, await future, strict=True):
            if is_dropped:
                one.seq = 0
        self._states.update(changes.states)
        if len(self._states) > MANY_STATES:
            self._states.clear()

    def mark(self, seq: int) -> None:
        """Note that an entry is executing."""
        self._marks.mark(seq)

    def unmark(self, seq: int) -> None:
        """Note that an entry is not executing any more."""
        self._marks.unmark(seq)

    def unmark_all(self) -> None:
        """Charge nothing to what executes now, though the process ends."""
        self._marks.stop()

    def _on_lost(self, error: JournalError) -> None:
        self.unmark_all()  # the disk has failed, and not what was running
        self._lost(error)

    def _horizon(self, connection: apsw.Connection) -> float:
        """Return the time before which ended entries go: now, when the file is too large."""
        age = self._keep if reading.used_bytes(connection) <= self._max_bytes else 0.0
        return self._clock.time() - age

    def _is_due(self, connection: apsw.Connection) -> bool:
        return reading.is_due(connection, self._horizon(connection))

    def _prune(self, batch: Batch, limit: int) -> None:
        """Let the entries go that ended first."""
        batch.counts.subtract(reading.prune(batch.connection, self._horizon(batch.connection), limit))

    # --- read -----------------------------------------------------------------------------------------

    async def shelves(self) -> list[Shelf]:
        """Return the lanes and sinks for which entries wait."""
        found: list[Shelf] = await self._ask(lambda batch: reading.shelves(batch.connection, batch.listed))
        return found

    async def read(self, shelf: Shelf, *, after: int = 0, limit: int = 1000) -> list[Entry]:
        """Return the waiting entries of a shelf; see `Journal.read`."""
        rows = await self._ask(lambda batch: reading.read_shelf(batch.connection, shelf, after, limit, batch.listed))
        return [self._known.revive(entry) for entry in rows]

    async def read_due(self, after: tuple[float, int], until: float, *, limit: int = 1000) -> list[Entry]:
        """Return delayed entries; see `Journal.read_due`."""
        rows = await self._ask(lambda batch: reading.read_due(batch.connection, after, until, limit))
        return [self._known.revive(entry) for entry in rows]

    async def waiting(self) -> int:
        """Return how many entries wait in lanes or are delayed."""
        count: int = await self._ask(lambda batch: reading.waiting(batch.connection, batch.listed))
        return count

    async def _ask(self, ask: Callable[[Batch], Any]) -> Any:
        """Return what the database answers when all that was handed in before is there."""
        future: asyncio.Future[Any] = self._thread.loop.create_future()
        self._thread.submit(Question(future=future, ask=ask))
        return await future

    async def find(self, id: str) -> list[Entry]:
        """Return the entries with this uid or event id, the newest first."""
        return await self._look(lambda: reading.find(self._reader, id))

    async def query(self, query: Query) -> list[Entry]:
        """Return the entries a query asks for, the newest first."""
        return await self._look(lambda: reading.query(self._reader, query))

    async def effects(self, seq: int) -> list[Entry]:
        """Return the entries that the entry `seq` emitted, in order."""
        return await self._look(lambda: reading.effects(self._reader, seq))

    async def _look(self, search: Callable[[], list[Entry]]) -> list[Entry]:
        def look() -> list[Entry]:
            with self._thread.turnstile.search():
                return search()

        try:
            found = await asyncio.get_running_loop().run_in_executor(self._readers, look)
        except (apsw.Error, RuntimeError) as error:
            raise JournalError(f"{self._path} cannot be read: {type(error).__name__}: {error}") from None
        return [self._known.find(entry) for entry in found]  # what was found is older than what is in memory: never put there

    async def counts(self) -> Counts:
        """Return how many entries there are by status."""
        numbers: dict[str, int] = await self._ask(lambda batch: reading.counts(batch.connection))
        names = {"queued": "open", "retrying": "open"}
        sums: dict[str, int] = {}
        for name, number in numbers.items():
            sums[names.get(name, name)] = sums.get(names.get(name, name), 0) + number
        return Counts(**{name: sums.get(name, 0) for name in Counts.__struct_fields__})

    async def state(self, function: str, key: str | None) -> dict[str, Any]:
        """Return a copy of the mapping recorded last for a function and key."""
        place = (function, key)
        if place not in self._states:
            packed = await self._ask(lambda batch: reading.state(batch.connection, function, key))
            self._states[place] = unpack(packed) if packed is not None else {}
        return dict(to_builtins(self._states[place]))

    async def cursor(self, source: str) -> Any:
        """Return the cursor recorded last for a source, or None."""
        packed = await self._ask(lambda batch: reading.cursor(batch.connection, source))
        return None if packed is None else unpack(packed)


def _are_plain(entries: Sequence[Entry]) -> bool:
    """Return whether entries need nothing but their row."""
    for entry in entries:  # noqa: SIM110 - `all` takes three times as long for one
        if entry.looked_up or entry.sinks or entry.status != QUEUED or entry.steps or entry.crashes:
            return False
    return True


def _unopened(path: Path, error: Exception) -> JournalError:
    """Return the error of a journal that cannot be opened, with what to do."""
    if isinstance(error, apsw.FullError) or getattr(error, "errno", None) == errno.ENOSPC:
        return JournalError(f"{path} cannot be opened: the disk is full; make room, or give [journal] url another path")
    remedy = DAMAGED if isinstance(error, apsw.CorruptError | apsw.NotADBError) else "mend that, or give [journal] url another path"
    return JournalError(f"{path} cannot be opened: {type(error).__name__}: {error}; {remedy}")
