"""The source `files`: an event for each new or changed file of a folder.

A file is taken when two looks in a row find it with the same size and time of change, so that none is read half written.
A hash of these and of its path is its mark, the id of the event. The cursor is the marks of the files that were taken and
are still there, and is written once in a thousand events.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
from collections import deque
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

import msgspec

from runtime import Event, Inlet, MalformedEvent, Source, codec, hookimpl

BATCH = 1000  # events accepted at once,
CHUNK = 8 * 1024 * 1024  # or fewer, when they hold more bytes than this
GONE = {errno.ENOENT, errno.ELOOP}  # or a link that leads nowhere
MARK = 16  # characters
READERS = {"text": bytes.decode, "json": lambda raw: codec.read_json("the content", raw), "bytes": bytes}


class File(msgspec.Struct, frozen=True, order=True):
    """A file as it was found; `changed` in nanoseconds of Unix time, `name` relative to the folder."""

    changed: int
    name: str
    size: int


class Files(Source):
    """Brings an event for each new or changed file of a folder; looks and reads in threads, which may hang without harm."""

    class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Which files of the folder `path`, what of them is the data, and how many seconds are between two looks."""

        path: Annotated[str, msgspec.Meta(examples=["inbox"])]
        type: Annotated[str, msgspec.Meta(min_length=1)]
        pattern: str = "*"
        every: Annotated[float, msgspec.Meta(ge=0.01, le=86400)] = 1.0
        content: Literal["reference", "text", "json", "bytes"] = "reference"
        max_bytes: Annotated[int, msgspec.Meta(ge=0)] = 1024 * 1024
        watch: bool = True

    def __init__(self, name: str, options: Options) -> None:
        super().__init__(name, options)
        self.finite = not options.watch
        self._told: set[str] = set()  # the paths that cannot be read, and the marks of files that are left out
        self._below, slash, self._pattern = options.pattern.rpartition("/")
        if (slash and self._below != "**") or self._pattern in ("", "**"):
            raise ValueError('`pattern`: expected one for names, as in "*.csv", or "**/*.csv" to look into the folders below too')

    async def run(self, inlet: Inlet) -> None:
        """Take files until cancelled, or without `watch` until all were; raises OSError while the folder is missing."""
        text = inlet.cursor if isinstance(inlet.cursor, str) else ""
        taken, before = {text[at : at + MARK] for at in range(0, len(text), MARK)}, set[str]()
        while True:
            found = await asyncio.to_thread(self._look)
            if found and not taken <= found.keys():  # what has gone is forgotten; an empty folder may be one that is not mounted
                taken &= found.keys()
                await inlet.put([], cursor="".join(sorted(taken)))
            ready = before - taken - self._told
            waiting = deque((mark, file) for mark, file in found.items() if mark in ready)
            while waiting:
                events = await asyncio.to_thread(self._take, waiting)
                taken |= {event.id for event in events}
                await inlet.put(events, cursor="".join(sorted(taken)))
            if not self.options.watch and found.keys() <= before | taken:
                return
            before = set(found)
            await self.clock.sleep(self.options.every)

    def _look(self) -> dict[str, File]:
        """Return the files that fit the pattern by their marks, first those that were changed first."""
        try:
            files = sorted(self._walk(str(self.folder / self.options.path)))
        except OSError as error:
            found = f"{error.filename}: expected a folder that can be read, found: {error.strerror}"
            raise OSError(f"{found}; make it, mend it, or correct `path`") from None
        texts = (os.fsencode(f"{self.options.path}\0{file.name}\0{file.size}\0{file.changed}") for file in files)
        return {hashlib.blake2b(text, digest_size=MARK // 2).hexdigest(): file for text, file in zip(texts, files, strict=True)}

    def _walk(self, folder: str, above: str = "") -> Iterator[File]:
        for entry in list(os.scandir(folder)):
            try:
                if entry.is_dir(follow_symlinks=False):
                    if self._below and entry.name[0] != ".":
                        yield from self._walk(entry.path, f"{above}{entry.name}/")
                elif fnmatchcase(entry.name, self._pattern) and (entry.name[0] != "." or self._pattern[0] == "."):
                    info = entry.stat()
                    if stat.S_ISREG(info.st_mode):
                        yield File(info.st_mtime_ns, above + entry.name, info.st_size)
            except OSError as error:
                if not isinstance(error, PermissionError) and error.errno not in GONE:
                    raise  # or all that was taken would seem to be gone
                self._tell(error.filename, error)

    def _tell(self, path: str, error: Exception, mark: str = "") -> None:
        """Log once why a file is not taken; with a mark it is left out until it changes, without it is tried again."""
        if (mark or path) not in self._told and getattr(error, "errno", None) not in GONE:
            self._told.add(mark or path)
            self.log.error("%s: %s", _text(path), error.strerror if isinstance(error, OSError) else error)

    def _take(self, waiting: deque[tuple[str, File]]) -> list[Event]:
        """Take files off the queue and return their events."""
        events, size = list[Event](), 0
        while waiting and len(events) < BATCH and size < CHUNK:
            mark, file = waiting.popleft()
            path = str(self.folder / self.options.path / file.name)
            try:
                data, source = self._data(path, file), f"source/{self.name}"
                events.append(Event(type=self.options.type, source=source, id=mark, subject=_text(file.name), data=data))
                size += file.size
            except OSError as error:
                self._tell(path, error)
            except (ValueError, MalformedEvent) as error:
                self._tell(path, error, mark)
        return events

    def _data(self, path: str, file: File) -> Any:
        if self.options.content == "reference":
            return {"path": _text(path), "size": file.size, "changed": file.changed / 1e9}
        if file.size > self.options.max_bytes:
            raise ValueError(f"expected at most {self.options.max_bytes} bytes, found {file.size}; raise `max_bytes`")
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as stream:  # a pipe is not waited for
            raw, now = stream.read(file.size + 1), os.fstat(stream.fileno())
        if (len(raw), now.st_size, now.st_mtime_ns) != (file.size, file.size, file.changed):
            raise FileNotFoundError(errno.ENOENT, "it was changed")
        return READERS[self.options.content](raw)


@hookimpl
def register_sources() -> Mapping[str, type[Source]]:
    """Offer the source."""
    return {"files": Files}


def _text(path: str) -> str:
    """Return a path as text; bytes that are not UTF-8 are spelled out."""
    return os.fsencode(path).decode(errors="backslashreplace")
