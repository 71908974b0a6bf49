"""A source is kept running: started again when it raises, closed whatever happens, and always known how it stands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from support import Bench

from runtime import Event, Inlet, Source, function
from runtime.contracts import NoOptions
from runtime.supervisor import Supervisor


class Scripted(Source):
    """Does in each run what comes next; notes what the host does with it."""

    def __init__(self, bench: Bench, *runs: Any, opens: tuple[Any, ...] = (), closing: BaseException | None = None) -> None:
        super().__init__("script", NoOptions())
        self.bench = bench
        self.runs = list(runs)
        self.opens = list(opens)
        self.closing = closing
        self.calls: list[tuple[str, float]] = []

    def note(self, what: str) -> None:
        self.calls.append((what, self.bench.clock.monotonic()))

    async def open(self) -> None:
        self.note("open")
        if self.opens and (failure := self.opens.pop(0)) is not None:
            raise failure

    async def run(self, inlet: Inlet) -> None:
        self.note("run")
        step = self.runs.pop(0) if self.runs else None
        if isinstance(step, BaseException):
            raise step
        if step is not None:
            await step(inlet)

    async def close(self) -> None:
        self.note("close")
        if self.closing is not None:
            raise self.closing

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def times(self, what: str) -> list[float]:
        first = self.calls[0][1]
        return [time - first for name, time in self.calls if name == what]


async def for_ever(_: Inlet) -> None:
    await asyncio.get_running_loop().create_future()


def nothing() -> None: ...


def supervise(bench: Bench, source: Source, changed: Callable[[], None] = nothing) -> Supervisor:
    supervisor = Supervisor(source, "scripted", bench.inlet("script"), bench.clock, changed)
    supervisor.start()
    return supervisor


@pytest.fixture
def _whole_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.flow.failure.random.random", lambda: 1.0)


async def test_a_source_is_opened_run_and_closed_and_has_ended() -> None:
    async def bring(inlet: Inlet) -> None:
        await inlet.put(Event(type="go", source="script"))

    async with Bench(nothing) as bench:
        states: list[str] = []
        source = Scripted(bench, bring)
        supervisor = supervise(bench, source, lambda: states.append(supervisor.state))
        assert (supervisor.state, supervisor.detail) == ("connecting", "")
        await bench.settled()
        assert states == ["connecting", "running", "ended"]
        assert source.names == ["open", "run", "close"]
        assert (await bench.journal.counts()).accepted == 1
        assert supervisor.inlet.events == 1
        await supervisor.stop()
        assert source.names == ["open", "run", "close"]


async def test_a_source_that_was_opened_before_its_start_is_not_opened_again() -> None:
    async with Bench(nothing) as bench:
        source = Scripted(bench)
        supervisor = Supervisor(source, "scripted", bench.inlet("script"), bench.clock, nothing)
        await supervisor.open()
        supervisor.start()
        await bench.settled()
        assert source.names == ["open", "run", "close"]


async def test_what_the_first_open_raises_is_told_to_whoever_opens() -> None:
    async with Bench(nothing) as bench:
        source = Scripted(bench, opens=(OSError(98, "Address already in use"),))
        supervisor = Supervisor(source, "scripted", bench.inlet("script"), bench.clock, nothing)
        with pytest.raises(OSError, match="Address already in use"):
            await supervisor.open()
        await supervisor.stop()
        assert source.names == ["open"]


@pytest.mark.usefixtures("_whole_pauses")
async def test_a_source_that_raises_starts_again_after_one_second_doubling_to_sixty() -> None:
    async with Bench(nothing) as bench:
        source = Scripted(bench, *(ValueError("no") for _ in range(8)), for_ever)
        supervisor = supervise(bench, source)
        await bench.settled()
        assert (supervisor.state, supervisor.detail) == ("failing", "ValueError: no")
        await bench.clock.advance(200)
        assert source.times("run") == [0, 1, 3, 7, 15, 31, 63, 123, 183]
        assert source.names == ["open", "run", "close"] * 8 + ["open", "run"]
        assert (supervisor.state, supervisor.detail) == ("running", "")
        await supervisor.stop()
        assert source.names[-1] == "close"


async def test_half_of_each_pause_is_random() -> None:
    async with Bench(nothing) as bench:
        source = Scripted(bench, *(ValueError("no") for _ in range(50)), for_ever)
        supervisor = supervise(bench, source)
        await bench.clock.advance(50 * 60)
        runs = source.times("run")
        pauses = [runs[index + 1] - runs[index] for index in range(50)]
        assert 0.5 <= pauses[0] <= 1
        assert 1 <= pauses[1] <= 2
        assert all(30 <= pause <= 60 for pause in pauses[6:])
        assert len(set(pauses[6:])) == 44
        await supervisor.stop()


@pytest.mark.usefixtures("_whole_pauses")
async def test_a_source_that_has_run_for_long_pauses_as_after_the_first_failure() -> None:
    async with Bench(nothing) as bench:

        async def run_for(seconds: float) -> None:
            await bench.clock.sleep(seconds)
            raise ConnectionError("gone")

        source = Scripted(bench, OSError(), OSError(), lambda _: run_for(61), lambda _: run_for(10), for_ever)
        supervisor = supervise(bench, source)
        await bench.clock.advance(100)
        assert source.times("run") == [0, 1, 3, 3 + 61 + 1, 65 + 10 + 2]
        await supervisor.stop()


async def test_a_source_that_fails_for_days_is_still_started_again() -> None:
    async with Bench(nothing) as bench:
        source = Scripted(bench, *(ValueError("no") for _ in range(1100)), for_ever)
        supervisor = supervise(bench, source)
        await bench.clock.advance(1100 * 60)
        assert len(source.times("run")) == 1101
        assert supervisor.state == "running"
        await supervisor.stop()


@pytest.mark.parametrize("failure", [ValueError("no"), SystemExit(3)])
async def test_whatever_a_source_raises_hurts_it_alone(failure: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    async with Bench(nothing) as bench:
        source = Scripted(bench, failure, for_ever)
        supervisor = supervise(bench, source)
        await bench.settled()
        assert supervisor.state == "failing"
        assert supervisor.detail == f"{type(failure).__name__}: {failure}"
        (record,) = [record for record in caplog.records if record.name == "runtime.supervisor"]
        assert record.levelno == logging.WARNING
        assert record.getMessage().startswith('source "script" failed and starts again in ')
        assert record.getMessage().endswith(f" s: {supervisor.detail}")
        await bench.clock.advance(1)
        assert supervisor.state == "running"
        await supervisor.stop()


async def test_a_source_that_cannot_connect_is_tried_again_and_not_closed_before_it_was_open() -> None:
    async with Bench(nothing) as bench:
        source = Scripted(bench, for_ever, opens=(ConnectionError("refused"), ConnectionError("refused"), None))
        supervisor = supervise(bench, source)
        await bench.settled()
        assert (supervisor.state, supervisor.detail) == ("failing", "ConnectionError: refused")
        await bench.clock.advance(10)
        assert supervisor.state == "running"
        assert source.names == ["open", "open", "open", "run"]
        await supervisor.stop()
        assert source.names[-1] == "close"


async def test_stopping_cancels_a_source_and_closes_it_once() -> None:
    cancelled: list[bool] = []

    async def until_cancelled(inlet: Inlet) -> None:
        try:
            await for_ever(inlet)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async with Bench(nothing) as bench:
        source = Scripted(bench, until_cancelled)
        supervisor = supervise(bench, source)
        await bench.settled()
        await supervisor.stop()
        await supervisor.stop()
        assert cancelled == [True]
        assert source.names == ["open", "run", "close"]


async def test_stopping_during_a_pause_ends_it() -> None:
    async with Bench(nothing) as bench:
        source = Scripted(bench, ValueError("no"))
        supervisor = supervise(bench, source)
        await bench.settled()
        await supervisor.stop()
        await bench.clock.advance(100)
        assert source.names == ["open", "run", "close"]


async def test_a_source_that_fails_to_close_is_logged_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async with Bench(nothing) as bench:
        source = Scripted(bench, ValueError("no"), None, closing=RuntimeError("stuck"))
        supervisor = supervise(bench, source)
        await bench.clock.advance(1)
        assert supervisor.state == "ended"
        assert [record.getMessage() for record in caplog.records if "close" in record.getMessage()] == [
            'source "script" failed to close: RuntimeError: stuck'
        ] * 2


async def test_a_source_is_paused_while_the_runtime_is_full_and_runs_again_when_there_is_room() -> None:
    gate = asyncio.Event()

    def declare() -> None:
        @function(on="go", concurrency=1)
        async def slow(data: int) -> None:
            await gate.wait()

    async def bring(inlet: Inlet) -> None:
        for number in range(4):
            await inlet.put(Event(type="go", source="script", data=number))
        await asyncio.get_running_loop().create_future()

    async with Bench(declare, max_backlog=2) as bench:
        supervisor = supervise(bench, Scripted(bench, bring))
        await bench.settled()
        assert (supervisor.state, supervisor.detail) == ("paused", "full: max_backlog events wait")
        gate.set()
        await bench.settled()
        assert (supervisor.state, supervisor.detail) == ("running", "")
        await supervisor.stop()


class Obliging(Scripted):
    """Takes new options while it runs, raises when they are an error, and refuses None."""

    def reconfigure(self, options: object) -> bool:
        if isinstance(options, Exception):
            raise options
        return options is not None


async def test_a_source_is_handed_new_options_while_it_runs_and_is_otherwise_to_be_started_anew(caplog: pytest.LogCaptureFixture) -> None:
    async with Bench(nothing) as bench:
        source = Obliging(bench, for_ever)
        supervisor = supervise(bench, source)
        assert not supervisor.reconfigure("too early")
        await bench.settled()
        assert supervisor.reconfigure("new")
        assert source.options == "new"
        assert not supervisor.reconfigure(None)
        assert not supervisor.reconfigure(ValueError("never"))
        assert source.options == "new"
        assert 'source "script" failed to take new options, and is started anew' in caplog.text
        await supervisor.stop()
        plain = supervise(bench, Scripted(bench, for_ever))
        await bench.settled()
        assert not plain.reconfigure("new")
        await plain.stop()
