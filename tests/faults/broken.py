"""Builds of the runtime that are broken on purpose: `python broken.py NAME run`. What checks a promise must fail on them.

`full` is no worse than the real one: it finds a disk full where nobody may fill one.
"""

from __future__ import annotations

import copy
import heapq
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apsw
import msgspec

from runtime import PartialFailure, watchdog, worker
from runtime.cli import main
from runtime.executors.escalation import Escalation
from runtime.executors.thread import Threads
from runtime.executors.warden import Warden
from runtime.flow import delayed, delivery, failure
from runtime.flow.delivery import Delivery, Write
from runtime.flow.dispatch import Dispatch
from runtime.flow.executing import Executing
from runtime.flow.keys import Keys
from runtime.flow.lanes import Ranking
from runtime.flow.run import Run
from runtime.journal.sqlite import schema
from runtime.journal.sqlite.files import Reserve
from runtime.journal.sqlite.jobs import Append, Job
from runtime.journal.sqlite.journal import SqliteJournal
from runtime.journal.sqlite.writer import Writer
from runtime.journal.sqlite.writing import Batch
from runtime.loading import importer, modules, units
from runtime.loading.kept import Kept
from runtime.loading.loader import Loader
from runtime.records import Entry, Step
from runtime.settings import Settings


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
                if isinstance(job, Append):
                    job.calls = []
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


def stalled() -> None:
    """Let everybody wait for the next attempt of one."""
    retry = Dispatch.retry

    def wait(self: Dispatch, run: Run, index: int, delay: float) -> None:
        time.sleep(delay)
        retry(self, run, index, 0.0)

    Dispatch.retry = wait  # type: ignore[method-assign]


def even() -> None:
    """Leave nothing of a pause to chance."""
    failure.jittered = lambda delay: delay


def unheld() -> None:
    """Start the events of a key whatever the one before them does."""
    Keys.claim = Keys.start = lambda *_: True  # type: ignore[method-assign]
    Keys.release = lambda *_: None  # type: ignore[method-assign]


def strict() -> None:
    """Let nothing gain on what is urgent by waiting."""
    rank = Ranking.rank
    Ranking.rank = lambda self, priority, at: rank(self, priority, 0 * at)  # type: ignore[method-assign]


def forgetful() -> None:
    """Note nowhere what executes."""
    SqliteJournal.mark = lambda *_: None  # type: ignore[method-assign]


def hasty() -> None:
    """Let a timeout count the time in which the process stood still."""
    worker.LATE = delivery.LATE = math.inf  # type: ignore[attr-defined]


def hoarding() -> None:
    """Keep everything that waits for a sink in memory."""
    make = Delivery.__init__

    def make_large(self: Delivery, *arguments: Any, **named: Any) -> None:
        make(self, *arguments, **{**named, "window": 10**9})

    Delivery.__init__ = make_large  # type: ignore[method-assign]


def jumbled() -> None:
    """Give a sink what came last first."""
    delivery.heapq = SimpleNamespace(heappush=heapq.heappush, heappop=list.pop)  # type: ignore[assignment,attr-defined]


def loose() -> None:
    """Let the next events of a key go to a sink while the one before them waits for another attempt."""
    failed = Delivery._failed

    def let_go(self: Delivery, entry: Entry, step: Step, failure: BaseException) -> None:
        failed(self, entry, step, failure)
        self._let_key_go(entry)

    Delivery._failed = let_go  # type: ignore[method-assign]


def wholesale() -> None:
    """Take the failure of some events of a batch for that of all."""
    settle = Delivery._settle

    def settle_all(self: Delivery, write: Write, error: BaseException | None) -> None:
        settle(self, write, OSError("some failed") if isinstance(error, PartialFailure) else error)

    Delivery._settle = settle_all  # type: ignore[method-assign]


def halved() -> None:
    """Migrate statement by statement, each in a transaction of its own."""

    def migrate(connection: apsw.Connection) -> None:
        for version in range(int(connection.pragma("user_version")), len(schema.MIGRATIONS)):
            connection.execute(schema.MIGRATIONS[version])
            connection.pragma("user_version", version + 1)

    schema.migrate = migrate


def trusting() -> None:
    """Look at the clock once, and never again."""
    delayed.LOOK = float("inf")


def aimless() -> None:
    """Record no cursor of a source."""
    append = SqliteJournal.append

    async def forget(self: SqliteJournal, entries: Sequence[Entry], *, cursor: object = None, **more: Any) -> list[Entry]:
        return await append(self, entries, **more)

    SqliteJournal.append = forget  # type: ignore[method-assign]


def impatient() -> None:
    """Go over to another sink without waiting for the writes under way."""
    retire = Delivery._retire

    async def hurry(self: Delivery) -> None:
        self._writes.clear()
        self._quiet.set()
        await retire(self)

    Delivery._retire = hurry  # type: ignore[method-assign]


