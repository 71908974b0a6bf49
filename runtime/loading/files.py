"""The files of the folder: which there are, and their texts as they were at one moment."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from runtime.errors import Fault

SKIPPED = {"__pycache__", "node_modules"}
TRIES = 50  # times a folder that changes while it is read is read again


def python_files(folder: Path) -> Iterator[Path]:
    """Yield the `*.py` below a folder, sorted, links followed; hidden and temporary files and link cycles are left out.

    Raises:
        OSError: a folder is there and cannot be read, which does not mean that its files are gone.
    """

    def walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
        try:
            stat = folder.stat()
            with os.scandir(folder) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        here = (stat.st_dev, stat.st_ino)
        if here in above:
            return
        for entry in entries:
            name = entry.name
            if name.startswith((".", "#", "flycheck_")) or name in SKIPPED:
                continue
            if _is_folder(entry):
                yield from walk(folder / name, above | {here})
            elif name.endswith(".py"):
                yield folder / name

    return walk(folder, frozenset())


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def file_signature(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a file does: times in ns, size, inode; None when there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


def read_files(folder: Path, faults: list[Fault]) -> dict[Path, bytes]:
    """Return the text of every file as it was at one moment, or after `TRIES` as it is."""
    if not folder.is_dir():
        faults.append(Fault(str(folder), "no such folder: make it, or name another with `functions` under [runtime]"))
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
