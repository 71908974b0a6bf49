"""Tell when files change: notifications are hints that make it quick, a regular look at the files is the truth."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path, PurePath

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

from runtime.loading.importer import file_signature, python_files

log = logging.getLogger("runtime.watch")

QUIET = {"opened", "closed_no_write"}  # reading is not changing
PATIENCE = 1.0  # seconds a stream of changes may put the call off

Signature = dict[Path, tuple[int, ...] | None]


class Watcher:
    """Calls `changed()` on the loop once after each change of a `*.py` below `folders`, or of a file among them.

    `debounce` is how many seconds must pass without a further change, `every` how many between two looks
    at the files. Folders may be missing, come, go and be replaced.
    """

    def __init__(self, folders: Sequence[Path], changed: Callable[[], None], *, debounce: float = 0.05, every: float = 2.0) -> None:
        self._folders = [Path(folder) for folder in folders]
        self._changed = changed
        self._debounce = debounce
        self._every = every
        self._hinted = asyncio.Event()
        self._seen: Signature = {}
        self._task: asyncio.Task[None] | None = None
        self._observer: BaseObserver | None = None
        self._watched: dict[Path, tuple[tuple[int, int], ObservedWatch]] = {}

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to watch; what is there now is not a change."""
        self._seen = scan(self._folders)
        try:
            self._observer = Observer()
            self._observer.start()
        except OSError as error:
            self._scans_alone(error)
        self._watch(loop)
        self._task = loop.create_task(self._run(loop), name="watch")

    def stop(self) -> None:
        """Stop watching; no call comes after this one."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._observer is not None:
            self._observer.stop()
            self._observer = None
        self._watched.clear()

    async def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hinted.wait(), self._every)
            try:
                seen = await self._settled(loop)
            except OSError as error:
                log.warning("the files cannot be looked at, and are again in %g s: %s", self._every, error)
                continue
            self._watch(loop)
            if seen != self._seen:
                self._seen = seen
                try:
                    self._changed()
                except Exception:
                    log.exception("a change of files could not be handled; watching goes on")

    async def _settled(self, loop: asyncio.AbstractEventLoop) -> Signature:
        """Return what is there when nothing has changed for `debounce` seconds, or after `PATIENCE`."""
        end = loop.time() + PATIENCE
        before = self._seen
        while True:
            hinted = self._hinted.is_set()
            self._hinted.clear()
            if hinted:
                await asyncio.sleep(self._debounce)
            seen = await asyncio.to_thread(scan, self._folders)
            if loop.time() >= end or (seen == before and not self._hinted.is_set()):
                return seen
            if not hinted:
                await asyncio.sleep(self._debounce)
            before = seen

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Follow folders that came, went or were replaced."""
        for folder in self._folders:
            if self._observer is None:
                return
            at = folder.parent if folder.is_file() else folder
            identity = _identity(at)
            if folder in self._watched and self._watched[folder][0] != identity:
                with suppress(KeyError, OSError):
                    self._observer.unschedule(self._watched[folder][1])
                del self._watched[folder]
            if identity is not None and folder not in self._watched:
                self._schedule(folder, at, identity, loop)

    def _schedule(self, folder: Path, at: Path, identity: tuple[int, int], loop: asyncio.AbstractEventLoop) -> None:
        assert self._observer is not None
        try:
            watch = self._observer.schedule(_Hints(folder, loop, self._hinted), str(at), recursive=at == folder)
        except FileNotFoundError:
            return  # gone again
        except OSError as error:
            self._scans_alone(error)
        else:
            self._watched[folder] = (identity, watch)

    def _scans_alone(self, error: OSError) -> None:
        log.warning(
            "file notifications are not available (%s): files are looked at every %g s instead; on Linux more are allowed with "
            "`sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512`",
            error,
            self._every,
        )
        if self._observer is not None and self._observer.is_alive():
            self._observer.stop()
        self._observer = None
        self._watched.clear()


class _Hints(FileSystemEventHandler):
    """Carries notifications from the observer's thread to the loop."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop, hinted: asyncio.Event) -> None:
        self._folder = folder
        self._loop = loop
        self._hinted = hinted

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in QUIET or (event.is_directory and event.event_type == "modified"):
            return
        if any(matters(self._folder, str(path)) for path in (event.src_path, event.dest_path) if path):
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._hinted.set)


def matters(folder: Path, path: str) -> bool:
    """Return whether a path below `folder` (or `folder` itself) can mean a change: not hidden, no bytecode."""
    try:
        parts = PurePath(path).relative_to(folder).parts
    except ValueError:
        return False
    return not any(part.startswith(".") or part == "__pycache__" or part.endswith(".pyc") for part in parts)


def scan(folders: Sequence[Path]) -> Signature:
    """Return the signature of every `*.py` below the folders, and of those that are files."""
    found: Signature = {}
    for folder in folders:
        if folder.is_dir():
            found[folder] = None  # an empty folder is not a missing one
            found.update((path, file_signature(path)) for path in python_files(folder))
        elif (signature := file_signature(folder)) is not None:
            found[folder] = signature
    return found


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino
