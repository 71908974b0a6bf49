"""Options of a plugin: a table of `runtime.toml` made into the plugin's own record, with every fault at once.

Values may be secrets, so no message shows one: it names the kind of value that was expected and found. Text may
stand for a number or a boolean, because a `${VAR}` that was filled in is always text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import UNSET

from runtime.errors import ConfigError, Fault, nearest
from runtime.toml import place_of, quoted

WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "bool": "a boolean",
    "object": "a table",
    "array": "a list",
    "null": "nothing",
}


def read_options(model: type[msgspec.Struct], table: Mapping[str, Any], file: str, path: Sequence[str]) -> Any:
    """Return the record that a table stands for; `path` leads to the table in the file.

    Raises:
        ConfigError: with all unknown and missing keys, and all values that do not fit.
    """
    reader = _Reader(file)
    made = reader.record(model, table, tuple(path))
    if reader.faults:
        raise ConfigError(reader.faults)
    return made


class _Reader:
    """Converts tables; collects faults."""

    def __init__(self, file: str) -> None:
        self.faults: list[Fault] = []
        self._file = file

    def record(self, model: type[msgspec.Struct], table: Mapping[str, Any], path: tuple[str, ...]) -> Any:
        """Return the record, or UNSET when there are faults."""
        before = len(self.faults)
        fields = {field.encode_name: field for field in msgspec.structs.fields(model)}
        allowed = ", ".join(fields) or "none"
        for key in [key for key in table if key not in fields]:
            self._fault(path, quoted(key), f"unknown key{nearest(key, fields)}; allowed: {allowed}")
        for key, field in fields.items():
            if field.required and key not in table:
                self._fault(path, key, "expected a value, found none; it has no default")
        given = {field.name: self._value(field.type, table[key], path, key) for key, field in fields.items() if key in table}
        if len(self.faults) > before:
            return UNSET
        try:
            return model(**given)
        except (TypeError, ValueError) as error:
            self._fault(path, "", str(error))
            return UNSET

    def _value(self, type: Any, value: Any, path: tuple[str, ...], key: str) -> Any:
        """Return a value converted; tables are taken apart, so that a fault in one is named in full."""
        if isinstance(value, dict) and _is_record(type):
            return self.record(type, value, (*path, key))
        if isinstance(value, dict) and get_origin(type) is dict and get_args(type)[0] is str:
            return {name: self._value(get_args(type)[1], inner, (*path, key), name) for name, inner in value.items()}
        for strict in (True, False):
            try:
                return msgspec.convert(value, type, strict=strict)
            except msgspec.ValidationError as error:
                fault = error
        message, _, inner = str(fault).partition(" - at `$")
        self._fault(path, quoted(key) + inner.rstrip("`"), _in_words(message, type))
        return UNSET

    def _fault(self, path: tuple[str, ...], key: str, message: str) -> None:
        self.faults.append(Fault(place_of(self._file, path, key), message))


def _is_record(type: Any) -> bool:
    return isinstance(type, msgspec.StructMeta) and type.__struct_config__.tag is None and not type.__struct_config__.array_like


def _in_words(message: str, type: Any) -> str:
    """Return a message of msgspec in the words of TOML; the value, which it shows for some types, is cut off."""
    if message.startswith("Invalid"):
        allowed = " or ".join(f'"{value}"' for value in get_args(type)) if get_origin(type) is Literal else "one of the values it takes"
        return f"expected {allowed}, found another"
    text = re.sub(r"`([^`]*)`", lambda match: " or ".join(WORDS.get(word, word) for word in match[1].split(" | ")), message)
    return (text[0].lower() + text[1:]).replace(", got ", ", found ")
