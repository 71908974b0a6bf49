"""The workers of one function, and the calls that wait for one of them."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from runtime.contracts import Call, Clock
from runtime.errors import WorkerDied
from runtime.executors.crossing import error_from, taken
from runtime.executors.frames import Broken, Reply, Task, ending_of, frame_of
from runtime.executors.workers import Waiting, Worker, fail
from runtime.executors.zygotes import GONE, Notice, Request, Zygotes, interpreter
from runtime.specs import FunctionSpec

log = logging.getLogger("runtime.process")

SLICE: Final = 0.001  # seconds of calls that are sent to one worker ahead
AHEAD: Final = 64  # calls that are sent ahead at most
SILENCE: Final = 0.02  # seconds without an answer after which the calls that were sent ahead are taken back
SOON: Final = 0.005  # seconds that calls may wait before another worker is started for them
IDLE: Final = 30.0  # seconds after which a worker that does nothing ends
STARTS: Final = 3  # workers in a row that die before they have done anything, until that is the fault of the function


class Pool:
    """The workers of one function as it was made by one generation, and the calls that wait for one."""

    def __init__(self, function: FunctionSpec, folder: Path, clock: Clock, zygotes: Zygotes) -> None:
        isolation = function.isolation
        assert isolation is not None, "only what was loaded from files can be isolated"
        self.function = function
        self.name = function.name
        process = isolation.process
        self.max_calls = process.max_calls or math.inf
        command = (*process.sandbox, *interpreter()) if process.sandbox or process.env else ()
        cwd = str(folder.absolute() / process.cwd) if process.cwd else ""
        self._request = Request(0, command, process.env, cwd, isolation.memory)
        self._clock = clock
        self._loop = asyncio.get_running_loop()  # to ask for it costs a call of the system
        self._zygotes = zygotes
        self._waiting: deque[Waiting] = deque()
        self.workers: list[Worker] = []
        self.outdated = False
        self._starting: set[asyncio.Task[None]] = set()
        self._deaths = 0  # in a row, of workers that have not done anything
        self._pace = math.inf  # seconds that a call takes: rises at once and falls slowly
        self._depth = 1
        self._looking = False
        self._closed = False

    # --- calls ----------------------------------------------------------------------------------------

    async def call(self, call: Call) -> Any:
        """Return what a call returns; see `runtime.contracts.Executor`."""
        waiting = Waiting(call, self._loop.create_future())
        self._waiting.append(waiting)
        self.feed()
        try:
            reply = await waiting.future
        except asyncio.CancelledError:
            self._abandon(waiting)
            raise
        return taken(call, reply)

    @property
    def busy(self) -> bool:
        """Whether there are calls that have not ended."""
        return bool(self._waiting) or any(worker.sent for worker in self.workers)

    def feed(self) -> None:
        """Give calls that wait to workers, and start more when that is not enough."""
        waiting, depth = self._waiting, self._depth
        while waiting:
            if waiting[0].future.done():
                waiting.popleft()
                continue
            for worker in self.workers:  # the one that was started first, so that the last ones become idle
                if worker.takes(depth):
                    break
            else:
                self._grow()
                return
            worker.send(waiting.popleft())
            if not self._looking and len(worker.sent) > 1:
                self._looking = True
                self._loop.call_later(SILENCE, self._look)

    def measure(self) -> None:
        """Decide how many calls are sent ahead, by what the last ones took."""
        self._depth = max(1, min(AHEAD, int(SLICE / max(self._pace, 1e-6))))

    def _grow(self) -> None:
        """Start workers for calls that wait, unless those there are will have done them before another is ready."""
        if self._closed:
            return
        staying = [worker for worker in self.workers if not worker.leaving]
        starting = sum(not worker.ready for worker in staying)
        able = sum(worker.ready and not worker.held for worker in staying)
        if able and self._pace * len(self._waiting) < able * SOON:
            return
        most = min(len(self._waiting), max(1, len(staying) - starting)) - starting
        for _ in range(min(most, self.function.concurrency - len(staying))):
            self.start()

    def _abandon(self, waiting: Waiting) -> None:
        for worker in self.workers:
            if worker.sent.get(waiting.number) is waiting:
                worker.abandon(waiting)

    def _look(self) -> None:
        """Take back what waits in workers that have answered nothing since the last look."""
        self._looking = False
        crowded = [worker for worker in self.workers if len(worker.sent) > 1 and not worker.held]
        for worker in crowded:
            head = next(iter(worker.sent))
            if worker.head == head:
                worker.hold()
            worker.head = head
        if crowded:
            self._looking = True
            self._loop.call_later(SILENCE, self._look)

    def give_back(self, calls: list[Waiting]) -> None:
        """Take calls that have not begun, for others to do."""
        self._waiting.extendleft(reversed(calls))
        self.feed()

    def replied(self, worker: Worker, waiting: Waiting, reply: Reply) -> None:
        """Take the answer to a call."""
        worker.useful = True
        self._deaths = 0
        seconds = reply.seconds
        self._pace = seconds if seconds > self._pace or self._pace == math.inf else (self._pace + seconds) / 2
        failure = reply.failure
        if failure is None:
            if not waiting.future.done():
                waiting.future.set_result(reply)
        else:
            fail(waiting, error_from(failure, self.function))
            if failure.kind == "MemoryError":
                worker.leaving = True  # what fills it will not go away
                worker.hold()
        if not worker.sent:
            worker.idle_since = self._clock.monotonic()
            if worker.leaving or worker.spent:
                worker.leave()

    # --- workers --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start another worker."""
        worker = Worker(self, self._zygotes)
        worker.idle_since = self._clock.monotonic()
        self.workers.append(worker)
        task = self._loop.create_task(self._start(worker), name=f"start a worker of {self.function.name}")
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _start(self, worker: Worker) -> None:
        try:
            assert self.function.isolation is not None
            await worker.start(frame_of(Task(self.function.isolation, logging.getLogger().level)), self._request)
        except Exception as error:  # noqa: BLE001 - no room for a process, or settings that are no data
            self.workers.remove(worker)
            worker.gone.set()
            why = f"{type(error).__name__}: {error}"
            self._fail_all(lambda: self._unable(f"{why}"))

    def broken(self, answer: Broken) -> None:
        """Take that a worker could not make the function: no other will."""
        line = answer.failure.line
        self._fail_all(lambda: self._unable(line))

    def died(self, worker: Worker, notice: Notice, culprit: Waiting | None, others: list[Waiting]) -> None:
        """Take the end of a worker: the call in the middle of which it died fails, others are done elsewhere."""
        self.workers.remove(worker)
        how = notice.error or ending_of(notice.status)
        if notice.status != GONE and notice.error:
            how = f"could not be started: {notice.error}"
        if culprit is not None:
            fail(culprit, self._death(how))
        expected = worker.leaving or worker.killed
        if not expected:
            log.warning('a worker process of "%s" (%s) %s', self.function.name, self.function.where, how)
        if not worker.useful and not worker.killed and culprit is None:
            self._deaths += 1
            if self._deaths >= STARTS:
                self._deaths = 0
                self._fail_all(lambda: self._unable(f"it {how} before it had done anything"))
        elif not worker.leaving and not self.outdated and not self._closed:
            self.start()  # there was work for it, and likely is
        self.give_back([one for one in others if not one.future.done()])

    def _fail_all(self, error: Callable[[], Exception]) -> None:
        waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            fail(one, error())

    def _death(self, how: str) -> WorkerDied:
        function = self.function
        limit = f"; its memory limit is {function.memory:,} bytes" if function.memory else ""
        return WorkerDied(f'the worker process of "{function.name}" ({function.where}) {how} in the middle of the call{limit}')

    def _unable(self, why: str) -> WorkerDied:
        function = self.function
        return WorkerDied(f'no worker process can be started for "{function.name}" ({function.where}): {why}')

    def retire(self) -> None:
        """Let workers end that nobody needs: idle ones or, when there is a newer pool, all that have nothing to do."""
        now = self._clock.monotonic()
        for worker in list(self.workers):
            if worker.ready and not worker.sent and not worker.leaving and (self.outdated or now - worker.idle_since >= IDLE):
                worker.leave()

    def close(self) -> None:
        """Let all workers end, and give up the calls that are left."""
        self._closed = True
        for waiting in [*self._waiting, *(one for worker in self.workers for one in worker.sent.values())]:
            waiting.future.cancel()
        self._waiting.clear()
        for worker in self.workers:
            if worker.sent:
                worker.kill()
            worker.leave()
