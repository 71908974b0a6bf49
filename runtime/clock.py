"""The real clock: what the loop and the operating system say."""

from __future__ import annotations

import asyncio
import time as system
from collections.abc import Callable
from typing import Any

from runtime.contracts import Timer


class SystemClock:
    """The clock of the machine; see `runtime.contracts.Clock`."""

    time = staticmethod(system.time)
    monotonic = staticmethod(system.monotonic)

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call `callback(*args)` on the running loop after `delay` seconds."""
        return asyncio.get_running_loop().call_later(delay, callback, *args)

    async def sleep(self, delay: float) -> None:
        """Return after `delay` seconds."""
        await asyncio.sleep(delay)
