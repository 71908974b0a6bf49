"""What calls of remote services have in common: what is sent, and how much may come back."""

from __future__ import annotations

from typing import Any

import msgspec

from runtime.contracts import Call
from runtime.event import Event

LARGEST = 16 * 1024 * 1024  # bytes of an answer; more of them are an error


def outgoing(call: Call, payload: Any) -> Event:
    """Return the event as a service gets it: its data is `payload`, what the function is given."""
    if not call.function.after:
        return call.event
    return msgspec.structs.replace(call.event, data=payload, datacontenttype=None, dataschema=None)  # those told of the event's data
