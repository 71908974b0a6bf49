"""The zygote: a process with one thread that has loaded the runtime and no code of the user, and forks workers when told.

Each request is a length and, with it, the socket of the new worker and the file of its mark; each notice tells how a
worker ended. When the runtime is gone, the zygote ends its workers, with all that they have started, and itself.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import resource
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from typing import Final

import msgspec

from runtime.executors.frames import HEAD, Mark, frame_of
from runtime.executors.zygotes import Notice, Request
from runtime.isolated.serving import serve

PR_SET_PDEATHSIG: Final = 1

C: Final = ctypes.CDLL(None)
_REQUEST = msgspec.msgpack.Decoder(Request)


class Zygote:
    """Forks and reaps; `control` leads to the runtime."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pid = os.getpid()
        self._workers: dict[int, int] = {}  # by process id

    def run(self) -> None:
        """Do what the runtime asks until it is gone."""
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, _ignore)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        gc.freeze()  # what workers only read stays shared
        while True:
            readable, _, _ = select.select([self._control.fileno(), woken], [], [])
            if woken in readable:
                os.read(woken, 4096)
                self._reap()
            if self._control.fileno() in readable and not self._obey():
                break
        for pid in list(self._workers):
            _kill(pid)

    def _obey(self) -> bool:
        """Do what one request asks; return whether there was one."""
        head, descriptors, _, _ = socket.recv_fds(self._control, HEAD.size, 2)
        if len(head) < HEAD.size:
            return False
        body = b""
        (length,) = HEAD.unpack(head)
        while len(body) < length:
            body += self._control.recv(length - len(body))
        request = _REQUEST.decode(body)
        if descriptors:
            self._fork(request, *descriptors)
        else:
            for pid in [pid for pid, number in self._workers.items() if number == request.number]:
                _kill(pid)
        return True

    def _fork(self, request: Request, connection: int, mark: int) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(Notice(request.number, 0, str(error)))
        else:
            if not pid:
                self._become(request, connection, mark)
            self._workers[pid] = request.number
        os.close(connection)
        os.close(mark)

    def _become(self, request: Request, connection: int, mark: int) -> None:
        """Be a worker, and end with it."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            os.setsid()
            _die_with(self._pid)
            if request.memory:
                with suppress(ValueError):  # the limit of the runtime itself is lower
                    resource.setrlimit(resource.RLIMIT_DATA, (request.memory, request.memory))
            if request.cwd:
                os.chdir(request.cwd)
            if request.command:
                os.set_inheritable(connection, True)
                os.set_inheritable(mark, True)
                os.execvpe(request.command[0], [*request.command, str(connection), str(mark)], {**os.environ, **request.env})  # noqa: S606 - it is the user's
            work(connection, mark)
            status = 0
        except OSError as error:
            sys.stderr.write(f"a worker process cannot be started: {error}\n")
        except BaseException:  # noqa: BLE001 - nothing of the zygote may go on here
            traceback.print_exc()
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        """Tell the end of each worker that has ended, and end what it has left."""
        while self._workers:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            _kill(ended.si_pid)  # its group, while its number is still its own
            _, status = os.waitpid(ended.si_pid, 0)
            number = self._workers.pop(ended.si_pid, None)
            if number is not None:
                self._tell(Notice(number, os.waitstatus_to_exitcode(status)))

    def _tell(self, notice: Notice) -> None:
        with suppress(OSError):  # the runtime is gone, which is noticed
            self._control.sendall(frame_of(notice))


def work(connection: int, mark: int) -> None:
    """Be a worker on these descriptors."""
    shared = Mark(mark)
    os.close(mark)
    with socket.socket(fileno=connection) as line:
        line.setblocking(True)
        serve(line, shared)


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # it may not have a group of its own yet
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _die_with(parent: int) -> None:
    """See to it that this process ends with its parent, also when that is killed; only Linux can."""
    if sys.platform == "linux":
        C.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _ignore(_number: int, _frame: object) -> None:
    """Do nothing: whoever stops the runtime's processes means the runtime, which ends its workers."""


def prepare() -> None:
    """Make this process one that the runtime ends, not a signal to all; a handler, unlike SIG_IGN, is not inherited by commands."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _ignore)
    logging.raiseExceptions = False
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)


def main(*descriptors: str) -> None:
    """Be the zygote, with one descriptor, or a worker of its own making, with two."""
    prepare()
    if len(descriptors) == 1:
        with socket.socket(fileno=int(descriptors[0])) as control:
            Zygote(control).run()
    else:
        work(*map(int, descriptors))
