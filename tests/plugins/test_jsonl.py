from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from runtime_plugins.jsonl import JsonlSink, JsonlSource, SinkOptions

from runtime import Event, JournalError, cloudevents


class Recorder:
    """An inlet that keeps what is put; `failures` puts fail first."""

    def __init__(self, cursor: Any = None, failures: int = 0) -> None:
        self.cursor = cursor
        self.batches: list[list[Event]] = []
        self._failures = failures
        self._changed = asyncio.Event()

    async def put(self, events: Event | Sequence[Event], *, cursor: Any = None, wait: bool = True) -> None:
        if self._failures:
            self._failures -= 1
            raise JournalError("disk full")
        if cursor is not None:
            self.cursor = json.loads(json.dumps(cursor))
        self.batches.append([events] if isinstance(events, Event) else list(events))
        self._changed.set()

    async def call(self, event: Event, *, timeout: float | None = None, retries: int = 0) -> Any:  # noqa: ASYNC109 - the contract's
        raise NotImplementedError

    @property
    def data(self) -> list[Any]:
        return [event.data for batch in self.batches for event in batch]

    async def has(self, *data: Any) -> None:
        """Return when exactly these data are there."""
        async with asyncio.timeout(20):
            while len(self.data) < len(data):
                self._changed.clear()
                await self._changed.wait()
        assert self.data == list(data)


def source(path: Path | str, **options: Any) -> JsonlSource:
    given = {"path": str(path), "type": "line", "every": 0.01} | options
    return JsonlSource("lines", msgspec.convert(given, JsonlSource.Options))


async def read(path: Path | str, cursor: Any = None, **options: Any) -> Recorder:
    inlet = Recorder(cursor)
    await source(path, **options).run(inlet)
    return inlet


@asynccontextmanager
async def following(path: Path, cursor: Any = None) -> AsyncIterator[Recorder]:
    inlet = Recorder(cursor)
    task = asyncio.create_task(source(path, follow=True).run(inlet))
    yield inlet
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def add(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "in.jsonl"


@contextmanager
def standard_input(file: int) -> Iterator[None]:
    """Let a file stand at descriptor 0."""
    before = os.dup(0)
    os.dup2(file, 0)
    try:
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)


# --- the source reads a file --------------------------------------------------------------------------


async def test_a_line_is_a_cloudevent(path: Path) -> None:
    events = [Event(type="a", source="s", id="1", data={"n": 1}, key="k", priority=7), Event(type="b", source="s", id="2", data=b"\xff")]
    path.write_bytes(b"".join(cloudevents.encode(event) + b"\r\n" for event in events))
    inlet = await read(path, type=None)
    assert inlet.batches == [events]


async def test_with_a_type_a_line_is_the_data_of_an_event(path: Path) -> None:
    path.write_text('{"n": 1}\n\n  \n[2]\n"three"\nnull\n')
    inlet = await read(path)
    assert inlet.data == [{"n": 1}, [2], "three", None]
    assert inlet.batches[0][0] == Event(type="line", source="source/lines", data={"n": 1}, datacontenttype="application/json")


async def test_it_ends_with_the_file_and_the_last_line_needs_no_newline(path: Path) -> None:
    path.write_text("1\n2")
    assert (await read(path)).data == [1, 2]
    assert source(path).finite
    assert not source(path, follow=True).finite


async def test_an_empty_file_brings_nothing(path: Path) -> None:
    path.touch()
    assert (await read(path)).batches == []


