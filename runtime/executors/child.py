"""A child: one process of a command, with its three pipes on the loop, and its end.

It leads a group of its own, so that whatever it starts dies with it: when it has ended, for whatever reason, the group is
killed. Only then is it reaped, since before that nobody else can have its number. What still holds a pipe open a moment
later (it made itself a group of its own) is not waited for.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from runtime.executors.warden import Warden

CHUNK = 262_144  # bytes read at once
LINE = 2_000  # characters of a line of stderr that are logged
LINES = 200  # lines of stderr that are logged for one event
TAIL = 20  # lines of stderr that an error remembers
ANSWER = 64 * 2**20  # bytes of an answer at most
Stamp = tuple[tuple[int, int, int] | None, ...]

HELD = 0.5  # seconds that pipes may stay open when the process has ended
LEAVE = (0.5, 1.0)  # seconds to end after the end of stdin, and after SIGTERM


class TooMuch(Exception):
    """Raised when a process answers without end."""


class Child:
    """A process that has been started; `output` is what it has written and nobody has taken.

    `code` is its exit code, below 0 the signal that killed it, None while it lives; `told` are its last lines on stderr,
    each of which is given to `say`. `calls`, `idle_since` and `stamp` (of its files when it was
    started) are for those who keep it.

    Raises:
        OSError: the program cannot be started.
    """

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, say: Callable[[str], None], warden: Warden) -> None:
        self._loop = asyncio.get_running_loop()
        self._say, self._warden = say, warden
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(  # noqa: S603 - the command is the user's
            command, env=env, cwd=cwd, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True
        )
        try:
            warden.guard(self._process.pid)
        except OSError:
            self._process.kill()
            with self._process:
                raise
        assert self._process.stdin and self._process.stdout and self._process.stderr  # noqa: PT018 - all are pipes
        self._stdin, self._stdout, self._stderr = self._process.stdin, self._process.stdout, self._process.stderr
        self.code: int | None = None
        self.output = bytearray()
        self.told: deque[str] = deque(maxlen=TAIL)
        self.calls = 0
        self.idle_since = 0.0
        self.stamp: Stamp = ()
        self.asked = False
        self._searched = 0
        self._unsaid = 0
        self._said = 0
        self._pending = bytearray()
        self._leaving = False
        self._heard = bytearray()
        self._changed = asyncio.Event()
        self.finished = asyncio.Event()  # it has ended, and so have its pipes
        for stream, read in ((self._stdout, self._read), (self._stderr, self._hear)):
            os.set_blocking(stream.fileno(), False)
            self._loop.add_reader(stream.fileno(), read)
        os.set_blocking(self._stdin.fileno(), False)
        threading.Thread(target=self._await_end, name=f"child-{self._process.pid}", daemon=True).start()

    @property
    def silent(self) -> bool:
        """Whether there is nothing more to come on stdout."""
        return self._stdout.closed

    # --- asking ---------------------------------------------------------------------------------------

    async def ask(self, line: bytes) -> bytes | None:
        """Write a line and return the one it answers with, without its end; None when it has ended, or closed stdout, without.

        Raises:
            TooMuch: the answer is larger than `ANSWER`.
        """
        self._begin(line)
        while (end := self.output.find(b"\n", self._searched)) < 0:
            self._searched = len(self.output)
            if self.silent:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.finished.wait(), 2 * HELD)
                return self._taken(len(self.output)) or None
            await self._more()
        self.asked = False
        return self._taken(end)

    async def ask_once(self, line: bytes) -> bytes:
        """Write a line and the end of stdin, and return all of stdout when the process has ended.

        Raises:
            TooMuch: the answer is larger than `ANSWER`.
        """
        self._begin(line)
        self._hang_up()
        while not self.silent:
            await self._more()
        await self.finished.wait()
        return self._taken(len(self.output))

    def _begin(self, line: bytes) -> None:
        self.asked = True
        self.calls += 1
        self._said = self._unsaid = 0
        self.told.clear()
        self._pending += line
        self._write()

    async def _more(self) -> None:
        if len(self.output) > ANSWER:
            raise TooMuch(f"expected an answer of at most {ANSWER} bytes, found more; send less")
        self._changed.clear()
        await self._changed.wait()

    def _taken(self, end: int) -> bytes:
        """Return the output up to `end`, which is the end of a line or of all."""
        taken = bytes(self.output[:end])
        del self.output[: end + 1]
        self._searched = 0
        if self._unsaid:
            self._say(f"… {self._unsaid} further lines on stderr are left out")
        return taken.removesuffix(b"\r")

    # --- the pipes ------------------------------------------------------------------------------------

    def _write(self) -> None:
        """Write what the pipe takes, and the rest when it takes more; nobody reads what is broken."""
        try:
            written = os.write(self._stdin.fileno(), self._pending)
            del self._pending[:written]
        except BlockingIOError:
            pass
        except OSError:
            self._pending.clear()
        if self._pending:
            self._loop.add_writer(self._stdin.fileno(), self._write_on)

    def _write_on(self) -> None:
        self._loop.remove_writer(self._stdin.fileno())
        self._write()
        if not self._pending and self._leaving:
            self._hang_up()

    def _hang_up(self) -> None:
        """Close stdin when all has been written."""
        self._leaving = True
        if not self._pending and not self._stdin.closed:
            self._stdin.close()

    def _read(self) -> None:
        self.output += self._chunk(self._stdout)
        self._changed.set()
        if self.output and not self.asked and self.code is None:
            self._say(f"ended, since it wrote on stdout what nobody had asked for: {shown(self.output)}; print logs on stderr")
            self.output.clear()
            self.kill()

    def _hear(self) -> None:
        chunk = self._chunk(self._stderr)
        self._heard += chunk
        *lines, rest = self._heard.split(b"\n")
        if len(rest) > LINE or not chunk:
            lines, rest = [*lines, rest], bytearray()
        self._heard = rest
        for line in lines:
            self._note(line.decode(errors="replace").rstrip())

    def _note(self, line: str) -> None:
        """Log a line of stderr, within limits."""
        if not line:
            return
        line = line if len(line) <= LINE else f"{line[:LINE]}… ({len(line)} characters)"
        self.told.append(line)
        self._said += 1
        if self._said <= LINES:
            self._say(line)
        else:
            self._unsaid += 1

    def _chunk(self, stream: IO[bytes]) -> bytes:
        """Return what can be read now; nothing at the end, where the pipe is closed."""
        try:
            chunk = os.read(stream.fileno(), CHUNK)
        except BlockingIOError:
            return b""
        if not chunk:
            self._shut(stream)
        return chunk

    def _shut(self, stream: IO[bytes]) -> None:
        if not stream.closed:
            self._loop.remove_reader(stream.fileno())
            stream.close()
        if self.code is not None and self._stdout.closed and self._stderr.closed:
            self.finished.set()
        self._changed.set()

    # --- the end --------------------------------------------------------------------------------------

    def kill(self) -> None:
        """Kill it and all it has started, at once."""
        self._signal(signal.SIGKILL)

    async def end(self) -> None:
        """Let it end: it is told by the end of stdin, then by SIGTERM, then it is killed."""
        self._hang_up()
        for patience, number in zip(LEAVE, (signal.SIGTERM, signal.SIGKILL), strict=True):
            with suppress(TimeoutError):
                await asyncio.wait_for(self.finished.wait(), patience)
            if self.code is None:
                self._signal(number)
        await self.finished.wait()

    def _signal(self, number: int) -> None:
        if self.code is None:
            with suppress(OSError):
                os.killpg(self._process.pid, number)

    def _await_end(self) -> None:
        """Tell the loop when the process has ended; in a thread of its own."""
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        else:
            self._process.wait()
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._ended)

    def _ended(self) -> None:
        self._signal(signal.SIGKILL)  # those it has left behind
        self._warden.release(self._process.pid)
        self.code = self._process.wait()
        if self._pending and not self._stdin.closed:
            self._loop.remove_writer(self._stdin.fileno())
        self._pending.clear()
        self._stdin.close()
        self._loop.call_later(HELD, self._let_go)
        for stream in (self._stdout, self._stderr):
            if stream.closed:
                self._shut(stream)

    def _let_go(self) -> None:
        """Wait no longer for pipes that others hold open."""
        for stream in (self._stdout, self._stderr):
            self._shut(stream)


def shown(output: bytes | bytearray) -> str:
    """Return the beginning of some output, for people."""
    text = bytes(output[:200]).decode(errors="replace").strip()
    return f'"{text}…" ({len(output)} bytes)' if len(output) > len(text.encode()) + 4 else f'"{text}"'
