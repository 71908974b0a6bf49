"""The warden kills what a process leaves behind that could not tidy up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.executors.warden import Warden


@contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        yield process
        process.kill()


def test_what_is_guarded_is_killed_when_the_guard_ends_and_what_is_released_is_not() -> None:
    with sleeper() as guarded, sleeper() as released:
        warden = Warden()
        warden.guard(guarded.pid)
        warden.guard(released.pid)
        warden.release(released.pid)
        warden.close()
        assert guarded.wait(10) == -signal.SIGKILL
        assert released.poll() is None


def test_a_warden_that_was_killed_is_replaced_and_forgets_nothing() -> None:
    with sleeper() as first, sleeper() as second:
        warden = Warden()
        warden.guard(first.pid)
        assert warden._process is not None
        warden._process.kill()
        warden._process.wait()
        warden.guard(second.pid)
        warden.close()
        assert (first.wait(10), second.wait(10)) == (-signal.SIGKILL, -signal.SIGKILL)


SCRIPT = """
import os, signal, subprocess, sys
from runtime.executors.warden import Warden
sleeper = subprocess.Popen(["sleep", "60"], start_new_session=True, stdout=subprocess.DEVNULL)
Warden().guard(sleeper.pid)
print(sleeper.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_process_has_started_dies_with_it_when_it_is_killed() -> None:
    read, write = os.pipe()
    script = SCRIPT.replace("stdout=subprocess.DEVNULL", f"stdout=subprocess.DEVNULL, pass_fds=[{write}]")
    ended = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, pass_fds=[write], check=False, timeout=20)
    os.close(write)
    assert ended.returncode == -signal.SIGKILL
    assert os.read(read, 1) == b"", "the sleeper, who held the other end, is gone"
    os.close(read)
