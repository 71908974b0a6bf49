"""Batches: one call for several attempts of a function that has `batch`, by any of the executors.

Dispatch hands out attempts one by one, as for every function, so that order, keys and limits are its own matter: two
events of one key never run at the same time, and so never meet in a batch. Here the attempts of one function stand in a
row until `batch` of them are there or the first has waited for `batch_wait` seconds, and a call of the function is free
(`concurrency` counts calls). Then the parameters are bound for each of them; one whose data does not fit fails alone.
The function is called once with what is left, in a task of its own, and each attempt awaits its share of the answer. To
whatever looks at attempts they are as any others: each has its timeout, which begins with the call, its own retries and
its own record.

An attempt that is cancelled while the call is under way, by its timeout or by the stop, cancels the call, and ends when
that has ended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from runtime.contracts import Call, Clock, Executor
from runtime.errors import PartialFailure, StepTimeout

PATIENCE = 1.0  # seconds that a call which was cancelled and does not end keeps its place

Share = tuple[Any, BaseException | None]
"""What one attempt gets of an answer: its result, or what it raises."""


class Batch:
    """The attempts of one call, as an executor sees them; `columns` are the values of each getter in `Parameters.each`.

    Where an executor asks for one event, context or lease, it is that of the first.
    """

    __slots__ = ("calls", "columns", "context", "event", "expired", "function", "resources", "results", "state")

    def __init__(self, calls: Sequence[Call], columns: Sequence[list[Any]]) -> None:
        first = calls[0]
        self.calls = calls
        self.columns = columns
        self.function = first.function
        self.event, self.context, self.resources = first.event, first.context, first.resources
        self.results: dict[str, Any] = {}
        self.state: dict[str, Any] = {}
        self.expired = False


class _Member:
    """An attempt in the row: the task of its worker, and the future of its share."""

    __slots__ = ("batch", "call", "future", "since", "task", "told", "worker")

    def __init__(self, call: Call, since: float) -> None:
        self.call = call
        self.since = since
        self.worker = asyncio.current_task()
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        self.batch: Batch | None = None
        self.told = ""

    def settle(self, share: Share) -> None:
        if not self.future.done():
            result, error = share
            if error is None:
                self.future.set_result(result)
            else:
                self.future.set_exception(error)


class _Row:
    """The attempts of the functions of one name that wait, and the calls under way; both go on over generations."""

    __slots__ = ("calls", "filling", "members")

    def __init__(self) -> None:
        self.members: deque[_Member] = deque()
        self.calls: set[asyncio.Task[None]] = set()
        self.filling = False


class Batches:
    """Gathers attempts and calls once for many; see above.

    `executors` are by name as in `FunctionSpec.executor`; `begin` is told of each attempt, with the task that awaits it,
    when the call begins.
    """

    def __init__(self, clock: Clock, executors: Mapping[str, Executor], begin: Callable[[Any, asyncio.Task[Any]], None]) -> None:
        self._clock = clock
        self._executors = executors
        self._begin = begin
        self._rows: dict[str, _Row] = {}
        self._ending = False

    async def __call__(self, call: Call) -> Any:
        """Return the share of one attempt; see `runtime.contracts.Executor`.

        Raises:
            ValueError: the function has answered with something else than one result for each event.
        """
        member = _Member(call, self._clock.monotonic())
        row = self._rows.setdefault(call.function.name, _Row())
        row.members.append(member)
        self._call_more(row)
        try:
            return await member.future
        except asyncio.CancelledError:
            await self._abandon(row, member)
            raise asyncio.CancelledError(member.told) from None

    @property
    def waiting(self) -> int:
        """How many attempts wait for their batch to fill, or for a place."""
        return sum(len(row.members) for row in self._rows.values())

    def hurry(self) -> None:
        """Let no batch wait any longer: no more attempts will come."""
        self._ending = True
        for row in self._rows.values():
            self._call_more(row)

    def _call_more(self, row: _Row) -> None:
        """Begin calls while there are attempts and places for them."""
        while row.members and len(row.calls) < (function := row.members[0].call.function).concurrency:
            wait = row.members[0].since + function.batch_wait - self._clock.monotonic()
            if len(row.members) < function.batch and wait > 0 and not self._ending:
                if not row.filling:
                    row.filling = True
                    self._clock.call_later(wait, self._filled, row)
                return
            self._start(row)

    def _filled(self, row: _Row) -> None:
        row.filling = False
        self._call_more(row)

    def _start(self, row: _Row) -> None:
        """Begin one call with the first attempts that are of the same generation of the function."""
        function = row.members[0].call.function
        members: list[_Member] = []
        while row.members and len(members) < function.batch and row.members[0].call.function is function:
            member = row.members.popleft()
            if not member.future.done():
                members.append(member)
        rows = [_bound(member) for member in members]
        bound = [(member, values) for member, values in zip(members, rows, strict=True) if values is not None]
        if not bound:
            return
        members = [member for member, _ in bound]
        batch = Batch([member.call for member in members], [list(column) for column in zip(*(values for _, values in bound), strict=True)])
        task = asyncio.get_running_loop().create_task(self._call(batch, members), name=f"batch {function.name}")
        row.calls.add(task)
        task.add_done_callback(partial(self._ended, row))
        for member in members:
            member.task, member.batch = task, batch
            assert member.worker is not None
            self._begin(member.call, member.worker)

    def _ended(self, row: _Row, task: asyncio.Task[None]) -> None:
        row.calls.discard(task)
        self._call_more(row)

    async def _call(self, batch: Batch, members: Sequence[_Member]) -> None:
        function = batch.function
        try:
            shares = shares_of(batch, await self._executors[function.executor](batch))
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it raises is its failure
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                for member in members:
                    member.told = str(error)
                told = f"; {error}" if str(error) else ""
                error = StepTimeout(f'"{function.name}" took longer than {function.timeout:g} s{told}')
            shares = failures_of(batch, error)
        for member, share in zip(members, shares, strict=True):
            member.settle(share)

    async def _abandon(self, row: _Row, member: _Member) -> None:
        """Cancel the call of an attempt that was cancelled, once, and return when that has ended."""
        task = member.task
        if task is None or task.done():
            return
        if not task.cancelling():
            assert member.batch is not None
            member.batch.expired = member.call.expired
            task.cancel()
            self._clock.call_later(PATIENCE, self._ended, row, task)
        await asyncio.wait([task])


def _bound(member: _Member) -> list[Any] | None:
    """Return the values of an attempt by getter; None when its data does not fit, which is told."""
    try:
        return [get(member.call) for get in member.call.function.parameters.each]
    except Exception as error:  # noqa: BLE001 - the types are those of the user
        member.settle((None, error))
        return None


async def call_alone(executor: Executor, call: Call) -> Any:
    """Return what a function with `batch` answers to a batch of one, called at once.

    Raises:
        DataError: data or a result does not fit the annotation of a parameter.
        ValueError: the answer is not one result.
    """
    batch = Batch([call], [[get(call)] for get in call.function.parameters.each])
    try:
        ((result, error),) = shares_of(batch, await executor(batch))
    except PartialFailure as failure:
        ((result, error),) = failures_of(batch, failure)
    if error is not None:
        raise error
    return result


def shares_of(batch: Batch, answer: Any) -> list[Share]:
    """Return what each attempt of a batch gets of an answer.

    Raises:
        ValueError: the answer is neither None nor one result for each event.
    """
    count = len(batch.calls)
    if answer is None:
        return [(None, None)] * count
    if isinstance(answer, list | tuple) and len(answer) == count:
        return [(None, one) if isinstance(one, Exception) else (one, None) for one in answer]
    found = f"{len(answer)} results" if isinstance(answer, list | tuple) else f"a {type(answer).__name__}"
    raise ValueError(f'"{batch.function.name}" answered a batch of {count} events with {found}; return a list of {count} results, or None')


def failures_of(batch: Batch, error: BaseException) -> list[Share]:
    """Return what each attempt of a batch gets of what the function raised: by `PartialFailure` only those named fail."""
    if not isinstance(error, PartialFailure):
        return [(None, error)] * len(batch.calls)
    ids = [call.event.id for call in batch.calls]
    strange = sorted(str(id) for id in error.failures.keys() - set(ids))
    if strange:
        named = ", ".join(strange[:3])
        text = f'"{batch.function.name}" raised PartialFailure for events that are not in its batch ({named}); name them by event.id'
        return [(None, ValueError(text))] * len(batch.calls)
    return [(None, _failure(id, error.failures[id]) if id in error.failures else None) for id in ids]


def _failure(id: str, why: Any) -> Exception:
    """Return the error of one event: the one it was given, or one with its text."""
    is_error = isinstance(why, Exception) and not isinstance(why, StopIteration)  # which no future takes
    return why if is_error else PartialFailure({id: str(why)})
