"""Intake: from a source into the journal; only then may the source acknowledge."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from msgspec.structs import replace

from runtime.cloudevents import check_event
from runtime.contracts import Clock, Journal
from runtime.errors import Full
from runtime.event import Event, Malformed
from runtime.function import Emission
from runtime.records import DEAD, FAILED, UNROUTED, Entry, Outcome, Route

DEATH = "runtime.dead"  # the type of the event that tells of a dead letter


class Waiting(Protocol):
    """What the intake needs of dispatch: how many events have not started."""

    waiting: int


class Intake:
    """Accepts events into the journal and hands the new ones to `admit`.

    `routes` tells how an event of a type begins, `backlog` how many events wait, of which there may be `max_backlog`.
    """

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        *,
        routes: Mapping[str, Route],
        admit: Callable[[Sequence[Entry]], None],
        backlog: Waiting,
        max_backlog: int,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._routes = routes
        self.admit = admit
        self._backlog = backlog
        self.max_backlog = max_backlog
        self._room: deque[asyncio.Future[None]] = deque()
        self._now = datetime.fromtimestamp(0, UTC)
        self._now_at = 0.0

    @property
    def is_full(self) -> bool:
        """Whether there is no room for a further event."""
        return self._backlog.waiting >= self.max_backlog

    def accept(self, entries: list[Entry], *, wait: bool, cursor: tuple[str, Any] | None = None) -> Awaitable[list[Entry]]:
        """Append entries to the journal and admit the new ones; see `Journal.append` for the answer.

        Raises:
            Full: `wait` is False and there is no room.
            JournalError: nothing was accepted.
        """
        waiting = self._backlog.waiting
        if waiting < self.max_backlog:
            return self._journal.append(entries, cursor=cursor, then=self._admit_new)
        if not wait:
            raise Full(waiting, self.max_backlog)
        return self._accept_later(entries, cursor)

    async def _accept_later(self, entries: list[Entry], cursor: tuple[str, Any] | None) -> list[Entry]:
        while self.is_full:
            await self._wait_for_room()
        return await self._journal.append(entries, cursor=cursor, then=self._admit_new)

    async def _wait_for_room(self) -> None:
        room = asyncio.get_running_loop().create_future()
        self._room.append(room)
        try:
            await room
        except asyncio.CancelledError:
            if not room.cancelled():
                self.make_room()  # for somebody else
            raise

    def _admit_new(self, entries: Sequence[Entry], accepted: list[Entry]) -> None:
        """Admit the entries that are new; called by the journal, whether or not the source still waits."""
        if accepted == entries:
            self.admit(accepted)
        else:
            self.admit([entry for entry, first in zip(entries, accepted, strict=True) if first is entry])

    def make_room(self) -> None:
        """Let sources go on that wait for room; called when events have left the backlog."""
        if not self._room:
            return
        places = self.max_backlog - self._backlog.waiting
        while self._room and places > 0:
            room = self._room.popleft()
            if not room.done():
                room.set_result(None)
                places -= 1

    def entry(self, event: Event, *, retries: int | None = None, **steering: Any) -> Entry:
        """Return the entry of an event that comes from outside, a copy with `steering` where something is to be filled in.

        Raises:
            MalformedEvent: it is not what CloudEvents can say.
        """
        check_event(event)
        (entry,) = self._entries([replace(event, **steering) if steering else event])
        entry.retries = retries
        return entry

    def entries(self, events: Sequence[Event]) -> list[Entry]:
        """Return the entries of events that come from outside, copies where something is to be filled in.

        Raises:
            MalformedEvent: one is not what CloudEvents can say.
        """
        for event in events:
            check_event(event)
        return self._entries(events)

    def _entries(self, events: Sequence[Event]) -> list[Entry]:
        now = self._clock.time()
        moment = self._moment(now)
        routes = self._routes
        entries = []
        for event in events:
            if isinstance(event, Malformed):
                entries.append(_set_aside(event, now, moment))
                continue
            looked_up = event.id != ""
            if event.time is None:
                event = replace(event, time=moment)  # noqa: PLW2901 - what was given may be put again
            elif not looked_up:
                event = replace(event)  # noqa: PLW2901 - its id is filled in
            route = routes[event.type]
            entry = Entry(event=event, accepted=now, status=route.status, sinks=route.sinks, ran=route.ran, looked_up=looked_up)
            if event.due is not None:
                entry.due = event.due.timestamp()
            if event.extensions:
                entry.hops = _hops(event)
            if route.status == UNROUTED:
                entry.ended = now
            entries.append(entry)
        return entries

    def emitted(self, cause: Entry, function: str, emissions: Sequence[Emission]) -> list[Entry]:
        """Return the entries of what a function emitted; ids are made of event, function and count."""
        now = self._clock.time()
        return [self._emission(cause, function, emission, count, now) for count, emission in enumerate(emissions)]

    def _emission(self, cause: Entry, function: str, emission: Emission, count: int, now: float) -> Entry:
        before = cause.event
        due = now + emission.delay if emission.delay else 0.0
        origin = before.extensions.get("correlationid", before.id)
        priority = before.priority if emission.priority is None else emission.priority
        event = Event(
            type=emission.type,
            source="runtime" if function == "runtime" else f"function/{function}",
            id=emission.id or f"{cause.uid}-{function}-{count}",
            data=emission.data,
            time=self._moment(now),
            subject=emission.subject,
            key=before.key if emission.key is None else emission.key,
            priority=priority,
            due=datetime.fromtimestamp(due, UTC) if due else None,
            extensions={"causationid": before.id, "correlationid": origin, "hops": cause.hops + 1},
        )
        (entry,) = self._entries([event])
        entry.cause, entry.hops, entry.looked_up, entry.due = cause.seq, cause.hops + 1, emission.id is not None, due
        return entry

    def death(self, outcome: Outcome) -> list[Entry]:
        """Return the event `runtime.dead` that tells of a dead letter; none when nobody wants it, or it would tell of its own."""
        entry = outcome.entry
        if entry.event.type == DEATH or self._routes[DEATH].status == UNROUTED:
            return []
        steps = {**entry.steps, **{step.function: step for step in outcome.steps}}
        failed, error = next(((step.function, step.error) for step in steps.values() if step.status == FAILED), (None, None))
        told = {"type": error.type, "message": error.message} if error else {"type": None, "message": outcome.reason}
        event = entry.event
        data = {"uid": entry.uid, "id": event.id, "type": event.type, "source": event.source, "function": failed, "error": told}
        now = self._clock.time()
        return [self._emission(entry, "runtime", Emission(DEATH, data), int(now * 1000), now)]  # an event may die more than once

    def _moment(self, now: float) -> datetime:
        """Return the aware datetime of `now`; the last one while the clock shows the same millisecond."""
        if not 0 <= now - self._now_at < 0.001:
            self._now = datetime.fromtimestamp(now, UTC)
            self._now_at = now
        return self._now


def _set_aside(event: Malformed, now: float, moment: datetime) -> Entry:
    """Return the entry of a message that cannot be understood: a dead letter from the start, for no function and no sink."""
    kept = {name: getattr(event, name) for name in Event.__struct_fields__} | {"time": event.time or moment}
    return Entry(event=Event(**kept), accepted=now, ended=now, status=DEAD, reason=event.why, ran=True, looked_up=bool(event.id))


def _hops(event: Event) -> int:
    """Return the emissions behind an event; as text when it came in HTTP headers."""
    if "hops" not in event.extensions:
        return 0
    hops = str(event.extensions.get("hops", 0))
    return int(hops) if hops.isascii() and hops.isdecimal() and len(hops) < 10 else 0
