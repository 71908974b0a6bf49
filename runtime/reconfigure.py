"""Reloads the configuration and the plugins while the runtime runs.

A reload is one transaction. First everything is made, off the loop where code of others is imported: the settings, what
plugins offer, the sources and sinks that differ, the generation of functions. Whatever is wrong refuses the whole. Then
all that needs no time goes over in one step (limits, routes, notices, functions, new sinks), and what has to end first is
replaced behind it: a sink when its writes have ended, a source when it has closed. One reload follows the other.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from runtime import changes, config, folder
from runtime.contracts import Source
from runtime.engine import Engine
from runtime.errors import ConfigError, Fault, Faulty
from runtime.loading.generation import sink_specs
from runtime.loading.loader import FILLING, Loader
from runtime.parts import Parts, make_parts, unchanged
from runtime.plugins import Plugins, load_plugins
from runtime.settings import Settings
from runtime.sources import Sources
from runtime.threads import settle
from runtime.toml import place_of

log = logging.getLogger("runtime.reconfigure")


class Turnover(msgspec.Struct, frozen=True):
    """What a reload goes over to: the `parts` made anew, of which the sinks in `replaced` take the place of others, and what goes."""

    settings: Settings
    plugins: Plugins
    parts: Parts
    replaced: set[str]
    sources_gone: list[str]
    sinks_gone: list[str]


class Reconfigurer:
    """Holds the `settings` and `plugins` that are in force, and goes over to others after a save.

    `starts` tells which sources are started, `reconfigured` is given the settings when they have changed. `faults` tells
    what is wrong with the configuration as it is saved, or has to wait for the next start.
    """

    def __init__(
        self,
        settings: Settings,
        plugins: Plugins,
        engine: Engine,
        sources: Sources,
        *,
        starts: Callable[[Source], bool],
        reconfigured: Callable[[Settings], None],
    ) -> None:
        self.settings = settings
        self.plugins = plugins
        self._engine = engine
        self._sources = sources
        self._starts = starts
        self._reconfigured = reconfigured
        self._loader: Loader | None = None
        self._journal = plugins.part("journal", settings.journal.scheme)
        self._size = _size(settings.path)
        self._stale = False
        self._task: asyncio.Task[None] | None = None
        self._refused: list[Fault] = []
        self._waiting: list[Fault] = []

    @property
    def faults(self) -> list[Fault]:
        """What is wrong with the saved configuration, and what of it waits for the next start."""
        return [*self._refused, *self._waiting]

    # --- when -----------------------------------------------------------------------------------------

    def start(self, loader: Loader) -> None:
        """Begin to reload, with the loader of the functions."""
        self._loader = loader
        self.on_saved()  # for what was saved since it was read

    def on_saved(self) -> None:
        """Reload; a save during a reload is taken up when that is done."""
        self._stale = True
        if self._loader is not None and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run(self._loader), name="reconfigure")

    def on_loaded(self) -> None:
        """Try again what was refused: it may fit the functions that have been loaded since."""
        if self._refused:
            self.on_saved()

    async def stop(self) -> None:
        """Give up a reload that is under way."""
        self._loader = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, loader: Loader) -> None:
        while self._stale:
            self._stale = False
            try:
                await self._reload(loader)
            except Faulty as error:
                self._refuse(error.faults)
            except Exception as error:
                log.exception("the configuration could not be reloaded, which is a mistake of the runtime")
                self._refused = [Fault(self.settings.path.name, f"reloading failed: {type(error).__name__}: {error}")]

    def _refuse(self, faults: list[Fault]) -> None:
        if faults != self._refused:
            log.error("the configuration that runs goes on; the saved one is faulty:\n%s", "\n".join(map(str, faults)))
        self._refused = faults

    # --- how ------------------------------------------------------------------------------------------

    async def _reload(self, loader: Loader) -> None:
        """Go over to the configuration and the plugins as they are saved, all or none.

        Raises:
            ConfigError: the configuration, or an option in it, is faulty.
            LoadError: it does not fit the functions.
        """
        before, modules, known = self.settings, folder.modules(), self.plugins.faults
        replaced: list[Source] = []
        try:
            saved, plugins = await self._read()
            new = self._made(changes.in_force(saved, before), plugins)
            await loader.reconfigure(new.settings, plugins.conventions(), partial(self._swap, new, replaced))
        except BaseException:
            folder.restore(modules)
            raise
        self._tell(before, saved, new, known)
        loader.on_saved()  # what was broken in the functions may fit now
        await self._turn_over(new, replaced)

    async def _read(self) -> tuple[Settings, Plugins]:
        """Read the configuration and import the plugins in a thread, which is left behind when it takes longer than `load_timeout`.

        Raises:
            ConfigError: the configuration is faulty, or a plugin hangs.
        """

        def read() -> tuple[Settings, Plugins]:
            saved, self._size = _load(self.settings.path, self._size)
            return saved, load_plugins(changes.in_force(saved, self.settings), self._engine.clock, self.plugins)

        future: asyncio.Future[tuple[Settings, Plugins]] = asyncio.get_running_loop().create_future()
        threading.Thread(target=settle, args=(future, read), name="reconfigure", daemon=True).start()
        limit = self.settings.runtime.load_timeout
        try:
            async with asyncio.timeout(limit):
                return await future
        except TimeoutError:
            message = f"importing took longer than load_timeout = {limit:g} s and was left behind; look for a call that hangs at import"
            raise ConfigError([Fault(self.settings.plugins_dir.name, message)]) from None

    def _made(self, settings: Settings, plugins: Plugins) -> Turnover:
        """Make the sources and sinks that do not run, or not with the same code and options.

        Raises:
            ConfigError: with every fault.
        """
        before, after = (self.settings, self.plugins), (settings, plugins)
        kept = {source.source.name for source in self._sources} & unchanged("source", before, after)
        parts = make_parts(settings, plugins, sources=kept, sinks=self._engine.sinks() & unchanged("sink", before, after))
        started = {name: source for name, source in parts.sources.items() if self._starts(source)}
        sources_gone = [source.source.name for source in self._sources if source.source.name not in settings.sources]
        sinks_gone = [name for name in self.settings.sinks if name not in settings.sinks]
        replaced = self._engine.sinks() & parts.sinks.keys()
        return Turnover(settings, plugins, Parts(started, parts.sinks), replaced, sources_gone, sinks_gone)

    def _swap(self, new: Turnover, replaced: list[Source]) -> None:
        """Go over in one step to what needs no time; adds the sources that have to be `replaced`."""
        engine, settings = self._engine, new.settings
        if changes.limits_differ(self.settings, settings) and not engine.journal.reconfigure(settings.journal):
            settings = changes.without_limits(settings, self.settings)
        self.settings, self.plugins = settings, new.plugins
        engine.reconfigure(settings.dispatch, settings.journal)
        engine.listen(new.plugins.notices)
        for name in new.sinks_gone:
            engine.skip_sink(name)
        for spec in sink_specs(settings):
            if spec.name in new.replaced:
                continue  # it writes no more
            if spec.name in engine.sinks():
                engine.adopt_sink(spec)
            elif spec.name in new.parts.sinks:
                engine.add_sink(spec, new.parts.sinks[spec.name])
        self._sources.configure(settings.sources)
        replaced += [source for source in new.parts.sources.values() if not self._sources.hand(source)]
        self._reconfigured(settings)

    async def _turn_over(self, new: Turnover, replaced: list[Source]) -> None:
        """Stop what goes, and put the new in the place of the old."""
        await asyncio.gather(
            *(self._sources.remove(name) for name in new.sources_gone),
            *(self._sources.replace(source, new.settings.sources[source.name]) for source in replaced),
            *(self._engine.remove_sink(name) for name in new.sinks_gone),
            *(
                self._engine.replace_sink(spec, new.parts.sinks[spec.name])
                for spec in sink_specs(new.settings)
                if spec.name in new.replaced
            ),
        )

    def _tell(self, before: Settings, saved: Settings, new: Turnover, known: list[Fault]) -> None:
        """Log what has changed, what is wrong with plugins, and what waits for the next start."""
        name = saved.path.name
        if self._refused:
            log.info("%s is whole again", name)
        self._refused = []
        waiting = changes.waiting(saved, self.settings)
        if new.plugins.part("journal", before.journal.scheme) is not self._journal:
            waiting.append(Fault(place_of(name, ("journal",), "url"), changes.CODE_WAITS))
        for fault in new.plugins.faults:
            if fault not in known:
                log.error("%s", fault)
        for fault in waiting:
            if fault not in self._waiting:
                log.warning("%s", fault)
        self._waiting = waiting
        told = changes.told(before, self.settings, {"sources": set(new.parts.sources), "sinks": set(new.parts.sinks)}, new.plugins.news)
        if told:
            log.info("%s: %s", name, told)


def _size(path: Path) -> int | None:
    """Return the bytes of the configuration file; None when there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _load(path: Path, before: int | None) -> tuple[Settings, int | None]:
    """Return the settings that are saved, and of how many bytes.

    A file that was of `before` bytes, and is gone or empty, gets a moment to come back: many programs save in two steps,
    and without it everything would be stopped.

    Raises:
        ConfigError: with every fault; it is one that there is no file any more.
    """
    for pause in (FILLING, FILLING, 0.0):
        size = _size(path)
        settings, faults = config.read(path)
        if _size(path) == size and (size or not before):
            break
        time.sleep(pause)
    if size is None and before is not None:
        faults = [Fault(path.name, "expected the file that was there, found none; put it back, or restart the runtime")]
    if faults:
        raise ConfigError(faults)
    return settings, size
