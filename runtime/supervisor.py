"""Keeps one source running: starts it again when it raises, and knows how it stands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from runtime.contracts import Clock, Source
from runtime.flow.failure import jittered
from runtime.inlet import HostInlet

log = logging.getLogger("runtime.supervisor")

FIRST_PAUSE = 1.0  # seconds until a source that raised is started again; doubles
LONGEST_PAUSE = 60.0
STEADY = 60.0  # seconds of running after which a failure counts as the first again


class Supervisor:
    """One source with its state: `connecting`, `running`, `paused` or `failing` (`detail` says why), or `ended`."""

    def __init__(self, source: Source, plugin: str, inlet: HostInlet, clock: Clock, changed: Callable[[], None]) -> None:
        self.source = source
        self.plugin = plugin
        self.inlet = inlet
        self._clock = clock
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self._open = False
        self._stopping = False
        self._state = "connecting"
        self._detail = ""

    @property
    def state(self) -> str:
        """How the source stands; one that runs is `paused` while it waits for room."""
        return "paused" if self._state == "running" and self.inlet.waiting else self._state

    @property
    def detail(self) -> str:
        """Why it stands so; empty when there is nothing to say."""
        return "full: max_backlog events wait" if self.state == "paused" else self._detail

    async def open(self) -> None:
        """Open the source for the first time.

        Raises:
            OSError: it cannot listen where it should, which no second try mends.
        """
        await self.source.open()
        self._open = True

    def reconfigure(self, options: Any) -> bool:
        """Hand new options to the source, if it runs; return whether it goes on with them."""
        if self._state != "running":
            return False
        try:
            takes = self.source.reconfigure(options)
        except Exception:
            log.exception('source "%s" failed to take new options, and is started anew', self.source.name)
            return False
        if takes:
            self.source.options = options
        return takes

    def start(self) -> None:
        """Run the source in a task of its own."""
        self._task = asyncio.create_task(self._run(), name=f"source {self.source.name}")

    async def stop(self) -> None:
        """Cancel the source and close it."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._close()

    async def _run(self) -> None:
        failures = 0
        while True:
            started = self._clock.monotonic()
            try:
                if not self._open:
                    self._become("connecting")
                    await self.open()
                self._become("running")
                await self.source.run(self.inlet)
            except (Exception, SystemExit, asyncio.CancelledError) as error:
                if self._stopping:
                    raise
                failures = 0 if self._clock.monotonic() - started > STEADY else failures
                pause = jittered(min(FIRST_PAUSE * 2 ** min(failures, 60), LONGEST_PAUSE))
                failures += 1
                self._become("failing", f"{type(error).__name__}: {error}")
                log.warning(
                    'source "%s" failed and starts again in %.1f s: %s',
                    self.source.name,
                    pause,
                    self._detail,
                    exc_info=None if isinstance(error, OSError) else error,
                )
                await self._close()
                await self._clock.sleep(pause)
            else:
                await self._close()
                self._become("ended")
                return

    async def _close(self) -> None:
        if not self._open:
            return
        self._open = False
        try:
            await self.source.close()
        except Exception as error:  # noqa: BLE001 - a source is code of others
            log.warning('source "%s" failed to close: %s: %s', self.source.name, type(error).__name__, error)

    def _become(self, state: str, detail: str = "") -> None:
        self._state, self._detail = state, detail
        self._changed()