async def test_malformed_lines_are_logged_and_left_out(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(b'{"n": 1}\n{"n": \n"\xff"\n' + b"[" * 100_000 + b"\n123456789012345678901234567890\nNaN\n\x00\n2\n")
    inlet = await read(path)
    assert inlet.data == [{"n": 1}, 2]
    lines = [message.removeprefix(f"{path}:").partition(":")[0] for message in caplog.messages]
    assert lines == ["2", "3", "4", "5", "6", "7"]
    assert caplog.messages[0] == f"{path}:2: expected JSON: Input data was truncated"
    assert {record.levelname for record in caplog.records} == {"ERROR"}


async def test_a_line_that_is_no_cloudevent_is_logged_and_left_out(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = Event(type="a", source="s", id="1", data=1)
    path.write_bytes(b'{"specversion": "1.0"}\n7\n' + cloudevents.encode(good) + b"\n")
    assert (await read(path, type=None)).batches == [[good]]
    assert [message.startswith(f"{path}:{number}: ") for number, message in enumerate(caplog.messages, 1)] == [True, True]


async def test_events_come_in_batches_with_a_cursor_each(path: Path) -> None:
    path.write_text("".join(f"{number}\n" for number in range(2500)))
    inlet = await read(path)
    assert [len(batch) for batch in inlet.batches] == [1000, 1000, 500]
    assert inlet.data == list(range(2500))
    assert (inlet.cursor["offset"], inlet.cursor["lines"]) == (path.stat().st_size, 2500)


async def test_lines_of_megabytes_are_read(path: Path) -> None:
    long = "x" * 3_000_000
    path.write_text(f'1\n"{long}"\n2\n"{long}"')
    assert (await read(path)).data == [1, long, 2, long]


async def test_a_missing_file_is_told(path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        await read(path)
    assert str(caught.value) == f"{path}: no such file; make it, or set `follow = true` to wait for it"


async def test_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as caught:
        await read(tmp_path)
    assert str(caught.value) == f"{tmp_path}: expected a file, found a folder; correct `path`"


# --- and goes on where it was -------------------------------------------------------------------------


async def test_a_restart_goes_on_behind_the_cursor_with_the_right_line_numbers(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text("1\n2\n")
    first = await read(path)
    add(path, "3\n?\n")
    assert (await read(path, first.cursor)).data == [3]
    assert caplog.messages[0].startswith(f"{path}:4: ")


async def test_a_failed_put_is_repeated_by_the_next_run(path: Path) -> None:
    path.write_text("1\n2\n")
    inlet = Recorder(failures=1)
    one = source(path)
    with pytest.raises(JournalError):
        await one.run(inlet)
    await one.run(inlet)
    assert inlet.data == [1, 2]


@pytest.mark.parametrize("text", ["7\n", "8\n9\n0\n", "1\n9\n3\n"], ids=["shorter", "longer", "alike"])
async def test_a_file_of_other_content_is_read_from_the_start(path: Path, text: str) -> None:
    path.write_text("1\n2\n")
    first = await read(path)
    path.write_text(text)
    assert (await read(path, first.cursor)).data == [json.loads(line) for line in text.splitlines()]


async def test_a_file_that_an_editor_wrote_anew_goes_on(path: Path) -> None:
    path.write_text("1\n2\n")
    first = await read(path)
    new = path.with_suffix(".new")
    new.write_text("1\n2\n3\n")
    new.rename(path)
    assert (await read(path, first.cursor)).data == [3]


async def test_another_path_or_a_foreign_cursor_is_read_from_the_start(path: Path) -> None:
    path.write_text("1\n")
    first = await read(path)
    other = path.with_name("other.jsonl")
    other.write_text("1\n2\n")
    assert (await read(other, first.cursor)).data == [1, 2]
    assert (await read(other, 17)).data == [1, 2]


# --- following ----------------------------------------------------------------------------------------


async def test_a_followed_file_may_come_later_and_grow(path: Path) -> None:
    async with following(path) as inlet:
        path.write_text("1\n")
        await inlet.has(1)
        add(path, "2\n")
        await inlet.has(1, 2)


async def test_an_unfinished_line_waits_for_its_newline(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text('1\n"ha')
    async with following(path) as inlet:
        await inlet.has(1)
        assert inlet.cursor["offset"] == 2
        add(path, 'lf"\n')
        await inlet.has(1, "half")
    assert caplog.messages == []


async def test_a_rotated_file_is_finished_before_the_new_one(path: Path) -> None:
    path.write_text("1\n")
    async with following(path) as inlet:
        await inlet.has(1)
        add(path, "2\n3")
        path.rename(path.with_suffix(".1"))
        path.write_text("4\n")
        await inlet.has(1, 2, 3, 4)


async def test_a_file_that_is_moved_away_is_read_on_until_another_is_there(path: Path) -> None:
    path.write_text("1\n")
    async with following(path) as inlet:
        await inlet.has(1)
        old = path.rename(path.with_suffix(".1"))
        add(old, "2\n")
        await inlet.has(1, 2)
        path.write_text("3\n")
        await inlet.has(1, 2, 3)


@pytest.mark.parametrize("text", ["7\n", "7\n8\n9\n"], ids=["shorter", "longer"])
async def test_a_file_truncated_in_place_is_read_from_the_start(path: Path, text: str) -> None:
    path.write_text("1\n2\n")
    numbers = [int(line) for line in text.split()]
    async with following(path) as inlet:
        await inlet.has(1, 2)
        with path.open("r+") as file:
            file.write(text)
            file.truncate()
        await inlet.has(1, 2, *numbers)


async def test_following_goes_on_behind_the_cursor(path: Path) -> None:
    path.write_text("1\n2\n")
    first = await read(path)
    add(path, "3\n")
    async with following(path, first.cursor) as inlet:
        await inlet.has(3)


# --- streams ------------------------------------------------------------------------------------------


async def test_standard_input_is_read_as_it_comes_to_its_end() -> None:
    out, into = os.pipe()
    with standard_input(out):
        inlet = Recorder()
        task = asyncio.create_task(source("-").run(inlet))
        os.write(into, b"1\n2\n3")
        await inlet.has(1, 2)
        os.write(into, b"4\n5")
        await inlet.has(1, 2, 34)
        os.close(into)
        await inlet.has(1, 2, 34, 5)
        await task
    os.close(out)
    assert inlet.cursor is None


async def test_standard_input_may_be_a_file(path: Path) -> None:
    path.write_text("1\n2\n")
    with path.open() as file, standard_input(file.fileno()):
        assert (await read("-")).data == [1, 2]


async def test_a_standard_input_that_is_closed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(OSError, match=r"^standard input is closed; open it, or give `path` a file$"):
        await read("-")


async def test_what_a_stream_brought_survives_a_put_that_fails(path: Path) -> None:
    path.write_text("1\n2")
    inlet = Recorder(failures=2)
    one = source("-")
    with path.open() as file, standard_input(file.fileno()):
        for _ in range(2):
            with pytest.raises(JournalError):
                await one.run(inlet)
        await one.run(inlet)
    assert inlet.data == [1, 2]


async def test_a_named_pipe_is_read_to_its_end_and_followed_to_the_next_writer(path: Path) -> None:
    os.mkfifo(path)
    writers = [threading.Thread(target=path.write_text, args=(text,)) for text in ("1\n2\n", "3\n")]
    writers[0].start()
    async with following(path) as inlet:
        await inlet.has(1, 2)
        writers[1].start()
        await inlet.has(1, 2, 3)
    for writer in writers:
        writer.join()


def test_a_standard_input_that_says_nothing_does_not_keep_the_process_from_ending() -> None:
    script = """
import asyncio
from runtime_plugins.jsonl import JsonlSource, SourceOptions

async def main():
    task = asyncio.create_task(JsonlSource("in", SourceOptions("-")).run(None))
    await asyncio.sleep(0.05)
    task.cancel()

asyncio.run(main())
"""
    out, into = os.pipe()
    done = subprocess.run([sys.executable, "-c", script], stdin=out, timeout=30, capture_output=True, check=False)
    os.close(out)
    os.close(into)
    assert (done.returncode, done.stderr) == (0, b"")


# --- the sink -----------------------------------------------------------------------------------------


def event(number: int) -> Event:
    return Event(type="test", source="tests", id=str(number), data={"n": number})


def ids(path: Path) -> list[str]:
    return [cloudevents.decode(line).id for line in path.read_bytes().splitlines()]


@asynccontextmanager
async def sink(path: Path) -> AsyncIterator[JsonlSink]:
    made = JsonlSink("out", SinkOptions(str(path)))
    await made.open()
    yield made
    await made.close()


async def test_a_sink_appends_cloudevents_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "out.jsonl"
    for _ in range(2):
        async with sink(path) as out:
            await out.write([event(1), event(2)])
            assert ids(path)[-2:] == ["1", "2"], "they are in the file when write returns"
    assert [cloudevents.decode(line) for line in path.read_bytes().splitlines()] == [event(1), event(2)] * 2


async def test_writes_at_the_same_time_keep_their_order(path: Path) -> None:
    async with sink(path) as out:
        await asyncio.gather(*(out.write([event(number)]) for number in range(50)))
    assert ids(path) == [str(number) for number in range(50)]


async def test_a_file_that_was_moved_or_deleted_is_made_anew(path: Path) -> None:
    async with sink(path) as out:
        await out.write([event(1)])
        old = path.rename(path.with_suffix(".1"))
        await out.write([event(2)])
        assert (ids(old), ids(path)) == (["1"], ["2"])
        path.unlink()
        await out.write([event(3)])
        assert ids(path) == ["3"]


async def test_what_a_crash_left_of_a_line_is_ended_first(path: Path) -> None:
    path.write_text('{"specver')
    async with sink(path) as out:
        await out.write([event(1)])
    assert path.read_bytes().split(b"\n") == [b'{"specver', cloudevents.encode(event(1)), b""]


async def test_a_write_that_fails_half_way_leaves_no_part_of_a_line(path: Path) -> None:
    path.write_bytes(b" " * (1024 * 1024 - 1) + b"\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with sink(path) as out:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * 1024 + 100, hard))  # room for one event and a part of the next
        try:
            with pytest.raises(OSError, match="too large"):
                await out.write([event(1), event(2)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.stat().st_size == 1024 * 1024
        await out.write([event(1), event(2)])
    assert ids_after(path, 1024 * 1024) == ["1", "2"]


def ids_after(path: Path, offset: int) -> list[str]:
    return [cloudevents.decode(line).id for line in path.read_bytes()[offset:].splitlines()]


async def test_a_path_that_cannot_be_written_fails_to_open(tmp_path: Path) -> None:
    out = JsonlSink("out", SinkOptions(str(tmp_path)))
    with pytest.raises(IsADirectoryError):
        await out.open()


async def test_a_device_can_be_written() -> None:
    async with sink(Path(os.devnull)) as out:
        await out.write([event(1)])
