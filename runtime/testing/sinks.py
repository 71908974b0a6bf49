"""The suite every sink passes."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

from runtime.clock import SystemClock
from runtime.contracts import Clock, Sink
from runtime.engine import Engine
from runtime.errors import ConfigError, PartialFailure
from runtime.event import Event
from runtime.flow.delivery import Delivery
from runtime.graph import build_graph
from runtime.inlet import HostInlet
from runtime.journal.memory import MemoryJournal
from runtime.options import read_options
from runtime.settings import SourceSettings
from runtime.specs import SinkSpec
from runtime.testing.clock import PAUSE, HastyClock
from runtime.testing.sources import SECRET

TIME = datetime(2027, 1, 15, 8, 0, 0, 125000, UTC)

MANY_KINDS = (
    Event(type="suite.bare", source="suite", id="bare", time=TIME),
    Event(type="suite.text", source="suite", id="text ü\u2028", time=TIME, subject="ünï/cøde", data={"text": 'naïve\n\r\t"\\\u2028🜁\x00'}),
    Event(
        type="suite.full",
        source="/suite?a=b#c",
        id="full",
        time=TIME,
        subject="a subject",
        datacontenttype="application/json",
        dataschema="https://example.com/schema.json",
        key="ada",
        priority=9,
        due=TIME,
        extensions={"traceparent": "00-1", "count": 3, "flag": True},
        data={"nested": [{"deep": [1, -2.5, None, True, ""]}], "": {}},
    ),
    *(
        Event(type="suite.data", source="suite", id=f"data-{n}", time=TIME, data=data)
        for n, data in enumerate(("", 0, False, [], {}, 2**53))
    ),
)
"""Events of all kinds: without data, with every attribute, with text that is hard to write."""


class SinkSuite:
    """What every sink must do; `make` says what it is, `received` what the other side has.

    A test has an instance of its own, on which a fixture of yours may set `folder` and `clock` of the sink. With `fail`
    and `recover` it is also tested what becomes of events while the other side takes none, and with `denied` what is told
    when it refuses the sink. What a sink cannot do is said in the class:

    * `batch`: the most events in one `write`.
    * `lossless`: all attributes and extensions arrive; otherwise only id, type and data are compared.
    * `keeps`: what one instance has written is still there when the next one has.
    * `ordered`: events arrive in the order in which they were written.
    * `connected`: it has a connection, and raises a ConnectionError when that is lost.
    * `load`: how many events are under way when the server is killed.
    * `bad_options`: options that are to be refused, by a word that the refusal names.
    * `patience`: how many seconds (of real time) anything may take.
    """

    batch: ClassVar[int] = 10
    lossless: ClassVar[bool] = True
    keeps: ClassVar[bool] = True
    ordered: ClassVar[bool] = True
    connected: ClassVar[bool] = False
    load: ClassVar[int] = 1000
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    patience: ClassVar[float] = 10.0
    folder: Path = Path()
    clock: Clock = SystemClock()

    @abstractmethod
    def make(self) -> tuple[type[Sink], Mapping[str, Any]]:
        """Return the class of the sink and its options, as they stand in `runtime.toml`."""

    @abstractmethod
    async def received(self) -> list[Event]:
        """Return all that the other side has got, in order."""

    async def fail(self) -> None:
        """Make the other side take no events any more."""
        pytest.skip("nothing says how it fails")

    async def recover(self) -> None:
        """Make the other side take events again."""

    def denied(self, secret: str) -> Mapping[str, Any]:  # noqa: ARG002 - for those that can
        """Return options with this password, which the server refuses."""
        pytest.skip("nothing says how it is refused")

    # --- how ------------------------------------------------------------------------------------------

    def build(self, options: Mapping[str, Any] | None = None) -> Sink:
        """Return a new instance, with other options when they are given.

        Raises:
            ConfigError, ValueError: the options are refused.
        """
        kind, usual = self.make()
        sink = kind("suite", read_options(kind.Options, dict(usual if options is None else options), "runtime.toml", ("sinks", "suite")))
        sink.folder, sink.clock = self.folder, self.clock
        return sink

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Sink]:
        """Open a new instance, and close it in the end."""
        sink = self.build()
        await sink.open()
        try:
            yield sink
        finally:
            await asyncio.wait_for(sink.close(), self.patience)

    @asynccontextmanager
    async def hosted(self, options: Mapping[str, Any] | None = None) -> AsyncIterator[tuple[HostInlet, Delivery]]:
        """Run a new instance as the runtime does, but that pauses are short, and give a way for events to it."""
        limits: dict[str, Any] = {"retries": 1000, "backoff": PAUSE, "backoff_max": PAUSE, "batch_wait": PAUSE}
        spec = SinkSpec(name="suite", on=(">",), plugin="suite", batch=self.batch, **limits)
        clock = HastyClock()
        engine = Engine(MemoryJournal(clock), clock)
        engine.add_sink(spec, self.build(options))
        graph = build_graph([], [spec])
        assert not isinstance(graph, list), graph
        engine.adopt(graph, 1)
        await engine.start()
        try:
            yield HostInlet("suite", SourceSettings(plugin="suite"), engine), engine.deliveries[0]
        finally:
            await asyncio.wait_for(engine.stop(0.0), self.patience)

    async def until(self, holds: Callable[[], bool], what: Callable[[], str]) -> None:
        """Return when a condition holds; `what` says what there is instead."""
        end = time.monotonic() + self.patience
        while not holds():
            assert time.monotonic() < end, f"after {self.patience:g} s {what()}"
            await asyncio.sleep(PAUSE)

    async def becomes(self, delivery: Delivery, state: str) -> None:
        """Return when the sink stands so."""
        await self.until(lambda: delivery.state == state, lambda: f"the sink is {delivery.state}, not {state}: {delivery.detail}")

    async def arrives(self, delivery: Delivery, *events: Event) -> None:
        """Return when so many were written, and see to it that they are there, perhaps more than once."""
        await self.until(lambda: delivery.written >= len(events), lambda: f"{delivery.written} of {len(events)} events are written")
        received = {event.id for event in await self.received()}
        assert received >= {event.id for event in events}

    def some(self, count: int, name: str = "some") -> list[Event]:
        """Return `count` events with ids of their own."""
        return [Event(type="suite.some", source="suite", id=f"{name}-{number}", time=TIME, data={"n": number}) for number in range(count)]

    async def write(self, sink: Sink, events: Sequence[Event]) -> None:
        """Write events, `batch` at once."""
        for start in range(0, len(events), self.batch):
            await asyncio.wait_for(sink.write(list(events[start : start + self.batch])), self.patience)

    async def check(self, *written: Event) -> None:
        """See to it that what was received is what was written, once and in order."""
        received = [self._told(event) for event in await self.received()]
        expected = [self._told(event) for event in written]
        if self.ordered:
            assert received == expected
        else:
            assert sorted(received, key=repr) == sorted(expected, key=repr)

    def _told(self, event: Event) -> object:
        return event if self.lossless else (event.id, event.type, event.data)

    # --- the contract ---------------------------------------------------------------------------------

    async def test_what_is_written_is_there_when_write_returns(self) -> None:
        one, *others = self.some(2 * self.batch + 1)
        async with self.opened() as sink:
            await self.write(sink, [one])
            await self.check(one)
            await self.write(sink, others)
            await self.check(one, *others)
        await self.check(one, *others)

    async def test_events_of_all_kinds_arrive_as_they_were(self) -> None:
        async with self.opened() as sink:
            await self.write(sink, MANY_KINDS)
        await self.check(*MANY_KINDS)

    async def test_writes_at_the_same_time_do_not_mix(self) -> None:
        parts = [self.some(self.batch, name) for name in "abcd"]
        async with self.opened() as sink:
            await asyncio.wait_for(asyncio.gather(*(sink.write(part) for part in parts)), self.patience)
        received = [event.id for event in await self.received()]
        for part in parts:
            mine = [event.id for event in part]
            found = [id for id in received if id in mine]
            assert found == mine if self.ordered else sorted(found) == sorted(mine)

    async def test_what_an_instance_before_has_written_is_still_there(self) -> None:
        if not self.keeps:
            pytest.skip("the sink keeps nothing")
        first, second = self.some(1, "first"), self.some(1, "second")
        for part in (first, second):
            async with self.opened() as sink:
                await self.write(sink, part)
        await self.check(*first, *second)

    async def test_a_write_that_fails_says_so_and_is_made_good(self) -> None:
        before, during, after = self.some(1, "before"), self.some(self.batch, "during"), self.some(1, "after")
        async with self.opened() as sink:
            await self.write(sink, before)
            await self.fail()
            with pytest.raises(Exception) as caught:  # noqa: PT011 - any error means that the events are tried again
                await self.write(sink, during)
            if isinstance(caught.value, PartialFailure):
                assert caught.value.failures.keys() <= {event.id for event in during}
            await self.recover()
            if self.connected:
                assert _is_lost(caught.value), f"the connection is lost, and it raised no ConnectionError but {caught.value!r}"
                await sink.close()
                await sink.open()
            await self.write(sink, [*during, *after])
        received = {event.id for event in await self.received()}
        assert received >= {event.id for event in (*before, *during, *after)}

    async def test_a_write_that_is_cancelled_harms_no_other(self) -> None:
        events = self.some(self.batch)
        async with self.opened() as sink:
            writing = asyncio.create_task(sink.write(events))
            await asyncio.sleep(0)
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait_for(writing, self.patience)
            await self.write(sink, events)
        assert {event.id for event in await self.received()} == {event.id for event in events}

    async def test_it_opens_and_closes_without_a_write_and_again(self) -> None:
        sink, events = self.build(), self.some(1)
        await sink.open()
        await asyncio.wait_for(sink.close(), self.patience)
        await sink.open()
        await self.write(sink, events)
        await asyncio.wait_for(sink.close(), self.patience)
        await self.check(*events)

    async def test_options_that_are_wrong_are_refused_by_name(self) -> None:
        for word, options in self.bad_options.items():
            with pytest.raises((ConfigError, ValueError)) as caught:
                self.build(options)
            assert word in str(caught.value)

    # --- the server -----------------------------------------------------------------------------------

    async def test_a_server_that_fails_under_load_gets_all_in_the_end(self) -> None:
        if type(self).fail is SinkSuite.fail:
            await self.fail()  # which skips
        events = self.some(self.load)
        async with self.hosted() as (inlet, delivery):
            await inlet.put(events[: self.load // 2])
            await self.until(lambda: delivery.written > 0, lambda: "nothing is written")
            await self.fail()
            await inlet.put(events[self.load // 2 :])
            await self.becomes(delivery, "failing")
            assert delivery.detail
            await self.recover()
            await self.arrives(delivery, *events)
            assert delivery.state == "running"

    async def test_a_server_that_is_down_at_start_is_waited_for(self) -> None:
        if type(self).fail is SinkSuite.fail:
            await self.fail()  # which skips
        if not self.connected:
            pytest.skip("the sink connects when there is something to write")
        events = self.some(3)
        await self.fail()
        async with self.hosted() as (inlet, delivery):
            await inlet.put(events)
            await self.becomes(delivery, "failing")
            assert delivery.detail
            await self.recover()
            await self.arrives(delivery, *events)

    async def test_a_server_that_refuses_the_password_is_told_of_without_it(self) -> None:
        async with self.hosted(self.denied(SECRET)) as (inlet, delivery):
            await inlet.put(self.some(1))
            await self.becomes(delivery, "failing")
            assert delivery.detail
            assert SECRET not in delivery.detail


def _is_lost(error: Exception) -> bool:
    errors = list(error.failures.values()) if isinstance(error, PartialFailure) else [error]
    return any(isinstance(one, ConnectionError) for one in errors)
