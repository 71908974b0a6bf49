"""Module objects: each belongs to one load, and its imports of the folder find the modules of that load."""

from __future__ import annotations

import builtins
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Protocol

from runtime.loading.units import Unit, is_ours, prefixes


class Load(Protocol):
    """What a module asks its load while that is under way."""

    units: dict[str, Unit]
    table: dict[str, ModuleType]

    def get(self, name: str) -> ModuleType:
        """Return a module of this load, executed or, in a circle, being executed."""


def make_module(unit: Unit, importer: Importer) -> ModuleType:
    """Return a module that is not executed yet, with an `__import__` of its own."""
    spec = ModuleSpec(unit.name, ModuleLoader(unit), origin=str(unit.path) if unit.source is not None else None, is_package=unit.package)  # type: ignore[arg-type]
    spec.has_location = unit.source is not None
    spec.cached = None
    if spec.submodule_search_locations is not None:
        spec.submodule_search_locations.append(str(unit.path.parent if unit.source is not None else unit.path))
    module = importlib.util.module_from_spec(spec)
    vars(module)["__builtins__"] = {**vars(builtins), "__import__": importer}
    return module


def space_of(module: ModuleType) -> Importer:
    """Return what lives as long as the names of a module do, which functions keep even without the module itself."""
    found: Importer = vars(module)["__builtins__"]["__import__"]
    return found


def bind(table: Mapping[str, ModuleType], name: str, module: ModuleType) -> None:
    """Make a module an attribute of its package, unless the package gave that name to something else."""
    parent, _, child = name.rpartition(".")
    if parent in table and is_module(vars(table[parent]).get(child), name):
        setattr(table[parent], child, module)


def is_module(value: object, name: str) -> bool:
    """Return whether an attribute of a package is not there, or the module of that name."""
    return value is None or (isinstance(value, ModuleType) and value.__name__ == name)


class ModuleLoader:
    """What `__loader__` is: knows the text its module was made from."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit

    def create_module(self, _spec: ModuleSpec) -> None:
        """Leave it to Python."""

    def exec_module(self, module: ModuleType) -> None:
        """Refuse `importlib.reload`."""
        raise ImportError(f"{module.__name__} is loaded by the runtime when its file changes, not reloaded by hand")

    def get_source(self, _name: str) -> str | None:
        """Return the text that runs, whatever the file says now."""
        return None if self._unit.source is None else importlib.util.decode_source(self._unit.source)

    def is_package(self, _name: str) -> bool:
        """Return whether it is a folder."""
        return self._unit.package


class Ready:
    """Hands `importlib` a module that is executed already."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, _spec: ModuleSpec) -> ModuleType:
        """Return the module."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Give it back what `importlib` has just replaced."""
        module.__spec__ = self._spec
        module.__loader__ = self._spec.loader if self._spec else None


class Importer:
    """The `__import__` of one module: of the folder it gets what belongs to its load, of the rest what Python has."""

    def __init__(self, load: Load, names: frozenset[str]) -> None:
        self._load: Load | None = load
        self._names = names
        self._table: dict[str, ModuleType] = {}

    def settle(self, table: Mapping[str, ModuleType]) -> None:
        """Let go of the load; keep what the text of the module names."""
        wanted = {prefix for name in self._names for prefix in prefixes(name)}
        self._table = {name: table[name] for name in wanted if name in table}
        self._load = None

    def __call__(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Do what `import` does."""
        full = importlib.util.resolve_name("." * level + name, (globals or {}).get("__package__") or "") if level else name
        if not is_ours(full):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        module = self.get(full)
        if not fromlist:
            return self.view(self.get(full[: len(full) - len(name)] + name.partition(".")[0]))
        wanted = getattr(module, "__all__", ()) if "*" in fromlist else fromlist
        for item in wanted:
            if self.knows(f"{full}.{item}") and is_module(vars(module).get(item), f"{full}.{item}"):
                self.get(f"{full}.{item}")
        return module if "*" in fromlist else self.view(module)

    def knows(self, name: str) -> bool:
        """Return whether there is such a module."""
        return name in (self._table if self._load is None else self._load.units)

    def get(self, name: str) -> ModuleType:
        """Return a module of the load this one belongs to; of one that its text does not name, the newest."""
        if self._load is not None:
            return self._load.get(name)
        found = self._table.get(name) or sys.modules.get(name)
        if found is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return found

    def now(self, name: str) -> ModuleType | None:
        """Return a module as far as it is made."""
        return (self._table if self._load is None else self._load.table).get(name)

    def lost(self, name: str) -> bool:
        """Return whether the load under way has no such module, whatever a package still shows."""
        return self._load is not None and name not in self._load.units

    def view(self, module: ModuleType) -> ModuleType:
        """Return a package as this load sees it, and any other module as it is."""
        return View(module, self) if hasattr(module, "__path__") else module


class View(ModuleType):
    """A package as one load sees it; packages outlive loads, so their own attributes show the newest modules."""

    def __init__(self, package: ModuleType, importer: Importer) -> None:
        super().__init__(package.__name__)
        object.__setattr__(self, "_seen", (package, importer))

    def __getattribute__(self, name: str) -> Any:
        package, importer = object.__getattribute__(self, "_seen")
        full = f"{package.__name__}.{name}"
        module = importer.now(full)
        if module is not None and is_module(vars(package).get(name), full):
            return importer.view(module)
        if importer.lost(full) and vars(package).get(name) is not None and is_module(vars(package)[name], full):
            raise AttributeError(f"module {package.__name__!r} has no attribute {name!r}")
        return getattr(package, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(object.__getattribute__(self, "_seen")[0], name, value)
