"""Import the functions folder as one transaction.

A load reads every file once, compiles that text itself, makes anew what changed and whatever in the folder
imports it, and keeps every other module object. Compiling by hand is a choice: the standard loader trusts
bytecode by whole seconds and size, so that two saves in one second run the old code; `importlib.reload` was
rejected because it writes into the module that running code still uses. Modules belong to their load: each
has its own `__builtins__`, whose `__import__` answers for `functions.*`. While the load runs it executes on
demand; afterwards it knows exactly what the source of its module names in `import` statements, wherever they
stand. A module is made anew when any of these changes, so what it holds is right in every generation that
shares it, and it holds nothing else alive. The one table Python has, `sys.modules`, shows a new module while
it executes, because dataclasses, typing and pickle look there; the end of the load puts back what was there,
and `publish` swaps. (Code of the old generation that looks into `sys.modules` during a load may meet a new
module for that moment; emptying the table instead would hurt it more.) A load that hangs is abandoned by its
caller: the next one, or `publish`, takes `sys.modules` away from it, and it can only write into its own table.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from inspect import unwrap
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import msgspec

from runtime.contracts import Convention, Handlers
from runtime.errors import Fault, LoadError, nearest
from runtime.function import Declaration, collecting
from runtime.loading.files import read_files
from runtime.loading.modules import Importer, Ready, bind, make_module
from runtime.loading.stage import stage
from runtime.loading.units import Unit, identity, is_ours, make_units, prefixes

HELPER = "files whose name begins with _ are helpers and declare no functions: rename it"
HELPER_INIT = "files whose name begins with _ are helpers and declare no functions: move them to another file"


class Loaded(msgspec.Struct, frozen=True):
    """A declared function and where it stands: `file` begins with the folder's name, `line` is that of the `def`."""

    declaration: Declaration
    file: str
    line: int


class PartialLoad(LoadError):
    """Raised when some files cannot be loaded; `declared` are the functions of the others, which may be at fault too."""

    def __init__(self, faults: Sequence[Fault], declared: tuple[Loaded, ...]) -> None:
        super().__init__(faults)
        self.declared = declared


class Modules(msgspec.Struct, frozen=True):
    """What a load has made. `files`: relative path to sha256; `table`: modules by name; `imports`: direct, inside the folder."""

    folder: Path
    files: dict[str, str]
    table: dict[str, ModuleType]
    declared: tuple[Loaded, ...]
    imports: dict[str, frozenset[str]]
    units: dict[str, Unit]
    owned: dict[str, tuple[Loaded, ...]]
    remade: frozenset[str] = frozenset()
    conventions: tuple[Convention, ...] = ()

    def sources(self) -> dict[str, bytes]:
        """Return the text of each file by its relative path."""
        return {unit.relative: unit.source for unit in self.units.values() if unit.source is not None}


