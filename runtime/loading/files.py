"""The files of the folder: which there are, and their texts as they were at one moment."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from runtime.errors import Fault

SKIPPED = {"__pycache__", "node_modules"}
TRIES = 50  # times a folder that changes while it is read is read again


def python_files(folder: Path) -> Iterator[str]:
    """Yield the paths of the `*.py` below a folder, sorted, links followed; hidden and temporary files and link cycles are left out.

    Raises:
        OSError: a folder is there and cannot be read, which does not mean that its files are gone.
    """

    def walk(folder: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
        try:
            stat = os.stat(folder)  # noqa: PTH116 - this is done for every file every two seconds: a Path costs more than the call
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
                yield from walk(f"{folder}/{name}", above | {here})
            elif name.endswith(".py"):
                yield f"{folder}/{name}"

    return walk(str(folder), frozenset())


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def file_signature(path: str) -> tuple[int, ...] | None:
    """Return what changes when a file does: times in ns, size, inode; None when there is none."""
    try:
        stat = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


def read_files(folder: Path, faults: list[Fault]) -> dict[str, bytes]:
    """Return the text of every file by its relative path, as it was at one moment, or after `TRIES` as it is."""
    if not folder.is_dir():
        faults.append(Fault(str(folder), "no such folder: make it, or name another with `functions` under [runtime]"))
    for attempt in range(TRIES):
        before = _signature(folder)
        texts: dict[str, bytes] = {}
        wrong: list[Fault] = []
        for path in before:
            relative = path[len(str(folder)) + 1 :]
            try:
                with open(path, "rb", buffering=0) as file:  # noqa: PTH123
                    texts[relative] = file.readall()
            except OSError as error:
                wrong.append(Fault(f"{folder.name}/{relative}:1", f"cannot be read: {error.strerror}; mend it or take it away"))
        if before == _signature(folder) or attempt == TRIES - 1:
            break
        threading.Event().wait(0.01)
    faults.extend(wrong)
    return texts


def _signature(folder: Path) -> dict[str, tuple[int, ...] | None]:
    return {path: file_signature(path) for path in python_files(folder)}
