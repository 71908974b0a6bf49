"""A project as the harness runs it: a real app, cut off from the outside world."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from runtime import config
from runtime.app import App
from runtime.contracts import Call, Clock, Executor, Source
from runtime.errors import ConfigError, Fault, nearest
from runtime.flow.delivery import Delivery
from runtime.flow.results import plain_result
from runtime.journal.memory import MemoryJournal
from runtime.records import RUNNING
from runtime.testing.recorder import Recorder

ALL = 2**62  # ended events that stay readable


class Rehearsal:
    """The `app` of a configuration file, and the `recorders` that stand in for its sinks, by name.

    Only sources and sinks that are named are real, and sources that are `offline`.

    Raises:
        ConfigError: the configuration or a plugin is faulty, or there is no such source or sink.
    """

    def __init__(self, path: Path, clock: Clock, sources: Collection[str], sinks: Collection[str]) -> None:
        settings = config.load(path)
        faults = [*_unknown("source", sources, settings.sources), *_unknown("sink", sinks, settings.sinks)]
        if faults:
            raise ConfigError(faults)

        def starts(source: Source) -> bool:
            return source.offline or source.name in sources

        journal = MemoryJournal(clock, dedupe=settings.journal.dedupe, kept=ALL)
        self.app = App(settings, clock=clock, journal=journal, starts=starts, watch=False)
        if self.app.plugins.faults:
            raise ConfigError(self.app.plugins.faults)
        self.recorders: dict[str, Recorder] = {}
        for delivery in self.app.engine.deliveries:
            if delivery.spec.name not in sinks:
                delivery.sink = self.recorders[delivery.spec.name] = Recorder(delivery.spec.name)
        self.app.engine.dispatch.in_place = False  # so that all that executes can be told, and is called as below
        executors = self.app.engine.pool.executors
        executors.update({name: _rereading(executor) for name, executor in executors.items()})

    def is_busy(self) -> bool:
        """Return whether something is under way that does not wait for the clock."""
        engine = self.app.engine
        attempts = sum(run.executing for run in engine.dispatch.runs.values())
        return attempts > engine.pool.batches.waiting or any(map(_is_writing, engine.deliveries))

    def running(self) -> Iterator[str]:
        """Yield what is under way, for people."""
        engine = self.app.engine
        for run in [run for run in engine.dispatch.runs.copy().values() if run.executing]:
            for function, missing in zip(run.plan.functions, run.missing, strict=True):
                if function.name not in run.steps and not missing:
                    yield f'"{function.name}" ({function.where}) on event {run.entry.event.id}'
        yield from (f'sink "{delivery.spec.name}"' for delivery in engine.deliveries if _is_writing(delivery))


def _is_writing(delivery: Delivery) -> bool:
    return delivery.state == "connecting" or RUNNING in delivery.live().values()


def _rereading(executor: Executor) -> Executor:
    """Return an executor whose results are plain data, like those that come back from a journal."""

    async def call(call: Call) -> Any:
        return plain_result(call.function.name, await executor(call))

    return call


def _unknown(role: str, names: Iterable[str], there: Collection[str]) -> Iterator[Fault]:
    for name in names:
        if name not in there:
            text = f'expected names of {role}s of the configuration, found "{name}"{nearest(name, there)}; there are: {listed(there)}'
            yield Fault(f"harness: {role}s", text)


def listed(names: Iterable[str]) -> str:
    """Return names for people."""
    return ", ".join(f'"{name}"' for name in names) or "none"
