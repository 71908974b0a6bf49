"""Dispatch: which waiting event or step goes next. It alone owns order, keys and limits.

Waiting events stand in *lanes*, one for each event type and level of priority, so that all of a lane trigger
the same plan: when the plan's functions are at their limits the whole lane steps aside at once, whatever its
length, and nothing is ever scanned. Within a lane events come almost sorted, so it is a deque with a small
heap beside it for those that come late (retried, redriven, due). A heap over the lanes' heads finds the next
event over all types.

The order is `(rank, seq)`: FIFO has rank 0; strict priority -priority; priority with aging the time of
acceptance (or `due`) minus `priority * aging`, which never changes, so nothing is ever sorted again.

A *gate* stands before each function: it counts attempts, keeps the rate, and holds the steps of started runs
that wait for it, in order. A lane starts an event while the gate of one of its root functions is open and
none of its functions has `FLOOD` runs waiting.

Of the events that share a key only the first stands in a lane; the others wait behind it in the key's own
queue. An event that overtakes leaves the overtaken one behind in its lane, where it is passed over.

On a journal that survives the process only a *window* of each lane and key queue is in memory. What lies behind
it stays in the journal, and `feed` asks for it when the window has run low: a lane is read in the order of
acceptance, which is its own order, so that the backlog may be far larger than memory.

Rejected: one heap of all events (twice the cost of deques, and blocked functions would have to be skipped one
event at a time); a queue for each function (an event that triggers two functions would stand in both).
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Generator, Sequence

from runtime.contracts import Clock, Journal
from runtime.event import DEFAULT_PRIORITY
from runtime.flow.burst import Burst
from runtime.flow.delayed import Delayed
from runtime.flow.executing import Executing
from runtime.flow.gates import FLOOD, Gates
from runtime.flow.keys import Keys
from runtime.flow.lanes import NO_FUNCTION, Lane, Ranking, limit_of
from runtime.flow.order import Order
from runtime.flow.retries import Retries
from runtime.flow.run import Attempt, Run
from runtime.flow.waits import Waits
from runtime.graph import Graph
from runtime.records import Entry, Shelf, Step

WINDOW = 1000  # entries of a lane, and of a key, that are kept in memory

UNBOUNDED = 2**62


class Dispatch:
    """Holds the waiting events and hands out the next attempt; see the essay above.

    `wake` is called when there may be something to take, `room` when an event has started, `settle` with a run that
    was taken up and steps it has to skip, or when nothing of it is left; `feed` with a shelf and the `seq` behind
    which its entries are wanted. `journal` is told what executes. `in_flight` is how many runs may execute at once, `window`
    how many entries of a lane or key are kept in memory. Events run `in_place` where they can. `waiting` counts the events
    that have not started, `runs` holds those that have and whose functions have not ended, by `seq`.
    """

    def __init__(  # noqa: PLR0913 - its neighbours, by name
        self,
        clock: Clock,
        ranking: Ranking,
        journal: Journal,
        *,
        in_flight: int,
        wake: Callable[[], None],
        room: Callable[[], None],
        settle: Callable[[Run, list[Step]], None],
        feed: Callable[[Shelf, int], None],
        window: int = WINDOW,
    ) -> None:
        self._clock = clock
        self._mark, self._unmark = journal.mark, journal.unmark
        self._survives = journal.persistent
        self._settle = settle
        self._feed = feed
        self._window = window if journal.persistent else UNBOUNDED
        self._keys = Keys(ranking, self._window, feed, lambda: bool(self._deep))
        self._deep: set[Lane] = set()  # lanes of which entries are only in the journal
        self._delayed = Delayed(clock, self._stand)
        self.due_until = 0.0 if journal.persistent else float("inf")  # delayed events up to this time are in memory
        self._ranking = ranking
        self._fifo = ranking.fifo
        self.in_flight = in_flight
        self.in_place = True
        self._wake = wake
        self._room = room
        self._graph: Graph | None = None
        self.generation = 0
        self._order = Order()
        self._heads = self._order.heads
        self._gates = Gates(clock, ready=self.ready, offer=self._order.offer, wake=wake)
        self._waits = Waits(clock.time())
        self.waited = self._waits.until_start
        self._ready: deque[tuple[Run, int]] = deque()
        self.waiting = 0  # events that have not started, wherever they stand
        self._executing = Executing(clock, journal, self._gates, self._ready)
        self.ended, self.recorded = self._executing.ended, self._executing.recorded
        self.runs: dict[int, Run] = {}
        self._retries = Retries(clock, self.runs, again=self.ready, take_up=self._take_up, wake=wake)

    def adopt(self, graph: Graph, generation: int) -> None:
        """Run the events that start from now on with a new generation."""
        self._graph = graph
        self.generation = generation
        self._gates.adopt(graph)
        self._heads.clear()
        now = self._clock.time()
        for lane in self._order.lanes.values():
            lane.come_back(now)
            lane.plan = None
            self._order.offer(lane)
        self._gates.reopen()
        self._retries.adopt(graph, generation)
        self._wake()

    # --- events come in -------------------------------------------------------------------------------

    def push(self, entry: Entry) -> None:
        """Take an entry that waits; one that is not due yet waits for its time first."""
        self.waiting += 1
        event = entry.event
        if event.key is not None or entry.due or entry.steps or entry.crashes:
            if entry.begun or self._is_wanted(entry):
                self._hold(entry)
            return
        level = DEFAULT_PRIORITY if event.priority is None else event.priority  # from here on a short form of `_hold`
        lane = self._order.lane(event.type, level)
        items = lane.items
        if (lane.more or len(items) >= self._window) and not self._is_wanted(entry):
            return
        entry.held = entry.plain = True
        if not self._fifo:
            entry.rank = self._ranking.rank(level, entry.accepted)
        if items and not lane.late and entry.seq > items[-1].seq and entry.rank >= items[-1].rank:
            lane.loaded = entry.seq
            if lane.blocked:
                entry.aside = lane.aside(self._clock.time())
            items.append(entry)  # those before it have woken somebody
        else:
            lane.loaded = max(lane.loaded, entry.seq)
            self._enter(entry)
            self._wake()

    def _is_wanted(self, entry: Entry) -> bool:
        """Return whether an entry is to be in memory now; otherwise it is read when its turn is near."""
        if entry.due:
            return entry.due <= self.due_until
        lane = self._lane(entry)
        if entry.seq <= lane.loaded:
            return True
        if not lane.more and len(lane) >= self._window:
            self._deepen(lane, more=True)
        lane.missed = lane.missed or lane.more
        return not lane.more

    def _deepen(self, lane: Lane, *, more: bool) -> None:
        """Note whether entries of a lane are only in the journal."""
        lane.more = more
        (self._deep.add if more else self._deep.discard)(lane)

    def _hold(self, entry: Entry) -> None:
        """Keep an entry in memory, and let it stand in its lane when it is due and first of its key."""
        entry.held = True
        entry.rank = self._ranking.rank(entry.event.priority, entry.due or entry.accepted)
        self._stand(entry)

    def _stand(self, entry: Entry) -> None:
        if entry.due and not entry.begun:
            if self._delayed.takes(entry):
                return
        elif not entry.begun:
            lane = self._lane(entry)
            lane.loaded = max(lane.loaded, entry.seq)
        key = entry.event.key
        entry.plain = not entry.begun
        if key is not None and not self._keys.claim(key, entry):
            return
        self._enter(entry)
        self._wake()

    def _lane(self, entry: Entry) -> Lane:
        return self._order.lane(entry.event.type, entry.level)

    def _enter(self, entry: Entry) -> None:
        if entry.standing:
            return  # it was overtaken, and has stood here ever since
        entry.standing = True
        lane = self._lane(entry)
        now = self._clock.time() if lane.blocked else 0.0
        entry.aside = lane.aside(now)
        lane.add(entry)
        if lane.head() is entry:
            lane.come_back(now)  # a lane that had stepped aside may have another place now
            heapq.heappush(self._heads, (entry.rank, entry.seq, lane))

    def release(self, entry: Entry) -> None:
        """Let the next event of the entry's key go, once its functions have ended and that is recorded."""
        if entry.event.key is not None:
            self._enter_next(self._keys.release(entry.event.key, entry))

    def _enter_next(self, entry: Entry | None) -> None:
        if entry is not None:
            self._waits.for_key(entry, self._clock.time())
            self._enter(entry)
            self._wake()

    # --- the rest of the backlog is read from the journal ---------------------------------------------

    def resume(self, shelf: Shelf) -> None:
        """Take up a lane of which entries wait in the journal, at start."""
        lane = self._order.lane(shelf.name, shelf.level)
        self._deepen(lane, more=True)
        place = (float("-inf"), -len(self._heads))  # another for each: lanes cannot be compared
        heapq.heappush(self._heads, (*place, lane))  # nothing starts before each lane has told its first
        self._feed_lane(lane)

    def _feed_lane(self, lane: Lane) -> None:
        if lane.more and not lane.loading and len(lane) <= self._window // 4:
            lane.loading, lane.missed = True, False
            self._feed(Shelf("lane", lane.type, lane.level), lane.loaded)

    def fill_lane(self, shelf: Shelf, entries: Sequence[Entry], *, more: bool) -> None:
        """Take entries of a lane that were asked for; `more` when there are others behind them."""
        lane = self._order.lane(shelf.name, shelf.level)
        lane.loading = False
        self._deepen(lane, more=more or lane.missed)
        for entry in entries:
            lane.loaded = entry.seq
            if not entry.held:
                self._hold(entry)
        self._feed_lane(lane)
        self._wake()

    def fill_key(self, key: str, levels: Sequence[Sequence[Entry]], limit: int) -> None:
        """Take entries of a key that were asked for, at most `limit` for each level."""
        self._enter_next(self._keys.fill(key, levels, limit))

    def fill_due(self, entries: Sequence[Entry]) -> None:
        """Take the delayed entries that are due until `due_until`."""
        for entry in entries:
            if not entry.held:
                self._hold(entry)

    def expire(self, horizon: float) -> list[Entry]:
        """Remove and return the entries accepted before `horizon` that wait for functions which were removed."""
        assert self._graph is not None
        expired = []
        for lane in [lane for lane in self._order.lanes.values() if lane or lane.more]:
            gone = not self._graph.plan(lane.type).functions
            while gone and (head := lane.head()) and head.accepted < horizon:
                lane.pop()
                head.standing = False
                if head.event.key is None or self._keys.start(head.event.key, head):
                    expired.append(head)
                    self.waiting -= 1
            self._feed_lane(lane)
        return expired

    # --- attempts go out ------------------------------------------------------------------------------

    def take(self) -> Attempt | Lane | None:
        """Return the next attempt, which counts as executing from now on, or None when nothing can start.

        A lane is returned when its first events can run in place, by `burst`.
        """
        while self._ready:
            run, index = self._ready[0]
            if self._executing.runs >= self.in_flight and not run.executing:
                return None
            self._ready.popleft()
            attempt = self._executing.begin(run, index)
            if attempt is not None:
                return attempt
        while self._heads and self._executing.runs < self.in_flight:
            rank, seq, lane = self._heads[0]
            head = lane.head()
            if head is None and lane.loading and not lane.blocked:
                return None  # what is being read goes before all that stands further behind
            if lane.blocked or head is None or head.seq != seq or head.rank != rank or not self._gates.startable(lane):
                heapq.heappop(self._heads)  # the lane has another head by now, with its own place here, or steps aside
                continue
            if head.plain and self.in_place and self._gates.fit(lane):
                return lane
            attempt = self._start(self._pop(lane), lane)
            if attempt is not None:
                return attempt
        return None

    def _pop(self, lane: Lane) -> Entry:
        """Take the head of the first lane, and give the lane the place of its next one."""
        entry = lane.pop()
        entry.standing = False
        if lane.more:
            self._feed_lane(lane)
        heapq.heappop(self._heads)
        self._order.put_back(lane, entry.rank)
        return entry

    def has_work(self) -> bool:
        """Return whether `take` is worth a try."""
        if self._executing.runs < self.in_flight:
            return bool(self._ready or self._heads)
        return bool(self._ready) and bool(self._ready[0][0].executing)

    # --- events that run in place ---------------------------------------------------------------------

    def burst(self, lane: Lane, task: asyncio.Task[None]) -> Burst:
        """Return the burst of the lane that `take` returned, which runs in a task.

        Nothing may be taken until its `entries` are closed; an event of it that suspends or fails has to `land` before.
        """
        assert lane.plan is not None
        return Burst(self._entries(lane), lane.plan, self.generation, task)

    def _entries(self, lane: Lane) -> Generator[Entry, None, None]:
        """Yield entries of a lane, to be run to their end before the next one is asked for."""
        rank = heapq.heappop(self._heads)[0]
        self._gates.pass_on(lane)
        first_of_others = self._heads[0][:2] if self._heads else None
        mark, unmark = self._mark if self._survives else None, self._unmark
        items = lane.items
        count = 0
        try:
            while items:
                entry = items[0]
                if not entry.plain or (first_of_others is not None and entry.order > first_of_others):
                    break
                items.popleft()
                entry.standing = False
                key = entry.event.key
                if key is not None and not self._keys.start(key, entry):
                    continue  # it was overtaken
                count += 1
                if mark is None:
                    yield entry
                    continue
                mark(entry.seq)
                try:
                    yield entry
                finally:
                    unmark(entry.seq)
        finally:
            self.waiting -= count
            self._room()
            if lane.more:
                self._feed_lane(lane)
            self._order.put_back(lane, rank)

    def land(self, burst: Burst) -> Attempt:
        """Make a run of the event that a burst is at, and return the attempt at the step that executes."""
        plan, at = burst.plan, len(burst.steps)
        run = Run(burst.entry, plan, burst.generation)
        for index, step in enumerate(burst.steps):
            run.finished(index, step, burst.results[step.function])
        self.runs[burst.entry.seq] = run
        self._ready.extend((run, index) for index in range(at + 1, len(plan.functions)) if not run.missing[index])
        attempt = self._executing.count(run, at, self._gates.get(plan.functions[at]), burst.started)
        attempt.made = burst.made
        return attempt

    # --- all others -----------------------------------------------------------------------------------

    def _start(self, entry: Entry, lane: Lane) -> Attempt | None:
        """Start the run of an entry; its further roots become ready steps."""
        self._gates.pass_on(lane)
        key = entry.event.key
        if key is not None and not self._keys.start(key, entry):
            return None  # it was overtaken, and has gone or will go from the key's queue
        assert lane.plan is not None
        self.waiting -= 1
        self._room()
        run = Run(entry, lane.plan, self.generation)
        skipped, ready = run.start()
        if run.open:
            self.runs[entry.seq] = run
        if skipped or not run.open:
            self._settle(run, skipped)
        first: Attempt | None = None
        now = self._clock.time() if entry.steps else 0.0
        for index in ready:
            pause = run.pause(index, now)
            if pause > 0:
                self.retry(run, index, pause)
            elif first is None:
                first = self._executing.begin(run, index)
            else:
                self._ready.append((run, index))
        self._waits.until_start(entry, lane, first.started if first is not None else self._clock.time())
        return first

    # --- attempts come back ---------------------------------------------------------------------------

    @property
    def executing(self) -> int:
        """How many runs execute."""
        return self._executing.runs

    def ready(self, run: Run, index: int) -> None:
        """Take a step whose predecessors have ended."""
        self._ready.append((run, index))

    def retry(self, run: Run, index: int, delay: float) -> None:
        """Take a step that is to be tried again `delay` seconds from now."""
        self._retries.add(run, index, delay)

    def _take_up(self, entry: Entry) -> None:
        """Let the run of an event begin again on the present generation, from its record; it holds its key all the while."""
        del self.runs[entry.seq]
        if entry.event.key is not None:
            self._keys.resume(entry.event.key)
        self.waiting += 1
        entry.plain = False
        entry.since = self._clock.time()
        self._enter(entry)

    def why(self, entry: Entry) -> str:
        """Return what an entry that has not started waits for, in words; empty when it is its turn."""
        if entry.due > self._clock.time() and not entry.begun:
            return "not due yet"
        holder = self._keys.holder(entry.event.key) if entry.event.key is not None else None
        if holder is not None and holder.seq != entry.seq:
            return f"its key is held by event {holder.event.id}"
        lane = self._lane(entry)
        if lane.plan is not None and not lane.plan.functions:
            return NO_FUNCTION
        now = self._clock.monotonic()
        closed = [gate.function.name for gate in lane.gates if not gate.is_open(now) or len(gate.waiting) >= FLOOD]
        if closed:
            return limit_of(*closed)
        return "in_flight runs are executing" if self._executing.runs >= self.in_flight else ""

    def forget(self, run: Run) -> None:
        """Forget a run whose functions have all ended."""
        self.runs.pop(run.entry.seq, None)
