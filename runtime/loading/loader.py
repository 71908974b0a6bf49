"""The loader: makes a generation of the folder at start and after each save, and keeps the last good one."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from runtime.contracts import Clock
from runtime.errors import Fault, LoadError
from runtime.graph import Graph
from runtime.loading import importer
from runtime.loading.generation import Change, Generation, faults_beside, make_generation
from runtime.loading.importer import Convention, Modules
from runtime.settings import Settings
from runtime.threads import settle

log = logging.getLogger("runtime.loading")

REMEMBERED = 100  # changes that history keeps
EMPTY = hashlib.sha256(b"").hexdigest()
FILLING = 0.25  # seconds that a file which has become empty gets to be filled


class Loader:
    """Loads the functions folder off the loop; `adopt` is given each new generation, before it counts as the present one.

    `faults` tells why the folder as it is now does not make a generation; `history` what each one changed.
    """

    def __init__(
        self, settings: Settings, clock: Clock, adopt: Callable[[Generation], None], conventions: Sequence[Convention] = ()
    ) -> None:
        self._conventions = conventions
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
            except Exception as error:
                log.exception("generation %d goes on; loading failed, which is a mistake of the runtime", before.number)
                self.faults = [Fault(self._settings.functions_dir.name, f"loading failed: {type(error).__name__}: {error}")]
                continue
            if self.faults:
                log.info("the folder is whole again")
            self.faults = []
            if self.present is not before:
                log.info("%s", _told(self.present.change))

    async def _make(self, previous: Generation | None) -> Generation | None:
        """Load in a thread, which is left behind when it takes longer than `load_timeout`."""
        future: asyncio.Future[Generation | None] = asyncio.get_running_loop().create_future()
        job = partial(_load, self._settings, previous, self._clock.time(), self._conventions)
        thread = threading.Thread(target=settle, args=(future, job), name="load", daemon=True)
        thread.start()
        try:
            async with asyncio.timeout(self._settings.runtime.load_timeout):
                return await future
        except TimeoutError:
            raise LoadError([_hanging(thread, self._settings)]) from None


def load_graph(settings: Settings, conventions: Sequence[Convention] = ()) -> Graph:
    """Return the graph of the folder as it is now, for commands that run nothing; blocks for `load_timeout` at most.

    Raises:
        LoadError: with every fault.
    """
    outcome: list[Generation | LoadError | BaseException | None] = []

    def load() -> None:
        try:
            outcome.append(_load(settings, None, 0.0, conventions))
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            outcome.append(error)

    thread = threading.Thread(target=load, name="load", daemon=True)
    thread.start()
    thread.join(settings.runtime.load_timeout)
    if not outcome:
        raise LoadError([_hanging(thread, settings)])
    made = outcome[0]
    if isinstance(made, BaseException):
        raise made
    assert made is not None, "without a generation before it there is always one"
    importer.publish(made.modules)
    return made.graph


def _hanging(thread: threading.Thread, settings: Settings) -> Fault:
    """Return the fault of a load that takes too long, at the line of the folder where it hangs."""
    folder = settings.functions_dir
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - there is no other way to see where a thread is
    where = folder.name
    inside = str(folder.absolute())
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(inside):
            where = f"{folder.name}{file.removeprefix(inside)}:{frame.f_lineno}"
            break
        frame = frame.f_back
    limit = settings.runtime.load_timeout
    return Fault(where, f"importing took longer than load_timeout = {limit:g} s and was left behind; look for a call that hangs at import")


def _told(change: Change) -> str:
    parts = [
        f"{word} {', '.join(names)}"
        for word, names in (("added", change.added), ("changed", change.changed), ("removed", change.removed))
        if names
    ]
    return f"generation {change.number} in {change.seconds * 1000:.0f} ms: {'; '.join(parts) or 'no function changed'}"


def _load(settings: Settings, previous: Generation | None, now: float, conventions: Sequence[Convention]) -> Generation | None:
    """Return the generation that the folder makes now, or None when no file has changed."""
    began = time.perf_counter()
    try:
        modules = _import(settings, previous, conventions)
        if previous is not None and modules.files == previous.modules.files:
            return None
        return make_generation(modules, settings, previous, time=now, seconds=time.perf_counter() - began)
    except importer.PartialLoad as error:
        raise LoadError([*error.faults, *faults_beside(error, settings)]) from error
    except OSError as error:
        place = str(error.filename or settings.functions_dir.name)
        raise LoadError([Fault(place, f"cannot be read: {error.strerror}; mend that, or take it away")]) from error


def _import(settings: Settings, previous: Generation | None, conventions: Sequence[Convention]) -> Modules:
    """Import the folder; a file that has become empty gets a moment to be filled, since many programs write in two steps."""
    before = previous.modules if previous else None
    modules = importer.load(settings.functions_dir, before, conventions)
    emptied = [name for name, digest in modules.files.items() if digest == EMPTY and before and before.files.get(name, EMPTY) != EMPTY]
    if emptied:
        time.sleep(FILLING)
        modules = importer.load(settings.functions_dir, before, conventions)
    return modules
