"""A warden: a small process that outlives this one by a moment, and kills what that has left behind.

A process that is killed with -9 can tidy up nothing, and what it has started goes on. The warden reads a pipe that only
this process writes: when it ends, this process is gone, and the groups that were still guarded are killed, with whatever
they have started themselves. (A death signal of the kernel would reach the children alone, exists on Linux only, and has
to be asked for between fork and exec, where a process with threads may deadlock.)
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

SOURCE = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
"""


class Warden:
    """Guards process groups; it is started with the first, and again when it has been killed."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None

    def guard(self, group: int) -> None:
        """Have a process group killed when this process is gone."""
        self._groups.add(group)
        self._tell(f"+{group}\n")

    def release(self, group: int) -> None:
        """Guard a process group no more: it has ended. Call it before its leader is reaped, or the number may be another's."""
        self._groups.discard(group)
        self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        try:
            self._write(line)
        except BrokenPipeError:
            self.close()
            self._write("".join(f"+{group}\n" for group in self._groups))

    def _write(self, text: str) -> None:
        if self._process is None:
            command = (sys.executable, "-I", "-S", "-c", SOURCE)
            quiet = subprocess.DEVNULL
            self._process = subprocess.Popen(  # noqa: S603 - our own
                command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, bufsize=0, start_new_session=True, cwd="/"
            )
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())

    def close(self) -> None:
        """End the warden, who kills what is still guarded."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process = None
