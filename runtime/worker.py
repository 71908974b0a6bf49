"""The main loop: a pool of workers, each of which takes the next attempt and awaits it in place.

There is no task for each event. One worker drains what is ready; when its function suspends, the loop gets to
a callback that wakes the next worker, so that there are as many workers as attempts that suspend.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from itertools import islice
from typing import Any

from runtime.contracts import Clock, Executor, Journal
from runtime.errors import DataError, HopLimit, Reject, Skip, StepTimeout
from runtime.executors.batch import Batches
from runtime.flow.burst import Burst
from runtime.flow.dispatch import Dispatch
from runtime.flow.failure import STUBBORN, backoff, clean, error_of, is_permanent, told
from runtime.flow.intake import Intake
from runtime.flow.lanes import Lane
from runtime.flow.outcomes import Noted, Outcomes
from runtime.flow.results import emissions_of, plain_data, plain_result
from runtime.flow.run import Attempt
from runtime.flow.waits import GRAIN
from runtime.keeper import Keeper
from runtime.records import DONE, FAILED, RETRYING, SKIPPED, Entry, Step
from runtime.timeouts import Timeouts, overrun

log = logging.getLogger("runtime.worker")

BREATH = 200  # attempts in a row before the loop gets to others


class Pool:
    """Workers that run the attempts which dispatch hands out; see above."""

    def __init__(  # noqa: PLR0913 - its neighbours, by name
        self,
        dispatch: Dispatch,
        outcomes: Outcomes,
        intake: Intake,
        journal: Journal,
        clock: Clock,
        executors: dict[str, Executor],
        keeper: Keeper,
        *,
        max_hops: int,
    ) -> None:
        self._dispatch = dispatch
        self._outcomes = outcomes
        self._intake = intake
        self._journal = journal
        self._clock = clock
        self._timeouts = Timeouts(clock, self._leave_behind)
        self.executors = executors
        self.batches = Batches(clock, executors, self._timeouts.arm_late)
        self._keeper = keeper
        self.max_hops = max_hops
        self._idle: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._clean = contextvars.copy_context()
        self._awake = False
        self._watching = False
        self._stopping = False
        self._cancelled = False
        self._unarmed: list[tuple[Attempt, asyncio.Task[None]]] = []
        self._burst: Burst | None = None  # what runs in place now; nothing of it is counted before it lands

    # --- the way of an attempt ------------------------------------------------------------------------

    async def _work(self) -> None:
        """Take attempts and run them until there are none, then wait to be woken."""
        count = 0
        while not self._stopping:
            self._land()  # what another worker began in place has suspended: count it before anything else starts
            taken = self._dispatch.take()
            if taken is None:
                await self._rest()
                count = 0
                continue
            self._follow()
            if isinstance(taken, Lane):
                attempt = await self._run_in_place(taken)
                count = BREATH
            else:
                attempt = taken
                await self._try(attempt)
                count += 1
            if (attempt is not None and attempt.abandoned) or contextvars.copy_context() != self._clean:
                self._wake_next()
                return  # it was replaced; or the function has set context variables, which the next event must not see
            if count >= BREATH:
                count = 0
                await asyncio.sleep(0)
            if self._outcomes.crowded:
                await self._outcomes.room()

    async def _try(self, attempt: Attempt) -> None:
        """Run one attempt and settle what came of it."""
        try:
            result = await self._call(attempt)
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - also SystemExit and the like fail only the step
            self._raised(attempt, error)
        else:
            self._returned(attempt, result)
        finally:
            if attempt.resources is not None:
                attempt.resources.release()
        if attempt.expired:
            _forget_cancellation()

    def _returned(self, attempt: Attempt, result: Any) -> None:
        """Take what an attempt returned, which may still be no data."""
        function = attempt.function
        try:
            plain = plain_result(function.name, result)
            emitted = self._emitted(attempt, attempt.run.entry, plain)
            if function.parameters.takes_state:
                attempt.state = plain_data(attempt.state, f'the state of "{function.name}"')
        except (DataError, ValueError) as error:
            self._fail(attempt, error)
        else:
            self._settle(attempt, Step(function.name, DONE, result=plain), result, emitted)

    def _emitted(self, call: Attempt | Burst, entry: Entry, plain: Any) -> list[Entry]:
        """Return the entries of what a function has emitted that returned `plain`.

        Raises:
            DataError: the data of an emission cannot be encoded.
            ValueError: there are more emissions than `max_emits`.
        """
        emissions = emissions_of(call, plain)
        return self._intake.emitted(entry, call.function.name, emissions) if emissions else []

    def _raised(self, attempt: Attempt, error: BaseException) -> None:
        """Take whatever an attempt raised: the stop gives it back, a skip is its end, all else its failure.

        Raises:
            CancelledError: by the stop, to end the worker.
        """
        if isinstance(error, Skip):
            self._settle(attempt, Step(attempt.function.name, SKIPPED, reason=clean(str(error.reason))))
            return
        if self._cancelled:
            self._give_back(attempt)
            raise error
        if isinstance(error, asyncio.CancelledError):
            _forget_cancellation()
            if attempt.expired:
                error = overrun(attempt, str(error))
        self._fail(attempt, error)

    # --- events that run in place ---------------------------------------------------------------------

    async def _run_in_place(self, lane: Lane) -> Attempt | None:
        """Run events of a lane to their end, one after the other, until one suspends or fails: its attempt is returned."""
        burst = self._burst = self._dispatch.burst(lane, current_task())
        done, time, copy_context, clean_context = self._outcomes.done, self._clock.time, contextvars.copy_context, self._clean
        generation, now = burst.generation, time()
        for entry in islice(burst.entries, BREATH):
            burst.entry, burst.event, burst.started, burst.steps, burst.results = entry, entry.event, now, [], {}
            burst.emitted = []
            if now - entry.accepted >= GRAIN or entry.due:
                self._dispatch.waited(entry, lane, now)
            try:
                if entry.hops:
                    self._check_hops(entry)
                for call, name, emits in lane.bound:
                    result = await call(burst)
                    if burst.attempt is not None:
                        return self._landed(burst.attempt, result)
                    plain = result if result is None else plain_result(name, result)
                    if emits is not None or burst.made is not None:
                        burst.emitted += self._emitted(burst, entry, plain)
                        burst.made = None
                    now = time()
                    burst.steps.append(Step(name, DONE, 1, generation, burst.started, now, plain))
                    burst.results[name] = result
                    burst.started = now
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001 - as above
                self._land()
                return self._landed(burst.attempt, error=error)
            done(entry, burst.steps, burst.emitted, now, burst.plan)
            if copy_context() != clean_context:
                break
        self._burst = None
        burst.entries.close()
        return None

    def _land(self) -> None:
        """Make the event that runs in place a run with an attempt like all others, if there is one."""
        burst, self._burst = self._burst, None
        if burst is None:
            return
        attempt = burst.attempt = self._dispatch.land(burst)
        burst.entries.close()
        if burst.steps:
            self._outcomes.add(Noted(entry=burst.entry, steps=burst.steps, emitted=burst.emitted), attempt.run)
        self._timeouts.arm(attempt, burst.task)

    def _landed(self, attempt: Attempt | None, result: Any = None, error: BaseException | None = None) -> Attempt:
        """Settle what came of an event that was begun in place."""
        assert attempt is not None
        self._end(attempt)
        if error is not None:
            self._raised(attempt, error)
        else:
            self._returned(attempt, result)
        if attempt.expired:
            _forget_cancellation()
        return attempt

    async def _call(self, attempt: Attempt) -> Any:
        function = attempt.function
        self._check_hops(attempt.run.entry)
        mark = (attempt, current_task())
        self._unarmed.append(mark)
        try:
            if function.resources:
                attempt.resources = await self._keeper.lease(function.resources)
            if function.parameters.takes_state:
                attempt.state = await self._journal.state(function.name, attempt.event.key)
            executor = self.executors[function.executor] if function.batch == 1 else self.batches
            return await executor(attempt)
        finally:
            if self._unarmed and self._unarmed[-1] is mark:
                self._unarmed.pop()
            self._end(attempt)

    @staticmethod
    def _end(attempt: Attempt) -> None:
        attempt.ended = True
        if attempt.timer is not None:
            attempt.timer.cancel()

    def _check_hops(self, entry: Entry) -> None:
        if entry.hops > self.max_hops:
            raise HopLimit(f"more than max_hops = {self.max_hops} functions in a row have emitted on the way to this event")

    def _settle(self, attempt: Attempt, step: Step, result: Any = None, emitted: list[Entry] | None = None) -> None:
        """Take an attempt that ends its step: start what comes after it, and have it recorded."""
        if attempt.settled:
            return  # it was left behind, and its step went on without it
        attempt.settled = True
        run, dispatch = attempt.run, self._dispatch
        step.attempts, step.generation, step.crashes = attempt.number, run.generation, run.entry.crashes
        step.started, step.finished = attempt.started, self._clock.time()
        steps, ready = run.finished(attempt.index, step, result)
        for index in ready:
            dispatch.ready(run, index)
        dispatch.ended(attempt)
        noted = Noted(entry=run.entry, steps=steps, emitted=emitted or [])
        if attempt.function.parameters.takes_state:
            noted.attempt = attempt
            if step.status == DONE:
                noted.state = (attempt.function.name, attempt.event.key, attempt.state)
        if not run.open:
            dispatch.forget(run)
        self._outcomes.add(noted, run)

    def _fail(self, attempt: Attempt, error: BaseException) -> None:
        """Take a failed attempt: try again later, or end the step."""
        if attempt.settled:
            return
        function, run = attempt.function, attempt.run
        failure = error_of(error)
        retries = function.retries if run.entry.retries is None else run.entry.retries
        failures = attempt.number - run.crashes(attempt.index)  # a crash uses up no retry
        if is_permanent(error) or failures > retries:
            level = logging.WARNING if isinstance(error, Reject) else logging.ERROR  # a rejection is an answer
            log.log(level, '"%s" failed for good on event %s: %s', function.name, attempt.event.id, told(error))
            self._settle(attempt, Step(function.name, FAILED, error=failure))
            return
        attempt.settled = True
        delay = backoff(function, failures, error)
        left = retries + 1 - failures
        text = '"%s" failed on event %s and is tried again in %.1f s, %d more at most: %s'
        log.warning(text, function.name, attempt.event.id, delay, left, told(error))
        now = self._clock.time()
        step = attempt.step(RETRYING, now, error=failure, due=now + delay)
        run.attempted[function.name] = attempt.number
        self._dispatch.retry(run, attempt.index, delay)
        self._dispatch.ended(attempt)
        stateful = function.parameters.takes_state
        self._outcomes.add(Noted(entry=run.entry, steps=[step], attempt=attempt if stateful else None), run)

    def _give_back(self, attempt: Attempt) -> None:
        """Take an attempt that was interrupted by the stop: it is not charged."""
        attempt.settled = True
        self._dispatch.ended(attempt)

    # --- waking, waiting, time ------------------------------------------------------------------------

    def wake(self) -> None:
        """See to it that somebody looks for work."""
        if not self._awake:
            self._wake_next()

    def _wake_next(self) -> None:
        if self._stopping:
            return
        self._awake = True
        while self._idle:
            future = self._idle.pop()
            if not future.done():
                future.set_result(None)
                return
        task = asyncio.get_running_loop().create_task(self._work(), name="worker", context=self._clean.copy())
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.critical("a worker died, which is a mistake of the runtime; another takes its place", exc_info=task.exception())
            self._wake_next()

    async def _rest(self) -> None:
        self._awake = False
        future = asyncio.get_running_loop().create_future()
        self._idle.append(future)
        await future

    def _follow(self) -> None:
        """Have the next worker woken in case the attempt suspends."""
        self._awake = True
        if not self._watching:
            self._watching = True
            asyncio.get_running_loop().call_soon(self._watch)

    def _watch(self) -> None:
        """Set the timers of attempts that have suspended and wake the next worker: the loop has got its turn.

        When nothing has suspended the worker only takes a breath, and goes on by itself.
        """
        self._watching = False
        suspended = self._burst is not None
        self._land()
        for attempt, task in self._unarmed:
            if not attempt.ended:
                suspended = True
                if attempt.function.batch == 1:
                    self._timeouts.arm(attempt, task)
        self._unarmed.clear()
        if not self._dispatch.has_work():
            self._awake = False
        elif suspended:
            self._wake_next()

    def _leave_behind(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        """Settle an attempt whose function swallows its cancellation; whatever it returns is ignored."""
        function = attempt.function
        self._tasks.discard(task)
        self._fail(attempt, StepTimeout(f'"{function.name}" took longer than {function.timeout:g} s and swallowed its cancellation'))
        self.wake()

    async def stop(self, grace: float) -> None:
        """Give running attempts `grace` seconds to end, then cancel them; nothing new is started."""
        self._stopping = True
        self.batches.hurry()
        for future in self._idle:
            future.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        self._cancelled = True
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STUBBORN)


def current_task() -> asyncio.Task[None]:
    """Return the task of this worker."""
    task = asyncio.current_task()
    assert task is not None
    return task


def _forget_cancellation() -> None:
    """Make the task of this worker as good as new: its cancellation was meant for the attempt."""
    task = current_task()
    while task.cancelling():
        task.uncancel()
