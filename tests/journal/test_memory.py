"""The journal in memory passes the suite of its contract, and keeps a bounded past."""

from __future__ import annotations

from runtime.contracts import Clock, Journal
from runtime.journal.memory import MemoryJournal
from runtime.records import DEAD, DONE, Outcome
from runtime.testing import START, JournalSuite, VirtualClock, entry


class TestMemoryJournal(JournalSuite):
    def make(self, clock: Clock) -> Journal:
        return MemoryJournal(clock, dedupe=60.0)


async def test_only_the_last_ended_entries_are_kept_and_dead_letters_stay() -> None:
    journal = MemoryJournal(VirtualClock(), kept=3)
    entries = [entry() for _ in range(6)]
    await journal.append(entries)
    await journal.record([Outcome(entry=entries[0], status=DEAD, at=START)])
    await journal.record([Outcome(entry=one, status=DONE, at=START) for one in entries[1:]])
    kept = [one.seq for one in entries if await journal.find(one.uid)]
    assert kept == [entries[0].seq, *(one.seq for one in entries[3:])]
    assert (await journal.counts()).accepted == 4
