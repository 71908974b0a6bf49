"""The contracts between the runtime and its exchangeable parts: sources, sinks, journals, executors, clocks.

Each says what is guaranteed and what is not. First-party connectors implement the same classes as
anyone's, and every implementation passes the suite of its contract in `runtime.testing`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol, Self

import msgspec

from runtime import parameters, pattern
from runtime.errors import Fault, JournalError
from runtime.event import Event
from runtime.records import DEAD, FAILED, Entry, Outcome, Shelf, Status, Step
from runtime.resources import Lease
from runtime.settings import JournalSettings
from runtime.specs import FunctionSpec


class NoOptions(msgspec.Struct, forbid_unknown_fields=True):
    """The options of a plugin that has none."""


class Timer(Protocol):
    """A call that is due later and can be taken back."""

    def cancel(self) -> None:
        """Take the call back; harmless when it has been made."""


class Clock(Protocol):
    """The time, injected so that tests need not sleep; all in seconds."""

    def time(self) -> float:
        """Return Unix time (UTC)."""

    def monotonic(self) -> float:
        """Return a time that never goes back."""

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call `callback(*args)` on the loop after `delay` seconds."""

    async def sleep(self, delay: float) -> None:
        """Return after `delay` seconds."""


class Inlet(Protocol):
    """What a source is given to bring events in."""

    @property
    def cursor(self) -> Any:
        """The last cursor recorded for this source (anything JSON can say), or None."""

    async def put(self, events: Event | Sequence[Event], *, cursor: Any = None, wait: bool = True) -> list[str]:
        """Return the ids of the events when the journal has them: only then acknowledge upstream.

        Waits while the runtime is full; that is the backpressure. With `wait=False` it raises instead.
        An event without an id or a time is given them. An event whose source and id were accepted
        within `dedupe` seconds joins the first. A `Malformed` is a dead letter at once. `cursor` is
        recorded with the last event, or alone when `events` is empty.

        Raises:
            Full: `wait` is False and `max_backlog` events are waiting.
            JournalError: the journal cannot be written; nothing was accepted.
        """

    async def call(self, event: Event, *, timeout: float | None = None, retries: int = 0) -> Any:  # noqa: ASYNC109 - a promise to the caller
        """Accept the event, wait for its functions and return the result of the run.

        The result is that of the one leaf, a dict by leaf name when there are several, or None. Failed
        steps are tried `retries` more times: the caller is the retry policy. `timeout` is in seconds.

        Raises:
            NotRouted: no function handles the type (`removed`: any more); nothing was accepted.
            DataError: the data fits no root function; nothing was accepted.
            Full: `max_backlog` events are waiting; nothing was accepted.
            RunFailed: a step failed; the event is a dead letter.
            ResultTimeout: no result in time; the run goes on.
            JournalError: the journal cannot be written; nothing was accepted.
        """


class Source(ABC):
    """Brings events in. `acknowledges = True` makes `put` wait for the end of each event on a journal in memory.

    `options` is an instance of the class's `Options`, `name` that of the table `[sources.NAME]`, `folder` the one of
    the configuration file, which paths in options are relative to, `clock` tells the time and waits (a test has one that
    stands still). A source that never ends by itself sets `finite = False`: `run --once` does not wait for it. One that
    needs nothing but the clock sets `offline = True`: tests run it, too.
    """

    Options: ClassVar[type[msgspec.Struct]] = NoOptions
    acknowledges: ClassVar[bool] = False
    offline: ClassVar[bool] = False
    finite: bool = True
    folder: Path = Path()
    clock: Clock

    def __init__(self, name: str, options: Any) -> None:
        self.name = name
        self.options = options
        self.log = logging.getLogger(f"sources.{name}")

    async def open(self) -> None:
        """Connect; called once before `run`, and again after each time `run` has raised."""

    @abstractmethod
    async def run(self, inlet: Inlet) -> None:
        """Bring events in until there are no more, or for ever.

        Returning means that the source has ended. Raising means try again later: the host restarts it
        after 1 s, doubling to 60 s, half of it random. Cancelled means stop.
        """

    async def close(self) -> None:
        """Let go of what `open` took; called once after `run`, however that ended."""

    def reconfigure(self, options: Any) -> bool:  # noqa: ARG002 - for those that can
        """Take new options while running, and return True; False: stop me, and start another with the new ones.

        They are checked: another source was made of them. What is under way ends on the old ones.
        """
        return False

    def address(self) -> str | None:
        """Return where the source listens, as text for people, or None when it does not."""
        return None


class Sink(ABC):
    """Takes events out; `options`, `name`, `folder` and `clock` are as for a `Source`."""

    Options: ClassVar[type[msgspec.Struct]] = NoOptions
    folder: Path = Path()
    clock: Clock

    def __init__(self, name: str, options: Any) -> None:
        self.name = name
        self.options = options
        self.log = logging.getLogger(f"sinks.{name}")

    async def open(self) -> None:
        """Connect; called once before the first `write`, and again, after `close`, when `write` has raised a ConnectionError."""

    @abstractmethod
    async def write(self, events: list[Event]) -> None:
        """Take the events, in order; return when they are safe.

        Raises:
            PartialFailure: only the events it names failed, and are tried again, or what the error it has for one means.
            Reject: the events are refused for good, and not tried again.
            Unavailable: all the events are tried again, but not before `retry_after` seconds.
            ConnectionError: all the events are tried again, once the sink was closed and opened anew.
            Exception: any other; all the events are tried again.
        """

    async def close(self) -> None:
        """Let go of what `open` took; called once after the last `write`, and before it is opened anew."""


class Call(parameters.Call, Protocol):
    """One attempt of a step, as an executor sees it; `expired`: it is cancelled because its timeout has passed."""

    expired: bool
    function: FunctionSpec
    resources: Lease | None


class Executor(Protocol):
    """How a function is called: on the loop, in a thread, elsewhere."""

    def __call__(self, call: Call) -> Awaitable[Any]:
        """Bind the parameters and return the awaitable of one call; cancelling it abandons the call.

        The CancelledError that it raises then may carry a text, which is told with the timeout: where the call hangs.
        An executor that cannot stop an abandoned call shares its lease until the call has ended.
        What a generator yields is emitted through the context of the call, and its result is None.

        Raises:
            DataError: data or a result does not fit the annotation of a parameter.
        """


class Handlers(ABC):
    """Functions that are written for another system: which ones a file has, and how one is called.

    A handler is found in a file or named by `[functions.NAME] handler`, and is a function like any other then.
    """

    def find(self, module: ModuleType) -> Mapping[str, Callable[..., Any]]:  # noqa: ARG002 - for those that can
        """Return the handlers of a loaded file that nobody has to name, by the name that their function gets."""
        return {}

    @abstractmethod
    def adapt(self, handler: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any] | None:
        """Return a new function that calls a handler and is written as for `@function`; None: the handler is of another kind.

        `options` are those of its table `[functions.NAME]`.

        Raises:
            ValueError: it is of this kind and cannot be called; the text says why, and what to do.
        """


Convention = Callable[[ModuleType], object] | Handlers
"""Another way to write functions: declares what it finds in a loaded file, by `function(…)`, or knows handlers."""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries to list: all conditions hold at once; `type` is a pattern, `before` a `seq` to go on below."""

    status: tuple[Status, ...] = ()
    type: str | None = None
    function: str | None = None
    error: str | None = None
    before: int | None = None
    limit: int = 100

    def takes(self, entry: Entry) -> bool:
        """Return whether an entry is one that is asked for."""
        if self.before is not None and entry.seq >= self.before:
            return False
        if self.status and entry.status not in self.status:
            return False
        if self.type is not None and not pattern.matches(self.type, entry.event.type):
            return False
        if self.function is None and self.error is None:
            return True
        return any(self._means(step) for step in entry.steps.values())

    def _means(self, step: Step) -> bool:
        """Return whether a step is the one that is named; with an error, or for dead letters, that is the failed one."""
        if self.function is not None and step.function != self.function:
            return False
        if self.error is not None:
            return step.error is not None and step.error.type == self.error
        return self.status != (DEAD,) or step.status == FAILED


class Counts(msgspec.Struct, kw_only=True):
    """How many entries there are by status; `open` ones are queued, running or retrying."""

    open: int = 0
    done: int = 0
    dead: int = 0
    discarded: int = 0
    unrouted: int = 0
    duplicates: int = 0

    @property
    def accepted(self) -> int:
        """All events that were accepted and are still there."""
        return self.open + self.done + self.dead + self.discarded + self.unrouted


class Journal(ABC):
    """Where events and the outcomes of their steps are recorded.

    It knows no functions, and no order but that of acceptance, by shelf. All calls come from one loop; a journal
    that commits elsewhere groups the calls under way into one commit. Appends, records and reads of shelves take
    effect, and are answered, in the order of the calls. An entry that is in memory is always handed out as the
    same object. `persistent` tells whether entries survive the process, `faults` what is wrong though it works.
    """

    persistent: ClassVar[bool]

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: JournalSettings, clock: Clock, *, folder: Path, lost: Callable[[JournalError], None]) -> Self:
        """Return the journal that `[journal]` describes, not open.

        Paths in its `url` are relative to `folder`; `lost` is to be called when nothing can be recorded any more.

        Raises:
            ValueError: its `url` is not what the journal takes; the text says what was expected.
        """

    @property
    def faults(self) -> list[Fault]:
        """What is wrong though it works."""
        return []

    def reconfigure(self, settings: JournalSettings) -> bool:  # noqa: ARG002 - for those that can
        """Take new `keep`, `max_bytes` and `dedupe` while open; return whether that was done, which is not promised."""
        return False

    @abstractmethod
    async def open(self) -> None:
        """Make ready.

        Raises:
            JournalError: it cannot be opened, is locked by another process, or damaged; it is left untouched.
        """

    @abstractmethod
    async def close(self) -> None:
        """Write what is under way and let go."""

    @abstractmethod
    async def append(
        self,
        entries: Sequence[Entry],
        *,
        cursor: tuple[str, Any] | None = None,
        then: Callable[[Sequence[Entry], list[Entry]], None] | None = None,
    ) -> list[Entry]:
        """Accept entries, all or none, and return when they are safe; a caller that is cancelled takes nothing back.

        Gives each its `seq`, and an event without an id its uid as id. The answer has one entry for each
        of `entries`: the same object when it is new, the first one when an entry of the same source and
        id has not ended or was accepted within `dedupe` seconds (only entries with `looked_up`). `cursor`,
        the name of a source and where it goes on, is recorded in the same step. `then` is called with the entries and
        the answer before anybody else is answered, and also when the caller has been cancelled.

        Raises:
            JournalError: nothing was accepted.
        """

    @abstractmethod
    async def record(self, outcomes: Sequence[Outcome]) -> None:
        """Record outcomes in order, all or none, and return when they are safe.

        Emitted entries get their `seq` and are accepted by the same record; one whose source and id were
        accepted before gets `seq` 0 and is dropped. The steps of an entry are those recorded last by name.

        Raises:
            JournalError: nothing was recorded.
        """

    @abstractmethod
    async def shelves(self) -> list[Shelf]:
        """Return the lanes and sinks for which entries wait."""

    @abstractmethod
    async def read(self, shelf: Shelf, *, after: int = 0, limit: int = 1000) -> list[Entry]:
        """Return the waiting entries of a shelf with a `seq` above `after`, in its order."""

    @abstractmethod
    async def read_due(self, after: tuple[float, int], until: float, *, limit: int = 1000) -> list[Entry]:
        """Return the delayed entries that have not begun by `(due, seq)`: those behind `after`, due not later than `until`."""

    @abstractmethod
    async def waiting(self) -> int:
        """Return how many entries wait in lanes or are delayed."""

    def mark(self, seq: int) -> None:
        """Note that an entry is executing; if the process dies now, `crashes` of the entry counts one more. Takes no time."""

    def unmark(self, seq: int) -> None:
        """Note that an entry is not executing any more."""

    def unmark_all(self) -> None:
        """Charge nothing to what executes now, though the process ends in the middle of it."""

    @abstractmethod
    async def find(self, id: str) -> list[Entry]:
        """Return the entries with this uid or event id, the newest first; empty when there are none."""

    @abstractmethod
    async def query(self, query: Query) -> list[Entry]:
        """Return the entries a query asks for, the newest first."""

    @abstractmethod
    async def effects(self, seq: int) -> list[Entry]:
        """Return the entries that the entry `seq` emitted, in order."""

    @abstractmethod
    async def counts(self) -> Counts:
        """Return how many entries there are by status."""

    @abstractmethod
    async def state(self, function: str, key: str | None) -> dict[str, Any]:
        """Return a copy of the mapping recorded last for a function and key; empty when there is none."""

    @abstractmethod
    async def cursor(self, source: str) -> Any:
        """Return the cursor recorded last for a source, or None."""
