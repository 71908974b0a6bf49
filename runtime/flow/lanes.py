"""Ranks, the lanes of waiting events, and the gates before which they step aside."""

from __future__ import annotations

import heapq
from collections import deque

from runtime.event import DEFAULT_PRIORITY
from runtime.flow.run import Run
from runtime.graph import Bound, Plan
from runtime.records import Entry
from runtime.specs import FunctionSpec

NO_FUNCTION = "no function"


def limit_of(*functions: str) -> str:
    """Return what events wait for before functions that are at their limits."""
    return ", ".join(f'"{name}"' for name in functions) + " at the limit"


class Ranking:
    """Computes ranks: FIFO, strict priority (`aging` 0), or priority that ages (`aging` seconds a level)."""

    def __init__(self, order: str = "fifo", aging: float = 30.0) -> None:
        self.fifo = order == "fifo"
        self.aging = aging

    def rank(self, priority: int | None, at: float) -> float:
        """Return the rank of an event of `priority` that was accepted or is due `at` (Unix time)."""
        if self.fifo:
            return 0.0
        level = DEFAULT_PRIORITY if priority is None else priority
        return at - level * self.aging if self.aging else float(-level)


class Gate:
    """The limits of one function; lives on over generations, so that counts carry over."""

    __slots__ = ("blocked", "function", "interval", "limit", "next", "running", "stateful", "timed", "waiting")

    def __init__(self, function: FunctionSpec) -> None:
        self.running = 0
        self.next = 0.0
        self.timed = False
        self.stateful = False  # an attempt without a key that changes the function's state is not recorded yet
        self.waiting: list[tuple[float, int, int, Run, float]] = []
        self.blocked: list[tuple[float, int, Lane]] = []
        self.adopt(function)

    def adopt(self, function: FunctionSpec) -> None:
        """Take the limits of a new generation of the function."""
        self.function = function
        self.limit = function.concurrency * function.batch  # so that all calls can be full
        self.interval = 1 / function.rate if function.rate else 0.0

    def is_open(self, now: float) -> bool:
        """Return whether an attempt may start at `now` (monotonic)."""
        return self.running < self.limit and not (self.interval and now < self.next)


class Lane:
    """The waiting events of one type and level, in order.

    With `more` those accepted after `loaded` are only in the journal. It is `blocked` while its plan's functions are at
    their limits; the `aside` of an entry is what that of the lane was when the entry came.
    """

    __slots__ = (
        "_aside",
        "_blocked_at",
        "blocked",
        "bound",
        "gates",
        "has_blocked",
        "items",
        "late",
        "level",
        "loaded",
        "loading",
        "missed",
        "more",
        "plan",
        "roots",
        "type",
    )

    def __init__(self, type: str, level: int) -> None:
        self.type = type
        self.level = level
        self.more = False
        self.loaded = 0
        self.loading = False
        self.missed = False
        self.items: deque[Entry] = deque()
        self.late: list[tuple[float, int, Entry]] = []
        self.blocked = False
        self.has_blocked = False  # ever
        self._blocked_at = 0.0
        self._aside = 0.0
        self.plan: Plan | None = None
        self.bound: tuple[Bound, ...] = ()
        self.gates: tuple[Gate, ...] = ()
        self.roots: tuple[Gate, ...] = ()

    def step_aside(self, now: float) -> None:
        """Take no part in the order until something opens."""
        self.blocked = self.has_blocked = True
        self._blocked_at = now

    def come_back(self, now: float) -> None:
        """Take part in the order again."""
        if self.blocked:
            self.blocked = False
            self._aside += now - self._blocked_at

    def aside(self, now: float) -> float:
        """Return how many seconds it has been blocked so far."""
        return self._aside + (now - self._blocked_at if self.blocked else 0.0)

    @property
    def obstacle(self) -> str:
        """What its events wait for while it is blocked."""
        names = [gate.function.name for gate in self.roots]
        return limit_of(*names) if names else NO_FUNCTION

    def add(self, entry: Entry) -> None:
        """Take an entry to its place in the order."""
        items = self.items
        if items and (entry.rank, entry.seq) < (items[-1].rank, items[-1].seq):
            heapq.heappush(self.late, (entry.rank, entry.seq, entry))
        else:
            items.append(entry)

    def head(self) -> Entry | None:
        """Return the first entry, or None when the lane is empty."""
        if not self.late:
            return self.items[0] if self.items else None
        late = self.late[0][2]
        return self.items[0] if self.items and self.items[0].order < late.order else late

    def pop(self) -> Entry:
        """Remove and return the first entry."""
        if not self.late or (self.items and self.items[0].order < self.late[0][2].order):
            return self.items.popleft()
        return heapq.heappop(self.late)[2]

    def __len__(self) -> int:
        return len(self.items) + len(self.late)
