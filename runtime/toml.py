"""How messages speak of TOML: places, keys, values and their kinds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

KINDS = {bool: "a boolean", int: "a whole number", float: "a number", str: "a string", list: "a list", dict: "a table"}


def place_of(file: str, path: Sequence[str], key: str = "") -> str:
    """Return the place of a key, of a table, or of a key in a table, as in `runtime.toml [sources.web] listen`."""
    table = f"[{'.'.join(map(quoted, path))}]" if path else ""
    return " ".join(part for part in (file, table, key) if part)


def quoted(key: str) -> str:
    """Return a key as TOML writes it."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else msgspec.json.encode(key).decode()


def kind_of(value: Any) -> str:
    """Return what kind of value stands there, in words."""
    return KINDS.get(type(value), "a date or time")


def shown(value: Any) -> str:
    """Return a value as TOML writes it, cut when it is long."""
    if isinstance(value, dict):
        return kind_of(value)
    if isinstance(value, list):
        text = f"[{', '.join(map(shown, value))}]"
    else:
        text = msgspec.json.encode(value).decode() if isinstance(value, str | bool) else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def written(value: Any) -> str:
    """Return a value that JSON could say, as TOML writes it in one line; keys without a value are left out."""
    match value:
        case dict():
            pairs = ", ".join(f"{quoted(key)} = {written(inner)}" for key, inner in value.items() if inner is not None)
            return f"{{ {pairs} }}" if pairs else "{}"
        case list() | tuple():
            return f"[{', '.join(map(written, value))}]"
        case bool() | str():
            return msgspec.json.encode(value).decode()
        case float() if value.is_integer() and abs(value) < 1e15:
            return f"{value:.1f}"
    return str(value)
