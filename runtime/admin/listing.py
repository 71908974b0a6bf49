"""Which events to list: the parameters of a request, and the search over journal and flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from runtime import pattern
from runtime.admin.shapes import status_of
from runtime.contracts import Journal, Query
from runtime.errors import nearest
from runtime.records import STATUSES, Entry, Status
from runtime.web import Problem

MOST = 1000  # events in one answer


def read_query(parameters: Mapping[str, str]) -> Query:
    """Return the query that the parameters of a request ask for.

    Raises:
        Problem: a parameter is unknown or has a value that is not allowed.
    """
    allowed = ("status", "type", "function", "error", "limit", "cursor")
    for name in parameters:
        if name not in allowed:
            raise Problem(400, f'unknown parameter "{name}"{nearest(name, allowed)}; allowed: {", ".join(allowed)}')
    return Query(
        status=_statuses(parameters.get("status", "")),
        type=read_pattern(parameters.get("type") or None),
        function=parameters.get("function") or None,
        error=parameters.get("error") or None,
        before=_number("cursor", parameters.get("cursor") or None, "the cursor of an earlier answer", 2**63),
        limit=_number("limit", parameters.get("limit"), f"a whole number from 1 to {MOST}", MOST) or 100,
    )


def read_pattern(text: str | None) -> str | None:
    """Return a pattern of event types, checked."""
    why = pattern.fault_of(text) if text is not None else None
    if why:
        raise Problem(400, f'type: "{text}" is not a pattern of event types: {why}')
    return text


def _statuses(text: str) -> tuple[Status, ...]:
    found = tuple(word for word in text.split(",") if word)
    for word in found:
        if word not in STATUSES:
            raise Problem(400, f'status: "{word}" is not one{nearest(word, STATUSES)}; allowed: {", ".join(STATUSES)}')
    return cast("tuple[Status, ...]", found)


def _number(name: str, text: str | None, allowed: str, most: int) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > 19 or not 1 <= int(text) <= most:
        raise Problem(400, f'{name}: "{text}" is not allowed; it is {allowed}')
    return int(text)


async def list_entries(journal: Journal, query: Query, live: Mapping[int, str]) -> tuple[list[Entry], str | None]:
    """Return the entries a query asks for by their present status, the newest first, and where to go on."""
    more = msgspec.structs.replace(query, limit=query.limit + 1)  # one more tells whether there is a next page
    found = await _recorded(journal, more, live)
    if set(query.status) & set(live.values()):
        found.update(await _flowing(journal, more, live))
    entries = [found[seq] for seq in sorted(found, reverse=True)]
    page = entries[: query.limit]
    return page, str(page[-1].seq) if len(entries) > len(page) else None


async def _recorded(journal: Journal, query: Query, live: Mapping[int, str]) -> dict[int, Entry]:
    """Return entries whose recorded status is asked for, without those that have moved on in the flow."""
    found: dict[int, Entry] = {}
    while len(found) < query.limit:
        entries = await journal.query(query)
        found.update({entry.seq: entry for entry in entries if not query.status or status_of(entry, live) in query.status})
        if len(entries) < query.limit:
            break
        query = msgspec.structs.replace(query, before=entries[-1].seq)
    return found


async def _flowing(journal: Journal, query: Query, live: Mapping[int, str]) -> dict[int, Entry]:
    """Return entries in the flow that stand as asked for.

    The journal knows them only as queued, perhaps among a million others: look each up by its `seq`, and
    skip those above the next entry that answers the rest of the query.
    """
    found: dict[int, Entry] = {}
    below = query.before
    for seq in sorted((seq for seq, status in live.items() if status in query.status), reverse=True):
        if len(found) == query.limit:
            break
        if below is not None and seq >= below:
            continue
        one = msgspec.structs.replace(query, status=(), before=seq + 1, limit=1)
        next_ones = await journal.query(one)
        if not next_ones:
            break
        entry = next_ones[0]
        below = entry.seq + 1
        if entry.seq == seq and status_of(entry, live) in query.status:
            found[seq] = entry
    return found


def read_filter(body: Any, statuses: tuple[str, ...]) -> Query:
    """Return the query for the events that a retry or discard by filter means.

    Raises:
        Problem: the body is not an object of the allowed texts.
    """
    allowed = ("function", "type", "error", "status")
    if not isinstance(body, dict):
        raise Problem(400, f"the body is a JSON object with any of {', '.join(allowed)}")
    for name, value in body.items():
        if name not in allowed:
            raise Problem(400, f'unknown field "{name}"{nearest(name, allowed)}; allowed: {", ".join(allowed)}')
        if value is not None and not isinstance(value, str):
            raise Problem(400, f"{name}: expected a text, found {type(value).__name__}")
        if value == "":  # as of a shell variable that is not set: it must not mean all
            raise Problem(400, f"{name}: expected a text that is not empty; leave it out to mean all")
    named = _statuses(body.get("status") or "dead")
    if not set(named) <= set(statuses):
        raise Problem(400, f'status: "{body["status"]}" is not allowed here; allowed: {", ".join(statuses)}')
    return Query(status=named, type=read_pattern(body.get("type")), function=body.get("function"), error=body.get("error"), limit=MOST)
