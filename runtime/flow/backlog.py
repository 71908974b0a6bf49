"""The backlog: what waits in the journal and not in memory is read when its turn is near.

One reader takes the wishes of dispatch and of deliveries, as many at once as there are; delayed events are read some
time before they are due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from runtime.contracts import Clock, Journal
from runtime.errors import JournalError
from runtime.flow.delayed import LOOK
from runtime.records import DEAD, ENDED, Entry, Shelf, Status

CHUNK = 1000  # entries in one read
AHEAD = 60.0  # seconds before they are due that delayed events are read
LEVELS = 10
QUARANTINE = 3  # crashes in the middle of an event after which it is not tried again


class Lanes(Protocol):
    """What the backlog needs of dispatch; see there."""

    due_until: float

    def push(self, entry: Entry) -> None:
        """Take an entry that waits."""

    def resume(self, shelf: Shelf) -> None:
        """Take up a lane."""

    def fill_lane(self, shelf: Shelf, entries: Sequence[Entry], *, more: bool) -> None:
        """Take entries of a lane."""

    def fill_key(self, key: str, levels: Sequence[Sequence[Entry]], limit: int) -> None:
        """Take entries of a key, by level."""

    def fill_due(self, entries: Sequence[Entry]) -> None:
        """Take delayed entries."""

    def expire(self, horizon: float) -> list[Entry]:
        """Remove and return what has waited since before `horizon` for functions that were removed."""

    def release(self, entry: Entry) -> None:
        """Let the next event of the entry's key go."""


class Queue(Protocol):
    """What the backlog needs of a delivery."""

    def resume(self) -> None:
        """Take up what waits."""

    def fill(self, entries: Sequence[Entry], *, more: bool) -> None:
        """Take entries of a sink."""


class Backlog:
    """Feeds dispatch and deliveries from the journal.

    `is_configured` tells whether there is a sink of a name, `removed` takes the entries that wait for one which is
    not there any more. `end` takes those that wait for nothing: they have killed the process too often, or have
    waited `keep` seconds for functions that were removed.
    """

    def __init__(  # noqa: PLR0913 - its neighbours, by name
        self,
        journal: Journal,
        clock: Clock,
        *,
        dispatch: Lanes,
        deliveries: Mapping[str, Queue],
        is_configured: Callable[[str], bool],
        removed: Callable[[Entry, str], None],
        end: Callable[[Entry, Status, str], None],
        keep: float,
        lost: Callable[[JournalError], None],
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._dispatch = dispatch
        self._deliveries = deliveries
        self._is_configured = is_configured
        self._removed = removed
        self._end = end
        self.keep = keep
        self._lost = lost
        self._wishes: asyncio.Queue[tuple[Shelf, int]] = asyncio.Queue()

    def feed(self, shelf: Shelf, after: int) -> None:
        """Take the wish for the entries of a shelf behind a `seq`."""
        self._wishes.put_nowait((shelf, after))

    async def resume(self) -> None:
        """Take up what waits in the journal: what has begun at once, since it holds its key, all the rest bit by bit.

        Lanes and deliveries are told first: what a run that goes on emits must not pass for the first they hold.

        Raises:
            JournalError: the journal cannot be read.
        """
        for shelf in await self._journal.shelves():
            if shelf.kind == "lane":
                self._dispatch.resume(shelf)
            elif shelf.name in self._deliveries:
                self._deliveries[shelf.name].resume()
            elif not self._is_configured(shelf.name):  # otherwise its plugin is broken, and what waits for it goes on waiting
                await self.let_go(shelf.name)
        after = 0
        while entries := await self._journal.read(Shelf("begun"), after=after, limit=CHUNK):
            after = entries[-1].seq
            for entry in entries:
                if not self._quarantined(entry):
                    self._dispatch.push(entry)

    def _quarantined(self, entry: Entry) -> bool:
        """Return whether an entry is tried no more; it is ended then."""
        if entry.crashes < QUARANTINE:
            return False
        if entry.status not in ENDED:
            self._end(entry, DEAD, "killed the process")
        return True

    async def let_go(self, sink: str) -> None:
        """Skip what waits for a sink that is not configured any more.

        Raises:
            JournalError: the journal cannot be read.
        """
        after = 0
        while entries := await self._journal.read(Shelf("sink", sink), after=after, limit=CHUNK):
            after = entries[-1].seq
            for entry in entries:
                self._removed(entry, sink)

    async def run(self) -> None:
        """Read what is wished for, until cancelled."""
        try:
            while True:
                wishes = [await self._wishes.get()]
                while not self._wishes.empty():
                    wishes.append(self._wishes.get_nowait())
                await asyncio.gather(*(self._fulfil(shelf, after) for shelf, after in wishes))
        except Exception as error:  # noqa: BLE001 - without its backlog the runtime would stand still, and say nothing
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._lost(error if isinstance(error, JournalError) else JournalError(f"{type(error).__name__}: {error}"))

    async def _fulfil(self, shelf: Shelf, after: int) -> None:
        if shelf.kind == "key":
            shelves = [Shelf("key", shelf.name, level) for level in range(LEVELS)]
            levels = await asyncio.gather(*(self._journal.read(one, limit=CHUNK) for one in shelves))
            self._dispatch.fill_key(shelf.name, levels, CHUNK)
            return
        entries = await self._journal.read(shelf, after=after, limit=CHUNK)
        more = len(entries) == CHUNK
        if shelf.kind == "lane":
            self._dispatch.fill_lane(shelf, entries, more=more)
        elif shelf.name in self._deliveries:  # otherwise the sink was removed meanwhile
            well = [entry for entry in entries if not self._quarantined(entry)]
            self._deliveries[shelf.name].fill(well, more=more)

    async def expire(self) -> None:
        """End what has waited too long for functions that were removed, until cancelled."""
        while True:
            await self._clock.sleep(AHEAD)
            while expired := self._dispatch.expire(self._clock.time() - self.keep):
                for entry in expired:
                    self._end(entry, DEAD, "no function")
                    self._dispatch.release(entry)

    async def watch_due(self) -> None:
        """Read delayed events before they are due, until cancelled."""
        after = (0.0, 0)
        try:
            while True:
                until = self._clock.time() + 2 * AHEAD
                self._dispatch.due_until = until  # from now on it keeps those that are accepted; the others are read
                while entries := await self._journal.read_due(after, until, limit=CHUNK):
                    after = (entries[-1].due, entries[-1].seq)
                    self._dispatch.fill_due(entries)
                after = (until, 2**62)
                while self._clock.time() < until - AHEAD:  # looked at often: it may jump
                    await self._clock.sleep(LOOK)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(error)
