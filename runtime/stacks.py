"""Where a thread is now: the line of the user's code that it executes or waits in."""

from __future__ import annotations

import os
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path
from types import FrameType

RUNTIME = str(Path(__file__).parent)
LIBRARIES = tuple({f"{folder}{os.sep}" for folder in (RUNTIME, *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))})
"""The folders whose code is not the user's: the runtime, the standard library and what is installed."""


def line_of(thread: int) -> tuple[str, str] | None:
    """Return the function of the user in which a thread is, by name, and the line, as `functions/orders.py:14`.

    The name is that of the outermost such function, the line that of the innermost: a helper may stand between them.
    Without any it is where the thread is in a library. `thread` is its `ident`; None when it has ended.
    """
    frames = []
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - the documented way
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    if not frames:
        return None
    own = [frame for frame in frames if not _is_library(frame)]
    return (own or frames)[-1 if own else 0].f_code.co_name, _place(own[0] if own else frames[0])


def _is_library(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith((*LIBRARIES, "<frozen"))


def _place(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    with suppress(ValueError, OSError):  # it is elsewhere, or the working directory is gone
        path = path.relative_to(Path.cwd())
    return f"{path}:{frame.f_lineno}"
