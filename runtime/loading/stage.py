"""Who may show modules of the folder to the rest of Python: in `sys.modules`, and their text to tracebacks."""

from __future__ import annotations

import importlib.util
import linecache
import sys
import threading
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Protocol

from runtime.loading.units import Unit, is_ours


class Load(Protocol):
    """What the stage asks a load."""

    units: dict[str, Unit]
    table: dict[str, ModuleType]


def lines_of(unit: Unit) -> Any:
    """Return the text of a module as the line cache keeps it."""
    text = importlib.util.decode_source(unit.source or b"")
    return len(text), None, text.splitlines(keepends=True), str(unit.path)  # no time: never compared with the disk


class Stage:
    """Who may write `functions.*` into `sys.modules` and the line cache: at most one load, and `publish`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._load: Load | None = None
        self._saved: dict[str, ModuleType] = {}
        self._lines: dict[str, Any] = {}

    def enter(self, load: Load) -> None:
        """Begin a load: show what it keeps."""
        with self._lock:
            if self._load is None:
                self._saved = {name: module for name, module in list(sys.modules.items()) if is_ours(name)}
            else:  # it hangs, and was abandoned
                self._restore()
            self._load = load
            kept = {**self._saved, **load.table} if load.table else {}
            self._write({name: module for name, module in kept.items() if name in load.units})

    def show(self, load: Load, unit: Unit, module: ModuleType) -> None:
        """Show a module that is about to be executed, and its text."""
        with self._lock:
            if self._load is load:
                sys.modules[unit.name] = module
                if unit.source is not None:
                    self._lines.setdefault(str(unit.path), linecache.cache.get(str(unit.path)))
                    linecache.cache[str(unit.path)] = lines_of(unit)

    def hide(self, load: Load, name: str) -> None:
        """Take back a module that failed."""
        with self._lock:
            if self._load is load:
                sys.modules.pop(name, None)

    def leave(self, load: Load) -> None:
        """End a load: show what was there before."""
        with self._lock:
            if self._load is load:
                self._restore()
                self._load = None
                self._saved = {}  # holds no old modules alive

    def show_all(self, table: Mapping[str, ModuleType]) -> None:
        """Show these modules for a moment."""
        with self._lock:
            self._saved = {name: module for name, module in list(sys.modules.items()) if is_ours(name)}
            self._write(table)

    def hide_all(self) -> None:
        """Show what was there before that moment."""
        with self._lock:
            self._write(self._saved)
            self._saved = {}

    def publish(self, table: Mapping[str, ModuleType], units: Mapping[str, Unit], previous: Mapping[str, Unit]) -> None:
        """Show these modules and their texts instead of the previous ones, whatever a load that was abandoned may do."""
        with self._lock:
            self._restore_lines()
            self._load = None
            self._saved = {}
            self._write(table)
            for name in previous.keys() - units.keys():
                linecache.cache.pop(str(previous[name].path), None)
            for name, unit in units.items():
                if unit.source is not None and unit is not previous.get(name):
                    linecache.cache[str(unit.path)] = lines_of(unit)

    def _restore(self) -> None:
        self._write(self._saved)
        self._restore_lines()

    def _restore_lines(self) -> None:
        for path, entry in self._lines.items():
            linecache.cache.pop(path, None)
            if entry is not None:
                linecache.cache[path] = entry
        self._lines.clear()

    def _write(self, table: Mapping[str, ModuleType]) -> None:
        for name in [name for name in list(sys.modules) if is_ours(name) and name not in table]:
            del sys.modules[name]
        sys.modules.update(table)


stage = Stage()
