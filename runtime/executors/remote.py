"""What calls of remote services have in common: what is sent, and what of an answer is shown to people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from runtime.contracts import Call
from runtime.event import Event

LARGEST = 16 * 1024 * 1024  # bytes of an answer; more of them are an error
SHOWN = 300  # characters of an answer in a message


def outgoing(call: Call, payload: Any) -> Event:
    """Return the event as a service gets it: its data is `payload`, what the function is given."""
    if not call.function.after:
        return call.event
    return msgspec.structs.replace(call.event, data=payload, datacontenttype=None, dataschema=None)  # those told of the event's data


def shown(text: str, secrets: Iterable[str]) -> str:
    """Return the beginning of a text of a service, on one line and without secrets; it may repeat what it was sent.

    What is shorter than four characters stays, as it would strike out all and sundry.
    """
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) > 3:
            text = text.replace(secret, "***")
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def parts_of(values: Iterable[str]) -> list[str]:
    """Return values that are secrets, and what follows a word like `Bearer` in one."""
    return [part for value in values for part in (value, value.rpartition(" ")[2])]
