"""The sources that run, by name: started, handed new settings, replaced and stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

from runtime.contracts import Source
from runtime.engine import Engine
from runtime.inlet import HostInlet
from runtime.settings import SourceSettings
from runtime.supervisor import Supervisor

log = logging.getLogger("runtime.sources")

PATIENCE = 70.0  # seconds that a source gets to close when it is replaced; it may have callers to answer


class Sources:
    """The sources of an engine, each with its supervisor; `changed` is called when one stands otherwise."""

    def __init__(self, engine: Engine, changed: Callable[[], None]) -> None:
        self._engine = engine
        self._changed = changed
        self._supervisors: dict[str, Supervisor] = {}

    def __iter__(self) -> Iterator[Supervisor]:
        return iter(self._supervisors.values())

    def __contains__(self, name: str) -> bool:
        return name in self._supervisors

    async def start(self, sources: Sequence[Source], settings: Mapping[str, SourceSettings]) -> None:
        """Start them all.

        Raises:
            OSError: one cannot listen where it should; an address that is taken is told at once, not tried again.
        """
        for source in sources:
            self._supervisors[source.name] = await self._supervise(source, settings[source.name])
        for supervisor in self:
            if type(supervisor.source).address is not Source.address:
                await supervisor.open()
        for supervisor in self:
            supervisor.start()

    async def _supervise(self, source: Source, settings: SourceSettings) -> Supervisor:
        journal = self._engine.journal
        cursor = await journal.cursor(source.name)
        wait_for_end = source.acknowledges and not journal.persistent
        inlet = HostInlet(source.name, settings, self._engine, cursor=cursor, wait_for_end=wait_for_end)
        return Supervisor(source, settings.plugin, inlet, self._engine.clock, self._changed)

    def configure(self, settings: Mapping[str, SourceSettings]) -> None:
        """Go by the priorities, keys and rates of these settings."""
        for name, supervisor in self._supervisors.items():
            if name in settings:
                supervisor.inlet.configure(settings[name])

    def hand(self, source: Source) -> bool:
        """Hand the options of a source to the running one of its name; return whether that goes on with them."""
        supervisor = self._supervisors.get(source.name)
        return supervisor is not None and type(supervisor.source) is type(source) and supervisor.reconfigure(source.options)

    async def replace(self, source: Source, settings: SourceSettings) -> None:
        """Start a source, in place of the one of its name, which is stopped first."""
        before = self._supervisors.get(source.name)
        if before is not None:
            await _stop(before)
        supervisor = await self._supervise(source, settings)
        supervisor.inlet.events = before.inlet.events if before is not None else 0
        self._supervisors[source.name] = supervisor
        supervisor.start()

    async def remove(self, name: str) -> None:
        """Stop a source."""
        await _stop(self._supervisors[name])
        del self._supervisors[name]
        self._changed()

    async def stop(self) -> None:
        """Stop them all."""
        await asyncio.gather(*(supervisor.stop() for supervisor in self))


async def _stop(supervisor: Supervisor) -> None:
    """Stop a source; one that swallows its end is left behind, so that it cannot keep others from being reloaded."""
    stopping = asyncio.create_task(supervisor.stop(), name=f"stop {supervisor.source.name}")
    done, _ = await asyncio.wait({stopping}, timeout=PATIENCE)
    if not done:
        log.error('source "%s" did not stop within %g s; it is left behind', supervisor.source.name, PATIENCE)
