from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from typing import Any

import pytest
from runtime_plugins.console import Console

from runtime import Event, cloudevents
from runtime.contracts import NoOptions


def event(number: int, size: int = 0) -> Event:
    return Event(type="test", source="tests", id=str(number), data="x" * size)


def ids(text: bytes) -> list[str]:
    return [cloudevents.decode(line).id for line in text.splitlines()]


@pytest.fixture
def sink() -> Console:
    return Console("out", NoOptions())


@contextmanager
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileIO]:
    """Make standard output a pipe, and return the end that reads."""
    out, into = os.pipe()
    with FileIO(out) as reader, os.fdopen(into, "w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        yield reader


async def read_ids(reader: FileIO, count: int) -> list[str]:
    """Return the ids of so many lines."""
    text = b""
    while text.count(b"\n") < count:
        text += await asyncio.to_thread(reader.read, 65536)
    assert text.endswith(b"\n")
    return ids(text)


async def start(sink: Console, *events: Event) -> asyncio.Task[None]:
    """Start a write and return when it has filled the pipe."""
    task = asyncio.create_task(sink.write(list(events)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_events_are_lines_of_json_on_standard_output(sink: Console, capfd: pytest.CaptureFixture[str]) -> None:
    await sink.open()
    await sink.write([Event(type="test", source="tests", id="1", data={"n": 1}, key="k"), event(2)])
    await sink.write([event(3)])
    await sink.close()
    lines = capfd.readouterr().out.encode().splitlines()
    assert [cloudevents.decode(line) for line in lines] == [
        Event(type="test", source="tests", id="1", data={"n": 1}, key="k"),
        event(2),
        event(3),
    ]


async def test_a_slow_reader_holds_up_the_write_and_not_the_loop(sink: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    with piped(monkeypatch) as reader:
        first = await start(sink, event(1, 100_000), event(2))
        second = asyncio.create_task(sink.write([event(3)]))
        assert await read_ids(reader, 3) == ["1", "2", "3"]
        await asyncio.gather(first, second)


async def test_a_line_that_was_cut_off_is_ended_before_the_next(sink: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    with piped(monkeypatch) as reader:
        for _ in range(2):
            task = await start(sink, event(1, 100_000), event(2))
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        last = asyncio.create_task(sink.write([event(3)]))
        assert await read_ids(reader, 2) == ["1", "3"]
        await last


async def test_a_reader_that_has_gone_fails_the_write(sink: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    with piped(monkeypatch) as reader:
        reader.close()
        with pytest.raises(BrokenPipeError):
            await sink.write([event(1)])


async def test_a_standard_output_that_is_closed_fails_the_write(sink: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OSError, match=r"^standard output is closed; open it, or take the sink out of the configuration$"):
        await sink.write([event(1)])


def test_it_takes_no_options() -> None:
    options: Any = Console.Options
    assert options is NoOptions
