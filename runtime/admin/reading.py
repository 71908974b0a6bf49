"""What a request brings: the value of its body, and its numbers."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from runtime.web import Problem

MAX_BODY = 1024 * 1024  # bytes


def read_wait(text: str | None) -> float | None:
    """Return the seconds to wait for a result, or None when none is asked for."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 86400:
        raise Problem(400, f'wait: "{text}" is not allowed; it is a number of seconds above 0, at most 86400')
    return seconds


def read_json(body: bytes) -> Any:
    """Return the value of a JSON body; an empty one is an empty object."""
    try:
        return msgspec.json.decode(body) if body.strip() else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from None
