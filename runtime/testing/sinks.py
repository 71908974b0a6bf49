"""The suite every sink passes."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

from runtime.clock import SystemClock
from runtime.contracts import Clock, Sink
from runtime.errors import ConfigError, PartialFailure
from runtime.event import Event
from runtime.options import read_options

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
    and `recover` it is also tested what becomes of events while the other side takes none. What a sink cannot do is said
    in the class:

    * `batch`: the most events in one `write`.
    * `lossless`: all attributes and extensions arrive; otherwise only id, type and data are compared.
    * `keeps`: what one instance has written is still there when the next one has.
    * `ordered`: events arrive in the order in which they were written.
    * `bad_options`: options that are to be refused, by a word that the refusal names.
    * `patience`: how many seconds (of real time) anything may take.
    """

    batch: ClassVar[int] = 10
    lossless: ClassVar[bool] = True
    keeps: ClassVar[bool] = True
    ordered: ClassVar[bool] = True
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
