"""The suite every source passes."""

from __future__ import annotations

import asyncio
import tempfile
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from runtime.clock import SystemClock
from runtime.contracts import Clock, Source
from runtime.errors import ConfigError
from runtime.inlet import HostInlet
from runtime.options import read_options
from runtime.supervisor import Supervisor
from runtime.testing.clock import PAUSE, HastyClock
from runtime.testing.inlet import SuiteInlet
from runtime.testing.process import Moment, Project

SECRET = "suite-swordfish"  # noqa: S105 - it opens nothing
SLACK = 30_000_000  # bytes by which a process may grow for other reasons
FLOOD = 2000  # messages
HEAVY = 50_000  # bytes of each


class SourceSuite:
    """What every source must do; `make` says what it is, `produce` makes something arrive upstream.

    A test has an instance of its own, on which a fixture of yours may set `folder` and `clock` of the source. With `fail`
    and `recover`, `spoil`, `denied` and `flood` it is also tested what becomes of it when a server upstream dies, sends
    what cannot be understood, refuses it, or has more than there is room for; without them these tests are skipped. What a
    source cannot do is said in the class:

    * `remembers`: a new instance goes on where the cursor of the inlet stands, or is not sent again what it has
      acknowledged: nothing comes twice.
    * `replays`: what was not accepted comes again, to the same or to a new instance.
    * `holds`: upstream keeps what is produced while the source does not run; otherwise the suite waits until it does.
    * `ordered`: events come in the order in which they were produced; with `reorders` not those that come again.
    * `finite`: `run` returns when all that is there was brought.
    * `alone`: a process of its own can run it: its class can be imported, and it needs nothing but its options. With a
      `clock` that is not the system's it cannot.
    * `load`: how many events are under way when the server is killed.
    * `read_ahead`: the most events that wait to be accepted at once.
    * `bad_options`: options that are to be refused, by a word that the refusal names.
    * `patience`: how many seconds (of real time) anything may take.
    """

    remembers: ClassVar[bool] = True
    replays: ClassVar[bool] = True
    holds: ClassVar[bool] = True
    ordered: ClassVar[bool] = True
    reorders: ClassVar[bool] = False
    finite: ClassVar[bool] = False
    alone: ClassVar[bool] = True
    load: ClassVar[int] = 1000
    read_ahead: ClassVar[int] = 1000
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    patience: ClassVar[float] = 10.0
    folder: Path = Path()
    clock: Clock = SystemClock()
    _host: Supervisor | None = None

    @abstractmethod
    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        """Return the class of the source and its options, as they stand in `runtime.toml`."""

    @abstractmethod
    async def produce(self, count: int) -> list[Any]:
        """Make `count` events arrive upstream and return their data, in order; it may wait until they are acknowledged."""

    async def fail(self) -> None:
        """Kill the server upstream, so that it says no goodbye."""
        pytest.skip("nothing says how its server fails")

    async def recover(self) -> None:
        """Start the server again, where it was and with what it had."""

    async def spoil(self) -> bytes:
        """Make a message arrive upstream that is no event, and return its raw bytes."""
        pytest.skip("nothing says what it cannot understand")

    def denied(self, secret: str) -> Mapping[str, Any]:  # noqa: ARG002 - for those that can
        """Return options with this password, which the server refuses."""
        pytest.skip("nothing says how it is refused")

    async def flood(self, count: int, size: int) -> None:  # noqa: ARG002 - for those that can
        """Make `count` events of `size` bytes arrive upstream."""
        pytest.skip("nothing says how it is flooded")

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
    async def running(self, inlet: SuiteInlet, options: Mapping[str, Any] | None = None) -> AsyncIterator[Supervisor]:
        """Run a new instance as the runtime does, but that pauses are short."""
        host = Supervisor(self.build(options), "suite", cast("HostInlet", inlet), HastyClock(), lambda: None)
        host.start()
        self._host = host
        try:
            yield host
        finally:
            self._host = None
            stopping = asyncio.create_task(host.stop())
            inlet.release()
            await asyncio.wait({stopping}, timeout=self.patience)
        assert stopping.done(), f"cancelled, it has to stop; after {self.patience:g} s it has not"
        await stopping

    async def becomes(self, host: Supervisor, state: str) -> None:
        """Return when the source stands so."""
        await self.until(lambda: host.state == state, f"signs that the source is {state}, which is {host.state}: {host.detail}")

    async def producing(self, count: int) -> asyncio.Task[list[Any]]:
        """Begin to produce; what a finite source is to bring is there before it runs."""
        task = asyncio.create_task(self._produce(count))
        if self.finite:
            await asyncio.wait({task})
        return task

    async def _produce(self, count: int) -> list[Any]:
        if not self.holds:
            await self.until(lambda: self._host is not None and self._host.state == "running", "signs that the source is running")
        return await self.produce(count)

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

    def check(self, inlet: SuiteInlet, produced: list[Any], *, ordered: bool = True) -> None:
        """See to it that what was accepted is what was produced, once and in order."""
        found = [event.data for event in inlet.events]
        if self.ordered and ordered:
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
        async with self.running(inlet) as host:
            end = time.monotonic() + self.patience
            while host.state != "ended":
                assert time.monotonic() < end, "all was brought, and `run` has not returned"
                await asyncio.sleep(PAUSE)
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
        self.check(inlet, produced, ordered=not self.reorders)

    async def test_what_the_journal_could_not_take_comes_again(self) -> None:
        self._needs_replays()
        inlet = SuiteInlet()
        inlet.failures = 1
        producing = await self.producing(3)
        async with self.running(inlet):
            produced = await self.arrived(inlet, producing, 3)
        self.check(inlet, produced, ordered=not self.reorders)

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
            self.check(inlet, produced, ordered=not self.reorders)

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
        async with self.running(inlet):
            await asyncio.sleep(5 * PAUSE)
        assert inlet.events == []

    async def test_options_that_are_wrong_are_refused_by_name(self) -> None:
        for word, options in self.bad_options.items():
            with pytest.raises((ConfigError, ValueError)) as caught:
                self.build(options)
            assert word in str(caught.value)

    # --- the server upstream --------------------------------------------------------------------------

    async def test_a_server_that_is_killed_under_load_loses_nothing(self) -> None:
        await self._needs("fail")
        self._needs_replays()
        inlet, producing = SuiteInlet(), await self.producing(self.load)
        inlet.pace = 1 / self.load
        async with self.running(inlet) as host:
            await self.until(lambda: len(inlet.events) >= self.load // 4, "enough events accepted")
            await self.fail()
            before = len(inlet.events)
            await self.becomes(host, "failing")
            assert host.detail
            await self.recover()
            inlet.pace = 0.0
            produced = await self.arrived(inlet, producing, self.load)
            produced += await self.arrived(inlet, await self.producing(1), self.load + 1)
        assert before < self.load, "all had been accepted before the server was killed; raise `load`"
        self.check(inlet, produced, ordered=False)

    async def test_a_server_that_is_killed_while_nothing_arrives_is_gone_on_with(self) -> None:
        await self._needs("fail")
        inlet = SuiteInlet()
        async with self.running(inlet) as host:
            produced = await self.arrived(inlet, await self.producing(1), 1)
            await self.fail()
            await self.becomes(host, "failing")
            await self.recover()
            await self.becomes(host, "running")
            produced += await self.arrived(inlet, await self.producing(2), 3)
        self.check(inlet, produced)

    async def test_a_server_that_is_down_at_start_is_waited_for(self) -> None:
        await self._needs("fail")
        inlet = SuiteInlet()
        await self.fail()
        async with self.running(inlet) as host:
            await self.becomes(host, "failing")
            assert host.detail
            await self.recover()
            await self.becomes(host, "running")
            produced = await self.arrived(inlet, await self.producing(2), 2)
        self.check(inlet, produced)

    async def test_a_server_that_refuses_the_password_is_told_of_without_it(self) -> None:
        inlet = SuiteInlet()
        async with self.running(inlet, self.denied(SECRET)) as host:
            await self.becomes(host, "failing")
            assert host.detail
            assert SECRET not in host.detail
        assert inlet.events == []

    async def test_a_message_that_is_no_event_is_set_aside_and_the_source_goes_on(self) -> None:
        await self._needs("spoil")
        inlet = SuiteInlet()
        async with self.running(inlet) as host:
            produced = await self.arrived(inlet, await self.producing(1), 1)
            raw = await self.spoil()
            produced += await self.arrived(inlet, await self.producing(2), 3)
            await self.until(lambda: bool(inlet.malformed), "any messages set aside")
            assert host.state == "running"
        async with self.running(inlet):
            produced += await self.arrived(inlet, await self.producing(1), 4)
        assert [message.data for message in inlet.malformed] == [raw]
        assert inlet.malformed[0].why
        self.check(inlet, produced)

    # --- the process ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("moment", ["received", "accepted"])
    async def test_a_process_that_is_killed_before_it_acknowledges_loses_nothing(self, moment: Moment) -> None:
        self._needs_replays()
        producing = await self.producing(5)
        with self._project() as project:
            async with project.running(moment, self.patience) as doomed:
                assert await doomed.ended() == -9, doomed.log
            async with project.running("", self.patience) as runtime:
                await runtime.until(lambda: len(project.notes()) >= 5, "5 events in the function")
                produced = await asyncio.wait_for(producing, self.patience)
                assert await runtime.stop() == 0, runtime.log
            found = [data for _, _, data in project.notes()]
        assert sorted(map(repr, found)) == sorted(map(repr, produced))

    async def test_a_server_is_not_read_while_the_runtime_is_full(self) -> None:
        await self._needs("flood", 0, 0)
        if not self.holds:
            pytest.skip("nothing is kept upstream for the time when there is room")
        with self._project() as project:
            project.hold(held=True)
            async with project.running("", self.patience) as runtime:
                await runtime.until_state("running")
                before = runtime.memory()
                await self.flood(FLOOD, HEAVY)
                await runtime.until_state("paused")
                assert await runtime.taken() <= 1 + self.read_ahead
                grown = runtime.memory() - before
                assert grown <= SLACK + 2 * self.read_ahead * HEAVY, f"it grew by {grown:,} bytes while it was full"
                project.hold(held=False)
                await runtime.until(lambda: len(project.notes()) >= FLOOD, "all events in the function")
                assert await runtime.stop() == 0, runtime.log

    @contextmanager
    def _project(self) -> Iterator[Project]:
        if not self.alone or not isinstance(self.clock, SystemClock):
            pytest.skip("the source cannot be run by another process")
        with tempfile.TemporaryDirectory() as folder:
            yield Project(Path(folder) if self.folder == Path() else self.folder, *self.make())

    async def _needs(self, name: str, *arguments: Any) -> None:
        """Skip the test, as the method of the suite does, unless the class has another one."""
        if getattr(type(self), name) is getattr(SourceSuite, name):
            await getattr(self, name)(*arguments)

    def _needs_replays(self) -> None:
        if not self.replays:
            pytest.skip("the source gets everything once")
