"""The one thread that writes: while a commit is on its way the next batch gathers, and nothing waits for a timer.

Jobs run in the order they were handed in, all of a batch in one transaction; their answers are given on the loop,
in the same order, when the commit is on disk. A disk that is full refuses what comes in from outside and keeps what
was running: that is recorded from a reserve, or as soon as there is room. After any other error of the disk nothing
is acknowledged any more: what the system says is written may not be (an fsync that has failed once forgets what it
could not write), so the process has to end and begin with what is really there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw
import msgspec

from runtime.errors import JournalError
from runtime.journal.sqlite.files import Marks, Reserve

log = logging.getLogger("runtime.journal")

PATIENCE = 0.5  # seconds between two tries on a disk that is full
DAMAGED = "restore a backup, or move it away and mend a copy with a current `sqlite3 FILE .recover`"
FULL = "the disk is full; events are taken again when there is room"
LOG = 32 * 1024 * 1024  # bytes above which the log is cut though somebody reads: twice of what it has by itself
READERS = 250  # milliseconds that readers are waited for then, until it has grown by as much again
BUSY = 5000  # milliseconds that anything else waits for a lock
PULSE = 1.0  # seconds after which the thread looks after the file when nothing comes in


class Batch:
    """What the jobs of one transaction are given: the connection, and what they say of it: changes of counts by name, rows inserted."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection
        self.counts: Counter[str] = Counter()
        self.inserted = 0
        self.last = 0


Work = Callable[[Batch], Any]


class Job(msgspec.Struct, eq=False):
    """Work to do in a transaction; `kept` is tried again on a full disk, `then` gets the answer before who waits for it."""

    work: Work
    future: asyncio.Future[Any]
    writes: bool
    kept: bool
    then: Callable[[Any], None] | None
    answer: Any = None
    error: JournalError | None = None


class Turnstile:
    """Lets searches through one after the other, and the writer before all that still wait when it cuts the log."""

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._searching = threading.Lock()

    @contextmanager
    def search(self) -> Iterator[None]:
        """Search in the block."""
        with self._gate:
            pass
        with self._searching:
            yield

    @contextmanager
    def hold(self, patience: float) -> Iterator[None]:
        """Let no search begin in the block, which waits `patience` seconds at most for one that is under way."""
        with self._gate:
            is_free = self._searching.acquire(timeout=patience)
            try:
                yield
            finally:
                if is_free:
                    self._searching.release()


