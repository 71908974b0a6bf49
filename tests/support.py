"""The flow without files, sources and sinks: declared functions on a journal in memory and a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from runtime.contracts import Journal, Sink
from runtime.engine import Engine
from runtime.errors import Fault
from runtime.event import Event
from runtime.flow.dispatch import WINDOW
from runtime.flow.run import Attempt, Run
from runtime.function import Declaration, collecting, function
from runtime.graph import Graph, build_graph
from runtime.inlet import HostInlet
from runtime.journal.memory import MemoryJournal
from runtime.notices import Notices
from runtime.records import Entry
from runtime.resources import make_resources
from runtime.settings import DispatchSettings, SourceSettings
from runtime.specs import FunctionSpec, SinkSpec, make_function
from runtime.testing import VirtualClock


def built(
    declarations: list[Declaration],
    sinks: Sequence[SinkSpec] = (),
    tables: Mapping[str, Mapping[str, Any]] | None = None,
    previous: Graph | None = None,
) -> Graph | list[Fault]:
    """Return the graph of declarations, or their faults; `tables` are those of resources."""
    placed = [(declaration, "functions/test.py", 10 * (number + 1)) for number, declaration in enumerate(declarations)]
    resources, faults = make_resources([one for one in placed if one[0].is_resource], tables or {}, previous.resources if previous else {})
    functions: list[FunctionSpec] = []
    for declaration, file, line in placed:
        if declaration.is_resource:
            continue
        made = make_function(declaration, file, line, 1, {}, resources)
        if isinstance(made, list):
            faults += made
        else:
            functions.append(made)
    return faults or build_graph(functions, sinks, [one for one in resources.values() if one is not None])


def faults_of(declare: Callable[[], object]) -> list[str]:
    """Return the faults of the functions that `declare` declares, and of their graph, as text."""
    with collecting() as declarations:
        declare()
    graph = built(declarations)
    return [] if isinstance(graph, Graph) else [str(fault) for fault in graph]


def graph_of(
    declare: Callable[[], object],
    sinks: Sequence[SinkSpec] = (),
    tables: Mapping[str, Mapping[str, Any]] | None = None,
    previous: Graph | None = None,
) -> Graph:
    """Return the graph of the functions that `declare` declares; `tables` are those of resources."""
    with collecting() as declarations:
        declare()
    graph = built(declarations, sinks, tables, previous)
    assert isinstance(graph, Graph), graph
    return graph


def attempt_of(call: Callable[..., Any], **options: Any) -> Attempt:
    """Return an attempt of one function on an event whose data is 7."""
    graph = graph_of(lambda: function(on="go", name="call", **options)(call))
    entry = Entry(event=Event(type="go", source="t", data=7), seq=1)
    return Attempt(Run(entry, graph.plan("go"), 1), 0, 1, 0.0)


class Bench:
    """An engine with the functions that `declare` declares."""

    def __init__(
        self,
        declare: Callable[[], object],
        *,
        order: Any = "fifo",
        aging: float = 30.0,
        in_flight: int = 1000,
        max_backlog: int = 1_000_000,
        sinks: Sequence[tuple[SinkSpec, Sink]] = (),
        journal: Callable[[VirtualClock], Journal] = MemoryJournal,
        window: int = WINDOW,
        notices: Notices | None = None,
    ) -> None:
        self.clock = VirtualClock()
        self.journal = journal(self.clock)
        settings = DispatchSettings(order=order, aging=aging, in_flight=in_flight)
        self.engine = Engine(self.journal, self.clock, settings, max_backlog=max_backlog, window=window, notices=notices, lost=self._lost)
        for spec, sink in sinks:
            self.engine.add_sink(spec, sink)
        self.graph = graph_of(declare, [spec for spec, _ in sinks])

    @staticmethod
    def _lost(error: Exception) -> None:
        raise error

    async def __aenter__(self) -> Self:
        await self.journal.open()
        self.engine.adopt(self.graph, 1)
        await self.engine.start()
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.engine.stop(0.0)

    def inlet(self, name: str = "test", **settings: Any) -> HostInlet:
        """Return an inlet as a source has one."""
        return HostInlet(name, SourceSettings(plugin=name, **settings), self.engine)

    async def put(self, type: str, data: Any = None, **attributes: Any) -> Event:
        """Accept one event and return it as it is recorded."""
        (id,) = await self.inlet().put(Event(type=type, source="test", data=data, **attributes))
        return (await self.journal.find(id))[0].event

    async def entry(self, event: Event) -> Entry:
        """Return the record of an event."""
        return (await self.journal.find(event.id))[0]

    async def settled(self) -> None:
        """Let everything happen that needs no time."""
        await self.clock.settle()
        await self.engine.outcomes.settled()
        await self.clock.settle()
