"""The suite every source passes."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from runtime.clock import SystemClock
from runtime.contracts import Clock, Source
from runtime.errors import ConfigError
from runtime.options import read_options
from runtime.testing.inlet import SuiteInlet

PAUSE = 0.01  # seconds until a source that raised is run again, and between two looks


class SourceSuite:
    """What every source must do; `make` says what it is, `produce` makes something arrive upstream.

    A test has an instance of its own, on which a fixture of yours may set `folder` and `clock` of the source. What a
    source cannot do is said in the class:

    * `remembers`: a new instance goes on where the cursor of the inlet stands, or is not sent again what it has
      acknowledged: nothing comes twice.
    * `replays`: what was not accepted comes again, to the same or to a new instance.
    * `ordered`: events come in the order in which they were produced.
    * `finite`: `run` returns when all that is there was brought.
    * `read_ahead`: the most events that wait to be accepted at once.
    * `bad_options`: options that are to be refused, by a word that the refusal names.
    * `patience`: how many seconds (of real time) anything may take.
    """

    remembers: ClassVar[bool] = True
    replays: ClassVar[bool] = True
    ordered: ClassVar[bool] = True
    finite: ClassVar[bool] = False
    read_ahead: ClassVar[int] = 1000
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    patience: ClassVar[float] = 10.0
    folder: Path = Path()
    clock: Clock = SystemClock()

    @abstractmethod
    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        """Return the class of the source and its options, as they stand in `runtime.toml`."""

    @abstractmethod
    async def produce(self, count: int) -> list[Any]:
        """Make `count` events arrive upstream and return their data, in order; it may wait until they are acknowledged."""

    # --- how ------------------------------------------------------------------------------------------

    def build(self, options: Mapping[str, Any] | None = None) -> Source:
        """Return a new instance, with other options when they are given.

        Raises:
            ConfigError, ValueError: the options are refused.
        """
        kind, usual = self.make()
        source = kind(
            "suite", read_options(kind.Options, dict(usual if options is None else options), "runtime.toml", ("sources", "suite"))
        )
        source.folder, source.clock = self.folder, self.clock
        return source

    @asynccontextmanager
    async def running(self, inlet: SuiteInlet) -> AsyncIterator[asyncio.Task[None]]:
        """Run a new instance as the runtime does: it is opened, run again when it raises, cancelled and closed."""
        source = self.build()
        task = asyncio.create_task(_host(source, inlet))
        try:
            yield task
        finally:
            task.cancel()
            inlet.release()
            await asyncio.wait({task}, timeout=self.patience)
        assert task.done(), f"cancelled, it has to stop; after {self.patience:g} s it has not"
        if not task.cancelled():
            await task

    async def producing(self, count: int) -> asyncio.Task[list[Any]]:
        """Begin to produce; what a finite source is to bring is there before it runs."""
        task = asyncio.create_task(self.produce(count))
        if self.finite:
            await asyncio.wait({task})
        return task

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Return when a condition holds; `what` says which."""
        end = time.monotonic() + self.patience
        while not holds():
            assert time.monotonic() < end, f"after {self.patience:g} s there are still not {what}"
            await asyncio.sleep(PAUSE)

    async def arrived(self, inlet: SuiteInlet, producing: asyncio.Task[list[Any]], count: int) -> list[Any]:
        """Return what was produced, when `count` events were accepted in all."""
        await self.until(lambda: len(inlet.events) >= count, f"{count} events accepted")
        return await asyncio.wait_for(producing, self.patience)

    def check(self, inlet: SuiteInlet, produced: list[Any]) -> None:
        """See to it that what was accepted is what was produced, once and in order."""
        found = [event.data for event in inlet.events]
        if self.ordered:
            assert found == produced
        else:
            assert sorted(map(repr, found)) == sorted(map(repr, produced))

    # --- the contract ---------------------------------------------------------------------------------

    async def test_events_arrive_once_and_in_order(self) -> None:
        inlet, producing = SuiteInlet(), await self.producing(5)
        async with self.running(inlet):
            produced = await self.arrived(inlet, producing, 5)
            if not self.finite:
                produced += await self.arrived(inlet, await self.producing(2), 7)
        self.check(inlet, produced)

    async def test_it_ends_when_all_is_brought(self) -> None:
        if not self.finite:
            pytest.skip("the source goes on for ever")
        inlet, producing = SuiteInlet(), await self.producing(5)
        async with self.running(inlet) as task:
            await asyncio.wait({task}, timeout=self.patience)
            assert task.done(), "all was brought, and `run` has not returned"
        self.check(inlet, await producing)

    async def test_no_more_than_read_ahead_wait_to_be_accepted(self) -> None:
        inlet, count = SuiteInlet(), 2 * self.read_ahead + 1
        inlet.room.clear()
        producing = await self.producing(count)
        async with self.running(inlet):
            await self.until(lambda: inlet.tries > 0, "any events offered")
            assert inlet.events == []
            inlet.room.set()
            produced = await self.arrived(inlet, producing, count)
        assert inlet.most <= self.read_ahead
        self.check(inlet, produced)

    async def test_what_was_not_accepted_when_it_is_cancelled_comes_again(self) -> None:
        self._needs_replays()
        inlet = SuiteInlet()
        inlet.room.clear()
        producing = await self.producing(3)
        async with self.running(inlet):
            await self.until(lambda: inlet.tries > 0, "any events offered")
        assert inlet.events == []
        inlet.room.set()
        async with self.running(inlet):
            produced = await self.arrived(inlet, producing, 3)
        self.check(inlet, produced)

    async def test_what_the_journal_could_not_take_comes_again(self) -> None:
        self._needs_replays()
        inlet = SuiteInlet()
        inlet.failures = 1
        producing = await self.producing(3)
        async with self.running(inlet):
            produced = await self.arrived(inlet, producing, 3)
        self.check(inlet, produced)

    async def test_what_was_accepted_comes_once_though_it_ends_before_it_knows(self) -> None:
        self._needs_replays()
        inlet = SuiteInlet()
        inlet.hangs = True
        producing = await self.producing(3)
        async with self.running(inlet):
            await self.until(lambda: bool(inlet.events), "any events accepted")
        inlet.hangs = False
        async with self.running(inlet):
            produced = await self.arrived(inlet, producing, 3)
        if self.remembers:
            self.check(inlet, produced)

    async def test_a_new_instance_goes_on_where_the_last_one_was(self) -> None:
        inlet, producing = SuiteInlet(), await self.producing(3)
        async with self.running(inlet):
            before = await self.arrived(inlet, producing, 3)
        producing = await self.producing(2)
        async with self.running(inlet):
            produced = before + await self.arrived(inlet, producing, 5)
        if self.remembers:
            self.check(inlet, produced)

    async def test_it_opens_and_closes_without_running_and_again(self) -> None:
        source = self.build()
        for _ in range(2):
            await source.open()
            await asyncio.wait_for(source.close(), self.patience)

    async def test_it_stops_when_nothing_has_arrived(self) -> None:
        inlet = SuiteInlet()
        async with self.running(inlet) as task:
            await asyncio.wait({task}, timeout=5 * PAUSE)
        assert inlet.events == []

    async def test_options_that_are_wrong_are_refused_by_name(self) -> None:
        for word, options in self.bad_options.items():
            with pytest.raises((ConfigError, ValueError)) as caught:
                self.build(options)
            assert word in str(caught.value)

    def _needs_replays(self) -> None:
        if not self.replays:
            pytest.skip("the source gets everything once")


async def _host(source: Source, inlet: SuiteInlet) -> None:
    """Run a source as the supervisor does, with shorter pauses."""
    while True:
        try:
            await source.open()
            try:
                await source.run(inlet)
            finally:
                await source.close()
        except Exception as error:  # noqa: BLE001 - as the contract says, it is run again
            source.log.warning("it raised, and is run again: %r", error)
            await asyncio.sleep(PAUSE)
        else:
            return
