"""What is shipped for tests works itself: the virtual clock, and a suite that finds a journal which breaks its contract."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from runtime.contracts import Clock, Journal
from runtime.journal.memory import MemoryJournal
from runtime.records import Entry, Outcome
from runtime.testing import START, JournalSuite, VirtualClock


async def test_the_virtual_clock_makes_calls_in_their_order_and_at_their_time() -> None:
    clock = VirtualClock()
    made: list[tuple[str, float]] = []

    def note(name: str) -> None:
        made.append((name, clock.time() - START))

    clock.call_later(2, note, "two")
    clock.call_later(1, note, "one")
    clock.call_later(1, note, "taken back").cancel()
    clock.call_later(1, lambda: clock.call_later(0.5, note, "made on the way"))
    await clock.advance(1.9)
    assert made == [("one", 1.0), ("made on the way", 1.5)]
    await clock.advance(0.1)
    assert made[-1] == ("two", 2.0)
    assert clock.monotonic() == clock.time() == START + 2


async def test_a_sleeper_wakes_when_its_time_has_come() -> None:
    clock = VirtualClock()
    sleeper = asyncio.create_task(clock.sleep(10))
    await clock.advance(9.9)
    assert not sleeper.done()
    await clock.advance(0.1)
    assert sleeper.done()
    await clock.sleep(0)  # needs no time


class Forgetful(MemoryJournal):
    """Does not look for duplicates."""

    async def append(self, entries: Sequence[Entry], **more: Any) -> list[Entry]:
        self._first.clear()
        self._ids.clear()
        return await super().append(entries, **more)


class Torn(MemoryJournal):
    """Loses the emitted entries of a record."""

    async def record(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            outcome.emitted = []
        await super().record(outcomes)


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Forgetful, "test_the_same_source_and_id_joins_the_first"),
        (Torn, "test_emitted_entries_are_accepted_with_the_record_and_known_as_effects"),
    ],
)
async def test_the_suite_finds_a_journal_that_breaks_its_contract(broken: type[MemoryJournal], test: str) -> None:
    class Suite(JournalSuite):
        def make(self, clock: Clock) -> Journal:
            return broken(clock, dedupe=60.0)

    with pytest.raises(AssertionError):
        await getattr(Suite(), test)()
