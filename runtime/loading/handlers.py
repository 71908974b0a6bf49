"""Handlers that are written for other systems: found in the files or named by the configuration, and made functions of ours.

The plugins whose conventions are `Handlers` know how. A function made of a handler keeps it as `__wrapped__`: by that it
is known to be the same in the next generation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import msgspec

from runtime.contracts import Convention, Handlers
from runtime.errors import Fault, nearest
from runtime.function import Declaration
from runtime.graph import Graph
from runtime.loading.importer import Loaded, Modules, place_of_def
from runtime.loading.units import PACKAGE
from runtime.settings import FunctionSettings, Settings
from runtime.toml import place_of

NO_TABLE = FunctionSettings()


class Before(msgspec.Struct, frozen=True):
    """What the generation before was made of."""

    graph: Graph
    settings: Settings
    conventions: Sequence[Convention]


class _Handler(msgspec.Struct, frozen=True):
    """A handler, the name its function gets, and where its `def` stands."""

    name: str
    call: Callable[..., Any]
    file: str
    line: int


def read_handlers(modules: Modules, settings: Settings, before: Before | None) -> tuple[list[Loaded], list[Fault]]:
    """Return the functions that the handlers of the folder make, as if they were declared, and every fault."""
    reader = _Reader(modules, settings)
    handlers = list(reader.named())
    handlers += reader.found({handler.name for handler in handlers}, [handler.call for handler in handlers])
    made = []
    for handler in handlers:
        call = _kept(handler, modules, settings, before) or reader.adapted(handler)
        if call is not None:
            made.append(Loaded(Declaration(call, {"name": handler.name}, handler.line), handler.file, handler.line))
    return made, reader.faults


class _Reader:
    """Reads the handlers of one load; collects every fault."""

    def __init__(self, modules: Modules, settings: Settings) -> None:
        self.faults: list[Fault] = []
        self._modules = modules
        self._tables = settings.functions
        self._config = settings.path.name
        self._kinds = [one for one in modules.conventions if isinstance(one, Handlers)]
        self._places = {str(unit.path): unit for unit in modules.units.values()}
        self._declared = [inspect.unwrap(loaded.declaration.call) for loaded in modules.declared]

    def named(self) -> Iterator[_Handler]:
        """Yield the handlers that tables name."""
        for name, table in self._tables.items():
            if table.handler is not None:
                where = place_of(self._config, ("functions", name), "handler")
                found = self._look_up(table.handler)
                if isinstance(found, str):
                    self.faults.append(Fault(where, found))
                else:
                    yield self._handler(name, *found)

    def found(self, names: set[str], calls: Sequence[Callable[..., Any]]) -> Iterator[_Handler]:
        """Yield the handlers that files have and nobody names or declares; those of `names` and `calls` are named."""
        known = [*self._declared, *map(inspect.unwrap, calls)]
        for module in self._modules.table.values():
            unit = self._modules.units[module.__name__]
            if unit.code is None or unit.path.name.startswith("_"):
                continue
            for kind in self._kinds:
                for name, call in self._asked(kind, module).items():
                    if name not in names and not any(inspect.unwrap(call) is one for one in known):
                        known.append(inspect.unwrap(call))
                        yield self._handler(name, module, call)

    def adapted(self, handler: _Handler) -> Callable[..., Any] | None:
        """Return the function that is made of a handler; None, and a fault, when there is none."""
        options = self._tables.get(handler.name, NO_TABLE).overrides
        try:
            made = next((call for kind in self._kinds if (call := kind.adapt(handler.call, options)) is not None), None)
        except ValueError as error:
            self._fault(handler, str(error))
            return None
        except Exception as error:  # noqa: BLE001 - whatever a convention raises is a fault at the handler
            self._fault(handler, f"the convention that adapts it raised {type(error).__name__}: {error}; mend the plugin")
            return None
        if made is None:
            known = "; ".join(inspect.cleandoc(type(kind).__doc__ or type(kind).__name__).splitlines()[0] for kind in self._kinds)
            self._fault(handler, f"it is written in none of the ways that are known; rewrite it in one of them: {known}")
            return None
        signature = inspect.signature(made, eval_str=True)  # its own, which the next line would hide
        vars(made).update(__signature__=signature, __wrapped__=handler.call)
        return made

    def _asked(self, kind: Handlers, module: ModuleType) -> Mapping[str, Callable[..., Any]]:
        """Return the handlers that a convention finds in a file; none, and a fault, when it raises."""
        try:
            return kind.find(module)
        except Exception as error:  # noqa: BLE001 - it is code of a plugin
            place = self._modules.units[module.__name__].place
            message = f"the convention {type(kind).__name__} cannot read it: {type(error).__name__}: {error}; mend the plugin"
            self.faults.append(Fault(f"{place}:1", message))
            return {}

    def _look_up(self, path: str) -> tuple[ModuleType, Callable[..., Any]] | str:
        """Return the module and the callable that `file.function` names, or what is wrong with it."""
        file, _, attribute = path.replace("/", ".").rpartition(".")
        module = self._modules.table.get(f"{PACKAGE}.{file}")
        folder = self._modules.folder.name
        if module is None:
            files = [name.partition(".")[2] for name, unit in self._modules.units.items() if unit.code is not None]
            likely = nearest(file, files)
            return f'expected FILE.FUNCTION of a file in {folder}/, found no file "{file}"{likely}; correct it, or make the file'
        place = self._modules.units[module.__name__].place
        there = [name for name, value in vars(module).items() if callable(value) and not name.startswith("__")]
        if not hasattr(module, attribute):
            return f'expected a function of {place}, found no "{attribute}" there{nearest(attribute, there)}; correct the name'
        call = getattr(module, attribute)
        if not callable(call):
            return f'expected a function, found that "{attribute}" of {place} is a value of type {type(call).__name__}; name a function'
        if any(inspect.unwrap(call) is one for one in self._declared):
            return f'expected a handler, found that "{attribute}" of {place} is a @function; remove the key, or the decorator'
        return module, call

    def _handler(self, name: str, module: ModuleType, call: Callable[..., Any]) -> _Handler:
        return _Handler(name, call, *place_of_def(call, self._modules.units[module.__name__], self._places))

    def _fault(self, handler: _Handler, message: str) -> None:
        self.faults.append(Fault(f"{handler.file}:{handler.line}", f'handler "{handler.name}": {message}'))


def _kept(handler: _Handler, modules: Modules, settings: Settings, before: Before | None) -> Callable[..., Any] | None:
    """Return the function that was made of a handler before, if it would be made the same way again."""
    function = before.graph.by_name.get(handler.name) if before else None
    if function is None or before is None or tuple(before.conventions) != modules.conventions:
        return None
    same = before.settings.functions.get(handler.name) == settings.functions.get(handler.name)
    return function.call if same and getattr(function.call, "__wrapped__", None) is handler.call else None
