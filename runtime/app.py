"""The one place that builds and wires everything: start, reload, drain, stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from runtime.clock import SystemClock
from runtime.contracts import Clock, Inlet, Journal, Source
from runtime.engine import Engine
from runtime.errors import ConfigError, Fault, JournalError
from runtime.inlet import HostInlet
from runtime.journal.memory import MemoryJournal
from runtime.loading.generation import Generation, sink_specs
from runtime.loading.kept import Kept
from runtime.loading.loader import Loader
from runtime.loading.watch import Watcher
from runtime.parts import make_parts
from runtime.plugins import Plugins, load_plugins
from runtime.reconfigure import Reconfigurer
from runtime.records import RUNNING
from runtime.settings import Settings, SourceSettings
from runtime.sources import Sources
from runtime.specs import FunctionSpec
from runtime.toml import place_of
from runtime.watchdog import Watchdog

log = logging.getLogger("runtime")

CLOSING = 2.0  # seconds that sources get to close when everything else has stopped


def make_journal(settings: Settings, plugins: Plugins, clock: Clock, lost: Callable[[JournalError], None]) -> Journal:
    """Return the journal that the configuration names, not open.

    Raises:
        ConfigError: no plugin offers it, or it refuses its url.
    """
    try:
        return _journal_kind(settings, plugins).from_settings(settings.journal, clock, folder=settings.path.parent, lost=lost)
    except ValueError as error:
        raise ConfigError([Fault(place_of(settings.path.name, ("journal",), "url"), str(error))]) from error


def _journal_kind(settings: Settings, plugins: Plugins) -> type[Journal]:
    scheme = settings.journal.scheme
    if scheme == "memory":
        return MemoryJournal
    if scheme == "sqlite":
        from runtime.journal.sqlite.journal import SqliteJournal  # noqa: PLC0415 - only who uses SQLite pays for it

        return SqliteJournal
    return plugins.journal(scheme)


class App:
    """A runtime in this process: plugins, functions, sources and sinks around one engine.

    `clock` and `journal` take the place of those that the settings mean; `starts` tells which sources are started,
    `watch` whether functions, plugins and the configuration are loaded again when they are saved, and `reconfigured` is
    given the settings then.

    Raises:
        ConfigError: a source or sink has options its plugin does not take, or no plugin offers it.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        journal: Journal | None = None,
        starts: Callable[[Source], bool] = lambda _: True,
        watch: bool = True,
        reconfigured: Callable[[Settings], None] = lambda _: None,
    ) -> None:
        self.clock = clock or SystemClock()
        self.started = self.clock.monotonic()
        plugins = load_plugins(settings, self.clock)
        self.journal = journal or make_journal(settings, plugins, self.clock, self._on_lost)
        self.failed = asyncio.Event()  # nothing can be recorded any more: the process has to end
        self._changed = asyncio.Event()
        self._journal_fault: Fault | None = None
        self.engine = Engine(
            self.journal,
            self.clock,
            settings.dispatch,
            max_backlog=settings.journal.max_backlog,
            keep=settings.journal.keep,
            folder=settings.path.parent,
            notices=plugins.notices,
            ended=self._changed.set,
            lost=self._on_lost,
        )
        kept = Kept(settings.path.parent / ".runtime", settings.runtime.functions) if watch else None
        self.loader = Loader(settings, self.clock, self._adopt, plugins.conventions(), kept)
        self._sources = Sources(self.engine, self._changed.set)
        self._reconfigurer = Reconfigurer(settings, plugins, self.engine, self._sources, starts=starts, reconfigured=reconfigured)
        self._watchers = [
            Watcher([settings.functions_dir], self.loader.on_saved),
            Watcher([settings.path, settings.plugins_dir], self._reconfigurer.on_saved),
        ]
        self._watch = watch
        self._watchdog = Watchdog()
        parts = make_parts(settings, plugins)
        self._first = [source for source in parts.sources.values() if starts(source)]
        for spec in sink_specs(settings):
            if spec.name in parts.sinks:
                self.engine.add_sink(spec, parts.sinks[spec.name])

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._reconfigurer.settings

    @property
    def plugins(self) -> Plugins:
        """The plugins in force."""
        return self._reconfigurer.plugins

    # --- start and stop -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the journal, load the functions, start sinks and sources.

        Raises:
            LoadError: the functions folder does not make a generation.
            JournalError: the journal cannot be opened.
            OSError: a source cannot listen where it should.
        """
        for fault in self.plugins.faults:
            log.error("%s", fault)
        await self.journal.open()
        await self.loader.load()
        await self.engine.start()
        await self._sources.start(self._first, self.settings.sources)
        self._first.clear()  # they may be replaced, and are not to be kept then
        if self._watch:
            for watcher in self._watchers:
                watcher.start(asyncio.get_running_loop())
            self.loader.on_saved()  # for what was saved since it was loaded
            self._reconfigurer.start(self.loader)
        self._watchdog.start()

    async def stop(self, grace: float | None = None) -> None:
        """Stop the sources, give running steps `grace` seconds, record what there is, and let go.

        Sources that are asked for results close when their callers have been answered.
        """
        self._watchdog.stop()
        for watcher in self._watchers:
            watcher.stop()
        await self._reconfigurer.stop()
        await self.loader.stop()
        closing = asyncio.create_task(self._sources.stop())
        await self.engine.stop(self.settings.runtime.grace if grace is None else grace)
        await asyncio.wait({closing}, timeout=CLOSING)
        lost = 0 if self.journal.persistent else (await self.journal.counts()).open
        if lost:
            log.warning("%d waiting events are gone: the journal is in memory", lost)
        await self.journal.close()

    async def finished(self) -> None:
        """Return when all finite sources have ended and nothing waits."""
        while True:
            self._changed.clear()
            finite = [supervisor for supervisor in self._sources if supervisor.source.finite]
            if all(supervisor.state == "ended" for supervisor in finite):
                await self.engine.outcomes.settled()
                if not (await self.journal.counts()).open:
                    return
            await self._changed.wait()

    # --- what the parts tell --------------------------------------------------------------------------

    def _adopt(self, generation: Generation) -> None:
        self.engine.adopt(generation.graph, generation.number)
        change = generation.change
        self.plugins.notices.tell(
            "generation_changed", number=change.number, added=change.added, changed=change.changed, removed=change.removed
        )
        self._reconfigurer.on_loaded()

    def _on_lost(self, error: JournalError) -> None:
        self._journal_fault = Fault("journal", str(error))
        log.critical("the journal has failed, and nothing is acknowledged any more: %s", error)
        self.failed.set()

    # --- what others ask ------------------------------------------------------------------------------

    @property
    def generation(self) -> Generation:
        """The generation on which runs start now."""
        return self.loader.present

    def addresses(self) -> list[tuple[str, str]]:
        """Return where the sources listen, by name."""
        found = [(supervisor.source.name, supervisor.source.address()) for supervisor in self._sources]
        return [(name, address) for name, address in found if address]

    def faults(self) -> list[Fault]:
        """Return what is wrong now: files, plugins, sources and sinks that fail."""
        faults = [*self.loader.faults, *self._reconfigurer.faults, *self.plugins.faults, *self.journal.faults]
        faults += [*self._watchdog.faults(), *self.engine.executors.threads.faults()]
        if self._journal_fault is not None:
            faults.append(self._journal_fault)
        faults += [Fault(f"sources.{s.source.name}", s.detail) for s in self._sources if s.state == "failing"]
        faults += [Fault(f"sinks.{d.spec.name}", d.detail) for d in self.engine.deliveries if d.state == "failing"]
        return faults

    def hanging(self) -> dict[str, list[str]]:
        """Return for each function that has overrun its timeout in threads the lines in which these hang."""
        return self.engine.executors.threads.hanging()

    def is_escalated(self, function: FunctionSpec) -> bool:
        """Return whether a function runs isolated, until it is saved, because it has overrun its timeout in a thread."""
        return function in self.engine.executors.escalation

    async def stats(self) -> dict[str, int | float]:
        """Return the counts of the journal, with what runs and what waits for a retry."""
        counts = await self.journal.counts()
        live = list(self.engine.live().values())
        running = live.count(RUNNING)
        return {
            "accepted": counts.accepted,
            "queued": max(0, counts.open - len(live)),
            "running": running,
            "retrying": len(live) - running,
            "done": counts.done,
            "dead": counts.dead,
            "discarded": counts.discarded,
            "unrouted": counts.unrouted,
            "duplicates": counts.duplicates,
            "blocked": self._watchdog.count,
            "uptime": self.clock.monotonic() - self.started,
        }

    def inlet(self, name: str) -> Inlet:
        """Return an inlet for events that come by another way than a source."""
        return HostInlet(name, SourceSettings(plugin=name), self.engine)

    def sources(self) -> list[dict[str, Any]]:
        """Return how each source stands."""
        return [self._standing(s.source.name, s.plugin, s.state, s.detail, s.inlet.events) for s in self._sources]

    def sinks(self) -> list[dict[str, Any]]:
        """Return how each sink stands."""
        return [
            self._standing(d.spec.name, d.spec.plugin, d.state, d.detail, d.written) | {"waiting": d.waiting}
            for d in self.engine.deliveries
        ]

    def _standing(self, name: str, plugin: str, state: str, detail: str, events: int) -> dict[str, Any]:
        uptime = max(self.clock.monotonic() - self.started, 1e-9)
        return {"name": name, "plugin": plugin, "state": state, "detail": detail, "events": events, "rate": events / uptime}
