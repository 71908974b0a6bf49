"""The flow, wired: journal, intake, dispatch, workers, outcomes and deliveries as one part.

What stands around it (sources, loading, the admin API) belongs to the app; the engine runs a graph on a
journal and a clock, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from runtime.contracts import Clock, Journal, Sink
from runtime.errors import JournalError
from runtime.executors.kinds import Executors
from runtime.flow.backlog import Backlog
from runtime.flow.delivery import Delivery
from runtime.flow.dispatch import UNBOUNDED, WINDOW, Dispatch
from runtime.flow.intake import Intake
from runtime.flow.lanes import Ranking
from runtime.flow.outcomes import Outcomes
from runtime.flow.router import Router
from runtime.flow.waits import REDRIVE, note
from runtime.graph import Graph, Plan
from runtime.keeper import Keeper
from runtime.notices import Notices
from runtime.records import DEAD, DISCARDED, DONE, ENDED, FAILED, QUEUED, RUNNING, Entry, Outcome, Status, is_pending
from runtime.resources import ResourceSpec
from runtime.settings import DispatchSettings, JournalSettings
from runtime.specs import SinkSpec
from runtime.worker import Pool

DEFAULT_SETTINGS = DispatchSettings()


class Engine:
    """Runs events through a graph; `ended` is called after each batch of outcomes, `lost` when the journal has failed.

    `folder` is that of the configuration file.
    """

    def __init__(  # noqa: PLR0913 - its neighbours, by name
        self,
        journal: Journal,
        clock: Clock,
        settings: DispatchSettings = DEFAULT_SETTINGS,
        *,
        max_backlog: int = 10_000_000,
        keep: float = 86_400.0,
        window: int = WINDOW,
        folder: Path = Path(),
        notices: Notices | None = None,
        ended: Callable[[], None] = lambda: None,
        lost: Callable[[JournalError], None] = lambda _: None,
    ) -> None:
        self.journal = journal
        self.clock = clock
        self.deliveries: list[Delivery] = []
        self._by_sink: dict[str, Delivery] = {}
        self._pushes: dict[str, Callable[[Entry], None]] = {}
        self._leaving: list[Delivery] = []
        self._changing: set[int] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._window = window if journal.persistent else UNBOUNDED
        ranking = Ranking(settings.order, settings.aging)
        self.dispatch = Dispatch(
            clock,
            ranking,
            journal,
            in_flight=settings.in_flight,
            wake=lambda: self.pool.wake(),  # noqa: PLW0108 - the stages form a circle; this one is made later
            room=lambda: self.intake.make_room(),  # noqa: PLW0108
            settle=lambda run, steps: self.outcomes.skipped(run, steps),  # noqa: PLW0108
            feed=lambda shelf, after: self.backlog.feed(shelf, after),  # noqa: PLW0108
            window=self._window,
        )
        self.outcomes = Outcomes(
            journal,
            clock,
            admit=lambda entries: self._admit(entries),  # noqa: PLW0108
            death=lambda outcome: self.intake.death(outcome),  # noqa: PLW0108
            release=self.dispatch.release,
            recorded=self.dispatch.recorded,
            ended=ended,
            lost=lost,
        )
        self.router = Router(dispatch=self.dispatch.push, deliveries=self._pushes)
        self._admit = self.router.admit
        self.intake = Intake(
            journal,
            clock,
            routes=self.router.routes,
            admit=self._admit,
            backlog=self.dispatch,
            max_backlog=max_backlog,
        )
        self.backlog = Backlog(
            journal,
            clock,
            dispatch=self.dispatch,
            deliveries=self._by_sink,
            is_configured=self.router.is_sink,
            removed=self.outcomes.removed,
            end=self.outcomes.end,
            keep=keep,
            lost=lost,
        )
        self.executors = Executors(clock, folder)
        self.keeper = Keeper(clock, self._is_wanted)
        executors = self.executors.by_name()
        self.pool = Pool(self.dispatch, self.outcomes, self.intake, journal, clock, executors, self.keeper, max_hops=settings.max_hops)
        self.listen(notices or Notices())

    def listen(self, notices: Notices) -> None:
        """Tell these notices from now on; what nobody listens to costs nothing."""
        self._notices = notices
        self.outcomes.tell = self._tell if notices.has("step_finished") or notices.has("run_finished") else None
        self._admit = self.intake.admit = self._tell_accepted if notices.has("event_accepted") else self.router.admit

    def reconfigure(self, dispatch: DispatchSettings, journal: JournalSettings) -> None:
        """Take new limits while running; `order` and `aging` stay as they are."""
        self.dispatch.in_flight = dispatch.in_flight
        self.pool.max_hops = dispatch.max_hops
        self.intake.max_backlog = journal.max_backlog
        self.backlog.keep = journal.keep
        self.intake.make_room()
        self.pool.wake()

    def sinks(self) -> set[str]:
        """Return the names of the sinks that events are delivered to."""
        return set(self._by_sink)

    def add_sink(self, spec: SinkSpec, sink: Sink) -> None:
        """Deliver events to a sink, from the start or, when the engine has started, from now on with what waits for it."""
        delivery = Delivery(
            spec, sink, self.clock, self.journal, delivered=self.outcomes.delivered, feed=self.backlog.feed, window=self._window
        )
        self.deliveries.append(delivery)
        self._by_sink[spec.name] = delivery
        self._pushes[spec.name] = delivery.push
        if self._tasks:
            delivery.resume()
            delivery.start()

    def adopt_sink(self, spec: SinkSpec) -> None:
        """Deliver to a sink by new limits from now on."""
        self._by_sink[spec.name].adopt(spec)

    async def replace_sink(self, spec: SinkSpec, sink: Sink) -> None:
        """Deliver to another sink in place of the one of its name, when the writes under way have ended."""
        await self._by_sink[spec.name].replace(spec, sink)

    def skip_sink(self, name: str) -> None:
        """Skip from now on what comes for a sink, which is going to be removed."""
        self._pushes[name] = partial(self.outcomes.removed, sink=name)
        delivery = self._by_sink.pop(name, None)
        if delivery is not None:
            delivery.halt()
            self.deliveries.remove(delivery)
            self._leaving.append(delivery)

    async def remove_sink(self, name: str) -> None:
        """Let the writes of a sink that is skipped end, close it, and skip what waits for it.

        Raises:
            JournalError: the journal cannot be read or written.
        """
        for delivery in [one for one in self._leaving if one.spec.name == name]:
            await delivery.leave()
            self._leaving.remove(delivery)
        await self.outcomes.settled()  # what was written does not wait any more
        await self.backlog.let_go(name)
        await self.outcomes.settled()

    def _tell_accepted(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._notices.tell("event_accepted", event=entry.event)
        self.router.admit(entries)

    def _tell(self, outcome: Outcome, plan: Plan | None) -> None:
        event = outcome.entry.event
        for step in outcome.steps:
            if not is_pending(step):
                self._notices.tell("step_finished", event=event, step=step)
        if plan is not None:
            failed = any(step.status == FAILED for step in map(outcome.entry.steps.get, (one.name for one in plan.functions)) if step)
            self._notices.tell("run_finished", event=event, status=DEAD if failed else DONE)

    def adopt(self, graph: Graph, generation: int) -> None:
        """Start runs on this graph from now on."""
        self.router.adopt(graph)
        self.dispatch.adopt(graph, generation)
        self.keeper.adopt(graph.resources.values())
        self.executors.adopt(graph.by_name.values())

    def _is_wanted(self, resource: ResourceSpec) -> bool:
        """Return whether a run that does not only wait for a retry has yet to use a resource."""
        return any(run.status == RUNNING and run.wants(resource) for run in self.dispatch.runs.values())

    async def start(self) -> None:
        """Begin to record and deliver, and take up what waits in the journal.

        Raises:
            JournalError: the journal cannot be read.
        """
        self.dispatch.waiting = await self.journal.waiting()
        self._tasks.append(asyncio.create_task(self.outcomes.run(), name="outcomes"))
        self._tasks.append(asyncio.create_task(self.backlog.expire(), name="expire"))
        self._tasks.append(asyncio.create_task(self.backlog.run(), name="backlog"))
        if self.journal.persistent:
            await self.backlog.resume()
            self._tasks.append(asyncio.create_task(self.backlog.watch_due(), name="due"))
        for delivery in self.deliveries:
            delivery.start()

    async def stop(self, grace: float) -> None:
        """Give what executes `grace` seconds to end, record it, and answer those who still wait for a result."""
        await asyncio.gather(self.pool.stop(grace), *(delivery.close(grace) for delivery in [*self.deliveries, *self._leaving]))
        if self._tasks and not self._tasks[0].done():
            with suppress(JournalError):
                await self.outcomes.settled()
        self.outcomes.refuse_callers()
        await self.keeper.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.executors.close()

    async def redrive(self, entry: Entry, *, retries: int | None = None) -> bool:
        """Make a dead or unrouted entry wait again; return whether it does. `retries` is as in `Entry`.

        Raises:
            JournalError: the journal cannot be written.
        """
        with self._changes(entry) as free:
            entry = await self._present(entry)
            outcome = self.router.redrive(entry) if free else None
            if outcome is None:
                return False
            entry.retries = retries
            now = self.clock.time()
            note(entry, REDRIVE, now - entry.ended)
            entry.since = now
            await asyncio.shield(self._change(outcome))
        return True

    async def discard(self, entry: Entry) -> bool:
        """End a dead letter for good; return whether that was done.

        Raises:
            JournalError: the journal cannot be written.
        """
        with self._changes(entry) as free:
            entry = await self._present(entry)
            if not free or entry.status != DEAD:
                return False
            await asyncio.shield(self._change(Outcome(entry=entry, status=DISCARDED, at=self.clock.time())))
        return True

    async def _present(self, entry: Entry) -> Entry:
        """Return an entry as it is now: what was found for a caller may be older."""
        return next(iter(await self.journal.find(entry.uid)), entry)

    @contextmanager
    def _changes(self, entry: Entry) -> Iterator[bool]:
        """Keep an entry from being redriven or discarded twice at the same time; gives whether it is free."""
        if entry.seq in self._changing:
            yield False
            return
        self._changing.add(entry.seq)
        try:
            yield True
        finally:
            self._changing.discard(entry.seq)

    async def _change(self, outcome: Outcome) -> None:
        await self.journal.record([outcome])
        if outcome.status == QUEUED:
            self.router.admit([outcome.entry])

    def live(self) -> dict[int, Status]:
        """Return how the entries stand that have started and not ended, by `seq`: `running` or `retrying`.

        An entry is `running` while anything of it executes or can, `retrying` while all that is left of it
        waits for its next attempt.
        """
        standing: dict[int, Status] = dict.fromkeys(self.outcomes.begun(), RUNNING)
        parts = [{seq: run.status for seq, run in self.dispatch.runs.items()}]
        parts += [delivery.live() for delivery in (*self.deliveries, *self._leaving)]
        told: dict[int, Status] = {}
        for part in parts:
            for seq, status in part.items():
                told[seq] = status if told.get(seq, status) == status else RUNNING
        standing.update(told)
        return standing

    def reason(self, entry: Entry) -> str:
        """Return why an entry waits or ended as it did; empty when there is nothing to say."""
        if entry.status in ENDED or entry.reason or entry.ran or entry.seq in self.dispatch.runs:
            return entry.reason
        return self.dispatch.why(entry)
