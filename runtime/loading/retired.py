"""Modules that a reload has replaced: see to it that they go, and tell who keeps one from going.

What lives as long as the names of a module do is its `__import__`, so that is what is looked after: functions keep the
names even without the module. Old modules are circles that only the collector can free, and `runtime run` lets it run
seldom; so it is called here, a while after a reload, and once more over what is frozen for what is then still there.
Who holds the rest is searched in a thread, from the module outwards, over every object Python knows of. That takes a
second, once for each file that leaks.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import typing
import weakref
from collections.abc import Mapping, Sequence
from types import FrameType, FunctionType, ModuleType
from typing import Any

from runtime.contracts import Clock
from runtime.loading.modules import Importer, space_of
from runtime.loading.units import Unit
from runtime.specs import StepSpec

log = logging.getLogger("runtime.loading")

WAIT = 60.0  # seconds after a reload when the modules it replaced are looked for; doubled while runs hold some
LONGEST_WAIT = 3600.0
MANY = 50  # replaced modules that are looked for sooner
STEPS = 12  # references that are followed outwards from a module
WIDTH = 2_000  # objects at most that are looked at in one step


class Retired:
    """Looks after replaced modules; `add` is called on the loop at each reload."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: list[tuple[Unit, weakref.ref[Importer]]] = []
        self._named: set[str] = set()
        self._looking: asyncio.Task[None] | None = None
        self._fresh = 0
        self._wait = WAIT

    def add(self, table: Mapping[str, ModuleType], units: Mapping[str, Unit], present: Mapping[str, ModuleType]) -> None:
        """Look after the modules of `table` that are not `present` any more."""
        gone = [name for name, module in table.items() if present.get(name) is not module]
        self._waiting += [(units[name], weakref.ref(space_of(table[name]))) for name in gone]
        self._fresh += len(gone)
        self._wait = WAIT
        if self._fresh >= MANY:
            self._fresh = 0
            _collect()
            self._let_go()
        if self._waiting and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look_again(), name="retired")

    def stop(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()

    async def look(self) -> None:
        """Collect what was replaced, and name who holds what is left; what was replaced meanwhile is left for the next time."""
        old = list(self._waiting)
        _collect()
        if self._let_go() and gc.get_freeze_count():
            gc.unfreeze()  # the modules of the first generation are among what is frozen
            _collect()
            gc.freeze()
        for unit, reference in old:
            if reference() is not None and unit.place not in self._named:
                await self._name(unit, reference)
        self._waiting = [one for one in self._waiting if one[0].place not in self._named]
        self._let_go()

    async def _look_again(self) -> None:
        while self._waiting:
            await self._clock.sleep(self._wait)
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            await self.look()

    def _let_go(self) -> bool:
        """Forget what is gone, and return whether something is left."""
        self._waiting = [one for one in self._waiting if one[1]() is not None]
        return bool(self._waiting)

    async def _name(self, unit: Unit, reference: weakref.ref[Importer]) -> None:
        """Log once who holds a module; nothing when it is a run."""
        frozen = gc.get_freeze_count() > 0
        gc.unfreeze()
        objects = gc.get_objects()  # let go of on the loop, where their finalizers belong
        try:
            holder = await asyncio.to_thread(_holder, unit, reference, objects)
        finally:
            objects.clear()
            if frozen:
                gc.freeze()
        if holder:
            self._named.add(unit.place)
            log.warning(
                "%s: its code before the last save should be gone from memory, but %s; stop or remove that before the file is "
                "saved, or make it inside a function",
                unit.place,
                holder,
            )


def _collect() -> None:
    """Free circles of objects, and what typing remembers of classes: `Optional[Order]` would keep the old `Order`."""
    for forget in getattr(typing, "_cleanups", ()):
        forget()
    gc.collect()


def _holder(unit: Unit, reference: weakref.ref[Importer], objects: Sequence[Any]) -> str:
    """Return who holds a module, in words; empty when it is gone, or held by a run or a graph."""
    space = reference()
    if space is None:
        return ""
    words = _search(unit, space, objects)
    return words and (_thread_inside(space) or words)


def _thread_inside(space: Importer) -> str:
    """Return the thread that executes code of the module."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, top in sys._current_frames().items():  # noqa: SLF001 - there is no other way to see what threads do
        frame: FrameType | None = top
        while frame is not None:
            if frame.f_builtins.get("__import__") is space:
                return f'the thread "{names.get(ident, ident)}" still runs it at line {frame.f_lineno}'
            frame = frame.f_back
    return ""


def _search(unit: Unit, space: Importer, objects: Sequence[Any]) -> str:
    """Follow references outwards, step by step, until something that has a name for people; empty when a run or a graph comes first."""
    seen: dict[int, Any] = {id(space): None, id(objects): None}
    frontier: dict[int, Any] = {id(space): space}
    held: dict[int, str] = {}
    for _ in range(STEPS):
        found: dict[int, Any] = {}
        for one in objects:
            if id(one) in seen:
                continue
            via = next((id(part) for part in gc.get_referents(one) if id(part) in frontier), None)
            if via is not None:
                if isinstance(one, StepSpec):
                    return ""
                held[id(one)] = _name_of(one, unit) or held.get(via, "")
                if words := _words(one, unit):
                    return f"{words} holds {held[id(one)] or held.get(via, '') or 'it'}"
                found[id(one)] = one
        seen.update(found)
        frontier = dict(list(found.items())[:WIDTH])
        if not frontier:
            break
    return "something that Python cannot see holds it, such as an extension module or a function given to atexit"


def _name_of(one: object, unit: Unit) -> str:
    if isinstance(one, FunctionType | type) and one.__module__ == unit.name:
        return f"{unit.name}.{one.__qualname__}"
    return ""


def _words(one: object, unit: Unit) -> str:
    """Return what people call an object that can hold others; empty for the module itself and for what has no name."""
    if isinstance(one, threading.Thread):
        return f'the thread "{one.name}"'
    if isinstance(one, asyncio.Task):
        return f'the task "{one.get_name()}"'
    if isinstance(one, ModuleType) and type(one) is ModuleType and one.__name__ != unit.name:
        builtin = vars(one).get("__builtins__")
        mine = isinstance(builtin, dict) and builtin.get("__import__")
        return "" if isinstance(mine, Importer) and sys.modules.get(one.__name__) is not one else f"the module {one.__name__}"
    return ""
