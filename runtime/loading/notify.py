"""Hints that files have changed, from the notifications of the operating system; without them there are none, and no fault."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path, PurePath

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

log = logging.getLogger("runtime.watch")

logging.getLogger("watchdog").setLevel(logging.CRITICAL)  # it logs races at its stop as errors; what matters is told here

QUIET = {"opened", "closed_no_write"}  # reading is not changing
AGAIN = 60.0  # seconds after which notifications that were refused are asked for again
LINK = "..data"  # Kubernetes swaps the link of this name when a mounted folder changes


class Hints:
    """Calls `hint` from a thread when something below one of the folders may have changed.

    `follow` starts what should run and does not: at first, when a folder came, went or was replaced, when the
    limit of the system was raised, and when a thread has died.
    """

    def __init__(self, folders: Sequence[Path], hint: Callable[[], None]) -> None:
        self._folders = folders
        self._hint = hint
        self._observer: BaseObserver | None = None
        self._watched: dict[Path, tuple[tuple[int, int], ObservedWatch]] = {}
        self._refused = False
        self._next = 0.0

    def follow(self, now: float) -> None:
        """Watch the folders as they are at `now`, a monotonic time; blocks while a tree is walked."""
        if self._observer is not None and not self._observer.is_alive():
            log.warning("the thread that is notified of changed files has died; another is started")
            self._drop()
        if self._observer is None and now < self._next:
            return
        try:
            self._start()
        except OSError as error:
            self._drop()
            self._next = now + AGAIN
            if not self._refused:
                log.warning(
                    "there are no file notifications for %s (%s): files are looked at every few seconds instead; on Linux more are "
                    "allowed with `sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512`",
                    ", ".join(folder.name for folder in self._folders),
                    error,
                )
            self._refused = True
        else:
            self._refused = False

    def stop(self) -> None:
        """Give no more hints."""
        self._drop()

    def _start(self) -> None:
        if self._observer is None:
            self._observer = Observer()
            self._observer.start()
        dead = {emitter.watch for emitter in self._observer.emitters if not emitter.is_alive()}
        for folder in self._folders:
            at = folder.parent if folder.is_file() else folder
            identity = _identity(at)
            before = self._watched.get(folder)
            if before is not None and (before[0] != identity or before[1] in dead):
                with suppress(KeyError, OSError):
                    self._observer.unschedule(before[1])
                del self._watched[folder]
            if identity is not None and folder not in self._watched:
                with suppress(FileNotFoundError):  # gone again
                    watch = self._observer.schedule(_Handler(folder, self._hint), str(at), recursive=at == folder)
                    self._watched[folder] = (identity, watch)

    def _drop(self) -> None:
        if self._observer is not None and self._observer.is_alive():
            self._observer.stop()
        self._observer = None
        self._watched.clear()


class _Handler(FileSystemEventHandler):
    def __init__(self, folder: Path, hint: Callable[[], None]) -> None:
        self._folder = folder
        self._hint = hint

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Pass on what can mean a change."""
        if event.event_type in QUIET or (event.is_directory and event.event_type == "modified"):
            return
        if any(matters(self._folder, str(path)) for path in (event.src_path, event.dest_path) if path):
            self._hint()


def matters(folder: Path, path: str) -> bool:
    """Return whether a path below `folder` (or `folder` itself) can mean a change: not hidden, no bytecode."""
    try:
        parts = PurePath(path).relative_to(folder).parts
    except ValueError:
        return False
    return parts[-1:] == (LINK,) or not any(part.startswith(".") or part == "__pycache__" or part.endswith(".pyc") for part in parts)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino
