"""Outcomes: the one place that records what happened, and then lets go what waited for the record.

Outcomes gather while the last batch is being recorded, so that one record takes all there is: one at rest,
thousands under load. Everything that others may see happens after the record: emitted events are admitted,
callers get their result, the key and the place in the backlog are free.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

import msgspec

from runtime.contracts import Clock, Journal
from runtime.errors import JournalError, RunFailed, Stopping
from runtime.flow.run import Attempt, Run, reply
from runtime.graph import Plan
from runtime.records import DEAD, DONE, ENDED, FAILED, SKIPPED, Entry, Outcome, Status, Step, undelivered

log = logging.getLogger("runtime.outcomes")

RUN = ""  # the part of an event that is its run; others are called as their sinks

MANY = 10_000  # outcomes that may wait for their record before workers have to


class Noted(Outcome, gc=False, kw_only=True):
    """An outcome of a run: the plan of which all functions have ended by it, and the attempt whose state it records, if any.

    `plain`: nothing follows the record but what somebody waits for.
    """

    plan: Plan | None = None
    attempt: Attempt | None = None
    plain: bool = False


class Parts(msgspec.Struct):
    """What has still to end before an event does (its run, and sinks by name), and whether anything has failed.

    `noted` counts the ends that are not recorded yet: when there are none, the record of the event tells the same.
    """

    left: set[str]
    failed: bool
    noted: int = 0


class Outcomes:
    """Records outcomes in order and in batches; see above.

    `admit` takes emitted entries, `death` makes the entries that tell of a dead letter, `release` takes each entry
    whose functions have ended, `recorded` each attempt of a function with state, `tell` each outcome with the plan it
    has ended, `lost` is called when the journal has failed.
    """

    def __init__(  # noqa: PLR0913 - its neighbours, by name
        self,
        journal: Journal,
        clock: Clock,
        *,
        admit: Callable[[Sequence[Entry]], None],
        death: Callable[[Outcome], list[Entry]],
        release: Callable[[Entry], None],
        recorded: Callable[[Attempt], None],
        tell: Callable[[Outcome, Plan | None], None] | None = None,
        ended: Callable[[], None],
        lost: Callable[[JournalError], None],
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._admit = admit
        self._death = death
        self._release = release
        self._recorded = recorded
        self.tell = tell
        self._ended = ended
        self._lost = lost
        self._pending: list[Outcome] = []
        self._awake = asyncio.Event()
        self._failure: JournalError | None = None
        self._calm = asyncio.Event()
        self._calm.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._busy = False
        self._parts: dict[int, Parts] = {}
        self._ends: dict[int, asyncio.Future[None]] = {}
        self._callers: dict[int, tuple[Entry, list[asyncio.Future[object]]]] = {}

    # --- what ends an event ---------------------------------------------------------------------------

    def begun(self) -> list[int]:
        """Return the entries of which something has ended and something has not, while that is being recorded."""
        return list(self._parts)

    def _end_part(self, entry: Entry, part: str, *, failed: bool) -> Status | None:
        """Return the status of the event when its last part ends now, else None."""
        if entry.status in ENDED:
            return None  # it was ended as a whole meanwhile
        if not entry.sinks:
            return DEAD if failed else DONE
        parts = self._parts.get(entry.seq)
        if parts is None:
            left = {*undelivered(entry), *(() if entry.ran else (RUN,))}
            parts = Parts(left, any(step.status == FAILED for step in entry.steps.values()))
        parts.left.discard(part)
        parts.failed = parts.failed or failed
        if parts.left:
            parts.noted += 1
            self._parts[entry.seq] = parts
            return None
        self._parts.pop(entry.seq, None)
        return DEAD if parts.failed else DONE

    # --- outcomes come in -----------------------------------------------------------------------------

    def skipped(self, run: Run, steps: list[Step]) -> None:
        """Take steps that a run which was taken up has to skip; or its end, when nothing of it is left."""
        self.add(Noted(entry=run.entry, steps=steps), run)

    def add(self, noted: Noted, run: Run) -> None:
        """Take an outcome of a run."""
        if not run.open:
            noted.plan = run.plan
            noted.ran = True
            failed = any(step.status == FAILED for step in run.steps.values())
            self._finish(noted, self._end_part(noted.entry, RUN, failed=failed))
        self._note(noted)

    def done(self, entry: Entry, steps: list[Step], emitted: list[Entry], at: float, plan: Plan) -> None:
        """Take the steps by which all functions of an event have ended well."""
        plain = not emitted and entry.event.key is None
        noted = Noted(entry=entry, steps=steps, emitted=emitted, status=DONE, at=at, ran=True, plan=plan, plain=plain)
        if entry.sinks:
            noted.plain = False
            self._finish(noted, self._end_part(entry, RUN, failed=False))
        self._note(noted)

    def delivered(self, outcome: Outcome, *, ended: bool, failed: bool = False) -> None:
        """Take an outcome of a delivery to a sink; `ended` when there will be no further attempt."""
        if ended:
            outcome.delivered = outcome.steps[0].function
            self._finish(outcome, self._end_part(outcome.entry, outcome.delivered, failed=failed))
        self._note(outcome)

    def removed(self, entry: Entry, sink: str) -> None:
        """Skip the delivery to a sink that is not configured any more."""
        step = Step(sink, SKIPPED, reason="the sink was removed from the configuration")
        self.delivered(Outcome(entry=entry, steps=[step]), ended=True)

    def end(self, entry: Entry, status: Status, reason: str = "") -> None:
        """End an event as a whole, whatever of it is left."""
        self._parts.pop(entry.seq, None)
        outcome = Outcome(entry=entry, reason=reason)
        self._finish(outcome, status)
        self._note(outcome)

    def _finish(self, outcome: Outcome, status: Status | None) -> None:
        outcome.status = status
        if status is not None:
            outcome.at = self._clock.time()
        if status == DEAD:
            outcome.emitted = [*outcome.emitted, *self._death(outcome)]

    def _note(self, outcome: Outcome) -> None:
        self._pending.append(outcome)
        if not self._busy:
            self._wake()

    def _wake(self) -> None:
        self._busy = True
        self._idle.clear()
        self._awake.set()

    @property
    def crowded(self) -> bool:
        """Whether workers should wait for `room`."""
        return len(self._pending) >= MANY

    async def room(self) -> None:
        """Return when the journal has taken what is there."""
        self._calm.clear()
        await self._calm.wait()

    async def settled(self) -> None:
        """Return when everything that came in is recorded.

        Raises:
            JournalError: the journal has failed, and it is not.
        """
        await self._idle.wait()
        if self._failure is not None:
            raise self._failure

    # --- and are recorded -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Record what comes in, until cancelled."""
        while True:
            await self._awake.wait()
            self._awake.clear()
            while self._pending:
                batch, self._pending = self._pending, []
                self._calm.set()
                try:
                    await self._journal.record(batch)
                except Exception as error:  # noqa: BLE001 - whatever it is, nothing may be said to be recorded
                    self._fail(batch, error)
                    return
                is_quiet = not self._ends and not self._callers and self.tell is None
                for outcome in batch:
                    if is_quiet and type(outcome) is Noted and outcome.plain:
                        continue
                    try:
                        self._let_go(outcome)
                    except Exception:
                        log.exception("an outcome is recorded, but what follows it failed: a mistake of the runtime")
                self._ended()
            self._busy = False
            self._idle.set()

    def _fail(self, batch: list[Outcome], error: Exception) -> None:
        """Record nothing any more; what was not recorded is done again after a restart."""
        self._pending = batch + self._pending
        self._calm.set()
        self._idle.set()
        self._failure = error if isinstance(error, JournalError) else JournalError(f"{type(error).__name__}: {error}")
        self._lost(self._failure)

    def _let_go(self, outcome: Outcome) -> None:
        entry = outcome.entry
        if outcome.emitted:
            self._admit([emitted for emitted in outcome.emitted if emitted.seq])
        if self._ends and outcome.status in ENDED:
            end = self._ends.pop(entry.seq, None)
            if end is not None and not end.done():
                end.set_result(None)
        if outcome.status is None and (outcome.ran or outcome.delivered):
            self._forget_part(entry)
        if type(outcome) is Noted:
            self._let_go_of_run(outcome, entry)
        elif self.tell is not None:
            self.tell(outcome, None)

    def _let_go_of_run(self, noted: Noted, entry: Entry) -> None:
        if noted.attempt is not None:
            self._recorded(noted.attempt)
        if noted.plan is not None:
            for future in self._callers.pop(entry.seq, (None, ()))[1]:
                answer(future, entry, noted.plan)
            if entry.event.key is not None:
                self._release(entry)
        if self.tell is not None:
            self.tell(noted, noted.plan)

    def _forget_part(self, entry: Entry) -> None:
        """Keep nothing of an event that only waits, for a sink say: there may be millions."""
        parts = self._parts.get(entry.seq)
        if parts is not None:
            parts.noted -= 1
            if not parts.noted:
                del self._parts[entry.seq]

    # --- callers --------------------------------------------------------------------------------------

    def wait_for(self, entry: Entry) -> asyncio.Future[object]:
        """Return a future of the result of the run of an entry, set when that is recorded."""
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._callers.setdefault(entry.seq, (entry, []))[1].append(future)
        return future

    async def all_ended(self, entries: Iterable[Entry]) -> None:
        """Return when all the entries have ended, functions and sinks."""
        loop = asyncio.get_running_loop()
        for entry in entries:
            if entry.status not in ENDED:
                await asyncio.shield(self._ends.setdefault(entry.seq, loop.create_future()))

    def give_up(self, entry: Entry, future: asyncio.Future[object]) -> None:
        """Forget a caller that waits no longer."""
        _, waiting = self._callers.get(entry.seq, (entry, []))
        if future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._callers[entry.seq]

    def refuse_callers(self) -> None:
        """Tell all who wait for a result that it will not come from this process."""
        for entry, waiting in self._callers.values():
            for future in waiting:
                if not future.done():
                    future.set_exception(Stopping(entry.event.id))
        self._callers.clear()


def answer(future: asyncio.Future[object], entry: Entry, plan: Plan) -> None:
    """Give a caller the result of a run, which is recorded, or its failure."""
    if future.done():
        return
    try:
        future.set_result(reply(entry, plan, entry.steps))
    except RunFailed as failure:
        future.set_exception(failure)
