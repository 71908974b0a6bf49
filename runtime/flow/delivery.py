"""Delivery: each sink has its own queue, in order per key, with its own retries.

It never holds up a run, a reply or a key of dispatch: it takes an event when that is accepted (or due) and
tells what came of it.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import deque
from typing import Protocol

from runtime.contracts import Clock, Sink
from runtime.errors import PartialFailure, StepTimeout
from runtime.flow.failure import backoff, error_of, is_permanent, jittered
from runtime.records import DONE, FAILED, RETRYING, RUNNING, Entry, Outcome, Status, Step
from runtime.specs import SinkSpec

log = logging.getLogger("runtime.delivery")


class Delivered(Protocol):
    """Takes what came of an attempt to deliver; `ended` when there will be no further one."""

    def __call__(self, outcome: Outcome, *, ended: bool, failed: bool = False) -> None:
        """Take an outcome."""


class Delivery:
    """The queue of one sink; `delivered` is told what came of each attempt."""

    def __init__(self, spec: SinkSpec, sink: Sink, clock: Clock, delivered: Delivered) -> None:
        self.spec = spec
        self.sink = sink
        self._clock = clock
        self._delivered = delivered
        self._queue: list[tuple[float, int, Entry]] = []
        self._busy: dict[str, deque[Entry]] = {}
        self._attempts: dict[int, int] = {}
        self._writers: set[asyncio.Task[None]] = set()
        self._writing: set[int] = set()
        self._closing = False
        self._opening: asyncio.Task[None] | None = None
        self._is_open = False
        self._filling = False
        self.state = "connecting"
        self.detail = ""
        self.written = 0

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
                await self._clock.sleep(jittered(min(2.0 ** (attempt - 1), 60.0)))
            else:
                break
        self.state, self.detail = "running", ""
        self._is_open = True
        self._write_more()

    async def close(self, grace: float = 0.0) -> None:
        """Give writes under way `grace` seconds, start no others, and close the sink."""
        self._closing = True
        writers = list(self._writers)
        if writers:
            await asyncio.wait(writers, timeout=grace)
        for writer in writers:
            writer.cancel()
        if self._opening is None:
            return
        self._opening.cancel()
        await asyncio.gather(self._opening, *writers, return_exceptions=True)
        try:
            await self.sink.close()
        except Exception as error:  # noqa: BLE001 - a sink is code of others
            log.warning('sink "%s" failed to close: %s: %s', self.spec.name, type(error).__name__, error)

    def push(self, entry: Entry) -> None:
        """Take an event that is to be written, when it is due."""
        wait = entry.due - self._clock.time() if entry.due else 0.0
        step = entry.steps.get(self.spec.name)
        if step is not None:
            self._attempts[entry.seq] = step.attempts
        if wait > 0:
            self._clock.call_later(wait, self._enqueue, entry)
        else:
            self._enqueue(entry)

    @property
    def waiting(self) -> int:
        """How many events wait or are being written."""
        return len(self._queue) + len(self._writing) + sum(map(len, self._busy.values()))

    def live(self) -> dict[int, Status]:
        """Return by `seq` which events are being written, and which wait for their next attempt."""
        standing: dict[int, Status] = dict.fromkeys(self._attempts, RETRYING)
        standing.update(dict.fromkeys(self._writing, RUNNING))
        return standing

    def _enqueue(self, entry: Entry) -> None:
        heapq.heappush(self._queue, (entry.rank, entry.seq, entry))
        self._write_more()

    def _write_more(self) -> None:
        """Start writers while there are events and places for them."""
        if not self._is_open or self._closing:
            return
        while self._queue and len(self._writers) < self.spec.concurrency:
            if self.spec.batch > 1 and len(self._queue) < self.spec.batch and self.spec.batch_wait:
                if not self._filling:
                    self._filling = True
                    self._clock.call_later(self.spec.batch_wait, self._filled)
                return
            self._start_writer()

    def _filled(self) -> None:
        self._filling = False
        if self._queue and len(self._writers) < self.spec.concurrency and not self._closing:
            self._start_writer()
        self._write_more()

    def _start_writer(self) -> None:
        batch = self._next_batch()
        if not batch:
            return
        writer = asyncio.create_task(self._write(batch), name=f"sink {self.spec.name}")
        self._writers.add(writer)
        writer.add_done_callback(self._written)

    def _written(self, writer: asyncio.Task[None]) -> None:
        self._writers.discard(writer)
        if not writer.cancelled() and writer.exception() is not None:
            log.error('sink "%s": the writer failed', self.spec.name, exc_info=writer.exception())
        self._write_more()

    def _next_batch(self) -> list[Entry]:
        """Return the next events, none of whose keys is being written; the others wait for their key."""
        batch: list[Entry] = []
        while self._queue and len(batch) < self.spec.batch:
            entry = heapq.heappop(self._queue)[2]
            key = entry.event.key
            if key is not None:
                if key in self._busy:
                    self._busy[key].append(entry)
                    continue
                self._busy[key] = deque()
            batch.append(entry)
        return batch

    async def _write(self, batch: list[Entry]) -> None:
        started = self._clock.time()
        self._writing.update(entry.seq for entry in batch)
        failures: dict[str, BaseException] = {}
        try:
            async with asyncio.timeout(self.spec.timeout):
                await self.sink.write([entry.event for entry in batch])
        except PartialFailure as partial:
            failures = {id: PartialFailure({id: why}) for id, why in partial.failures.items()}
        except TimeoutError:
            error = StepTimeout(f'sink "{self.spec.name}" took longer than {self.spec.timeout:g} s')
            failures = {entry.event.id: error for entry in batch}
        except Exception as error:  # noqa: BLE001 - a sink is code of others
            failures = {entry.event.id: error for entry in batch}
        finally:
            self._writing.difference_update(entry.seq for entry in batch)
        finished = self._clock.time()
        for entry in batch:
            number = self._attempts.pop(entry.seq, 0) + 1
            step = Step(self.spec.name, DONE, number, 0, started, finished)
            failure = failures.get(entry.event.id)
            if failure is None:
                self.written += 1
                self.state, self.detail = "running", ""
                self._end(entry, step, failed=False)
            else:
                self._failed(entry, step, failure)

    def _failed(self, entry: Entry, step: Step, failure: BaseException) -> None:
        step.error = error_of(failure)
        self.state, self.detail = "failing", f"{step.error.type}: {step.error.message}"
        if is_permanent(failure) or step.attempts > self.spec.retries:
            log.error('sink "%s" gave up event %s after %d attempts: %s', self.spec.name, entry.event.id, step.attempts, self.detail)
            step.status = FAILED
            self._end(entry, step, failed=True)
            return
        delay = backoff(self.spec, step.attempts)
        step.status, step.due = RETRYING, step.finished + delay
        self._attempts[entry.seq] = step.attempts
        self._delivered(Outcome(entry=entry, steps=[step]), ended=False)
        self._clock.call_later(delay, self._again, entry)

    def _again(self, entry: Entry) -> None:
        """Try an event again; it still holds its key."""
        if entry.event.key is not None:
            waiting = self._busy.pop(entry.event.key, deque())
            for other in waiting:
                heapq.heappush(self._queue, (other.rank, other.seq, other))
        heapq.heappush(self._queue, (float("-inf"), entry.seq, entry))
        self._write_more()

    def _end(self, entry: Entry, step: Step, *, failed: bool) -> None:
        key = entry.event.key
        if key is not None:
            for other in self._busy.pop(key, ()):
                heapq.heappush(self._queue, (other.rank, other.seq, other))
        self._delivered(Outcome(entry=entry, steps=[step]), ended=True, failed=failed)
