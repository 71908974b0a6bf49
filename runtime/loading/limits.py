"""Keep a load from holding up what runs: it lets the interpreter go often, and is left behind when it takes too long."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from runtime.errors import Fault
from runtime.settings import Settings

T = TypeVar("T")

SLICE = 0.0005  # seconds that the thread of a load keeps the interpreter while others wait for it; Python's own is 0.005

_lock = threading.Lock()
_loads = 0
_usual = sys.getswitchinterval()


class Abandoned(BaseException):
    """Raised in the thread of a load that was left behind, to end it."""


def yielding(job: Callable[[], T]) -> T:
    """Run `job`, and let other threads have the interpreter every `SLICE` seconds meanwhile, also when it was left behind."""
    _count(1)
    try:
        return job()
    finally:
        _count(-1)


def _count(change: int) -> None:
    global _loads, _usual  # noqa: PLW0603 - the interval is one for the process, and so is the count
    with _lock:
        if not _loads:
            _usual = sys.getswitchinterval()
        _loads += change
        sys.setswitchinterval(SLICE if _loads else _usual)


def abandon(thread: threading.Thread, settings: Settings) -> Fault:
    """Leave a load behind that takes too long, and return the fault, at the line of the folder where it hangs.

    A loop in Python is ended; a call that does not return cannot be, and its thread stays until it does.
    """
    folder = settings.functions_dir
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - there is no other way to see where a thread is
    where = folder.name
    inside = str(folder.absolute())
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(inside):
            where = f"{folder.name}{file.removeprefix(inside)}:{frame.f_lineno}"
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Abandoned))
            break
        frame = frame.f_back
    limit = settings.runtime.load_timeout
    return Fault(where, f"importing took longer than load_timeout = {limit:g} s and was left behind; look for a call that hangs at import")
