"""What a request brings: the value of its body."""

from __future__ import annotations

from typing import Any

import msgspec

from runtime.web import Problem

MAX_BODY = 1024 * 1024  # bytes


def read_json(body: bytes) -> Any:
    """Return the value of a JSON body; an empty one is an empty object."""
    try:
        return msgspec.json.decode(body) if body.strip() else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from None
