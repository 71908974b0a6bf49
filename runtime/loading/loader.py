"""The loader: makes a generation of the folder at start and after each save, and keeps the last good one."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from runtime.contracts import Clock, Convention
from runtime.errors import Fault, LoadError
from runtime.graph import Graph
from runtime.loading import importer
from runtime.loading.generation import Change, Generation, faults_beside, make_generation, sink_specs
from runtime.loading.importer import Modules
from runtime.loading.kept import Kept
from runtime.loading.limits import abandon, yielding
from runtime.loading.retired import Retired
from runtime.settings import Settings
from runtime.threads import settle

log = logging.getLogger("runtime.loading")

REMEMBERED = 100  # changes that history keeps
EMPTY = hashlib.sha256(b"").hexdigest()
KEEPING = 2.0  # seconds that a stop waits until the sources are kept
FILLING = 0.25  # seconds that a file which has become empty gets to be filled


class Loader:
    """Loads the functions folder off the loop; `adopt` is given each new generation, before it counts as the present one.

    With `kept`, the sources of each generation are kept there, and a start on a broken folder runs those.

    `faults` tells why the folder as it is now does not make a generation; `history` what each one changed.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        adopt: Callable[[Generation], None],
        conventions: Sequence[Convention] = (),
        kept: Kept | None = None,
    ) -> None:
        self._kept = kept
        self._to_keep: Modules | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._retired = Retired(clock)
        self._conventions = conventions
        self._settings = settings
        self._clock = clock
        self._adopt = adopt
        self._present: Generation | None = None
        self._stale = False
        self._reloading: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()  # one generation is made at a time, of the one before it
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
            LoadError: the folder does not make a generation; the present one stays, or there is none to start with.
        """
        async with self._lock:
            previous = self._present
            job = partial(_load, self._settings, previous, self._clock.time(), self._conventions)
            try:
                generation = await self._make(job, self._settings)
            except LoadError as error:
                if previous is not None:
                    raise
                generation = await self._restored(error)
            if generation is not None:
                self._take(generation)

    async def reconfigure(self, settings: Settings, conventions: Sequence[Convention], then: Callable[[], None]) -> None:
        """Go by other settings: call `then` and adopt the generation that they make, if it is another one, in one go.

        It is made of the folder as it is or, when that is broken, of the modules there are.

        Raises:
            LoadError: neither makes a generation; nothing has changed.
        """
        async with self._lock:
            generation = None
            fresh = list(conventions) != list(self._conventions)
            if fresh or _declared(settings) != _declared(self._settings):
                job = partial(_load_again, settings, self.present, self._clock.time(), conventions, fresh=fresh)
                generation = await self._make(job, settings)
            self._settings, self._conventions = settings, conventions
            then()
            if generation is not None:
                self._take(generation)

    def _take(self, generation: Generation) -> None:
        previous = self._present
        importer.publish(generation.modules, previous.modules if previous else None)
        self._adopt(generation)
        self._present = generation
        self.history.append(generation.change)
        self._keep(generation.modules)
        if previous is not None:
            self._retired.add(previous.modules.table, previous.modules.units, generation.modules.table)

    def on_saved(self) -> None:
        """Reload; a save during a reload is taken up when that is done."""
        self._stale = True
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._reload(), name="reload")

    async def stop(self) -> None:
        """Give up a reload that is under way, and finish keeping what runs."""
        self._retired.stop()
        if self._reloading is not None:
            self._reloading.cancel()
            await asyncio.gather(self._reloading, return_exceptions=True)
        if self._keeping is not None:
            await asyncio.wait([self._keeping], timeout=KEEPING)

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

    async def _restored(self, broken: LoadError) -> Generation:
        """Return a generation of the last good sources, for a start on a folder that is broken.

        Raises:
            LoadError: there are none, or they do not load either; it names the faults of the folder.
        """
        sources = await asyncio.to_thread(self._kept.restore) if self._kept else None
        if sources is None:
            raise broken
        try:
            job = partial(_load, self._settings, None, self._clock.time(), self._conventions, sources)
            generation = await self._make(job, self._settings)
        except LoadError as error:
            log.warning("the last good sources do not load either: %s", error)
            raise broken from None
        assert generation is not None, "without a generation before it there is always one"
        log.error("the folder is broken, and the last good sources are run instead until it is mended: %s", broken)
        self.faults = broken.faults
        return generation

    async def _make(self, job: Callable[[], Generation | None], settings: Settings) -> Generation | None:
        """Load in a thread, which is left behind when it takes longer than `load_timeout`."""
        future: asyncio.Future[Generation | None] = asyncio.get_running_loop().create_future()
        thread = threading.Thread(target=settle, args=(future, partial(yielding, job)), name="load", daemon=True)
        thread.start()
        try:
            async with asyncio.timeout(settings.runtime.load_timeout):
                return await future
        except TimeoutError:
            raise LoadError([abandon(thread, settings)]) from None

    def _keep(self, modules: Modules) -> None:
        """Keep the sources of what runs now, in the background; of several in a row the last."""
        if self._kept is not None:
            self._to_keep = modules
            if self._keeping is None or self._keeping.done():
                self._keeping = asyncio.create_task(self._write_kept(self._kept), name="keep")

    async def _write_kept(self, kept: Kept) -> None:
        while (modules := self._to_keep) is not None:
            self._to_keep = None
            try:
                await asyncio.to_thread(yielding, partial(kept.save, modules.sources()))
            except OSError as error:
                log.warning(
                    "the last good sources cannot be kept, so that a restart needs a folder that loads; free or permit %s: %s",
                    error.filename or "the disk",
                    error.strerror,
                )


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
        raise LoadError([abandon(thread, settings)])
    made = outcome[0]
    if isinstance(made, BaseException):
        raise made
    assert made is not None, "without a generation before it there is always one"
    importer.publish(made.modules)
    return made.graph


def _told(change: Change) -> str:
    parts = [
        f"{word} {', '.join(names)}"
        for word, names in (("added", change.added), ("changed", change.changed), ("removed", change.removed))
        if names
    ]
    return f"generation {change.number} in {change.seconds * 1000:.0f} ms: {'; '.join(parts) or 'no function changed'}"


def _declared(settings: Settings) -> tuple[object, ...]:
    """Return what a graph is made of beside the files."""
    return sink_specs(settings), settings.functions, settings.resources


def _load_again(
    settings: Settings, previous: Generation, now: float, conventions: Sequence[Convention], *, fresh: bool
) -> Generation | None:
    """Return the generation that other settings make; of modules that are made anew when `fresh`."""
    began = time.perf_counter()
    try:
        modules = _import(settings, None if fresh else previous, conventions)
        return make_generation(modules, settings, previous, time=now, began=began)
    except (LoadError, OSError):  # the folder is broken, which is told elsewhere
        return make_generation(previous.modules, settings, previous, time=now, began=began)


def _load(
    settings: Settings,
    previous: Generation | None,
    now: float,
    conventions: Sequence[Convention],
    sources: Mapping[str, bytes] | None = None,
) -> Generation | None:
    """Return the generation that the folder (or `sources` instead) makes now, or None when no file has changed."""
    began = time.perf_counter()
    try:
        modules = _import(settings, previous, conventions, sources)
        if previous is not None and modules.files == previous.modules.files:
            return None
        return make_generation(modules, settings, previous, time=now, began=began)
    except importer.PartialLoad as error:
        raise LoadError([*error.faults, *faults_beside(error, settings)]) from error
    except OSError as error:
        place = str(error.filename or settings.functions_dir.name)
        raise LoadError([Fault(place, f"cannot be read: {error.strerror}; mend that, or take it away")]) from error


def _import(
    settings: Settings, previous: Generation | None, conventions: Sequence[Convention], sources: Mapping[str, bytes] | None = None
) -> Modules:
    """Import the folder; a file that has become empty gets a moment to be filled, since many programs write in two steps."""
    before = previous.modules if previous else None
    modules = importer.load(settings.functions_dir, before, conventions, sources)
    emptied = [name for name, digest in modules.files.items() if digest == EMPTY and before and before.files.get(name, EMPTY) != EMPTY]
    if emptied:
        time.sleep(FILLING)
        modules = importer.load(settings.functions_dir, before, conventions)
    return modules
