"""What the journal keeps of an event and its steps, and the words for how they stand."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from runtime.event import DEFAULT_PRIORITY, Event

Status = Literal["queued", "running", "retrying", "done", "dead", "discarded", "unrouted"]
StepStatus = Literal["pending", "running", "retrying", "done", "skipped", "failed"]

QUEUED: Final = "queued"
RUNNING: Final = "running"
RETRYING: Final = "retrying"
DONE: Final = "done"
DEAD: Final = "dead"
DISCARDED: Final = "discarded"
UNROUTED: Final = "unrouted"
PENDING: Final = "pending"
SKIPPED: Final = "skipped"
FAILED: Final = "failed"

ENDED: Final = frozenset({DONE, DEAD, DISCARDED, UNROUTED})
TAILS: Final = [f"{number:03x}" for number in range(4096)]
STATUSES: Final[tuple[Status, ...]] = ("queued", "running", "retrying", "done", "dead", "discarded", "unrouted")


class StepError(msgspec.Struct, frozen=True, gc=False):
    """How an attempt failed: the exception's type, its message and its traceback as text.

    `status` is what a `Reject` asks an HTTP caller to be told.
    """

    type: str
    message: str
    traceback: str = ""
    status: int = 500


class Step(msgspec.Struct, gc=False):
    """One function or sink of an event as it stands; times are Unix time in seconds.

    `result` is what the function returned. `reason` tells why a step was skipped and `cause` names the
    failed step it was skipped for (empty when it was skipped on purpose). `due` is when a retrying step
    goes on. `crashes` is how many its event had come through when it was tried last.
    """

    function: str
    status: StepStatus = PENDING
    attempts: int = 0
    generation: int = 0
    started: float = 0.0
    finished: float = 0.0
    result: Any = None
    error: StepError | None = None
    reason: str = ""
    cause: str = ""
    due: float = 0.0
    crashes: int = 0

    def pause(self, now: float) -> float:
        """Return how many seconds it has still to wait for its next attempt; never longer than was meant, whatever the clock did."""
        return max(0.0, min(self.due - now, self.due - self.finished)) if self.status == RETRYING else 0.0


class Entry(msgspec.Struct, kw_only=True, weakref=True, eq=False):
    """An event in the journal.

    `seq` is its place in the order of acceptance (0 until it is accepted). `accepted`, `due` and `ended` are
    Unix time in seconds, 0 when there is none. `sinks` are those it is delivered to, `ran` tells that its
    functions have ended (or that there were none): with the steps of its sinks it decides when the event ends.
    `retries` overrides what its functions say (the caller is the retry policy). `cause` is the `seq` of the
    event it was emitted by, `hops` how many emissions lie behind it, `crashes` how often the process died
    while it was executing. `looked_up` is False for ids that cannot come twice.

    `waits` are the seconds it has waited, by what for; None before the first.

    `rank`, `held`, `standing` (in a lane), `plain` (nothing of it is recorded), `since` (when its present wait began,
    0: when it could run) and `aside` (see `Lane`) belong to dispatch and are not kept by a journal: entries go by `(rank, seq)`.
    """

    event: Event
    seq: int = 0
    accepted: float = 0.0
    due: float = 0.0
    ended: float = 0.0
    status: Status = QUEUED
    reason: str = ""
    steps: dict[str, Step] = {}
    sinks: tuple[str, ...] = ()
    ran: bool = False
    retries: int | None = None
    cause: int = 0
    hops: int = 0
    crashes: int = 0
    looked_up: bool = True
    waits: dict[str, float] | None = None
    rank: float = 0.0
    held: bool = False
    standing: bool = False
    plain: bool = False
    since: float = 0.0
    aside: float = 0.0

    @property
    def level(self) -> int:
        """The level of priority: 9 (urgent) … 0 (bulk)."""
        return DEFAULT_PRIORITY if self.event.priority is None else self.event.priority

    @property
    def begun(self) -> bool:
        """Whether something of it is recorded, or was under way in a crash."""
        return bool(self.steps) or self.crashes > 0

    @property
    def order(self) -> tuple[float, int]:
        """The place in the order of dispatch."""
        return (self.rank, self.seq)

    @property
    def uid(self) -> str:
        """The runtime's own id of the event, a uuid7 made of `accepted` and `seq`."""
        return uid_of(self.accepted, self.seq)


class Outcome(msgspec.Struct, gc=False, kw_only=True):
    """What happened to one event, to be recorded as a whole or not at all.

    `steps` replace the steps of the same name; `emitted` are new entries, accepted by the same record;
    `state` is the new value of the mapping of `(function, key)`. `status` and `ran` are new values, None
    where the entry stays as it is, `at` and `reason` go with a status. `delivered` names a sink whose step has
    ended, `deliver` those that get the event again.
    """

    entry: Entry
    steps: list[Step] = []
    emitted: list[Entry] = []
    state: tuple[str, str | None, dict[str, Any]] | None = None
    status: Status | None = None
    reason: str = ""
    at: float = 0.0
    ran: bool | None = None
    delivered: str = ""
    deliver: tuple[str, ...] = ()


class Route(msgspec.Struct, frozen=True):
    """How an event of a type begins: its status, the sinks it goes to, and whether it has no functions to run."""

    status: Status
    sinks: tuple[str, ...]
    ran: bool


class Shelf(msgspec.Struct, frozen=True):
    """Where waiting entries stand in the order of acceptance.

    `lane`: those of a type (the `name`) and level that have not begun and were not delayed. `key`: those of
    them that share a key. `begun`: those that have begun and whose functions have not ended. `sink`: those
    that are still to be delivered to a sink.
    """

    kind: Literal["lane", "key", "begun", "sink"]
    name: str = ""
    level: int = 0


def is_pending(step: Step | None) -> bool:
    """Return whether a step has still to be done by the record."""
    return step is None or step.status in (PENDING, RUNNING, RETRYING)


def undelivered(entry: Entry) -> list[str]:
    """Return the sinks that have still to take an event."""
    return [sink for sink in entry.sinks if is_pending(entry.steps.get(sink))]


def uid_of(accepted: float, seq: int) -> str:
    """Return the uuid7 (RFC 9562) of the entry `seq` accepted at `accepted` (Unix time in seconds).

    48 bits of milliseconds, then the sequence number where the random bits would be: it sorts by time and by
    acceptance, and leads back to the entry without an index.
    """
    milliseconds = int(accepted * 1000)
    if milliseconds != _last.milliseconds or seq >> 12 != _last.high:
        _last.renew(milliseconds, seq >> 12)
    return _last.text + TAILS[seq & 0xFFF]


class _Last:
    """All but the last three digits of the last uid: most share them with the one before."""

    milliseconds = -1
    high = -1
    text = ""

    def renew(self, milliseconds: int, high: int) -> None:
        time, place = f"{milliseconds:012x}", f"{high:012x}"
        self.text = f"{time[:8]}-{time[8:]}-7000-8{place[:3]}-{place[3:]}"
        self.milliseconds = milliseconds
        self.high = high


_last = _Last()


def seq_of(uid: str) -> int | None:
    """Return the sequence number in a uid, or None when `uid` is not one."""
    if len(uid) != 36 or uid[14] != "7" or uid[19] != "8":
        return None
    try:
        return int(uid[20:23] + uid[24:], 16)
    except ValueError:
        return None
