"""Values of CloudEvents attributes as headers of HTTP and NATS say them: printable ASCII, all else percent-encoded."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote, unquote

from runtime.errors import MalformedEvent

_UNESCAPED: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


def to_header(value: Any) -> str:
    """Return the value of an attribute as a header."""
    return quote(to_text(value), safe=_UNESCAPED)


def to_text(value: Any) -> str:
    """Return the value of an attribute as text, as headers that take any text say it."""
    if type(value) is bool:
        return "true" if value else "false"
    return str(value)


def from_header(name: str, value: str) -> str:
    """Return the value of an attribute that a header says.

    Raises:
        MalformedEvent: what is percent-encoded is not UTF-8.
    """
    if "%" not in value and '"' not in value:
        return value
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = _unquoted(value[1:-1])
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise MalformedEvent(f"header {name}: expected percent-encoded UTF-8, found {shown(value)}") from None


def _unquoted(value: str) -> str:
    """Return what stands in a quoted string of HTTP, where a backslash keeps the character after it."""
    characters = iter(value)
    return "".join(next(characters, "") if character == "\\" else character for character in characters)


def shown(value: Any) -> str:
    """Return a value as messages show it, cut when it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