def stale() -> None:
    """Take a file of the same size for the same file."""
    make = units._unit

    def make_by_size(name: str, place: str, path: Path, package: bool, source: bytes, previous: Any) -> units.Unit:
        old = previous.get(name)
        return old if old is not None and len(old.source or b"") == len(source) else make(name, place, path, package, source, previous)

    units._unit = make_by_size


def unkept() -> None:
    """Keep no sources."""
    Kept.save = lambda *_: None  # type: ignore[method-assign]


def patient() -> None:
    """Wait for a load as long as it takes."""
    make = Loader._make

    async def wait(self: Loader, job: Any, settings: Settings) -> Any:
        runtime = msgspec.structs.replace(settings.runtime, load_timeout=1e6)
        return await make(self, job, msgspec.structs.replace(settings, runtime=runtime))

    Loader._make = wait  # type: ignore[method-assign]


def leaking() -> None:
    """Hold every module that was ever loaded."""
    loaded: list[object] = []

    def make_and_hold(*arguments: Any) -> Any:
        loaded.append(modules.make_module(*arguments))
        return loaded[-1]

    vars(importer)["make_module"] = make_and_hold


def clinging() -> None:
    """Make anew only what has changed itself, and keep what imports it."""
    remade = importer._remade

    def make_changed(made: dict[str, units.Unit], previous: Any) -> set[str]:
        return remade({name: msgspec.structs.replace(unit, names=frozenset()) for name, unit in made.items()}, previous)

    importer._remade = make_changed  # type: ignore[assignment]


def mingled() -> None:
    """Begin each step with the newest function of its name."""
    begin = Executing.begin

    def begin_newest(self: Executing, run: Run, index: int) -> Any:
        assert self._gates._graph is not None
        newest = self._gates._graph.plan(run.entry.event.type)
        if len(newest.functions) == len(run.plan.functions):
            run.plan = newest
        return begin(self, run, index)

    Executing.begin = begin_newest  # type: ignore[method-assign]


def unloading() -> None:
    """Go on without the files that do not load."""
    load = importer.load

    def load_the_rest(folder: Path, *arguments: Any) -> importer.Modules:
        try:
            return load(folder, *arguments)
        except importer.PartialLoad as error:
            texts = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.py")}
            broken = {fault.where.rpartition(":")[0].partition("/")[2] for fault in error.faults}
            return load(folder, None, (), {name: text for name, text in texts.items() if name not in broken})

    importer.load = load_the_rest  # type: ignore[assignment]


def shedding() -> None:
    """Forget at a reload what waits for a function."""
    adopt = Dispatch.adopt

    def forget_waiting(self: Dispatch, *arguments: Any) -> None:
        self._order.lanes.clear()
        adopt(self, *arguments)

    Dispatch.adopt = forget_waiting  # type: ignore[assignment,method-assign]


def unguarded() -> None:
    """Start commands without a warden."""
    Warden.guard = lambda self, group: None  # type: ignore[method-assign]
    Warden.release = lambda self, group: None  # type: ignore[method-assign]


def unbounded() -> None:
    """Replace every thread that hangs."""
    Threads._at_work = property(lambda self: self._count - len(self._overdue))  # type: ignore[assignment]


def lenient() -> None:
    """Leave what hangs in threads."""
    Escalation.add = lambda self, function: False  # type: ignore[method-assign]


def startled() -> None:
    """Take a process that stood still for a loop that was blocked."""
    watchdog.IDLE = 0.0


def busy() -> None:
    """Overlook a save during a reload."""
    on_saved = Loader.on_saved

    def overlook(self: Loader) -> None:
        if self._reloading is None or self._reloading.done():
            on_saved(self)

    Loader.on_saved = overlook  # type: ignore[method-assign]


BUILDS = {
    "early": early,
    "off": lambda: synchronous("off"),
    "normal": lambda: synchronous("normal"),
    "deaf": deaf,
    "full": full,
    "stalled": stalled,
    "even": even,
    "unheld": unheld,
    "strict": strict,
    "forgetful": forgetful,
    "hasty": hasty,
    "hoarding": hoarding,
    "jumbled": jumbled,
    "loose": loose,
    "wholesale": wholesale,
    "halved": halved,
    "trusting": trusting,
    "aimless": aimless,
    "stale": stale,
    "unkept": unkept,
    "patient": patient,
    "leaking": leaking,
    "impatient": impatient,
    "clinging": clinging,
    "mingled": mingled,
    "unloading": unloading,
    "unguarded": unguarded,
    "shedding": shedding,
    "unbounded": unbounded,
    "lenient": lenient,
    "startled": startled,
    "busy": busy,
}


def command(build: str) -> tuple[str, ...]:
    """Return the command that starts a build."""
    return (sys.executable, __file__, build, "run")


if __name__ == "__main__":
    BUILDS[sys.argv.pop(1)]()
    sys.exit(main())
