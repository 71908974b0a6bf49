"""Calls isolated functions in worker processes, which can be killed.

Each function has a pool of workers of its own, between none and its `concurrency`. A worker executes one call at a time,
so that it is always known whose fault its death is: that attempt fails, and no other. While calls take less than `SLICE`
seconds, as the worker tells, several are sent to it ahead, in one write; without that the way there and back would be
most of the time. One that turns out to be slow does not hold up those behind it: after `SILENCE` seconds they are taken
back (see `Mark`) and given to others. What was sent and had not begun when a worker dies is given to others, too, and
charged nothing.

A pool grows when calls wait and no worker is free, by as many at once as it has; workers that have been idle for `IDLE`
seconds end. A reload makes another pool only for what has changed, and the workers of the old one end after its last
call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from pathlib import Path
from typing import Any

from runtime.contracts import Call, Clock
from runtime.executors.pools import Pool
from runtime.executors.workers import LEAVING
from runtime.executors.zygotes import Zygotes
from runtime.specs import FunctionSpec


class Processes:
    """The pools of all isolated functions; `folder` is the one of the configuration file."""

    def __init__(self, clock: Clock, folder: Path) -> None:
        self._clock = clock
        self._folder = folder
        self._zygotes = Zygotes()
        self._pools: list[Pool] = []
        self._by_function: dict[int, tuple[FunctionSpec, Pool]] = {}
        self._sweeping = False

    def call(self, call: Call) -> Awaitable[Any]:
        """Return the awaitable of one call in a worker process; see `runtime.contracts.Executor`."""
        found = self._by_function.get(id(call.function))
        return (found[1] if found is not None else self._pool(call.function)).call(call)

    def adopt(self, functions: Iterable[FunctionSpec]) -> None:
        """Keep workers for these functions from now on; a worker of what has changed is replaced, after its last call."""
        functions = [one for one in functions if one.isolate]
        if functions:
            self._zygotes.start()
        warm = {pool.function.name for pool in self._pools if pool.workers}
        kept = [self._pool(function) for function in functions]
        for pool in self._pools:
            pool.outdated = pool not in kept
        for pool in kept:
            if pool.function.name in warm and not pool.workers:
                pool.start()
        self._sweep()

    def _pool(self, function: FunctionSpec) -> Pool:
        """Return the pool of a function, which is that of an earlier generation when nothing of it has changed."""
        pool = next((one for one in self._pools if one.function.isolation == function.isolation), None)
        if pool is None:
            pool = Pool(function, self._folder, self._clock, self._zygotes)
            self._pools.append(pool)
        pool.function = function
        self._by_function[id(function)] = (function, pool)
        if not self._sweeping:
            self._sweeping = True
            self._clock.call_later(1.0, self._sweep_again)
        return pool

    def _sweep_again(self) -> None:
        self._sweeping = False
        self._sweep()

    def _sweep(self) -> None:
        """End workers that nobody needs, and forget pools that are out of date and empty; look again while there are any."""
        for pool in list(self._pools):
            pool.retire()
            if pool.outdated and not pool.workers and not pool.busy:
                self._pools.remove(pool)
                self._by_function = {key: found for key, found in self._by_function.items() if found[1] is not pool}
        if not self._sweeping and any(pool.workers for pool in self._pools):
            self._sweeping = True
            self._clock.call_later(1.0, self._sweep_again)

    async def close(self) -> None:
        """End all workers; those that hang are killed."""
        for pool in self._pools:
            pool.close()
        ends = [asyncio.ensure_future(worker.gone.wait()) for pool in self._pools for worker in pool.workers]
        if ends:
            await asyncio.wait(ends, timeout=LEAVING)
            for end in ends:
                end.cancel()
        await self._zygotes.close()
