"""Any value as plain data and as JSON, within the limits of what every journal can keep."""

from __future__ import annotations

import math
import re
from typing import Any, Final

import msgspec

from runtime.errors import MalformedEvent

_MAX_DEPTH = 256  # what is read is written again from deeper in the stack, of which Python allows 1,000 levels
_NON_FINITE = re.compile(rb"\xcb[\x7f\xff]")  # how a NaN or infinite float begins in msgpack, and next to nothing else
BYTES: Final = (bytes, bytearray, memoryview)
_DECODER = msgspec.json.Decoder()
_PACKER = msgspec.msgpack.Encoder()
_UNPACKER = msgspec.msgpack.Decoder()


def to_builtins(value: Any) -> Any:
    """Return a value as dicts with string keys, lists, strings, numbers, booleans, None and bytes.

    Takes whatever msgspec can encode, and pydantic models. What it returns is what comes back from a
    journal: tuples and sets are lists, bytes stay bytes, times and the like are strings.

    Raises:
        TypeError: a part of it is no data.
        ValueError: a float is NaN or infinite, an integer is beyond 64 bits, text holds a lone surrogate,
            or it is nested too deeply.
    """
    if value is None or type(value) is bytes:
        return value
    try:
        packed = _PACKER.encode(msgspec.to_builtins(value, builtin_types=BYTES, str_keys=True, enc_hook=_encode_custom))
        plain = _UNPACKER.decode(packed)
    except OverflowError:
        raise ValueError("an integer is beyond 64 bits; use a string") from None
    except RecursionError:
        raise ValueError("it is nested too deeply, or contains itself") from None
    if _NON_FINITE.search(packed):
        _refuse_non_finite(plain)
    return plain


def to_json(value: Any) -> bytes:
    """Return any value that `to_builtins` takes as one line of JSON; bytes become base64, NaN becomes null."""
    return _ENCODER.encode(value)


def read_json(where: str, raw: bytes) -> Any:
    """Read JSON that can be written again, by any journal and from deeper in the stack."""
    try:
        value = _DECODER.decode(raw)
        _PACKER.encode(value)
    except OverflowError:
        raise MalformedEvent(f"{where}: expected integers of at most 64 bits, found a larger one; send it as a string") from None
    except RecursionError:
        raise _too_deep(where) from None
    except ValueError as error:
        raise MalformedEvent(f"{where}: expected JSON: {error}") from None
    if raw.count(b"[") + raw.count(b"{") > _MAX_DEPTH and _is_deeper(value, _MAX_DEPTH):
        raise _too_deep(where)
    return value


def _too_deep(where: str) -> MalformedEvent:
    return MalformedEvent(f"{where}: expected JSON nested at most {_MAX_DEPTH} levels deep, found more")


def _is_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        children = [child for parent in level for child in (parent.values() if type(parent) is dict else parent)]
        level = [child for child in children if type(child) is dict or type(child) is list]
        if not level:
            return False
    return True


def _refuse_non_finite(value: Any) -> None:
    pending = [value]
    while pending:
        item = pending.pop()
        if type(item) is float and not math.isfinite(item):
            raise ValueError(f"JSON has no word for the float {item}; use None or a string")
        if type(item) is dict:
            pending += item.values()
        elif type(item) is list:
            pending += item


def _encode_custom(value: Any) -> Any:
    """Say a pydantic model, which is recognised by its method and never imported."""
    if isinstance(value, type) or not hasattr(value, "model_dump"):
        raise TypeError(f"`{type(value).__qualname__}` is not a type of data")
    return value.model_dump(mode="json")


_ENCODER = msgspec.json.Encoder(enc_hook=_encode_custom)
