"""The main loop: a pool of workers, each of which takes the next attempt and awaits it in place.

There is no task for each event. One worker drains what is ready; when its function suspends, the loop gets to
a callback that wakes the next worker, so that there are as many workers as attempts that suspend.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
from typing import Any

import msgspec

from runtime.codec import to_builtins
from runtime.contracts import Clock, Executor, Journal
from runtime.errors import DataError, HopLimit, Reject, Skip, StepTimeout
from runtime.executors.batch import Batches
from runtime.flow.dispatch import Dispatch
from runtime.flow.failure import LATE, STUBBORN, backoff, clean, error_of, is_permanent, told
from runtime.flow.intake import Intake
from runtime.flow.outcomes import Outcomes
from runtime.flow.run import Attempt
from runtime.function import Emission
from runtime.keeper import Keeper
from runtime.records import DONE, FAILED, RETRYING, SKIPPED, Entry, Outcome, Step

log = logging.getLogger("runtime.worker")

BREATH = 200  # attempts in a row before the loop gets to others
SCALARS = frozenset({type(None), bool})  # these are as they are; a number may be NaN, and text no Unicode


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
        self.executors = executors
        self.batches = Batches(clock, executors, self._arm_late)
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

    # --- the way of an attempt ------------------------------------------------------------------------

    async def _work(self) -> None:
        """Take attempts and run them until there are none, then wait to be woken."""
        count = 0
        while not self._stopping:
            attempt = self._dispatch.take()
            if attempt is None:
                await self._rest()
                count = 0
                continue
            self._follow()
            await self._try(attempt)
            if attempt.abandoned or contextvars.copy_context() != self._clean:
                self._wake_next()
                return  # it was replaced; or the function has set context variables, which the next event must not see
            count += 1
            if count % BREATH == 0:
                await asyncio.sleep(0)
            if self._outcomes.crowded:
                await self._outcomes.room()

    async def _try(self, attempt: Attempt) -> None:
        """Run one attempt and settle what came of it."""
        function = attempt.function
        try:
            result = await self._call(attempt)
            plain = plain_result(function.name, result)
            emissions = emissions_of(attempt, plain)
            emitted = self._intake.emitted(attempt.run.entry, function.name, emissions) if emissions else []
            if function.parameters.takes_state:
                attempt.state = _encoded(attempt.state, f'the state of "{function.name}"')
        except Skip as skip:
            self._settle(attempt, Step(function.name, SKIPPED, reason=clean(str(skip.reason))))
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - also SystemExit and the like fail only the step
            self._interrupted(attempt, error)
        else:
            self._settle(attempt, Step(function.name, DONE, result=plain), result, emitted)
        finally:
            if attempt.resources is not None:
                attempt.resources.release()
        if attempt.expired:
            _forget_cancellation()

    def _interrupted(self, attempt: Attempt, error: BaseException) -> None:
        """Take whatever an attempt raised: the stop gives it back, all else is its failure.

        Raises:
            CancelledError: by the stop, to end the worker.
        """
        if self._cancelled:
            self._give_back(attempt)
            raise error
        if isinstance(error, asyncio.CancelledError):
            _forget_cancellation()
            if attempt.expired:
                error = overrun(attempt, str(error))
        self._fail(attempt, error)

    async def _call(self, attempt: Attempt) -> Any:
        function = attempt.function
        if attempt.run.entry.hops > self.max_hops:
            raise HopLimit(f"more than max_hops = {self.max_hops} functions in a row have emitted on the way to this event")
        task = asyncio.current_task()
        assert task is not None
        mark = (attempt, task)
        self._unarmed.append(mark)
        try:
            if function.resources:
                attempt.resources = await self._keeper.lease(function.resources)
            if function.parameters.takes_state:
                attempt.state = await self._journal.state(function.name, attempt.event.key)
            executor = self.executors[function.executor] if function.batch == 1 else self.batches
            return await executor(attempt)
        finally:
            attempt.ended = True
            if self._unarmed and self._unarmed[-1] is mark:
                self._unarmed.pop()
            elif attempt.timer is not None:
                attempt.timer.cancel()

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
        outcome = Outcome(entry=run.entry, steps=steps, emitted=emitted or [])
        stateful = attempt.function.parameters.takes_state
        if stateful and step.status == DONE:
            outcome.state = (attempt.function.name, attempt.event.key, attempt.state)
        ended = run if not run.open else None
        if ended is not None:
            dispatch.forget(run)
        self._outcomes.add(outcome, run=ended, attempt=attempt if stateful else None)

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
        self._outcomes.add(Outcome(entry=run.entry, steps=[step]), attempt=attempt if stateful else None)

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
        suspended = False
        for attempt, task in self._unarmed:
            if not attempt.ended:
                suspended = True
                if attempt.function.batch == 1:
                    self._arm(attempt, task)
        self._unarmed.clear()
        if not self._dispatch.has_work():
            self._awake = False
        elif suspended:
            self._wake_next()

    def _arm(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        due = self._clock.monotonic() + attempt.function.timeout
        attempt.timer = self._clock.call_later(attempt.function.timeout, self._expire, attempt, task, due)

    def _arm_late(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        """Set the timer of an attempt that has waited for its batch."""
        attempt.context.deadline = self._clock.time() + attempt.function.timeout
        self._arm(attempt, task)

    def _expire(self, attempt: Attempt, task: asyncio.Task[None], due: float) -> None:
        """Cancel an attempt that has used up its timeout; one that stood still with the process is given a little more, once."""
        if attempt.ended:
            return
        if self._clock.monotonic() - due > LATE:
            attempt.timer = self._clock.call_later(LATE, self._expire, attempt, task, math.inf)
        else:
            attempt.expired = True
            task.cancel()
            attempt.timer = self._clock.call_later(STUBBORN, self._leave_behind, attempt, task)

    def _leave_behind(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        """Settle an attempt whose function swallows its cancellation; whatever it returns is ignored."""
        if attempt.ended:
            return
        function = attempt.function
        log.error(
            '"%s" (%s) did not stop when its timeout of %g s cancelled it; it is left behind',
            function.name,
            function.where,
            function.timeout,
        )
        attempt.abandoned = True
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


def _forget_cancellation() -> None:
    """Make the task of this worker as good as new: its cancellation was meant for the attempt."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


