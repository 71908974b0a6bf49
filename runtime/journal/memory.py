"""The journal in memory: nothing survives the process, everything else is as promised."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Self

from msgspec.structs import force_setattr

from runtime.codec import to_builtins
from runtime.contracts import Clock, Counts, Journal, Query
from runtime.errors import JournalError
from runtime.event import Event
from runtime.records import DEAD, DONE, ENDED, QUEUED, RETRYING, Entry, Outcome, Shelf, Status, seq_of, uid_of, undelivered
from runtime.settings import JournalSettings

KEPT = 10_000  # ended entries that stay readable; dead letters stay until they are retried or discarded


class MemoryJournal(Journal):
    """Keeps open entries, dead letters and the last `kept` ended ones; see `Journal` for the contract.

    Ids are remembered for `dedupe` seconds. Entries handed out are the journal's own records: read-only.
    """

    persistent: ClassVar[bool] = False

    def __init__(self, clock: Clock, *, dedupe: float = 3600.0, kept: int = KEPT) -> None:
        self._clock = clock
        self._dedupe = dedupe
        self._kept = kept
        self._seq = 0
        self._entries: dict[int, Entry] = {}
        self._ended: deque[Entry] = deque()
        self._first: dict[tuple[str, str], Entry] = {}
        self._ids: deque[tuple[str, str]] = deque()
        self._effects: dict[int, list[int]] = {}
        self._states: dict[tuple[str, str | None], dict[str, Any]] = {}
        self._cursors: dict[str, Any] = {}
        self._by_status: Counter[str] = Counter()
        self._duplicates = 0

    @classmethod
    def from_settings(cls, settings: JournalSettings, clock: Clock, *, folder: Path, lost: Callable[[JournalError], None]) -> Self:  # noqa: ARG003 - it touches no disk
        """Return the journal of `memory:`."""
        if settings.url != "memory:":
            raise ValueError('expected "memory:" and nothing behind it')
        return cls(clock, dedupe=settings.dedupe)

    def reconfigure(self, settings: JournalSettings) -> bool:
        """Take a new `dedupe`; the others mean nothing here."""
        self._dedupe = settings.dedupe
        return True

    async def open(self) -> None:
        """Do nothing: memory is always ready."""

    async def close(self) -> None:
        """Do nothing: memory goes with the process."""

    async def append(
        self,
        entries: Sequence[Entry],
        *,
        cursor: tuple[str, Any] | None = None,
        then: Callable[[Sequence[Entry], list[Entry]], None] | None = None,
    ) -> list[Entry]:
        """Accept entries; see `Journal.append`."""
        if self._ids:
            self._forget_ids()
        if cursor is not None:
            self._cursors[cursor[0]] = cursor[1]
        accepted = self._accept(entries)
        if then is not None:
            then(entries, accepted)
        return accepted

    def _accept(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return for each entry itself, or the first one of its source and id."""
        accepted = list(entries)
        seq, there, queued = self._seq, self._entries, 0
        for index, entry in enumerate(accepted):
            event = entry.event
            if entry.looked_up:
                first = self._first.setdefault((event.source, event.id), entry)
                if first is not entry:
                    self._duplicates += 1
                    accepted[index] = first
                    continue
                self._ids.append((event.source, event.id))
            seq += 1
            entry.seq = seq
            there[seq] = entry
            if not event.id:
                force_setattr(event, "id", uid_of(entry.accepted, seq))
            if entry.status == QUEUED:
                queued += 1
            else:
                self._by_status[entry.status] += 1
                self._end(entry)
            if entry.cause:
                self._effects.setdefault(entry.cause, []).append(seq)
        self._seq = seq
        self._by_status[QUEUED] += queued
        if len(self._ended) > self._kept:
            self._prune()
        return accepted

    def _forget_ids(self) -> None:
        """Forget ids older than `dedupe` seconds whose entry has ended."""
        horizon = self._clock.time() - self._dedupe
        for _ in range(min(len(self._ids), 100)):
            entry = self._first[self._ids[0]]
            if entry.accepted > horizon:
                break
            key = self._ids.popleft()
            if entry.status in ENDED:
                del self._first[key]
            else:
                self._ids.append(key)

    async def record(self, outcomes: Sequence[Outcome]) -> None:
        """Record outcomes; see `Journal.record`."""
        done = 0
        for outcome in outcomes:
            entry, steps = outcome.entry, outcome.steps
            if entry.steps or len(steps) != 1:
                entry.steps.update({step.function: step for step in steps})
            else:
                entry.steps = {steps[0].function: steps[0]}
            if outcome.emitted:
                self._accept(outcome.emitted)
            if outcome.state is not None:
                function, key, value = outcome.state
                self._states[function, key] = to_builtins(value)
            if outcome.ran is not None:
                entry.ran = outcome.ran
            status = outcome.status
            if status == DONE and entry.status == QUEUED:
                done += 1
                entry.status, entry.ended, entry.reason = status, outcome.at, outcome.reason
                self._ended.append(entry)
            elif status is not None:
                self._move(entry, status, outcome)
        self._by_status[QUEUED] -= done
        self._by_status[DONE] += done
        self._prune()

    def _move(self, entry: Entry, status: Status, outcome: Outcome) -> None:
        self._by_status[entry.status] -= 1
        self._by_status[status] += 1
        entry.status = status
        entry.reason = outcome.reason
        entry.ended = outcome.at if status in ENDED else 0.0
        self._end(entry)

    def _end(self, entry: Entry) -> None:
        """Keep an entry if it has ended, until there are too many; dead letters stay."""
        if entry.status in ENDED and entry.status != DEAD:
            self._ended.append(entry)

    def _prune(self) -> None:
        """Let the oldest entries go that have ended."""
        ended, effects = self._ended, self._effects
        for _ in range(len(ended) - self._kept):
            entry = ended.popleft()
            if entry.status not in ENDED or entry.status == DEAD or self._entries.pop(entry.seq, None) is None:
                continue  # it was redriven
            if entry.looked_up:
                self._forget(entry)
            if effects:
                effects.pop(entry.seq, None)
            self._by_status[entry.status] -= 1

    def _forget(self, entry: Entry) -> None:
        """Keep of an entry what is enough to know its id again."""
        event = entry.event
        if self._first.get((event.source, event.id)) is entry:
            bare = Event(type=event.type, source=event.source, id=event.id)
            self._first[event.source, event.id] = Entry(event=bare, seq=entry.seq, accepted=entry.accepted, status=entry.status, ran=True)

    def _waiting(self) -> Iterator[Entry]:
        return (entry for entry in self._entries.values() if entry.status not in ENDED)

    async def shelves(self) -> list[Shelf]:
        """Return the lanes and sinks for which entries wait."""
        waiting = list(self._waiting())
        lanes = {Shelf("lane", entry.event.type, entry.level) for entry in waiting if _in_lane(entry)}
        return [*lanes, *{Shelf("sink", sink) for entry in waiting for sink in undelivered(entry)}]

    async def read(self, shelf: Shelf, *, after: int = 0, limit: int = 1000) -> list[Entry]:
        """Return the waiting entries of a shelf; see `Journal.read`."""
        return list(islice((entry for entry in self._waiting() if entry.seq > after and _stands_on(entry, shelf)), limit))

    async def read_due(self, after: tuple[float, int], until: float, *, limit: int = 1000) -> list[Entry]:
        """Return delayed entries; see `Journal.read_due`."""
        delayed = [entry for entry in self._waiting() if entry.due and not entry.begun and not entry.ran]
        found = [entry for entry in delayed if after < (entry.due, entry.seq) and entry.due <= until]
        return sorted(found, key=lambda entry: (entry.due, entry.seq))[:limit]

    async def waiting(self) -> int:
        """Return how many entries wait in lanes or are delayed."""
        return sum(not entry.begun and not entry.ran for entry in self._waiting())

    async def find(self, id: str) -> list[Entry]:
        """Return the entries with this uid or event id, the newest first."""
        seq = seq_of(id)
        entry = self._entries.get(seq) if seq else None
        if entry is not None and entry.uid == id:
            return [entry]
        return [entry for entry in reversed(self._entries.values()) if entry.event.id == id]

    async def query(self, query: Query) -> list[Entry]:
        """Return the entries a query asks for, the newest first."""
        found: list[Entry] = []
        for entry in reversed(self._entries.values()):
            if query.takes(entry):
                found.append(entry)
                if len(found) == query.limit:
                    break
        return found

    async def effects(self, seq: int) -> list[Entry]:
        """Return the entries that the entry `seq` emitted, in order."""
        return [self._entries[effect] for effect in self._effects.get(seq, ()) if effect in self._entries]

    async def counts(self) -> Counts:
        """Return how many entries there are by status."""
        by = self._by_status
        ended = {status: by[status] for status in ENDED}
        return Counts(open=by[QUEUED] + by[RETRYING], duplicates=self._duplicates, **ended)

    async def state(self, function: str, key: str | None) -> dict[str, Any]:
        """Return a copy of the mapping recorded last for a function and key."""
        return dict(to_builtins(self._states.get((function, key), {})))

    async def cursor(self, source: str) -> Any:
        """Return the cursor recorded last for a source, or None."""
        return self._cursors.get(source)


def _in_lane(entry: Entry) -> bool:
    return not entry.begun and not entry.ran and not entry.due


def _stands_on(entry: Entry, shelf: Shelf) -> bool:
    """Return whether a waiting entry stands on a shelf."""
    match shelf.kind:
        case "lane":
            return _in_lane(entry) and (entry.event.type, entry.level) == (shelf.name, shelf.level)
        case "key":
            return _in_lane(entry) and (entry.event.key, entry.level) == (shelf.name, shelf.level)
        case "begun":
            return entry.begun and not entry.ran
        case "sink":
            return shelf.name in undelivered(entry)
