"""The source and the sink `jsonl`: files with one JSON text a line.

The source knows a file again by its content, not by its name: its cursor holds how many bytes were read and a mark
of what they were. When the mark still fits, it goes on there, also in a file that an editor wrote anew; when it does
not, the file was truncated or replaced, and is read from the start. Reads that may block for ever (standard input, a
named pipe) are made in daemon threads: any other thread would keep the process from ending.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from runtime import Event, Inlet, MalformedEvent, Sink, Source, cloudevents, hookimpl

T = TypeVar("T")

CHUNK = 256 * 1024  # bytes read at once, more when a line is longer
BATCH = 1000  # events accepted at once
MARK = 1024  # bytes at either end of what was read that tell whether a file is still the same
JSON = {"ce-specversion": "1.0", "ce-id": "-", "ce-source": "-", "ce-type": "-", "content-type": "application/json"}
"""With these headers the codec reads a line as it reads the JSON body of a message, and checks it as well."""

Text = Annotated[str, msgspec.Meta(min_length=1)]


class Place(msgspec.Struct, frozen=True):
    """How far a file was read: the cursor of the source."""

    path: str
    lines: int = 0
    offset: int = 0
    mark: str = ""


class SourceOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`path` ("-" is standard input); with `follow` it goes on as lines are added, looking `every` so many seconds.

    A line is a CloudEvent, or with `type` the data of an event of that type.
    """

    path: Text
    follow: bool = False
    type: Text | None = None
    every: Annotated[float, msgspec.Meta(gt=0)] = 0.5


class JsonlSource(Source):
    """Reads events from the lines of a file; a line that is none is logged and left out."""

    Options = SourceOptions

    def __init__(self, name: str, options: SourceOptions) -> None:
        super().__init__(name, options)
        self.finite = not options.follow
        self._text = b""  # of a stream, received and not accepted yet: kept when the runtime fails and runs it again
        self._ended = False
        self._lines = 0

    async def run(self, inlet: Inlet) -> None:
        """Read to the end, or follow the file, whatever becomes of it.

        Raises:
            OSError: the file is missing, and not followed, or cannot be read.
        """
        path, follow = self.folder / self.options.path, self.options.follow
        if self.options.path == "-":
            if sys.stdin is None:  # another file may have its descriptor by now
                raise OSError("standard input is closed; open it, or give `path` a file")
            await self._read_stream(inlet, lambda: 0)
            return
        while True:
            try:
                mode = (await _in_thread(path.stat)).st_mode
                if stat.S_ISREG(mode):
                    await self._read_file(inlet, path)
                elif stat.S_ISDIR(mode):
                    raise IsADirectoryError(f"{path}: expected a file, found a folder; correct `path`")
                else:
                    await self._read_stream(inlet, lambda: os.open(path, os.O_RDONLY))
                    self._ended = False
            except FileNotFoundError:
                if not follow:
                    raise FileNotFoundError(f"{path}: no such file; make it, or set `follow = true` to wait for it") from None
            if not follow:
                return
            await asyncio.sleep(self.options.every)

    async def _read_file(self, inlet: Inlet, path: Path) -> None:
        """Read a regular file to its end; a followed one until another stands in its place."""
        with FileIO(path) as file:
            place = _place(inlet.cursor, str(path))
            is_last = not self.options.follow
            while True:
                lines, place = await _in_thread(partial(_read_lines, file, place, is_last=is_last))
                if lines:
                    await self._put(inlet, lines, place.lines - len(lines), place)
                elif is_last:
                    return
                else:
                    await asyncio.sleep(self.options.every)
                    is_last = await _in_thread(_is_replaced, file, path)

    async def _read_stream(self, inlet: Inlet, open: Callable[[], int]) -> None:
        """Read a pipe or standard input to its end."""
        file = None
        while True:
            lines, rest = _cut(self._text, is_last=self._ended)
            if lines:
                await self._put(inlet, lines, self._lines, None)
                self._text, self._lines = rest, self._lines + len(lines)
            elif self._ended:
                return
            else:
                file = await _in_thread(open) if file is None else file
                received, self._ended = await _in_thread(_receive, file)
                self._text += received

    async def _put(self, inlet: Inlet, lines: list[bytes], before: int, after: Place | None) -> None:
        events = await _in_thread(self._events, lines, before)
        await inlet.put(events, cursor=None if after is None else msgspec.to_builtins(after))

    def _events(self, lines: list[bytes], before: int) -> list[Event]:
        events = []
        for number, line in enumerate(lines, before + 1):
            try:
                if line.strip():
                    events.append(self._event(line))
            except MalformedEvent as error:
                why = str(error).removeprefix("the body: ")
                self.log.error("%s:%d: %s", self.options.path, number, why)  # noqa: TRY400 - no bug, so no traceback
        return events

    def _event(self, line: bytes) -> Event:
        if self.options.type is None:
            return cloudevents.decode(line)
        read = cloudevents.from_http(JSON, line)
        data = read.data if isinstance(read, Event) else None
        return Event(type=self.options.type, source=f"source/{self.name}", data=data, datacontenttype="application/json")


class SinkOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`path` of the file; missing folders are made."""

    path: Text


class JsonlSink(Sink):
    """Appends events to a file, one CloudEvent a line.

    They are with the operating system when `write` returns, not synced to the disk: a power cut may take the last.
    A file that was moved or deleted meanwhile is made anew. An attempt that fails leaves no part of a line.
    """

    Options = SinkOptions

    def __init__(self, name: str, options: SinkOptions) -> None:
        super().__init__(name, options)
        self._file: FileIO | None = None

    async def open(self) -> None:
        """Open the file, and the one thread that writes, also for a `write` that was given up."""
        self._path = self.folder / self.options.path
        self._thread = ThreadPoolExecutor(1, f"sink {self.name}")
        await self._do(self._reopen)

    async def write(self, events: list[Event]) -> None:
        """Append the events."""
        await self._do(self._append, b"".join(cloudevents.encode(event) + b"\n" for event in events))

    async def close(self) -> None:
        """Close the file, after the writes under way."""
        await self._do(self._let_go)
        self._thread.shutdown(wait=False)

    async def _do(self, call: Callable[..., object], *arguments: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    def _append(self, lines: bytes) -> None:
        file = self._file
        if file is None or _is_replaced(file, self._path, if_missing=True):
            file = self._reopen()
        size = os.fstat(file.fileno()).st_size
        try:
            _write_all(file, lines)
        except OSError:
            with suppress(OSError):  # a pipe cannot take back what it has
                file.truncate(size)
            self._let_go()
            raise

    def _reopen(self) -> FileIO:
        """Open the file; what a crash left of a line, or any text without an end, is ended first."""
        self._let_go()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = file = FileIO(self._path, "a+")
        info = os.fstat(file.fileno())
        if stat.S_ISREG(info.st_mode) and info.st_size and os.pread(file.fileno(), 1, info.st_size - 1) != b"\n":
            _write_all(file, b"\n")
        return file

    def _let_go(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


@hookimpl
def register_sources() -> Mapping[str, type[Source]]:
    """Offer the source."""
    return {"jsonl": JsonlSource}


@hookimpl
def register_sinks() -> Mapping[str, type[Sink]]:
    """Offer the sink."""
    return {"jsonl": JsonlSink}


def _cut(text: bytes, *, is_last: bool) -> tuple[list[bytes], bytes]:
    """Return the next lines of a text, and what is left; without a newline that is a line only when it `is_last`."""
    *lines, rest = text.split(b"\n", BATCH)
    return ([rest], b"") if is_last and rest and not lines else (lines, rest)


def _receive(file: int) -> tuple[bytes, bool]:
    """Return what a stream brings, with at least one newline, and whether it has ended; then it is closed."""
    parts = [os.read(file, CHUNK)]
    while parts[-1] and b"\n" not in parts[-1]:
        parts.append(os.read(file, CHUNK))
    ended = not parts[-1]
    if ended and file:
        os.close(file)
    return b"".join(parts), ended


def _read_lines(file: FileIO, place: Place, *, is_last: bool) -> tuple[list[bytes], Place]:
    """Return the next lines of a file, none at its end, and the place behind them."""
    if place.offset > os.fstat(file.fileno()).st_size or place.mark != _mark(file, place.offset):
        place = Place(place.path)
    parts = [os.pread(file.fileno(), CHUNK, place.offset)]
    end = place.offset + len(parts[0])
    while parts[-1] and b"\n" not in parts[-1]:
        parts.append(os.pread(file.fileno(), CHUNK, end))
        end += len(parts[-1])
    text = b"".join(parts)
    lines, rest = _cut(text, is_last=is_last)
    if not lines:
        return [], place
    offset = end - len(rest)
    after = Place(place.path, place.lines + len(lines), offset, _mark(file, offset))
    used = text[: len(text) - len(rest)]
    if os.pread(file.fileno(), len(used), place.offset) != used or (place.offset and place.mark != _mark(file, place.offset)):
        return _read_lines(file, Place(place.path), is_last=is_last)  # it was written anew while it was read
    return lines, after


def _mark(file: FileIO, offset: int) -> str:
    size = min(offset, MARK)
    ends = os.pread(file.fileno(), size, 0) + os.pread(file.fileno(), size, offset - size)
    return hashlib.blake2b(ends, digest_size=8).hexdigest()


def _place(cursor: Any, path: str) -> Place:
    """Return the place that a cursor says, or the start: it may be of another file, or of another plugin."""
    with suppress(msgspec.ValidationError):
        place = msgspec.convert(cursor, Place)
        if place.path == path:
            return place
    return Place(path)


def _is_replaced(file: FileIO, path: Path, *, if_missing: bool = False) -> bool:
    """Return whether another file stands at the path."""
    try:
        return not os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return if_missing


def _write_all(file: FileIO, text: bytes) -> None:
    rest = memoryview(text)
    while rest:
        rest = rest[os.write(file.fileno(), rest) :]


async def _in_thread(call: Callable[..., T], *arguments: Any) -> T:
    """Return what a call in a daemon thread of its own returns."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(settle: Callable[[Any], None], value: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed, nobody waits
            loop.call_soon_threadsafe(_settle, future, settle, value)

    def work() -> None:
        try:
            result = call(*arguments)
        except Exception as error:  # noqa: BLE001 - handed to who waits
            tell(future.set_exception, error)
        else:
            tell(future.set_result, result)

    threading.Thread(target=work, name="jsonl", daemon=True).start()
    return await future


def _settle(future: asyncio.Future[T], settle: Callable[[Any], None], value: Any) -> None:
    if not future.done():  # who waited may have been cancelled
        settle(value)
