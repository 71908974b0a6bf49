"""The keeper of resources: opens one when it is first used, keeps it, and closes it when it is out of date and unused.

Each resource that is open has a task, which lives as long as it does: what opened it closes it, as task groups and
cancel scopes want that. Attempts only wait for it. So one that is cancelled in the middle takes nothing with it: the
opening goes on for those who come next, bounded by the `timeout` of the resource. Sync ones are opened and closed
in threads of their own. A thread cannot be stopped: when it has opened at last what nobody waits for any more, it
is closed again.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import threading
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeVar

from runtime.contracts import Clock, Timer
from runtime.errors import ResourceError
from runtime.flow.failure import error_of, told
from runtime.resources import OWN, Lease, ResourceSpec
from runtime.threads import settle

log = logging.getLogger("runtime.resources")

T = TypeVar("T")

CLOSING = 5.0  # seconds that all resources together get to close at the stop
SWEEP = 1.0  # seconds between two looks at those that are out of date


class Held:
    """A resource that is open, or on the way there; `users` counts the leases and the other resources that hold it."""

    def __init__(self, spec: ResourceSpec, takes: Sequence[Held], before: Held | None) -> None:
        self.spec = spec
        self.name = f'the resource "{spec.name}" ({spec.where})'
        self.takes = takes
        self.before = before  # the one of the same spec that is being closed
        self.users = 0
        self.value: Any = None
        self.error: ResourceError | None = None
        self.settled = asyncio.Event()  # it is open, or cannot be
        self.unused = asyncio.Event()  # it is to be closed
        self.timer: Timer | None = None
        self.task: asyncio.Task[None]

    async def opened(self) -> Any:
        """Return the value when it is there.

        Raises:
            ResourceError: it cannot be opened.
        """
        await self.settled.wait()
        if self.error is not None:  # a new one for each: what is raised twice grows
            raise ResourceError(str(self.error)).with_traceback(self.error.__traceback__) from self.error.__cause__
        return self.value

    def fail(self, error: BaseException) -> None:
        """Tell those who wait that there will be no value."""
        if not isinstance(error, ResourceError):
            record = error_of(error)
            what = f"{record.type}: {record.message}" if record.message else record.type
            cause, error = error, ResourceError(f"{self.name} could not be opened: {what}").with_traceback(error.__traceback__)
            error.__cause__ = cause
        self.error = error
        self.settled.set()


class Keeper:
    """Opens, leases and closes resources; see above. All calls come from the loop.

    `is_wanted` tells whether something that is under way has yet to use a resource, so that one that is out of date
    is not closed in between.
    """

    def __init__(self, clock: Clock, is_wanted: Callable[[ResourceSpec], bool] = lambda _: False) -> None:
        self._clock = clock
        self._is_wanted = is_wanted
        self._present: Collection[ResourceSpec] = ()
        self._held: dict[ResourceSpec, Held] = {}
        self._tasks: dict[asyncio.Task[None], Held] = {}  # also of what is given up, and still has to end
        self._sweeper: Timer | None = None

    def adopt(self, present: Collection[ResourceSpec]) -> None:
        """Keep these from now on; all others are closed when they are not used any more."""
        self._present = frozenset(present)
        self._sweep()

    async def lease(self, specs: Sequence[ResourceSpec]) -> Lease:
        """Return the values of resources, opened if they are not; release the lease when they are not needed any more.

        Raises:
            ResourceError: one cannot be opened.
        """
        helds = [self._take(spec) for spec in specs]
        try:
            values = {held.spec.name: await held.opened() for held in helds}
        except BaseException:
            self._let_go(helds)
            raise
        return Lease(values, lambda: self._let_go(helds))

    async def close(self) -> None:
        """Close everything, what was opened last first; what hangs is named and left behind."""
        end = asyncio.get_running_loop().time() + CLOSING
        for held in reversed(list(self._held.values())):
            held.unused.set()
            if not held.settled.is_set():
                held.task.cancel()
            patience = (end - asyncio.get_running_loop().time()) / 2  # so that there is some left for each
            await asyncio.wait([held.task], timeout=patience)
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=end - asyncio.get_running_loop().time())
        for held in list(self._tasks.values()):
            self._leave_behind(held)
        if self._sweeper is not None:
            self._sweeper.cancel()

    # --- who holds what -------------------------------------------------------------------------------

    def _take(self, spec: ResourceSpec) -> Held:
        """Count one user more of a resource, which begins to open when it is not there."""
        held = self._held.get(spec)
        if held is None or held.unused.is_set():
            held = self._held[spec] = Held(spec, [self._take(one) for one in spec.takes], held)
            task = asyncio.get_running_loop().create_task(self._live(held), name=f"resource {spec.name}")
            held.task = task
            self._tasks[task] = held
            task.add_done_callback(self._ended)
            if spec not in self._present:
                self._sweep_later()
        held.users += 1
        return held

    def _let_go(self, helds: Sequence[Held]) -> None:
        for held in helds:
            held.users -= 1
            self._end_unused(held)

    def _end_unused(self, held: Held) -> None:
        if not held.users and held.spec not in self._present and not self._is_wanted(held.spec):
            held.unused.set()

    def _sweep(self) -> None:
        """Close what is out of date; look again later when some of it is still used."""
        self._sweeper = None
        for held in list(self._held.values()):
            self._end_unused(held)
        if any(spec not in self._present for spec in self._held):
            self._sweep_later()

    def _sweep_later(self) -> None:
        if self._sweeper is None:
            self._sweeper = self._clock.call_later(SWEEP, self._sweep)

    # --- the life of one ------------------------------------------------------------------------------

    async def _live(self, held: Held) -> None:
        """Open a resource, keep it open until it is to be closed, and close it."""
        spec = held.spec
        try:
            given = {one.spec.name: await one.opened() for one in held.takes}
            if spec.configured:
                given[OWN] = copy.deepcopy(dict(spec.settings))
            held.timer = self._clock.call_later(spec.timeout, self._expire, held)
            if held.before is not None:
                await asyncio.wait([held.before.task])
                held.before = None
            async with _made(spec, given) as value:
                held.timer.cancel()
                if held.error is None:
                    held.value = value
                    held.settled.set()
                    await held.unused.wait()
                held.timer = self._clock.call_later(spec.timeout, self._leave_behind, held)
        except BaseException as error:  # noqa: BLE001 - whatever it raises is its failure
            self._failed(held, error)
        finally:
            if held.timer is not None:
                held.timer.cancel()

    def _failed(self, held: Held, error: BaseException) -> None:
        """Take what a resource raised: it could not be opened, has ended by itself, or could not be closed."""
        self._drop(held)
        if not held.settled.is_set():
            held.fail(error)
        elif not held.unused.is_set() and held.error is None:
            log.error("%s has ended by itself, and is opened anew when it is needed: %s", held.name, told(error))
        elif not isinstance(error, asyncio.CancelledError):
            log.error("%s was closed with an error: %s", held.name, told(error))

    def _expire(self, held: Held) -> None:
        """Give up a resource that does not open; a thread goes on, and closes what it opens."""
        held.fail(ResourceError(f"{held.name} could not be opened: it took longer than its timeout of {held.spec.timeout:g} s"))
        self._drop(held)
        if held.spec.kind.startswith("async"):
            held.task.cancel()

    def _leave_behind(self, held: Held) -> None:
        """Give up a resource that does not close, or is still opening at the stop."""
        log.error("%s did not %s in time, and is left behind", held.name, "open" if held.error else "close")
        held.task.cancel()
        self._drop(held)

    def _ended(self, task: asyncio.Task[None]) -> None:
        held = self._tasks.pop(task)
        self._drop(held)
        if not held.settled.is_set():  # it was cancelled before it began
            held.fail(asyncio.CancelledError())
        self._let_go(held.takes)

    def _drop(self, held: Held) -> None:
        if self._held.get(held.spec) is held:
            del self._held[held.spec]


def _made(spec: ResourceSpec, given: dict[str, Any]) -> AbstractAsyncContextManager[Any]:
    """Return what opens a resource of any kind, and closes it."""
    if spec.kind == "async generator":
        return asynccontextmanager(spec.call)(**given)
    return _in_threads(spec, given) if spec.kind == "generator" else _returned(spec, given)


@asynccontextmanager
async def _in_threads(spec: ResourceSpec, given: dict[str, Any]) -> AsyncIterator[Any]:
    made = await _in_thread(lambda: contextmanager(spec.call)(**given), spec.name)
    value = await _in_thread(made.__enter__, spec.name)
    try:
        yield value
    finally:
        await _in_thread(lambda: made.__exit__(None, None, None), spec.name)


@asynccontextmanager
async def _returned(spec: ResourceSpec, given: dict[str, Any]) -> AsyncIterator[Any]:
    if spec.kind == "async":
        yield await spec.call(**given)
    else:
        yield await _in_thread(lambda: spec.call(**given), spec.name)


async def _in_thread(job: Callable[[], T], name: str) -> T:
    """Return what a job returns in a thread of its own."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    threading.Thread(target=settle, args=(future, job), name=f"resource-{name}", daemon=True).start()
    return await future
