"""A command that runs beside the runtime, for the source and the sink `exec`: how it is started, heard and ended."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

CHUNK = 64 * 1024  # bytes read at once
LONGEST = 16 * 1024 * 1024  # bytes of a line
SHOWN = 2000  # bytes of a line on stderr that are logged
PATIENCE = 1.0  # seconds to end after SIGTERM


class Failed(Exception):
    """Raised when a command does not do what is expected of it."""


class Process:
    """A command that has been started, in a process group of its own; what it says on stderr is logged.

    Its pipes are real ones, so that a command that looks after them notices when this process has been killed; those of
    uvloop are sockets, and its children inherit what is open here.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: logging.Logger) -> None:
        self._process = process
        self._log = log
        self._stdout, self._stderr = asyncio.StreamReader(), asyncio.StreamReader()
        self._pipes: list[asyncio.BaseTransport] = []
        self._stdin: asyncio.WriteTransport | None = None
        self._rest = bytearray()
        self._last = ""
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._next = asyncio.ensure_future(self._stdout.read(CHUNK))
        self._hearing = asyncio.ensure_future(self._hear())
        threading.Thread(target=self._await_end, name=f"exec-{process.pid}", daemon=True).start()

    @classmethod
    async def start(
        cls, command: Sequence[str], folder: Path, cwd: str | None, env: Mapping[str, str], log: logging.Logger, *, stdin: bool
    ) -> Process:
        """Start a command; a relative path to its program, and `cwd`, are relative to `folder`.

        Raises:
            Failed: it cannot be started.
        """
        program, *arguments = command
        place = folder / (cwd or "")
        if not place.is_dir():
            raise Failed(f"`cwd`: expected a folder, found none at {place}; correct it, or make the folder")
        words = [str((folder / program).absolute()) if "/" in program else program, *arguments]
        pipe, none = subprocess.PIPE, subprocess.DEVNULL
        try:
            process = subprocess.Popen(  # noqa: ASYNC220, S603 - a moment; the command is the user's
                words,
                stdin=pipe if stdin else none,
                stdout=pipe,
                stderr=pipe,
                bufsize=0,
                cwd=place,
                env=os.environ | env,
                start_new_session=True,
            )
        except OSError as error:
            raise Failed(f"`command`: expected a program that can be executed, found {program}: {error.strerror}; correct it") from None
        started = cls(process, log)
        try:
            await started._connect()
        except BaseException:
            await started.end()
            raise
        return started

    async def _connect(self) -> None:
        """Put the pipes on the loop."""
        for pipe, reader in ((self._process.stdout, self._stdout), (self._process.stderr, self._stderr)):
            transport, _ = await self._loop.connect_read_pipe(partial(asyncio.StreamReaderProtocol, reader), pipe)
            self._pipes.append(transport)
        if self._process.stdin is not None:
            self._stdin, _ = await self._loop.connect_write_pipe(asyncio.BaseProtocol, self._process.stdin)
            self._pipes.append(self._stdin)

    def _await_end(self) -> None:
        """Tell the loop when it has ended; in a thread of its own."""
        self._process.wait()
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._ended.set)

    async def lines(self) -> list[bytes]:
        """Return the next lines of stdout, without their ends; none when it is closed.

        Raises:
            Failed: a line is longer than `LONGEST`.
        """
        while chunk := await asyncio.shield(self._next):
            self._next = asyncio.ensure_future(self._stdout.read(CHUNK))
            self._rest += chunk
            if b"\n" in chunk:
                *lines, rest = bytes(self._rest).split(b"\n")
                self._rest = bytearray(rest)
                return lines
            if len(self._rest) > LONGEST:
                raise Failed(f"expected lines of at most {LONGEST:,} bytes on stdout, found a longer one; write shorter ones")
        last, self._rest = bytes(self._rest), bytearray()
        return [last] if last else []

    @property
    def has_said(self) -> bool:
        """Whether there is something on stdout that nobody has taken, or its end."""
        return bool(self._rest) or self._next.done()

    def write(self, text: bytes) -> None:
        """Write to stdin, which takes all of it some time."""
        assert self._stdin is not None
        self._stdin.write(text)

    def hang_up(self) -> None:
        """Close stdin, when all is written."""
        if self._stdin is not None:
            with suppress(OSError, RuntimeError):  # the command has closed it
                self._stdin.write_eof()

    async def code(self) -> int:
        """Return its exit code when it has ended and its stderr has been heard; below 0 the signal that killed it."""
        await self._ended.wait()
        with suppress(TimeoutError):  # others may hold it open
            await asyncio.wait_for(asyncio.shield(self._hearing), PATIENCE)
        return self._process.returncode or 0

    async def fate(self) -> str:
        """Return how it has ended, with its last words."""
        code = await self.code()
        told = f"exit code {code}" if code >= 0 else signal.strsignal(-code) or f"signal {-code}"
        return f'the command has ended with {told}; its last words: "{self._last}"' if self._last else f"the command has ended with {told}"

    async def end(self, *, gently: bool = False) -> None:
        """End it and what it has started: `gently` by the end of stdin, else and after a second by SIGTERM, and at last by SIGKILL."""
        if gently:
            self.hang_up()
            await self._gone()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self._ended.is_set():  # until then nobody else can have its number
                with suppress(OSError):
                    os.killpg(self._process.pid, number)
                await self._gone()
        for pipe in self._pipes:
            pipe.close()
        for file in (self._process.stdout, self._process.stderr, self._process.stdin)[len(self._pipes) :]:
            if file is not None:  # it was cancelled before that one was on the loop
                file.close()
        self._next.cancel()
        self._hearing.cancel()
        await asyncio.gather(self._next, self._hearing, return_exceptions=True)

    async def _gone(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), PATIENCE)

    async def _hear(self) -> None:
        rest = b""
        while chunk := await self._stderr.read(CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._say(line)
            rest = rest[-SHOWN:]
        self._say(rest)

    def _say(self, line: bytes) -> None:
        if text := line[:SHOWN].decode(errors="replace").strip():
            self._last = text[:200]
            self._log.info(text)
