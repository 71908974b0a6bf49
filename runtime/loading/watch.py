"""Tell when files change: notifications are hints that make it quick, a regular look at the files is the truth."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from runtime.loading.files import file_signature, python_files
from runtime.loading.limits import yielding
from runtime.loading.notify import Hints

log = logging.getLogger("runtime.watch")

PATIENCE = 1.0  # seconds a stream of changes may put the call off
YOUNG = 2.0  # seconds in which a file can be saved again without its times telling: the coarsest clock of a file system


class Seen(msgspec.Struct, frozen=True):
    """How a file looks: its signature and, while it is so young that this does not tell all, a hash of its content."""

    signature: tuple[int, ...] | None
    young: bool = False
    digest: bytes = b""

    def differs(self, before: Seen | None) -> bool:
        """Return whether the file has changed since `before`."""
        if before is None or self.signature != before.signature:
            return True
        return bool(self.digest and before.digest) and self.digest != before.digest


Look = Mapping[str, Seen]  # by path
NOTHING = Seen(None)


class Watcher:
    """Calls `changed()` on the loop once after each change of a `*.py` below `folders`, or of a file among them.

    `debounce` is how many seconds must pass without a further change, `every` how many between two looks
    at the files. Folders may be missing, come, go and be replaced.
    """

    def __init__(self, folders: Sequence[Path], changed: Callable[[], None], *, debounce: float = 0.02, every: float = 2.0) -> None:
        self._folders = [Path(folder) for folder in folders]
        self._changed = changed
        self._debounce = debounce
        self._every = every
        self._hinted = asyncio.Event()
        self._hints: Hints | None = None
        self._seen: Look = {}
        self._task: asyncio.Task[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to watch; what is there now is not a change."""
        self._seen = scan(self._folders, {})

        def hint() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._hinted.set)

        self._hints = Hints(self._folders, hint)
        self._hints.follow(loop.time())
        self._task = loop.create_task(self._run(loop, self._hints), name="watch")

    def stop(self) -> None:
        """Stop watching; no call comes after this one."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._hints is not None:
            self._hints.stop()
            self._hints = None

    async def _run(self, loop: asyncio.AbstractEventLoop, hints: Hints) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hinted.wait(), self._every)
            try:
                seen = await self._settled(loop)
                hints.follow(loop.time())
                differs = has_changed(seen, self._seen)
                self._seen = seen
                if differs:
                    self._changed()
            except OSError as error:
                log.warning("the files cannot be looked at, and are again in %g s: %s", self._every, error)
            except Exception:
                log.exception("a change of files could not be handled; watching goes on")

    async def _settled(self, loop: asyncio.AbstractEventLoop) -> Look:
        """Return what is there when nothing has changed for `debounce` seconds, or after `PATIENCE`."""
        end = loop.time() + PATIENCE
        before = self._seen
        while True:
            hinted = await self._quiet(loop, end)
            seen = await asyncio.to_thread(yielding, partial(scan, self._folders, before))
            if loop.time() >= end or (not self._hinted.is_set() and (hinted or not has_changed(seen, before))):
                return seen
            if not hinted:
                await asyncio.sleep(self._debounce)
            before = seen

    async def _quiet(self, loop: asyncio.AbstractEventLoop, end: float) -> bool:
        """Wait until no hint has come for `debounce` seconds, and return whether one came."""
        hinted = False
        while self._hinted.is_set() and loop.time() < end:
            hinted = True
            self._hinted.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hinted.wait(), self._debounce)
        return hinted


def scan(folders: Sequence[Path], before: Look) -> Look:
    """Return how every `*.py` below the folders looks, and those of them that are files; `before` is the last look."""
    found: dict[str, Seen] = {}
    now = time.time_ns()
    for folder in folders:
        at = str(folder)
        if folder.is_dir():
            found[at] = NOTHING  # an empty folder is not a missing one
            found.update((path, _look(path, before.get(path), now)) for path in python_files(folder))
        elif (look := _look(at, before.get(at), now)).signature is not None:
            found[at] = look
    return found


def has_changed(seen: Look, before: Look) -> bool:
    """Return whether a file came, went or changed between two looks."""
    return seen.keys() != before.keys() or any(look.differs(before[path]) for path, look in seen.items())


def _look(path: str, before: Seen | None, now: int) -> Seen:
    signature = file_signature(path)
    if signature is None:
        return NOTHING
    known = before if before is not None and before.signature == signature else None
    if known is not None and not known.young:
        return known
    young = now - max(signature[:2]) < YOUNG * 1e9
    if known is None and not young:
        return Seen(signature)
    with suppress(OSError):
        return Seen(signature, young, hashlib.sha256(Path(path).read_bytes()).digest())
    return NOTHING
