"""Delivery: each sink has its own queue, in order per key, with its own retries.

It never holds up a run, a reply or a key of dispatch: it takes an event when that is accepted (or due) and
tells what came of it.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from runtime.contracts import Clock, Journal, Sink, Timer
from runtime.errors import PartialFailure, StepTimeout
from runtime.flow.delayed import Delayed
from runtime.flow.failure import LATE, STUBBORN, backoff, error_of, is_permanent, jittered
from runtime.flow.waits import note
from runtime.records import DONE, FAILED, RETRYING, RUNNING, Entry, Outcome, Shelf, Status, Step
from runtime.specs import SinkSpec

log = logging.getLogger("runtime.delivery")


class Delivered(Protocol):
    """Takes what came of an attempt to deliver; `ended` when there will be no further one."""

    def __call__(self, outcome: Outcome, *, ended: bool, failed: bool = False) -> None:
        """Take an outcome."""


class Write(msgspec.Struct, eq=False):
    """One call of a sink's `write`: its events, and what became of it so far."""

    batch: list[Entry]
    started: float
    task: asyncio.Task[None] | None = None
    timer: Timer | None = None
    expired: bool = False
    settled: bool = False


class Delivery:
    """The queue of one sink; `delivered` is told what came of each attempt.

    At most about `window` events are in memory; `feed` is asked for those behind them when they run low.
    """

    def __init__(
        self,
        spec: SinkSpec,
        sink: Sink,
        clock: Clock,
        journal: Journal,
        *,
        delivered: Delivered,
        feed: Callable[[Shelf, int], None],
        window: int,
    ) -> None:
        self._mark, self._unmark = journal.mark, journal.unmark
        self.spec = spec
        self.sink = sink
        self._clock = clock
        self._delivered = delivered
        self._feed = feed
        self._window = window
        self._delayed = Delayed(clock, self._enqueue)
        self._more = False
        self._loaded = 0
        self._loading = False
        self._missed = False
        self._queue: list[tuple[float, int, Entry, float]] = []  # with when it came to stand here
        self._busy: dict[str, deque[tuple[Entry, float]]] = {}
        self._attempts: dict[int, int] = {}
        self._writes: set[Write] = set()
        self._quiet = asyncio.Event()  # nothing is being written
        self._quiet.set()
        self._closing = False
        self._cancelled = False
        self._opening: asyncio.Task[None] | None = None
        self._is_open = False  # and may be written to
        self._is_held = False  # and has to be closed
        self._filling = False
        self.state = "connecting"
        self.detail = ""
        self.written = 0

    # --- open and close -------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the sink and begin to write."""
        self._opening = asyncio.create_task(self._open(), name=f"sink {self.spec.name}")

    async def _open(self) -> None:
        """Open the sink, trying again after 1 s, doubling to 60, half of it random, until it works."""
        attempt = 0
        while True:
            attempt += 1
            try:
                await self.sink.open()
            except Exception as error:  # noqa: BLE001 - a sink is code of others
                self.state, self.detail = "failing", f"{type(error).__name__}: {error}"
                log.warning('sink "%s" cannot open: %s', self.spec.name, self.detail)
                await self._clock.sleep(jittered(min(2.0 ** min(attempt - 1, 6), 60.0)))
            else:
                break
        self.state, self.detail = "running", ""
        self._is_open = self._is_held = True
        self._write_more()

    def _reopen(self, error: BaseException | None) -> None:
        """Open the sink anew when an error says that its connection is lost; what waits is not tried meanwhile."""
        errors = error.failures.values() if isinstance(error, PartialFailure) else (error,)
        if self._is_open and not self._closing and any(isinstance(one, ConnectionError) for one in errors):
            self._is_open = False
            self._opening = asyncio.create_task(self._reconnect(), name=f"sink {self.spec.name}")

    async def _reconnect(self) -> None:
        await self._quiet.wait()
        await self._let_go()
        await self._open()

    async def _let_go(self) -> None:
        """Close the sink, if it was opened; what does not end is left behind."""
        if self._is_held:
            self._is_held = False
            closing = asyncio.create_task(self.sink.close(), name=f"sink {self.spec.name}")
            await asyncio.wait({closing}, timeout=STUBBORN)
            self._tell_closing(closing)

    def adopt(self, spec: SinkSpec) -> None:
        """Go by new limits from now on."""
        self.spec = spec
        self._write_more()

    async def replace(self, spec: SinkSpec, sink: Sink) -> None:
        """Go on with another sink, queue and all: it is opened when the writes under way have ended and the present one is closed."""
        self.spec = spec
        await self._retire()
        self.sink = sink
        self.state, self.detail = "connecting", ""
        if not self._closing:
            self.start()

    def halt(self) -> None:
        """Start no further writes, for good."""
        self._closing = True

    async def leave(self) -> None:
        """Close the sink of a delivery that was halted, when the writes under way have ended."""
        await self._retire()

    async def _retire(self) -> None:
        """Return when the writes under way have ended, for which they have their timeout, and the sink is closed."""
        self._is_open = False
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening}, timeout=STUBBORN)
        await self._quiet.wait()
        self._opening = None
        await self._let_go()

    def _tell_closing(self, closing: asyncio.Task[None]) -> None:
        if closing.done() and not closing.cancelled() and closing.exception() is not None:
            log.warning('sink "%s" failed to close: %r', self.spec.name, closing.exception())

    async def close(self, grace: float = 0.0) -> None:
        """Give writes under way `grace` seconds, start no others, and close the sink; what swallows its end is left behind."""
        self._closing = True
        tasks = {write.task for write in self._writes if write.task is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        if self._opening is None:
            return
        self._cancelled = True
        closing = asyncio.create_task(self.sink.close(), name=f"sink {self.spec.name}")
        for task in (*tasks, self._opening):
            task.cancel()
        await asyncio.wait({*tasks, self._opening, closing}, timeout=STUBBORN)
        self._tell_closing(closing)

    # --- events come in -------------------------------------------------------------------------------

    def push(self, entry: Entry) -> None:
        """Take an event that is to be written, when it is due; when the window is full it is read again later."""
        if entry.seq > self._loaded:
            self._more = self._more or self.waiting >= self._window
            if self._more:
                self._missed = True
                return
        self._hold(entry)

    def resume(self) -> None:
        """Take up what waits in the journal, at start."""
        self._more = True
        self._feed_more()

    def fill(self, entries: Sequence[Entry], *, more: bool) -> None:
        """Take events that were asked for; `more` when there are others behind them."""
        self._loading = False
        self._more = more or self._missed
        for entry in entries:
            if entry.seq > self._loaded:
                self._hold(entry)
        self._feed_more()

    def _feed_more(self) -> None:
        if self._more and not self._loading and self.waiting <= self._window // 4:
            self._loading, self._missed = True, False
            self._feed(Shelf("sink", self.spec.name), self._loaded)

    def _hold(self, entry: Entry) -> None:
        self._loaded = max(self._loaded, entry.seq)
        step = entry.steps.get(self.spec.name)
        if step is not None and step.status == RETRYING:
            self._attempts[entry.seq] = step.attempts
            self._retry(entry, step.pause(self._clock.time()))
        elif not self._delayed.takes(entry):
            self._enqueue(entry)

    @property
    def waiting(self) -> int:
        """How many events wait, for their turn or another attempt, or are being written, of those in memory."""
        return len(self._attempts) + len(self._queue) + sum(len(write.batch) for write in self._writes) + sum(map(len, self._busy.values()))

    def live(self) -> dict[int, Status]:
        """Return by `seq` which events are being written, and which wait for their next attempt."""
        standing: dict[int, Status] = dict.fromkeys(self._attempts, RETRYING)
        standing.update((entry.seq, RUNNING) for write in self._writes for entry in write.batch)
        return standing

    # --- and are written ------------------------------------------------------------------------------

    def _enqueue(self, entry: Entry) -> None:
        heapq.heappush(self._queue, (entry.seq, entry.seq, entry, self._clock.time()))
        self._write_more()

    def _write_more(self) -> None:
        """Start writes while there are events and places for them."""
        while self._queue and self._has_place():
            if self.spec.batch > 1 and len(self._queue) < self.spec.batch and self.spec.batch_wait:
                if not self._filling:
                    self._filling = True
                    self._clock.call_later(self.spec.batch_wait, self._filled)
                return
            self._start_write()

    def _has_place(self) -> bool:
        return self._is_open and not self._closing and len(self._writes) < self.spec.concurrency

    def _filled(self) -> None:
        self._filling = False
        if self._queue and self._has_place():
            self._start_write()
        self._write_more()

    def _start_write(self) -> None:
        now = self._clock.time()
        batch = self._next_batch(now)
        self._feed_more()
        if not batch:
            return
        write = Write(batch, now)
        self._writes.add(write)
        self._quiet.clear()
        for entry in batch:
            self._mark(entry.seq)
        due = self._clock.monotonic() + self.spec.timeout
        write.timer = self._clock.call_later(self.spec.timeout, self._expire, write, due)
        write.task = asyncio.create_task(self._write(write), name=f"sink {self.spec.name}")

    def _next_batch(self, now: float) -> list[Entry]:
        """Return the next events, none of whose keys is being written; the others wait for their key."""
        batch: list[Entry] = []
        while self._queue and len(batch) < self.spec.batch:
            _, _, entry, since = heapq.heappop(self._queue)
            key = entry.event.key
            if key is not None:
                if key in self._busy:
                    self._busy[key].append((entry, since))
                    continue
                self._busy[key] = deque()
            note(entry, f'its turn at "{self.spec.name}"', now - since)
            batch.append(entry)
        return batch

    async def _write(self, write: Write) -> None:
        error: BaseException | None = None
        try:
            await self.sink.write([entry.event for entry in write.batch])
        except GeneratorExit:
            raise
        except BaseException as raised:  # noqa: BLE001 - a sink is code of others, and may raise anything
            if self._cancelled:
                for entry in write.batch:
                    self._unmark(entry.seq)
                return  # by the stop: it is neither done nor charged
            error = self._timed_out() if write.expired and isinstance(raised, asyncio.CancelledError) else raised
        self._settle(write, error)

    def _timed_out(self) -> StepTimeout:
        return StepTimeout(f'sink "{self.spec.name}" took longer than {self.spec.timeout:g} s')

    def _expire(self, write: Write, due: float) -> None:
        """Cancel a write that has used up its timeout; one that stood still with the process is given a little more, once."""
        if self._clock.monotonic() - due > LATE:
            write.timer = self._clock.call_later(LATE, self._expire, write, math.inf)
        elif not write.settled and write.task is not None:
            write.expired = True
            write.task.cancel()
            write.timer = self._clock.call_later(STUBBORN, self._leave_behind, write)

    def _leave_behind(self, write: Write) -> None:
        """Go on without a write that swallows its cancellation."""
        if not write.settled:
            log.error('sink "%s" did not stop when its timeout of %g s cancelled it; it is left behind', self.spec.name, self.spec.timeout)
            self._settle(write, self._timed_out())

    def _settle(self, write: Write, error: BaseException | None) -> None:
        """Take what came of a write: its events have ended, or are tried again."""
        if write.settled:
            return
        write.settled = True
        if write.timer is not None:
            write.timer.cancel()
        self._writes.discard(write)
        if not self._writes:
            self._quiet.set()
        named = error.failures if isinstance(error, PartialFailure) else None
        finished = self._clock.time()
        for entry in write.batch:
            self._unmark(entry.seq)
            number = self._attempts.pop(entry.seq, 0) + 1
            step = Step(self.spec.name, DONE, number, 0, write.started, finished)
            why = named.get(entry.event.id) if named is not None else None
            failure = error if named is None else PartialFailure({entry.event.id: why}) if isinstance(why, str) else why
            if failure is None:
                self.written += 1
                self.state, self.detail = "running", ""
                self._end(entry, step, failed=False)
            else:
                self._failed(entry, step, failure)
        self._reopen(error)
        self._write_more()
        self._feed_more()

    def _failed(self, entry: Entry, step: Step, failure: BaseException) -> None:
        step.error = error_of(failure)
        self.state, self.detail = "failing", f"{step.error.type}: {step.error.message}"
        if is_permanent(failure) or step.attempts > self.spec.retries:
            times = "1 attempt" if step.attempts == 1 else f"{step.attempts} attempts"
            log.error('sink "%s" gave up event %s after %s: %s', self.spec.name, entry.event.id, times, self.detail)
            step.status = FAILED
            self._end(entry, step, failed=True)
            return
        delay = backoff(self.spec, step.attempts, failure)
        step.status, step.due = RETRYING, step.finished + delay
        self._attempts[entry.seq] = step.attempts
        self._delivered(Outcome(entry=entry, steps=[step]), ended=False)
        note(entry, f'a retry of "{self.spec.name}"', delay)
        self._clock.call_later(delay, self._again, entry)

    def _retry(self, entry: Entry, delay: float) -> None:
        """Try an event again after `delay` seconds; until then it holds its key."""
        key = entry.event.key
        if key is not None and key in self._busy:
            self._busy[key].append((entry, self._clock.time()))
            return
        if key is not None:
            self._busy[key] = deque()
        self._clock.call_later(max(delay, 0.0), self._again, entry)

    def _again(self, entry: Entry) -> None:
        """Try an event again, before all others."""
        self._let_key_go(entry)
        heapq.heappush(self._queue, (float("-inf"), entry.seq, entry, self._clock.time()))
        self._write_more()

    def _end(self, entry: Entry, step: Step, *, failed: bool) -> None:
        self._let_key_go(entry)
        self._delivered(Outcome(entry=entry, steps=[step]), ended=True, failed=failed)

    def _let_key_go(self, entry: Entry) -> None:
        """Let the events that waited for the entry's key stand in the queue again."""
        if entry.event.key is not None:
            for other, since in self._busy.pop(entry.event.key, ()):
                heapq.heappush(self._queue, (other.seq, other.seq, other, since))