class Writer:
    """Runs jobs on a connection of its own; `tend` is called between batches, `lost` when the journal has failed for good."""

    def __init__(
        self,
        path: Path,
        connection: apsw.Connection,
        marks: Marks,
        reserve: Reserve,
        *,
        tend: Callable[[Batch], bool],
        lost: Callable[[JournalError], None],
    ) -> None:
        self._path = path
        self._connection = connection
        self._marks = marks
        self._reserve = reserve
        self._tend = tend
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._failure: JournalError | None = None
        self._identity = _identity(path)
        self._log_path = path.with_name(f"{path.name}-wal")
        self._log_identity: tuple[int, int] | None = None
        self._log_limit = LOG
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self.is_full = False
        self.turnstile = Turnstile()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(
        self, work: Work, *, writes: bool = True, kept: bool = False, then: Callable[[Any], None] | None = None
    ) -> asyncio.Future[Any]:
        """Return the future of a job's answer."""
        future = self._loop.create_future()
        with self._changed:
            if self._failure is not None:
                future.set_exception(self._failure)
            elif self.is_full and writes and not kept:
                future.set_exception(_full(self._path))
            else:
                self._jobs.append(Job(work, future, writes, kept, then))
                self._changed.notify()
        return future

    async def close(self) -> None:
        """Finish what was handed in, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        while self._thread.is_alive():  # noqa: ASYNC110 - a thread has no event for it
            await asyncio.sleep(0.001)

    # --- in the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        connection = self._connection
        batch = Batch(connection)
        while self._failure is None:
            with self._changed:
                if not self._jobs and not self._closing:
                    self._changed.wait(PULSE)
                jobs = self._taken()
                closing = self._closing
            if jobs:
                batch = self._commit(connection, jobs)
            elif closing:
                break
            self._look_after(batch, busy=bool(jobs))
        with suppress(apsw.Error):
            connection.close()

    def _taken(self) -> list[Job]:
        """Return the jobs that wait; called with the lock."""
        jobs, self._jobs = list(self._jobs), deque()
        return jobs

    def _commit(self, connection: apsw.Connection, jobs: list[Job]) -> Batch:
        """Run jobs in one transaction and answer them; on a full disk refuse some, and go on until the others are done."""
        batch = Batch(connection)
        while jobs:
            batch = Batch(connection)
            try:
                self._transact(batch, jobs)
            except apsw.FullError:
                jobs = self._refuse(connection, jobs)
            except BaseException as error:  # noqa: BLE001 - whatever it is, nothing may be said to be recorded any more
                self._fail(_failure(self._path, error), jobs)
                break
            else:
                self._answer(jobs)
                break
        return batch

    def _transact(self, batch: Batch, jobs: list[Job]) -> None:
        connection = batch.connection
        writes = any(job.writes for job in jobs)
        connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        try:
            for job in jobs:
                job.answer = job.work(batch)
            if batch.counts:
                rows = list(batch.counts.items())
                connection.executemany(
                    "INSERT INTO counts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET number = number + excluded.number", rows
                )
            self._check_file()
            connection.execute("COMMIT")
            self._marks.committed = max(self._marks.committed, batch.last)
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _check_file(self) -> None:
        """See to it that the database and its log are still where others would look for them.

        Raises:
            OSError: they are not: what is written now would be gone with the process.
        """
        if _identity(self._path) != self._identity:
            raise OSError(f"{self._path} was moved, deleted or replaced while it was in use")
        log_file = _identity(self._log_path)
        if self._log_identity is None:
            self._log_identity = log_file
        elif log_file != self._log_identity:
            raise OSError(f"{self._log_path} was moved, deleted or replaced while it was in use")

    def _refuse(self, connection: apsw.Connection, jobs: list[Job]) -> list[Job]:
        """Refuse what comes from outside because the disk is full, and read what is asked for.

        Returns what is to be tried again, from the reserve or when there is room.
        """
        if not self.is_full:
            self.is_full = True
            log.critical("%s: the disk is full; events are refused until there is room", self._path)
        with self._changed:
            jobs = [*jobs, *self._taken()]
            closing = self._closing
        kept = [job for job in jobs if job.kept]
        refused = [job for job in jobs if job.writes and not job.kept]
        if closing and not self._reserve.is_there:
            refused, kept = [*refused, *kept], []  # they are done again after the next start
        for job in refused:
            job.error = _full(self._path)
        self._answer(refused)
        self._commit(connection, [job for job in jobs if not job.writes])
        if self._reserve.is_there:
            self._reserve.give_up()
        elif kept:
            threading.Event().wait(PATIENCE)
        return kept

    def _look_after(self, batch: Batch, *, busy: bool) -> None:
        """Take events again when the disk has room, and let the journal tend its old entries."""
        if self._failure is not None:
            return
        if self.is_full and self._reserve.hold():
            self.is_full = False
            log.warning("%s: the disk has room again; events are taken", self._path)
        try:
            if not busy:
                self._check_file()
            self._cut_log(busy=busy)
            while not self.is_full and self._tend(batch) and not busy and not self._jobs:
                pass
        except apsw.FullError:
            return
        except BaseException as error:  # noqa: BLE001 - as above
            self._fail(_failure(self._path, error), [])

    def _cut_log(self, *, busy: bool) -> None:
        """Begin the log anew when readers have kept it from that: when one ends, another has begun."""
        try:
            size = self._log_path.stat().st_size
        except OSError:
            return  # there is none yet, or the next commit finds out
        if size <= (self._log_limit if busy else LOG):
            return
        self._connection.set_busy_timeout(READERS if busy else 0)
        try:
            with self.turnstile.hold(READERS / 1000 if busy else 0.0):
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.BusyError:
            self._log_limit = size + LOG
        else:
            self._log_limit = LOG
        finally:
            self._connection.set_busy_timeout(BUSY)

    def _fail(self, failure: JournalError, jobs: list[Job]) -> None:
        """Acknowledge nothing any more; whoever is refused finds that it was told."""
        with self._changed:
            self._failure = failure
            jobs = [*jobs, *self._jobs]
            self._jobs.clear()
        for job in jobs:
            job.error = failure
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._lost, failure)
        self._answer(jobs)

    def _answer(self, jobs: list[Job]) -> None:
        if jobs:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(_answer, jobs)


def _answer(jobs: list[Job]) -> None:
    """Give the answers, on the loop."""
    for job in jobs:
        if job.error is None and job.then is not None:
            try:
                job.then(job.answer)
            except Exception:
                log.exception("an append is recorded, but what follows it failed: a mistake of the runtime")
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.answer)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)  # noqa: PTH116 - once for each commit
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _full(path: Path) -> JournalError:
    return JournalError(f"{path}: {FULL}")


def _failure(path: Path, error: BaseException) -> JournalError:
    hint = f"; {DAMAGED}" if isinstance(error, apsw.CorruptError) else ""
    return JournalError(f"{path}: {type(error).__name__}: {error}{hint}")