def overrun(attempt: Attempt, told: str = "") -> StepTimeout:
    """Return the error of an attempt that has used up its timeout; `told` is what its executor has to say."""
    function = attempt.function
    waiting = function.resources if attempt.resources is None else ()
    named = ", ".join(f'"{resource.name}" ({resource.where})' for resource in waiting)
    why = f", and waited for what it takes to open: {named}" if named else f"; {told}" if told else ""
    return StepTimeout(f'"{function.name}" took longer than {function.timeout:g} s{why}')


def plain_result(function: str, result: Any) -> Any:
    """Return a copy of what a function returned as plain data, as it is recorded.

    Raises:
        DataError: it cannot be encoded.
    """
    return result if type(result) in SCALARS else _encoded(result, f'the result of "{function}"')


def emissions_of(attempt: Attempt, result: Any) -> list[Emission]:
    """Return what an attempt emits, its (plain) result included, with data as plain as it will be after the journal.

    Raises:
        DataError: the data of an emission cannot be encoded.
        ValueError: there are more emissions than `max_emits`.
    """
    function = attempt.function
    if function.emits is not None and result is not None:
        attempt.context.emit(function.emits, result)
    if not attempt.emitted_any:
        return []
    return [_plain(function.name, emission) for emission in attempt.context.emitted]


def _plain(function: str, emission: Emission) -> Emission:
    if type(emission.data) in SCALARS:
        return emission
    data = _encoded(emission.data, f'the data of "{emission.type}" that "{function}" emits')
    return msgspec.structs.replace(emission, data=data)


def _encoded(value: Any, what: str) -> Any:
    """Return a copy of a value as plain data.

    Raises:
        DataError: it is no data; `what` names it.
    """
    try:
        return to_builtins(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"{what} cannot be encoded: {error}") from None
