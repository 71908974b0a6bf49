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

import ast
import builtins
import hashlib
import importlib.util
import linecache
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from inspect import unwrap
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any

import msgspec

from runtime.errors import Fault, LoadError, nearest
from runtime.function import Declaration, collecting

PACKAGE = "functions"  # the package's name, whatever the folder is called
SKIPPED = {"__pycache__", "node_modules"}
TRIES = 50  # times a folder that changes while it is read is read again
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


class Unit(msgspec.Struct, frozen=True):
    """A module before it is executed: its file (None: a folder without `__init__.py`) and what its text says.

    `names` are all modules its imports could mean, there or not; `defs` leads from a function's first line
    (of a decorator) to the line of its `def`; `error` is why there is no `code`.
    """

    name: str
    place: str
    path: Path
    package: bool
    source: bytes | None = None
    digest: str = ""
    code: CodeType | None = None
    names: frozenset[str] = frozenset()
    defs: dict[int, int] = {}
    error: Exception | None = None


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


Convention = Callable[[ModuleType], object]
"""Declares what it finds in a loaded file, by `function(…)`; for files that are written in other ways than ours."""


def load(folder: Path, previous: Modules | None = None, conventions: Sequence[Convention] = ()) -> Modules:
    """Import the folder; modules of `previous` that nothing changed for are kept. `sys.modules` is left as it was.

    Files that are no helpers are shown to `conventions`. Blocks: call it in a thread. Give the result to `publish`.

    Raises:
        PartialLoad: with every fault of every file; nothing has changed then.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would freeze a folder that is a link
    if previous is not None and previous.folder != folder:
        previous = None
    faults: list[Fault] = []
    units = _units(folder, previous, faults)
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
        _bind(modules.table, name, module)
    for unit in previous.units.values() if previous else ():
        linecache.cache.pop(str(unit.path), None)
    linecache.cache.update({str(unit.path): _lines(unit) for unit in modules.units.values() if unit.source is not None})
    _stage.publish(modules.table)


@contextmanager
def shown(modules: Modules) -> Iterator[None]:
    """Let `sys.modules` show a load that is not published, for what looks up the names in annotations there."""
    _stage.show_all(modules.table)
    try:
        yield
    finally:
        _stage.hide_all()


def python_files(folder: Path) -> Iterator[Path]:
    """Yield the `*.py` below a folder, sorted, links followed; hidden and temporary files and link cycles are left out.

    Raises:
        OSError: a folder is there and cannot be read, which does not mean that its files are gone.
    """

    def walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
        try:
            stat = folder.stat()
            names = sorted(os.listdir(folder))  # noqa: PTH208 - names are what is judged
        except (FileNotFoundError, NotADirectoryError):
            return
        here = (stat.st_dev, stat.st_ino)
        if here in above:
            return
        for name in names:
            path = folder / name
            if name.startswith((".", "#", "flycheck_")) or name in SKIPPED:
                continue
            if path.is_dir():
                yield from walk(path, above | {here})
            elif name.endswith(".py"):
                yield path

    return walk(folder, frozenset())


def _units(folder: Path, previous: Modules | None, faults: list[Fault]) -> dict[str, Unit]:
    """Read and compile every file; folders become packages."""
    if not folder.is_dir():
        faults.append(Fault(str(folder), "no such folder: make it, or name another with `functions` under [runtime]"))
    units = {PACKAGE: Unit(PACKAGE, folder.name, folder, package=True)}
    for path, source in _read(folder, faults).items():
        relative = path.relative_to(folder)
        place = (folder.name / relative).as_posix()
        parts = [*relative.parts[:-1], relative.stem]
        if any("." in part for part in parts):
            faults.append(Fault(f"{place}:1", "a dot in its name: no module can be called so; rename it"))
            continue
        package = parts[-1] == "__init__"
        names = [".".join([PACKAGE, *parts[:end]]) for end in range(1, len(parts) + (not package))]
        for depth, name in enumerate(names[: len(parts) - 1], 1):
            at = folder.joinpath(*parts[:depth])
            units.setdefault(name, Unit(name, at.relative_to(folder.parent).as_posix(), at, package=True))
        name = names[-1] if names else PACKAGE
        unit = _unit(name, place, path, package, source, previous)
        if unit.error is not None:
            faults.append(_syntax(unit.place, unit.error))
        if name in units and not package:
            other = f"{place.removesuffix('.py')}/"
            faults.append(Fault(f"{place}:1", f"this file and the folder {other} are both the module {name}: rename one"))
        units[name] = unit
    return units


def _read(folder: Path, faults: list[Fault]) -> dict[Path, bytes]:
    """Return the text of every file as it was at one moment, or after `TRIES` as it is."""
    for attempt in range(TRIES):
        before = _signature(folder)
        texts: dict[Path, bytes] = {}
        wrong: list[Fault] = []
        for path in before:
            try:
                texts[path] = path.read_bytes()
            except OSError as error:
                place = path.relative_to(folder.parent).as_posix()
                wrong.append(Fault(f"{place}:1", f"cannot be read: {error.strerror}; mend it or take it away"))
        if before == _signature(folder) or attempt == TRIES - 1:
            break
        threading.Event().wait(0.01)
    faults.extend(wrong)
    return texts


def _signature(folder: Path) -> dict[Path, tuple[int, ...] | None]:
    return {path: file_signature(path) for path in python_files(folder)}


def file_signature(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a file does: times in ns, size, inode; None when there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


def _unit(name: str, place: str, path: Path, package: bool, source: bytes, previous: Modules | None) -> Unit:  # noqa: FBT001
    digest = hashlib.sha256(source).hexdigest()
    old = previous.units.get(name) if previous else None
    if old is not None and (old.path, old.digest) == (path, digest):
        return old
    try:
        tree = ast.parse(source, str(path))
        code = compile(tree, str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Unit(name, place, path, package, source, digest, error=error)
    return Unit(name, place, path, package, source, digest, code, *_read_tree(tree, name if package else name.rpartition(".")[0]))


def _read_tree(tree: ast.Module, package: str) -> tuple[frozenset[str], dict[int, int]]:
    """Return the names that imports anywhere in the text could mean, and the first lines of functions with those of their `def`."""
    names: set[str] = set()
    defs: dict[int, int] = {}
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and _text(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            waiting.extend(node.orelse)
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            defs[min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])] = node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                names.update(_prefixes(alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node.module or "", node.level, package)
            names.update(_prefixes(base)[-1:], (f"{base}.{alias.name}" for alias in node.names))
        waiting.extend(ast.iter_child_nodes(node))
    return frozenset(filter(_ours, names)), defs


def _text(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def _absolute(name: str, level: int, package: str) -> str:
    try:
        return importlib.util.resolve_name("." * level + name, package) if level else name
    except ImportError:
        return ""  # reported when it is executed


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _ours(name: str) -> bool:
    return name == PACKAGE or name.startswith(PACKAGE + ".")


def _syntax(place: str, error: Exception) -> Fault:
    if not isinstance(error, SyntaxError):
        return Fault(f"{place}:1", f"{type(error).__name__}: {error}")
    text = f' in "{error.text.strip()}"' if error.text and error.text.strip() else ""
    return Fault(f"{place}:{error.lineno or 1}", f"{type(error).__name__}: {error.msg}{text}")


class _Load:
    """One load: makes the modules that must be made, on demand or in the order of their names."""

    def __init__(
        self, folder: Path, units: dict[str, Unit], previous: Modules | None, faults: list[Fault], conventions: Sequence[Convention]
    ) -> None:
        self._conventions = conventions
        self.folder = folder
        self.units = units
        self.faults = faults
        self.remade = _remade(units, previous)
        self.table = {name: previous.table[name] for name in units if name not in self.remade} if previous else {}
        self.owned = {name: previous.owned.get(name, ()) for name in self.table} if previous else {}
        self._failed: dict[str, BaseException] = {name: unit.error for name, unit in units.items() if unit.error is not None}
        self._told: list[BaseException] = list(self._failed.values())
        self._importers: list[_Importer] = []
        self._places = {str(unit.path): unit for unit in units.values()}
        self._thread = threading.get_ident()

    def run(self) -> None:
        """Execute what must be; faults are collected."""
        _stage.enter(self)
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
            _stage.leave(self)
            self._failed.clear()  # exceptions keep frames
            self._told.clear()
            for importer in self._importers:
                importer.settle(self.table)

    def declared(self) -> tuple[Loaded, ...]:
        """Return the functions declared so far."""
        found = [loaded for name in self.units for loaded in self.owned.get(name, ())]
        return tuple(sorted(found, key=lambda loaded: (loaded.file, loaded.line)))

    def modules(self) -> Modules:
        table = {name: self.table[name] for name in self.units}
        files = {unit.path.relative_to(self.folder).as_posix(): unit.digest for unit in self.units.values() if unit.source is not None}
        imports = {name: unit.names & self.units.keys() - {name} for name, unit in self.units.items()}
        return Modules(self.folder, files, table, self.declared(), imports, self.units, self.owned, frozenset(self.remade))

    def find_spec(self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None) -> ModuleSpec | None:
        """Answer `importlib.import_module` while the load runs, in its thread."""
        if not _ours(name) or threading.get_ident() != self._thread:
            return None
        return ModuleSpec(name, _Ready(self.get(name)))  # type: ignore[arg-type]

    def get(self, name: str) -> ModuleType:
        """Return a module of this load, executed or, in a circle, being executed."""
        for prefix in _prefixes(name):
            if prefix in self._failed:
                raise self._failed[prefix].with_traceback(None)
            if prefix not in self.units:
                near = nearest(prefix, self.units)
                raise ModuleNotFoundError(f"No module named {prefix!r}{near}", name=prefix)
            if prefix not in self.table:
                self._execute(self.units[prefix])
        return self.table[name]

    def _execute(self, unit: Unit) -> None:
        importer = _Importer(self, unit.names)
        self._importers.append(importer)
        module = _make(unit, importer)
        self.table[unit.name] = module
        _stage.show(self, unit, module)
        vars(module.__spec__)["_initializing"] = True  # words Python's message on a circular import
        try:
            with collecting() as found:
                if unit.code is not None:
                    exec(unit.code, vars(module))  # noqa: S102 - running the user's code is the purpose
                    for declare in () if unit.path.name.startswith("_") else self._conventions:
                        declare(module)
        except BaseException as error:
            del self.table[unit.name]
            _stage.hide(self, unit.name)
            self._failed[unit.name] = error
            self._report(unit.name, error)
            raise
        finally:
            vars(module.__spec__)["_initializing"] = False
        _bind(self.table, unit.name, module)
        self.owned[unit.name] = tuple(self._loaded(unit, declaration) for declaration in found)
        if found and unit.path.name.startswith("_") and unit.source is not None:
            self.faults.append(
                Fault(f"{unit.place}:{self.owned[unit.name][0].line}", HELPER_INIT if unit.package else HELPER),
            )

    def _loaded(self, unit: Unit, declaration: Declaration) -> Loaded:
        call: Any = unwrap(declaration.call)
        code = getattr(getattr(call, "func", call), "__code__", None)
        if code is None or code.co_filename not in self._places:
            return Loaded(declaration, unit.place, 1)
        home = self._places[code.co_filename]
        return Loaded(declaration, home.place, home.defs.get(code.co_firstlineno, code.co_firstlineno))

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


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a user's __str__
        text = ""
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name and not _ours(error.name):
        return f"{told}; install it where the runtime is installed"
    if not isinstance(error, Exception):
        return f"{told}; a file must not end the process when it is imported"
    return told


def _remade(units: dict[str, Unit], previous: Modules | None) -> set[str]:
    """Return the modules to make: changed ones, and what imports them or a name that came or went, directly or not."""
    if previous is None:
        return set(units)
    changed = {name for name in units.keys() | previous.units.keys() if _identity(units.get(name)) != _identity(previous.units.get(name))}
    while more := {name for name, unit in units.items() if name not in changed and unit.names & changed}:
        changed |= more
    return changed & units.keys()


def _identity(unit: Unit | None) -> tuple[object, ...] | None:
    return None if unit is None else (unit.path, unit.package, unit.digest)


def _make(unit: Unit, importer: _Importer) -> ModuleType:
    spec = ModuleSpec(unit.name, _Loader(unit), origin=str(unit.path) if unit.source is not None else None, is_package=unit.package)  # type: ignore[arg-type]
    spec.has_location = unit.source is not None
    spec.cached = None
    if spec.submodule_search_locations is not None:
        spec.submodule_search_locations.append(str(unit.path.parent if unit.source is not None else unit.path))
    module = importlib.util.module_from_spec(spec)
    vars(module)["__builtins__"] = {**vars(builtins), "__import__": importer}
    return module


def _bind(table: Mapping[str, ModuleType], name: str, module: ModuleType) -> None:
    """Make a module an attribute of its package, unless the package gave that name to something else."""
    parent, _, child = name.rpartition(".")
    if parent in table and _is_module(vars(table[parent]).get(child), name):
        setattr(table[parent], child, module)


def _is_module(value: object, name: str) -> bool:
    return value is None or (isinstance(value, ModuleType) and value.__name__ == name)


def _lines(unit: Unit) -> Any:
    text = importlib.util.decode_source(unit.source or b"")
    return len(text), None, text.splitlines(keepends=True), str(unit.path)  # no time: never compared with the disk


class _Loader:
    """What `__loader__` is: knows the text its module was made from."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit

    def create_module(self, _spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        raise ImportError(f"{module.__name__} is loaded by the runtime when its file changes, not reloaded by hand")

    def get_source(self, _name: str) -> str | None:
        return None if self._unit.source is None else importlib.util.decode_source(self._unit.source)

    def is_package(self, _name: str) -> bool:
        return self._unit.package


class _Ready:
    """Hands `importlib` a module that is executed already."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, _spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec
        module.__loader__ = self._spec.loader if self._spec else None


class _Importer:
    """The `__import__` of one module: of the folder it gets what belongs to its load, of the rest what Python has."""

    def __init__(self, load: _Load, names: frozenset[str]) -> None:
        self._load: _Load | None = load
        self._names = names
        self._table: dict[str, ModuleType] = {}

    def settle(self, table: Mapping[str, ModuleType]) -> None:
        """Let go of the load; keep what the text of the module names."""
        wanted = {prefix for name in self._names for prefix in _prefixes(name)}
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
        full = importlib.util.resolve_name("." * level + name, (globals or {}).get("__package__") or "") if level else name
        if not _ours(full):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        module = self.get(full)
        if not fromlist:
            return self._view(self.get(full[: len(full) - len(name)] + name.partition(".")[0]))
        wanted = getattr(module, "__all__", ()) if "*" in fromlist else fromlist
        for item in wanted:
            if self.knows(f"{full}.{item}") and _is_module(vars(module).get(item), f"{full}.{item}"):
                self.get(f"{full}.{item}")
        return module if "*" in fromlist else self._view(module)

    def knows(self, name: str) -> bool:
        return name in (self._table if self._load is None else self._load.units)

    def get(self, name: str) -> ModuleType:
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

    def _view(self, module: ModuleType) -> ModuleType:
        return _View(module, self) if hasattr(module, "__path__") else module


class _View(ModuleType):
    """A package as one load sees it; packages outlive loads, so their own attributes show the newest modules."""

    def __init__(self, package: ModuleType, importer: _Importer) -> None:
        super().__init__(package.__name__)
        object.__setattr__(self, "_seen", (package, importer))

    def __getattribute__(self, name: str) -> Any:
        package, importer = object.__getattribute__(self, "_seen")
        full = f"{package.__name__}.{name}"
        module = importer.now(full)
        if module is not None and _is_module(vars(package).get(name), full):
            return importer._view(module)  # noqa: SLF001
        if importer.lost(full) and vars(package).get(name) is not None and _is_module(vars(package)[name], full):
            raise AttributeError(f"module {package.__name__!r} has no attribute {name!r}")
        return getattr(package, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(object.__getattribute__(self, "_seen")[0], name, value)


class _Stage:
    """Who may write `functions.*` into `sys.modules` and the line cache: at most one load, and `publish`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._load: _Load | None = None
        self._saved: dict[str, ModuleType] = {}
        self._lines: dict[str, Any] = {}

    def enter(self, load: _Load) -> None:
        with self._lock:
            if self._load is None:
                self._saved = {name: module for name, module in list(sys.modules.items()) if _ours(name)}
            else:  # it hangs, and was abandoned
                self._restore()
            self._load = load
            kept = {**self._saved, **load.table} if load.table else {}
            self._write({name: module for name, module in kept.items() if name in load.units})

    def show(self, load: _Load, unit: Unit, module: ModuleType) -> None:
        with self._lock:
            if self._load is load:
                sys.modules[unit.name] = module
                if unit.source is not None:
                    self._lines.setdefault(str(unit.path), linecache.cache.get(str(unit.path)))
                    linecache.cache[str(unit.path)] = _lines(unit)

    def hide(self, load: _Load, name: str) -> None:
        with self._lock:
            if self._load is load:
                sys.modules.pop(name, None)

    def leave(self, load: _Load) -> None:
        with self._lock:
            if self._load is load:
                self._restore()
                self._load = None
                self._saved = {}  # holds no old modules alive

    def show_all(self, table: Mapping[str, ModuleType]) -> None:
        with self._lock:
            self._saved = {name: module for name, module in list(sys.modules.items()) if _ours(name)}
            self._write(table)

    def hide_all(self) -> None:
        with self._lock:
            self._write(self._saved)
            self._saved = {}

    def publish(self, table: Mapping[str, ModuleType]) -> None:
        with self._lock:
            self._load = None
            self._saved = {}
            self._lines.clear()
            self._write(table)

    def _restore(self) -> None:
        self._write(self._saved)
        for path, entry in self._lines.items():
            linecache.cache.pop(path, None)
            if entry is not None:
                linecache.cache[path] = entry
        self._lines.clear()

    def _write(self, table: Mapping[str, ModuleType]) -> None:
        for name in [name for name in list(sys.modules) if _ours(name) and name not in table]:
            del sys.modules[name]
        sys.modules.update(table)


_stage = _Stage()
