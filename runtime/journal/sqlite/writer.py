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
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw

from runtime.errors import JournalError
from runtime.journal.sqlite.files import Marks, Reserve, fill
from runtime.journal.sqlite.jobs import Job, Tending
from runtime.journal.sqlite.mover import Mover
from runtime.journal.sqlite.writing import Batch

log = logging.getLogger("runtime.journal")

PATIENCE = 0.5  # seconds between two tries on a disk that is full
DAMAGED = "restore a backup, or move it away and mend a copy with a current `sqlite3 FILE .recover`"
FULL = "the disk is full; events are taken again when there is room"
PAGES = 1500  # of the log, after which they are moved into the database
FILLED = 4000 * (4096 + 24)  # bytes that the log has from the start: it seldom needs more, see `fill`
LOG = 32 * 1024 * 1024  # bytes above which the log is cut though somebody reads: twice of what it has by itself
READERS = 250  # milliseconds that readers are waited for then, until it has grown by as much again
BUSY = 5000  # milliseconds that anything else waits for a lock
SHARE = 500  # entries that come before old ones go, and so many of them, or twice as many as have come
OFTEN = 0.1  # seconds after which old ones go though fewer have come
PULSE = 1.0  # seconds after which the thread looks after the file when nothing comes in


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
    """Runs jobs on a connection of its own.

    `is_due` tells between batches whether entries are old enough to go, and `tend` lets so many of them go; `lost` is
    called when the journal has failed for good. `listed`: see `Batch`.
    """

    def __init__(  # noqa: PLR0913 - its neighbours, by name
        self,
        path: Path,
        connection: apsw.Connection,
        marks: Marks,
        reserve: Reserve,
        mover: Mover,
        *,
        listed: int,
        is_due: Callable[[apsw.Connection], bool],
        tend: Callable[[Batch, int], None],
        lost: Callable[[JournalError], None],
    ) -> None:
        self._path = path
        self._connection = connection
        self._marks = marks
        self._reserve = reserve
        self._mover = mover
        self._listed = listed
        self._is_due = is_due
        self._tend = tend
        self._lost = lost
        self.loop = asyncio.get_running_loop()
        self._gathered: list[Job] = []  # of the present turn of the loop
        self._jobs: list[Job] = []
        self._lock = threading.Lock()
        self._bell = threading.Lock()  # released to wake the thread
        self._bell.acquire()
        self._closing = False
        self._failure: JournalError | None = None
        self._identity = _identity(path)
        self._log_path = path.with_name(f"{path.name}-wal")
        self._log_identity: tuple[int, int] | None = None
        self._log_limit = LOG
        self._untended = 0  # entries that came since old ones went
        self._tended = 0.0
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self.is_full = False
        self.turnstile = Turnstile()

    def start(self) -> None:
        """Start the thread."""
        self._mover.start()
        self._thread.start()

    @property
    def latest(self) -> Job | None:
        """The job that was handed in last, if the thread has not got it yet."""
        return self._gathered[-1] if self._gathered else None

    def submit(self, job: Job) -> None:
        """Hand a job in; the thread gets it with all others of this turn of the loop."""
        if self._failure is not None:
            job.answer(self._failure)
        elif self.is_full and job.writes and not job.kept:
            job.answer(_full(self._path))
        else:
            if not self._gathered:
                self.loop.call_soon(self._hand_over)
            self._gathered.append(job)

    def _hand_over(self) -> None:
        if not self._gathered:
            return
        jobs, self._gathered = self._gathered, []
        with self._lock:
            if self._failure is None:
                self._jobs += jobs
                jobs = []
        self._ring()
        for job in jobs:
            job.answer(self._failure)

    def _ring(self) -> None:
        if self._bell.locked():
            self._bell.release()

    async def close(self) -> None:
        """Finish what was handed in, and end the thread."""
        self._hand_over()
        self._closing = True
        self._ring()
        while self._thread.is_alive():  # noqa: ASYNC110 - a thread has no event for it
            await asyncio.sleep(0.001)

    # --- in the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._failure is None:
            self._bell.acquire(timeout=PULSE)
            closing = self._closing
            jobs = self._taken()
            is_idle = not jobs
            while jobs:
                self._commit(jobs)
                self._look_after(is_idle=False)
                jobs = self._taken()
            if closing:
                break
            if is_idle:
                self._look_after(is_idle=True)
        self._mover.close()
        with suppress(apsw.Error):
            self._connection.close()

    def _taken(self) -> list[Job]:
        """Return the jobs that wait."""
        with self._lock:
            jobs, self._jobs = self._jobs, []
        return jobs

    def _commit(self, jobs: list[Job]) -> None:
        """Run jobs in one transaction and answer them; on a full disk refuse some, and go on until the others are done."""
        while jobs:
            try:
                self._transact(Batch(self._connection, self._listed), jobs)
            except apsw.FullError:
                jobs = self._refuse(jobs)
            except BaseException as error:  # noqa: BLE001 - whatever it is, nothing may be said to be recorded any more
                self._fail(_failure(self._path, error), jobs)
                break
            else:
                self._answer(jobs)
                break

    def _transact(self, batch: Batch, jobs: list[Job]) -> None:
        connection = batch.connection
        writes = any(job.writes for job in jobs)
        connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        try:
            for job in jobs:
                job.run(batch)
            batch.finish()
            self._check_file()
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._marks.committed = max(self._marks.committed, batch.last)
        self._listed = batch.listed
        self._untended += batch.inserted

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

    def _refuse(self, jobs: list[Job]) -> list[Job]:
        """Refuse what comes from outside because the disk is full, and read what is asked for.

        Returns what is to be tried again, from the reserve or when there is room.
        """
        if not self.is_full:
            self.is_full = True
            log.critical("%s: the disk is full; events are refused until there is room", self._path)
        jobs = [*jobs, *self._taken()]
        kept = [job for job in jobs if job.kept]
        refused = [job for job in jobs if job.writes and not job.kept]
        if self._closing and not self._reserve.is_there:
            refused, kept = [*refused, *kept], []  # they are done again after the next start
        self._answer(refused, _full(self._path))
        self._commit([job for job in jobs if not job.writes])
        if self._reserve.is_there:
            self._reserve.give_up()
        elif kept:
            threading.Event().wait(PATIENCE)
        return kept

    def _look_after(self, *, is_idle: bool) -> None:
        """Take events again when the disk has room, keep the log short and let old entries go: as many as have come, and more at rest."""
        if self._failure is not None:
            return
        now = time.monotonic()
        if not is_idle and self._untended < SHARE and now - self._tended < OFTEN:
            return
        limit = max(SHARE, 2 * self._untended)
        self._untended, self._tended = 0, now
        if self.is_full and self._reserve.hold():
            self.is_full = False
            log.warning("%s: the disk has room again; events are taken", self._path)
        try:
            if is_idle:
                self._check_file()
            self._move_log()
            self._cut_log(busy=not is_idle)
            while not self.is_full and self._is_due(self._connection):
                self._transact(Batch(self._connection, self._listed), [Tending(tend=self._tend, limit=limit)])
                if not is_idle or self._jobs:
                    break
        except apsw.FullError:
            return
        except BaseException as error:  # noqa: BLE001 - as above
            self._fail(_failure(self._path, error), [])

    def _move_log(self) -> None:
        """Have the log moved into the database when it is long, and move the rest of it."""
        if self._mover.error is not None:
            raise self._mover.error
        size, moved = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        if size < PAGES or size == moved:
            return
        if not self._mover.is_done:
            self._mover.move()
            return
        self._mover.is_done = False
        with suppress(apsw.BusyError):
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

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
            fill(self._log_path, FILLED)
        finally:
            self._connection.set_busy_timeout(BUSY)

    def _fail(self, failure: JournalError, jobs: list[Job]) -> None:
        """Acknowledge nothing any more; whoever is refused finds that it was told."""
        with self._lock:
            self._failure = failure
            jobs = [*jobs, *self._jobs]
            self._jobs = []
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._lost, failure)
        self._answer(jobs, failure)

    def _answer(self, jobs: list[Job], error: JournalError | None = None) -> None:
        if jobs:
            with suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(_answer, jobs, error)


def _answer(jobs: list[Job], error: JournalError | None) -> None:
    """Give the answers, on the loop."""
    for job in jobs:
        job.answer(error)


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
