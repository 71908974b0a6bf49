"""Entries as rows of the database, and back.

A row of `events` is written once, when the entry is accepted; a row of `progress` each time something of it is recorded.
Both have a short form for what nearly all of them are: an event that waits in its lane and has nothing to be found by,
and one that is done at the first attempt. Fewer values to bind are what makes many of them in one statement cheap.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from runtime.errors import MalformedEvent
from runtime.event import DEFAULT_PRIORITY, Event
from runtime.journal.sqlite.schema import BEGUN, DUE, LANE, NEW, RAN
from runtime.records import DONE, ENDED, QUEUED, STATUSES, Entry, Step

CODES: Final = {status: code for code, status in enumerate(("queued", "retrying", "done", "dead", "discarded", "unrouted", "running"))}
NAMES: Final = {CODES[status]: status for status in STATUSES}

COLUMNS: Final = (
    "seq, coalesce(p.status, 0), accepted, due, p.ended, cause, iif(p.status IS NULL, e.retries, p.retries), coalesce(p.crashes, 0),"
    " coalesce(p.reason, ''), event, p.steps, p.waits, iif(p.status IS NULL, e.stage, p.stage)"
)
TABLES: Final = "events AS e LEFT JOIN progress AS p USING (seq)"

Row = tuple[Any, ...]


class Packed(msgspec.Struct, array_like=True):
    """What of an entry never changes and is never asked for."""

    event: Event
    hops: int
    sinks: tuple[str, ...]


class PackedStep(Step, array_like=True):
    """A step as it is kept: its fields in their order, without the last ones where they say nothing."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Packed).decode
_decode_waits = msgspec.msgpack.Decoder(dict[str, float]).decode
_decode_steps = msgspec.msgpack.Decoder(list[PackedStep] | dict[str, Step]).decode  # schema 2 had them as a mapping


def stage_of(entry: Entry) -> int | None:
    """Return what a waiting entry waits for; None when it has ended."""
    if entry.status in ENDED:
        return None
    if entry.ran:
        return RAN
    if entry.begun:
        return BEGUN
    return DUE if entry.due else LANE


def row_of(entry: Entry) -> Row:
    """Return the row that inserts an entry, in the short form of `NEW_PLAIN` where that says all.

    Raises:
        MalformedEvent: its data cannot be kept.
    """
    event = entry.event
    try:
        packed = _encode(Packed(event, entry.hops, entry.sinks))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedEvent(f"the data of event {event.id} cannot be recorded: {error}") from None
    level = DEFAULT_PRIORITY if event.priority is None else event.priority
    if entry.looked_up or event.key is not None or entry.due or entry.cause or entry.ran or entry.retries is not None or is_marked(entry):
        stage = stage_of(entry)
        return (
            entry.seq,
            NEW if stage == LANE else stage,
            event.type,
            level,
            event.key,
            event.id if entry.looked_up else None,
            event.source if entry.looked_up else None,
            entry.accepted,
            entry.due,
            entry.cause or None,
            entry.retries,
            packed,
        )
    return (entry.seq, event.type, level, entry.accepted, packed)


def is_marked(entry: Entry) -> bool:
    """Return whether a new entry has something that only a row of `progress` can say."""
    return entry.status != QUEUED or bool(entry.steps) or entry.crashes > 0


def progress_of(entry: Entry) -> Row:
    """Return the row that says how an entry stands, in the short form of `DONE_PLAIN` where that says all."""
    steps = pack_steps(entry.steps) if entry.steps else None
    waits = _encode(entry.waits) if entry.waits else None
    if entry.status == DONE and not entry.crashes and not entry.reason and entry.retries is None:
        return (entry.seq, entry.ended, steps, waits)
    ended = entry.ended or None
    return (entry.seq, CODES[entry.status], stage_of(entry), ended, entry.retries, entry.crashes, entry.reason, steps, waits)


def pack_steps(steps: dict[str, Step]) -> bytes:
    """Return steps as they are kept."""
    if len(steps) == 1:
        (step,) = steps.values()
        return _encode((_values_of(step),))
    return _encode([_values_of(step) for step in steps.values()])


def _values_of(step: Step) -> Row:
    values = (step.function, step.status, step.attempts, step.generation, step.started, step.finished)
    if step.result is None and step.error is None and not step.reason and not step.cause and not step.due and not step.crashes:
        return values
    return (*values, step.result, step.error, step.reason, step.cause, step.due, step.crashes)


def unpack_steps(packed: bytes) -> dict[str, Step]:
    """Return steps by name."""
    found = _decode_steps(packed)
    return found if isinstance(found, dict) else {step.function: Step(*msgspec.structs.astuple(step)) for step in found}


def entry_of(row: Row) -> Entry:
    """Return the entry of a row of `COLUMNS`."""
    seq, status, accepted, due, ended, cause, retries, crashes, reason, packed, steps, waits, stage = row
    kept = _decode(packed)
    return Entry(
        event=kept.event,
        seq=seq,
        accepted=accepted,
        due=due,
        ended=ended or 0.0,
        status=NAMES[status],
        reason=reason,
        steps=unpack_steps(steps) if steps else {},
        sinks=kept.sinks,
        ran=stage is None or stage == RAN,
        retries=retries,
        cause=cause or 0,
        hops=kept.hops,
        crashes=crashes,
        waits=_decode_waits(waits) if waits else None,
    )


pack = _encode
unpack = msgspec.msgpack.Decoder().decode
