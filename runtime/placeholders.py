"""Placeholders in the values of `runtime.toml`: `${VAR}`, `${VAR:-default}` and `${file:PATH}`; `$${` is a plain `${`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import UNSET

from runtime.toml import quoted, shown

PLACEHOLDER = re.compile(r"\$\$\{|\$\{(?P<inside>[^}]*)(?P<end>\}?)")
INSIDE = re.compile(r"(?P<variable>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?|file:(?P<file>.+)", re.DOTALL)

Tell = Callable[[tuple[str, ...], str, str], None]
"""Takes the path of a table, a key in it as TOML writes it, and what is wrong there."""


class Filler:
    """Fills placeholders in; paths of files are relative to `folder`, faults go to `tell`."""

    def __init__(self, folder: Path, tell: Tell) -> None:
        self._folder = folder
        self._tell = tell

    def table(self, place: tuple[str, ...], table: Mapping[str, Any]) -> dict[str, Any]:
        """Return the table filled in, without the values of which a placeholder is faulty; `place` is its path."""
        filled = {
            key: self.table((*place, key), value) if isinstance(value, dict) else self._value(place, quoted(key), value)
            for key, value in table.items()
        }
        return {key: value for key, value in filled.items() if value is not UNSET}

    def _value(self, place: tuple[str, ...], key: str, value: Any) -> Any:
        """Return the value filled in; UNSET, and a fault, when it cannot be."""
        if isinstance(value, dict):
            return self.table((*place, key), value)
        if isinstance(value, list):
            items = [self._value(place, f"{key}[{index}]", item) for index, item in enumerate(value)]
            return UNSET if UNSET in items else items
        if not isinstance(value, str):
            return value
        wrong: list[str] = []

        def fill(match: re.Match[str]) -> str:
            try:
                return self._one(match)
            except LookupError as error:
                wrong.append(error.args[0])
                return ""

        text = PLACEHOLDER.sub(fill, value)
        for message in wrong:
            self._tell(place, key, message)
        return UNSET if wrong else text

    def _one(self, match: re.Match[str]) -> str:
        """Return what a placeholder stands for.

        Raises:
            LookupError: it is malformed, or stands for nothing.
        """
        if match["inside"] is None:
            return "${"
        inside = INSIDE.fullmatch(match["inside"])
        if inside is None or not match["end"] or "${" in match["inside"]:
            form = "expected ${VAR}, ${VAR:-default} or ${file:PATH}"
            raise LookupError(f"{form}, found {shown(match[0])}; write $${{ for a ${{ that is meant as it is")
        return _read_secret(self._folder / inside["file"]) if inside["file"] else _variable(inside)


def _variable(inside: re.Match[str]) -> str:
    """Return an environment variable or its default; as in a shell, the default also stands for an empty one."""
    name, default = inside["variable"], inside["default"]
    value = os.environ.get(name)
    if value is None and default is None:
        raise LookupError(f"environment variable {name} is not set; set it, or give a default as in ${{{name}:-…}}")
    return value or default or ""


def _read_secret(path: Path) -> str:
    try:
        return path.read_text("utf-8").rstrip("\r\n")
    except OSError as error:
        why = str(error.strerror)
    except ValueError:
        why = "no text in UTF-8"
    raise LookupError(f"expected the file {path}, found: {why}; make it, or correct the path, which is relative to the configuration file")
