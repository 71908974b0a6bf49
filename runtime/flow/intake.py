"""Intake: from a source into the journal; only then may the source acknowledge."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import force_setattr

from runtime.contracts import Clock, Journal
from runtime.errors import Full
from runtime.event import Event
from runtime.function import Emission
from runtime.records import UNROUTED, Entry, Status

StatusOf = Callable[[str], Status]
RankOf = Callable[[int | None, float], float]


class Intake:
    """Accepts events into the journal and hands the new ones to `admit`.

    `status_of` tells how an event of a type begins, `rank_of` its place in the order of dispatch, `waiting`
    how many events wait, of which there may be `max_backlog`.
    """

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        *,
        status_of: StatusOf,
        rank_of: RankOf,
        admit: Callable[[Entry], None],
        waiting: Callable[[], int],
        max_backlog: int,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._status_of = status_of
        self._rank_of = rank_of
        self._admit = admit
        self._waiting = waiting
        self._max_backlog = max_backlog
        self._room: deque[asyncio.Future[None]] = deque()
        self._now = datetime.fromtimestamp(0, UTC)
        self._now_at = 0.0

    async def accept(self, entries: list[Entry], *, wait: bool, cursor: tuple[str, Any] | None = None) -> list[Entry]:
        """Append entries to the journal and admit the new ones; see `Journal.append` for the answer.

        Raises:
            Full: `wait` is False and there is no room.
            JournalError: nothing was accepted.
        """
        while (waiting := self._waiting()) >= self._max_backlog:
            if not wait:
                raise Full(waiting, self._max_backlog)
            room = asyncio.get_running_loop().create_future()
            self._room.append(room)
            await room
        accepted = await self._journal.append(entries, cursor=cursor)
        for entry, first in zip(entries, accepted, strict=True):
            if first is entry:
                self._admit(entry)
        return accepted

    def make_room(self) -> None:
        """Let sources go on that wait for room; called when events have left the backlog."""
        if not self._room:
            return
        for _ in range(min(len(self._room), self._max_backlog - self._waiting())):
            room = self._room.popleft()
            if not room.done():
                room.set_result(None)

    def entry(self, event: Event, *, retries: int | None = None) -> Entry:
        """Return the entry of an event that comes from outside; its missing time is filled in."""
        now = self._clock.time()
        if event.time is None:
            force_setattr(event, "time", self._moment(now))
        due = event.due.timestamp() if event.due is not None else 0.0
        status = self._status_of(event.type)
        return Entry(
            event=event,
            rank=self._rank_of(event.priority, due or now),
            accepted=now,
            due=due,
            ended=now if status == UNROUTED else 0.0,
            status=status,
            hops=_hops(event),
            retries=retries,
            looked_up=bool(event.id),
        )

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
            source=f"function/{function}",
            id=emission.id or f"{cause.uid}-{function}-{count}",
            data=emission.data,
            time=self._moment(now),
            subject=emission.subject,
            key=before.key if emission.key is None else emission.key,
            priority=priority,
            due=datetime.fromtimestamp(due, UTC) if due else None,
            extensions={"causationid": before.id, "correlationid": origin, "hops": cause.hops + 1},
        )
        return Entry(
            event=event,
            rank=self._rank_of(priority, due or now),
            accepted=now,
            due=due,
            status=self._status_of(event.type),
            cause=cause.seq,
            hops=cause.hops + 1,
            looked_up=emission.id is not None,
        )

    def _moment(self, now: float) -> datetime:
        """Return the aware datetime of `now`; the last one while the clock shows the same millisecond."""
        if not 0 <= now - self._now_at < 0.001:
            self._now = datetime.fromtimestamp(now, UTC)
            self._now_at = now
        return self._now


def _hops(event: Event) -> int:
    """Return the emissions behind an event; as text when it came in HTTP headers."""
    hops = str(event.extensions.get("hops", 0))
    return int(hops) if hops.isascii() and hops.isdecimal() and len(hops) < 10 else 0
