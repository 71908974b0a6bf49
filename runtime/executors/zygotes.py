"""The runtime's side of the zygote: starts it, asks it for workers, and is told how each of them ended.

A process with threads must not fork, so that the runtime itself never does: the zygote is a fresh interpreter, started
when the first isolated function is there, and started again should it die.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import msgspec

from runtime.executors.frames import HEAD, Frames, frame_of

GONE = -1  # the zygote itself has ended, and its workers with it
PATIENCE = 1.0  # seconds that the zygote has to end

START = "import sys; sys.path[:] = {path!r}; from runtime.isolated.zygote import main; main(*sys.argv[1:])"


class Request(msgspec.Struct, frozen=True):
    """Start a worker, or without descriptors kill it; `command` is what is executed instead of a fork, with `env`."""

    number: int
    command: Sequence[str] = ()
    env: Mapping[str, str] = {}
    cwd: str = ""
    memory: int = 0


class Notice(msgspec.Struct, frozen=True):
    """A worker has ended: `status` is its exit code, negative for a signal; with `error` it was never there."""

    number: int
    status: int
    error: str = ""


_NOTICE = msgspec.msgpack.Decoder(Notice)


def interpreter() -> list[str]:
    """Return the command of a fresh interpreter with the runtime in it; descriptors follow."""
    return [sys.executable, "-c", START.format(path=sys.path)]


class Zygotes:
    """At most one zygote at a time; `ended` callbacks are given what each worker was told to have ended with."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._frames = Frames()
        self._watchers: dict[int, Callable[[Notice], None]] = {}
        self._count = 0

    def start(self) -> None:
        """Have a zygote, which is ready some time later; requests wait for it.

        Raises:
            OSError: there is no room for another process.
        """
        if self._control is not None:
            return
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own
                    [*interpreter(), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
        self._control = ours
        self._frames = Frames()
        asyncio.get_running_loop().add_reader(ours, self._read)

    def fork(self, request: Request, descriptors: Sequence[int], ended: Callable[[Notice], None]) -> int:
        """Ask for a worker with these descriptors, and return its number; `ended` is told of its end.

        Raises:
            OSError: there is no room for another process.
        """
        self.start()
        self._count += 1
        self._watchers[self._count] = ended
        frame = frame_of(msgspec.structs.replace(request, number=self._count))
        assert self._control is not None
        try:
            socket.send_fds(self._control, [frame[: HEAD.size]], descriptors)
            self._control.sendall(frame[HEAD.size :])
        except OSError:  # it has just died, and the next one is asked
            self._gone()
        return self._count

    def kill(self, number: int) -> None:
        """Have a worker killed with all that it has started; its end is told as any other."""
        if self._control is not None and number in self._watchers:
            with suppress(OSError):  # it has died, and its workers with it, which is noticed
                self._control.sendall(frame_of(Request(number)))

    def _read(self) -> None:
        assert self._control is not None
        try:
            data = self._control.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._gone()
        for body in self._frames.feed(data):
            notice = _NOTICE.decode(body)
            ended = self._watchers.pop(notice.number, None)
            if ended is not None:
                ended(notice)

    def _gone(self) -> None:
        """Take the end of the zygote, and of all workers with it."""
        self._let_go()
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.1)
        watchers, self._watchers = self._watchers, {}
        for number, ended in watchers.items():
            asyncio.get_running_loop().call_soon(ended, Notice(number, GONE, "the process that starts workers has ended"))

    def _let_go(self) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None

    async def close(self) -> None:
        """End the zygote and its workers."""
        self._watchers.clear()
        self._let_go()
        process, self._process = self._process, None
        if process is None:
            return
        try:
            await asyncio.to_thread(process.wait, PATIENCE)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
