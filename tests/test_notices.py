"""Notices: plugins are told what has happened, once and in order, and can harm nobody."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from support import Bench

from runtime import Context, Event, Reject, Sink, Skip, function
from runtime.notices import Notices
from runtime.records import Step
from runtime.specs import SinkSpec


class Heard:
    """Keeps what it was told of."""

    def __init__(self, *names: str) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.notices = Notices()
        for name in names or ("event_accepted", "step_finished", "run_finished"):
            self.notices.add(name, getattr(self, name), "tests")

    def event_accepted(self, event: Event) -> None:
        self.told.append(("accepted", event.type))

    def step_finished(self, event: Event, step: Step) -> None:
        self.told.append(("step", event.type, step.function, step.status))

    def run_finished(self, event: Event, status: str) -> None:
        self.told.append(("run", event.type, status))


class Silent(Sink):
    async def write(self, events: list[Event]) -> None: ...


def declare() -> None:
    @function(on="go")
    async def first(data: int) -> int:
        if data < 0:
            raise Skip("nothing to do")
        return data

    @function(after="first", emits="gone", backoff=0.0)
    async def second(first: int, context: Context) -> int:
        if first > 9:
            raise Reject("too many")
        if context.attempt == 1:
            raise OSError("not now")
        return first


async def test_an_event_is_told_from_its_acceptance_to_its_end_and_so_is_what_it_emits() -> None:
    heard = Heard()
    async with Bench(declare, notices=heard.notices) as bench:
        await bench.put("go", 1)
        await bench.clock.advance(1)
        await bench.settled()
    assert heard.told == [
        ("accepted", "go"),
        ("step", "go", "first", "done"),
        ("accepted", "gone"),
        ("step", "go", "second", "done"),
        ("run", "go", "done"),
    ], "an attempt that is tried again has not finished its step, and an event nobody takes has no run"


@pytest.mark.parametrize(("data", "second", "end"), [(-1, "skipped", "done"), (10, "failed", "dead")])
async def test_steps_that_were_skipped_or_failed_are_told_too(data: int, second: str, end: str) -> None:
    heard = Heard("step_finished", "run_finished")
    async with Bench(declare, notices=heard.notices) as bench:
        await bench.put("go", data)
        await bench.settled()
    assert heard.told[-2:] == [("step", "go", "second", second), ("run", "go", end)]


async def test_what_a_sink_took_is_told_as_a_step() -> None:
    heard = Heard("step_finished")
    sinks = [(SinkSpec(name="out", on=("go",), plugin="silent"), Silent("out", None))]
    async with Bench(lambda: None, notices=heard.notices, sinks=sinks) as bench:
        await bench.put("go", 1)
        await bench.settled()
    assert heard.told == [("step", "go", "out", "done")]


async def test_a_listener_that_raises_is_named_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: Event) -> None:
        raise OSError("no line")

    heard = Heard()
    notices = Notices()
    notices.add("event_accepted", broken, "plugins/metrics.py:7")
    notices.add("event_accepted", heard.event_accepted, "tests")
    with caplog.at_level(logging.ERROR):
        async with Bench(declare, notices=notices) as bench:
            event = await bench.put("go", 3)
            await bench.clock.advance(1)
            await bench.settled()
            assert (await bench.entry(event)).status == "done"
    assert heard.told == [("accepted", "go"), ("accepted", "gone")]
    assert "plugins/metrics.py:7: event_accepted failed" in caplog.text


async def test_where_nobody_listens_nothing_is_called() -> None:
    async with Bench(declare, notices=Notices()) as bench:
        assert bench.engine.intake.admit == bench.engine.router.admit
        assert bench.engine.outcomes.tell is None
