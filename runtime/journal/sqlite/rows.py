"""Entries as rows of the database, and back."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from runtime.errors import MalformedEvent
from runtime.event import Event
from runtime.journal.sqlite.schema import BEGUN, DUE, LANE, RAN
from runtime.records import ENDED, STATUSES, Entry, Step

CODES: Final = {status: code for code, status in enumerate(("queued", "retrying", "done", "dead", "discarded", "unrouted", "running"))}
NAMES: Final = {CODES[status]: status for status in STATUSES}

COLUMNS: Final = "seq, status, accepted, due, ended, cause, retries, crashes, reason, event, steps, waits, stage"
INSERT: Final = (
    "INSERT INTO events (seq, status, stage, type, level, key, id, source, accepted, due, ended, cause, retries, crashes, reason, event,"
    " steps, waits) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
UPDATE: Final = (
    "UPDATE events SET status = ?, stage = ?, ended = ?, retries = ?, crashes = ?, reason = ?, steps = ?, waits = ? WHERE seq = ?"
)

Row = tuple[Any, ...]


class Packed(msgspec.Struct, array_like=True):
    """What of an entry never changes and is never asked for."""

    event: Event
    hops: int
    sinks: tuple[str, ...]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Packed).decode
_decode_waits = msgspec.msgpack.Decoder(dict[str, float]).decode
_decode_steps = msgspec.msgpack.Decoder(dict[str, Step]).decode


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
    """Return the row that inserts an entry.

    Raises:
        MalformedEvent: its data cannot be kept.
    """
    event = entry.event
    try:
        packed = _encode(Packed(event, entry.hops, entry.sinks))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedEvent(f"the data of event {event.id} cannot be recorded: {error}") from None
    return (
        entry.seq,
        CODES[entry.status],
        stage_of(entry),
        event.type,
        entry.level,
        event.key,
        event.id if entry.looked_up else None,
        event.source if entry.looked_up else None,
        entry.accepted,
        entry.due,
        entry.ended or None,
        entry.cause or None,
        entry.retries,
        entry.crashes,
        entry.reason,
        packed,
        _encode(entry.steps) if entry.steps else None,
        _encode(entry.waits) if entry.waits else None,
    )


def update_of(entry: Entry) -> Row:
    """Return the row that updates an entry."""
    steps = _encode(entry.steps) if entry.steps else None
    waits = _encode(entry.waits) if entry.waits else None
    ended = entry.ended or None
    return (CODES[entry.status], stage_of(entry), ended, entry.retries, entry.crashes, entry.reason, steps, waits, entry.seq)


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
        steps=_decode_steps(steps) if steps else {},
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
