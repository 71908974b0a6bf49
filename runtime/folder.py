"""The project's plugins folder as a package that is not on `sys.path`: its files, what each depends on, and how they are imported.

A file that is imported again is compiled from its text: cached bytecode goes by whole seconds and size, and after two
quick saves is the old code. importlib is asked for helpers alone: the lock it holds on a module while that is imported
would keep a file that once hung at import from ever being imported again.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Collection, Iterator, Mapping
from importlib.machinery import FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

PACKAGE: Final = "runtime_project_plugins"  # the name of the project's plugins folder as a package

Marks = Mapping[str, bytes]
"""By the name of each file (or folder) of the folder a mark that changes with its text, and with that of what it imports there."""


def read_marks(folder: Path) -> Marks:
    """Return the marks of what is in the folder now; a file that cannot be read has that of an empty one."""
    texts: dict[str, list[bytes]] = {}
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).parts[0].removesuffix(".py")
        texts.setdefault(name, []).append(_text(path))
    beside = {name: {one for text in parts for one in _imported(text)} & texts.keys() for name, parts in texts.items()}
    return {name: _digest(sorted(_reached(name, beside)), texts) for name in texts}


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _imported(text: bytes) -> Iterator[str]:
    """Yield the names beside it that a file imports with a dot."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):
        return
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level:
            yield from [node.module.partition(".")[0]] if node.module else [alias.name for alias in node.names]


def _reached(name: str, beside: Mapping[str, Collection[str]]) -> set[str]:
    """Return a name with all that it imports, directly or not."""
    found, waiting = {name}, [name]
    while waiting:
        new = set(beside[waiting.pop()]) - found
        found |= new
        waiting += new
    return found


def _digest(names: Collection[str], texts: Mapping[str, list[bytes]]) -> bytes:
    digest = hashlib.sha256()
    for name in names:
        for text in (name.encode(), *texts[name]):
            digest.update(b"%d:" % len(text) + text)
    return digest.digest()


class _Loader(SourceFileLoader):
    """Compiles each time."""

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the text as it is now."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def make_package(folder: Path, kept: Collection[str] = ()) -> None:
    """Make an empty package of the folder, so that its files can import helpers beside them; modules `kept` stay imported."""
    for name in modules():
        if name.removeprefix(f"{PACKAGE}.").partition(".")[0] not in kept:
            del sys.modules[name]
    spec = ModuleSpec(PACKAGE, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    sys.path_importer_cache[str(folder)] = FileFinder(str(folder), (_Loader, [".py"]))


def import_file(path: Path) -> ModuleType:
    """Return the module of a file of the folder, imported now unless another file has done so."""
    name = f"{PACKAGE}.{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path, loader=_Loader(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def modules() -> dict[str, ModuleType]:
    """Return what of the package is imported, by name."""
    return {name: module for name, module in list(sys.modules.items()) if name == PACKAGE or name.startswith(f"{PACKAGE}.")}


def restore(before: Mapping[str, ModuleType]) -> None:
    """Let the package be what it was before."""
    for name in modules().keys() - before.keys():
        del sys.modules[name]
    sys.modules.update(before)
