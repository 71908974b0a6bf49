"""Work in a thread of one's own, with its outcome handed to the loop.

The standard pool is not used: it joins its threads when the process ends, so that one call that hangs would
keep the process from stopping.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

T = TypeVar("T")


def settle(future: asyncio.Future[T], job: Callable[[], T]) -> None:
    """Run `job` in this thread and give the future its result or exception.

    A loop that is closed, or a future that nobody waits for any more, wants neither.
    """
    tell: Callable[[], None]
    try:
        result = job()
    except StopIteration as error:  # cannot be set on a future
        tell = partial(_fail, future, RuntimeError(f"{type(error).__name__} raised"))
    except BaseException as error:  # noqa: BLE001 - also SystemExit fails the job, not the thread
        tell = partial(_fail, future, error)
    else:
        tell = partial(_succeed, future, result)
    with suppress(RuntimeError):
        future.get_loop().call_soon_threadsafe(tell)


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
