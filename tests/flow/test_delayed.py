"""What is not due yet waits for the wall clock, whatever that does."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from support import Bench

from runtime import Event, Sink, function
from runtime.flow.delayed import LOOK, Delayed
from runtime.journal.sqlite.journal import SqliteJournal
from runtime.records import Entry
from runtime.specs import SinkSpec
from runtime.testing import START, VirtualClock, entry


class Jumping(VirtualClock):
    """A clock whose wall time can jump."""

    jump = 0.0

    def time(self) -> float:
        return super().time() + self.jump


def delayed(clock: VirtualClock, *seconds: float) -> list[Entry]:
    """Return the list that entries come to when they are due after so many seconds."""
    came: list[Entry] = []
    waiting = Delayed(clock, came.append)
    for seq, wait in enumerate(seconds, 1):
        one = entry(due=START + wait)
        one.seq = seq
        assert waiting.takes(one)
    return came


async def test_entries_come_when_they_are_due_the_earliest_first() -> None:
    clock = VirtualClock(START)
    seconds = [random.choice([1.0, 3.0, 7.5, 50.0]) for _ in range(100)]
    came = delayed(clock, *seconds)
    await clock.advance(7.4)
    assert [one.due for one in came] == sorted(START + wait for wait in seconds if wait < 7.4)
    await clock.advance(50)
    assert [(one.due, one.seq) for one in came] == sorted((START + wait, seq) for seq, wait in enumerate(seconds, 1))


async def test_what_is_due_already_is_not_taken() -> None:
    assert not Delayed(VirtualClock(START), lambda _: None).takes(entry(due=START))


async def test_a_jump_forward_is_noticed_soon() -> None:
    clock = Jumping(START)
    came = delayed(clock, 3000.0, 5000.0)
    clock.jump = 3600.0
    await clock.advance(LOOK)
    assert [one.due for one in came] == [START + 3000]


async def test_a_jump_back_makes_nothing_come_early_and_its_end_nothing_late() -> None:
    clock = Jumping(START)
    came = delayed(clock, 1.0)
    clock.jump = -3600.0
    await clock.advance(10)
    assert came == []
    clock.jump = 0.0
    await clock.advance(LOOK)
    assert len(came) == 1


@pytest.mark.parametrize("sink", [False, True])
async def test_a_retry_waits_no_longer_than_was_meant_when_the_clock_was_set_back_over_a_restart(tmp_path: Path, sink: bool) -> None:
    tries: list[str] = []

    def declare() -> None:
        if not sink:

            @function(on="go", backoff=10.0)
            async def failing(data: int) -> None:
                tries.append("function")
                raise OSError("no")

    class Down(Sink):
        async def write(self, events: list[Event]) -> None:
            tries.append("sink")
            raise OSError("no")

    def bench(start: float) -> Bench:
        def journal(clock: VirtualClock) -> SqliteJournal:
            clock._now = start
            return SqliteJournal(tmp_path / "journal.db", clock)

        sinks = [(SinkSpec(name="out", on=("go",), plugin="down", backoff=10.0), Down("out", None))] if sink else []
        return Bench(declare, journal=journal, sinks=sinks)

    async with bench(START) as first:
        await first.put("go", 1)
        while len(tries) < 1:
            await asyncio.sleep(0.001)
        await first.settled()
    await first.journal.close()
    async with bench(START - 3600) as second:
        await asyncio.sleep(0.05)
        await second.settled()
        assert len(tries) == 1
        await second.clock.advance(10)
        await second.settled()
        assert len(tries) == 2
    await second.journal.close()
