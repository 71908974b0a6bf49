"""What a file says before it is executed: its code, the modules its imports could mean, the lines of its functions."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import CodeType

import msgspec

from runtime.errors import Fault

PACKAGE = "functions"  # the package's name, whatever the folder is called


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

    @property
    def relative(self) -> str:
        """The path of its file in the folder."""
        return self.place.partition("/")[2]


def make_units(folder: Path, texts: Mapping[str, bytes], previous: Mapping[str, Unit], faults: list[Fault]) -> dict[str, Unit]:
    """Compile every text, by its relative path, that `previous`, of the same folder, does not hold; folders become packages."""
    units = {PACKAGE: Unit(PACKAGE, folder.name, folder, package=True)}
    for relative, source in texts.items():
        place = f"{folder.name}/{relative}"
        parts = relative.removesuffix(".py").split("/")
        if any("." in part for part in parts):
            faults.append(Fault(f"{place}:1", "a dot in its name: no module can be called so; rename it"))
            continue
        package = parts[-1] == "__init__"
        names = [".".join([PACKAGE, *parts[:end]]) for end in range(1, len(parts) + (not package))]
        for depth, name in enumerate(names[: len(parts) - 1], 1):
            at = folder.joinpath(*parts[:depth])
            units.setdefault(name, Unit(name, at.relative_to(folder.parent).as_posix(), at, package=True))
        name = names[-1] if names else PACKAGE
        old = previous.get(name)
        path = old.path if old is not None and old.place == place else folder / relative
        unit = _unit(name, place, path, package, source, previous)
        if unit.error is not None:
            faults.append(_syntax(unit.place, unit.error))
        if name in units and not package:
            other = f"{place.removesuffix('.py')}/"
            faults.append(Fault(f"{place}:1", f"this file and the folder {other} are both the module {name}: rename one"))
        units[name] = unit
    return units


def _unit(name: str, place: str, path: Path, package: bool, source: bytes, previous: Mapping[str, Unit]) -> Unit:  # noqa: FBT001
    old = previous.get(name)
    if old is not None and (old.path, old.source) == (path, source):
        return old
    digest = hashlib.sha256(source).hexdigest()
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
                names.update(prefixes(alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node.module or "", node.level, package)
            names.update(prefixes(base)[-1:], (f"{base}.{alias.name}" for alias in node.names))
        waiting.extend(ast.iter_child_nodes(node))
    return frozenset(filter(is_ours, names)), defs


def _text(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def _absolute(name: str, level: int, package: str) -> str:
    try:
        return importlib.util.resolve_name("." * level + name, package) if level else name
    except ImportError:
        return ""  # reported when it is executed


def prefixes(name: str) -> list[str]:
    """Return a dotted name and all that stand above it, the shortest first."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def is_ours(name: str) -> bool:
    """Return whether a module is one of the folder, by its name."""
    return name == PACKAGE or name.startswith(PACKAGE + ".")


def _syntax(place: str, error: Exception) -> Fault:
    if not isinstance(error, SyntaxError):
        return Fault(f"{place}:1", f"{type(error).__name__}: {error}")
    text = f' in "{error.text.strip()}"' if error.text and error.text.strip() else ""
    return Fault(f"{place}:{error.lineno or 1}", f"{type(error).__name__}: {error.msg}{text}")


def identity(unit: Unit | None) -> tuple[object, ...] | None:
    """Return what makes two units the same module."""
    return None if unit is None else (unit.path, unit.package, unit.digest)
