"""The timeouts of attempts: each that suspends has a timer, which cancels it, and leaves it behind if that is swallowed."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from runtime.contracts import Clock
from runtime.errors import StepTimeout
from runtime.flow.failure import LATE, STUBBORN
from runtime.flow.run import Attempt

log = logging.getLogger("runtime.worker")


class Timeouts:
    """Sets the timers; `leave` takes an attempt that swallowed its cancellation, and the task that is lost with it."""

    def __init__(self, clock: Clock, leave: Callable[[Attempt, asyncio.Task[None]], None]) -> None:
        self._clock = clock
        self._leave = leave

    def arm(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        """Give an attempt that runs in a task the timeout of its function, from now on."""
        due = self._clock.monotonic() + attempt.function.timeout
        attempt.timer = self._clock.call_later(attempt.function.timeout, self._expire, attempt, task, due)

    def arm_late(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        """Set the timer of an attempt that has waited for its batch."""
        attempt.context.deadline = self._clock.time() + attempt.function.timeout
        self.arm(attempt, task)

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
        self._leave(attempt, task)


def overrun(attempt: Attempt, told: str = "") -> StepTimeout:
    """Return the error of an attempt that has used up its timeout; `told` is what its executor has to say."""
    function = attempt.function
    waiting = function.resources if attempt.resources is None else ()
    named = ", ".join(f'"{resource.name}" ({resource.where})' for resource in waiting)
    why = f", and waited for what it takes to open: {named}" if named else f"; {told}" if told else ""
    return StepTimeout(f'"{function.name}" took longer than {function.timeout:g} s{why}')