def load(
    folder: Path,
    previous: Modules | None = None,
    conventions: Sequence[Convention] = (),
    sources: Mapping[str, bytes] | None = None,
) -> Modules:
    """Import the folder; modules of `previous` that nothing changed for are kept. `sys.modules` is left as it was.

    Files that are no helpers are shown to those `conventions` that declare. `sources` are texts by relative path that take the place of
    what is in the folder. Blocks: call it in a thread. Give the result to `publish`.

    Raises:
        PartialLoad: with every fault of every file; nothing has changed then.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would freeze a folder that is a link
    if previous is not None and previous.folder != folder:
        previous = None
    faults: list[Fault] = []
    texts = read_files(folder, faults) if sources is None else sources
    units = make_units(folder, texts, previous.units if previous else {}, faults)
    session = _Load(folder, units, previous, faults, conventions)
    session.run()
    if faults:
        raise PartialLoad(faults, session.declared())
    return session.modules()


def publish(modules: Modules, previous: Modules | None = None) -> None:
    """Make `modules` what `sys.modules`, the attributes of packages and tracebacks show, instead of `previous`."""
    for name, old in (previous.table if previous else {}).items():
        parent, _, child = name.rpartition(".")
        package = modules.table.get(parent)
        if name not in modules.table and package is not None and vars(package).get(child) is old:
            delattr(package, child)
    for name, module in modules.table.items():
        bind(modules.table, name, module)
    stage.publish(modules.table, modules.units, previous.units if previous else {})


@contextmanager
def shown(modules: Modules) -> Iterator[None]:
    """Let `sys.modules` show a load that is not published, for what looks up the names in annotations there."""
    stage.show_all(modules.table)
    try:
        yield
    finally:
        stage.hide_all()


class _Load:
    """One load: makes the modules that must be made, on demand or in the order of their names."""

    def __init__(
        self, folder: Path, units: dict[str, Unit], previous: Modules | None, faults: list[Fault], conventions: Sequence[Convention]
    ) -> None:
        self._conventions = tuple(conventions)
        self.folder = folder
        self.units = units
        self.faults = faults
        self.remade = _remade(units, previous)
        self.table = {name: previous.table[name] for name in units if name not in self.remade} if previous else {}
        self.owned = {name: previous.owned.get(name, ()) for name in self.table} if previous else {}
        self._failed: dict[str, BaseException] = {name: unit.error for name, unit in units.items() if unit.error is not None}
        self._told: list[BaseException] = list(self._failed.values())
        self._importers: list[Importer] = []
        self._places = {str(unit.path): unit for unit in units.values()}
        self._thread = threading.get_ident()

    def run(self) -> None:
        """Execute what must be; faults are collected."""
        stage.enter(self)
        sys.meta_path.insert(0, self)
        try:
            for name in self.units:
                if name not in self.table and name not in self._failed:
                    try:
                        self.get(name)
                    except BaseException as error:  # noqa: BLE001 - whatever a file raises is a fault of that file
                        self._report(name, error)
        finally:
            sys.meta_path.remove(self)
            stage.leave(self)
            self._failed.clear()  # exceptions keep frames
            self._told.clear()
            for importer in self._importers:
                importer.settle(self.table)

    def declared(self) -> tuple[Loaded, ...]:
        """Return the functions declared so far."""
        found = [loaded for name in self.units for loaded in self.owned.get(name, ())]
        return tuple(sorted(found, key=lambda loaded: (loaded.file, loaded.line)))

    def modules(self) -> Modules:
        """Return what was made."""
        table = {name: self.table[name] for name in self.units}
        files = {unit.relative: unit.digest for unit in self.units.values() if unit.source is not None}
        imports = {name: frozenset(one for one in unit.names if one in self.units and one != name) for name, unit in self.units.items()}
        return Modules(
            self.folder, files, table, self.declared(), imports, self.units, self.owned, frozenset(self.remade), self._conventions
        )

    def find_spec(self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None) -> ModuleSpec | None:
        """Answer `importlib.import_module` while the load runs, in its thread."""
        if not is_ours(name) or threading.get_ident() != self._thread:
            return None
        return ModuleSpec(name, Ready(self.get(name)))  # type: ignore[arg-type]

    def get(self, name: str) -> ModuleType:
        """Return a module of this load, executed or, in a circle, being executed."""
        for prefix in prefixes(name):
            if prefix in self._failed:
                raise self._failed[prefix].with_traceback(None)
            if prefix not in self.units:
                near = nearest(prefix, self.units)
                raise ModuleNotFoundError(f"No module named {prefix!r}{near}", name=prefix)
            if prefix not in self.table:
                self._execute(self.units[prefix])
        return self.table[name]

    def _execute(self, unit: Unit) -> None:
        importer = Importer(self, unit.names)
        self._importers.append(importer)
        module = make_module(unit, importer)
        self.table[unit.name] = module
        stage.show(self, unit, module)
        vars(module.__spec__)["_initializing"] = True  # words Python's message on a circular import
        try:
            with collecting() as found:
                if unit.code is not None:
                    exec(unit.code, vars(module))  # noqa: S102 - running the user's code is the purpose
                    for convention in () if unit.path.name.startswith("_") else self._conventions:
                        if not isinstance(convention, Handlers):
                            convention(module)
        except BaseException as error:
            del self.table[unit.name]
            stage.hide(self, unit.name)
            self._failed[unit.name] = error
            self._report(unit.name, error)
            raise
        finally:
            vars(module.__spec__)["_initializing"] = False
        if unit.name.rpartition(".")[0] in self.remade:  # a package that is kept shows what runs, until this load is published
            bind(self.table, unit.name, module)
        self.owned[unit.name] = tuple(self._loaded(unit, declaration) for declaration in found)
        if found and unit.path.name.startswith("_") and unit.source is not None:
            self.faults.append(
                Fault(f"{unit.place}:{self.owned[unit.name][0].line}", HELPER_INIT if unit.package else HELPER),
            )

    def _loaded(self, unit: Unit, declaration: Declaration) -> Loaded:
        return Loaded(declaration, *place_of_def(declaration.call, unit, self._places))

    def _report(self, name: str, error: BaseException) -> None:
        """Note a fault once, at the innermost frame inside the folder."""
        if any(error is told for told in self._told):
            return
        self._told.append(error)
        where = f"{self.units[name].place}:1"
        trace: TracebackType | None = error.__traceback__
        while trace is not None:
            unit = self._places.get(trace.tb_frame.f_code.co_filename)
            if unit is not None:
                where = f"{unit.place}:{trace.tb_lineno}"
            trace = trace.tb_next
        self.faults.append(Fault(where, _message(error)))


def place_of_def(call: Any, unit: Unit, places: Mapping[str, Unit]) -> tuple[str, int]:
    """Return file and line of the `def` of a callable, as messages name it: the first of `unit` when it has none in the folder.

    `places` are the units by the path of their file.
    """
    call = unwrap(call)
    code = getattr(getattr(call, "func", call), "__code__", None)
    if code is None or code.co_filename not in places:
        return unit.place, 1
    home = places[code.co_filename]
    return home.place, home.defs.get(code.co_firstlineno, code.co_firstlineno)


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a user's __str__
        text = ""
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name and not is_ours(error.name):
        return f"{told}; install it where the runtime is installed"
    if not isinstance(error, Exception):
        return f"{told}; a file must not end the process when it is imported"
    return told


def _remade(units: dict[str, Unit], previous: Modules | None) -> set[str]:
    """Return the modules to make: changed ones, and what imports them or a name that came or went, directly or not."""
    if previous is None:
        return set(units)
    changed = {name for name in units.keys() | previous.units.keys() if identity(units.get(name)) != identity(previous.units.get(name))}
    while more := {name for name, unit in units.items() if name not in changed and unit.names & changed}:
        changed |= more
    return changed & units.keys()
