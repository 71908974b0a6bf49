"""The loader: makes a generation of the folder at start and after each save, and keeps the last good one."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from runtime.contracts import Clock
from runtime.errors import Fault, LoadError
from runtime.loading import importer
from runtime.loading.generation import Change, Generation, make_generation
from runtime.settings import Settings
from runtime.threads import settle

log = logging.getLogger("runtime.loading")

REMEMBERED = 100  # changes that history keeps


class Loader:
    """Loads the functions folder off the loop; `adopt` is given each new generation, before it counts as the present one.

    `faults` tells why the folder as it is now does not make a generation; `history` what each one changed.
    """

    def __init__(self, settings: Settings, clock: Clock, adopt: Callable[[Generation], None]) -> None:
        self._settings = settings
        self._clock = clock
        self._adopt = adopt
        self._present: Generation | None = None
        self._stale = False
        self._reloading: asyncio.Task[None] | None = None
        self.faults: list[Fault] = []
        self.history: deque[Change] = deque(maxlen=REMEMBERED)

    @property
    def present(self) -> Generation:
        """The generation on which runs start now."""
        assert self._present is not None, "nothing is loaded before `load`"
        return self._present

    async def load(self) -> None:
        """Make a generation of what is in the folder; nothing changes when no file has.

        Raises:
            LoadError: the folder does not make a generation; the present one stays.
        """
        previous = self._present
        generation = await self._make(previous)
        if generation is None:
            return
        importer.publish(generation.modules, previous.modules if previous else None)
        self._adopt(generation)
        self._present = generation
        self.history.append(generation.change)

    def on_saved(self) -> None:
        """Reload; a save during a reload is taken up when that is done."""
        self._stale = True
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._reload(), name="reload")

    async def stop(self) -> None:
        """Give up a reload that is under way."""
        if self._reloading is not None:
            self._reloading.cancel()
            await asyncio.gather(self._reloading, return_exceptions=True)

    async def _reload(self) -> None:
        while self._stale:
            self._stale = False
            before = self.present
            try:
                await self.load()
            except LoadError as error:
                if error.faults != self.faults:
                    log.error("generation %d goes on; the folder is broken: %s", before.number, error)  # noqa: TRY400 - the faults tell all
                self.faults = error.faults
                continue
            if self.faults:
                log.info("the folder is whole again")
            self.faults = []
            if self.present is not before:
                log.info("%s", _told(self.present.change))

    async def _make(self, previous: Generation | None) -> Generation | None:
        """Load in a thread, which is left behind when it takes longer than `load_timeout`."""
        future: asyncio.Future[Generation | None] = asyncio.get_running_loop().create_future()
        folder, limit = self._settings.functions_dir, self._settings.runtime.load_timeout
        job = partial(_load, self._settings, previous, self._clock.time())
        threading.Thread(target=settle, args=(future, job), name="load", daemon=True).start()
        try:
            async with asyncio.timeout(limit):
                return await future
        except TimeoutError:
            message = f"importing took longer than load_timeout = {limit:g} s and was left behind; look for a call that hangs at import"
            raise LoadError([Fault(folder.name, message)]) from None


def _told(change: Change) -> str:
    parts = [
        f"{word} {', '.join(names)}"
        for word, names in (("added", change.added), ("changed", change.changed), ("removed", change.removed))
        if names
    ]
    return f"generation {change.number} in {change.seconds * 1000:.0f} ms: {'; '.join(parts) or 'no function changed'}"


def _load(settings: Settings, previous: Generation | None, now: float) -> Generation | None:
    """Return the generation that the folder makes now, or None when no file has changed."""
    began = time.perf_counter()
    modules = importer.load(settings.functions_dir, previous.modules if previous else None)
    if previous is not None and modules.files == previous.modules.files:
        return None
    return make_generation(modules, settings, previous, time=now, seconds=time.perf_counter() - began)
