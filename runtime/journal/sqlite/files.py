"""The files beside the database: a lock, what is executing, and a reserve for a full disk."""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
from contextlib import suppress
from pathlib import Path

from runtime.errors import JournalError

SLOTS = 16_384  # entries that may execute at once and be marked; those beyond are not
PLENTY = 16  # times the size of what is filled with zeros that the disk must have room for
RESERVE = 4 * 1024 * 1024  # bytes that a full disk leaves for the outcomes of what was running


class Lock:
    """Keeps a second process from the journal; the file holds the id of the process that has it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self, journal: Path) -> None:
        """Take the lock.

        Raises:
            JournalError: another process has it.
        """
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._file, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise JournalError(
                f"{journal} is in use by process {owner}; stop that one, or give [journal] url of this one another path"
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let the lock go."""
        os.close(self._file)


class Marks:
    """What executes now, and the last `seq` that was committed, in memory that outlives the process.

    A mapped file keeps what was written to it when the process dies in whatever way, and costs no call of the
    system; after a power cut it may be stale, which no event is to blame for.
    """

    def __init__(self, path: Path) -> None:
        size = 8 * (SLOTS + 1)
        with path.open("a+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a map over space that is not there would kill the process
            self._map = mmap.mmap(file.fileno(), size)
        self._slots = memoryview(self._map).cast("Q")
        self._alone = 0  # the only one that executes, in the first slot: nearly always there is no other
        self._taken: dict[int, tuple[int, int]] = {}  # of the others by `seq` the slot, and how many things of it execute
        self._free = list(range(SLOTS, 1, -1))

    def found(self) -> list[int]:
        """Return what was executing when the last process ended, each once; nothing when it ended well."""
        return sorted(set(self._slots[1:].tolist()) - {0})

    def clear(self) -> None:
        """Forget what the last process left."""
        self._slots[1:] = memoryview(bytes(8 * SLOTS)).cast("Q")

    def mark(self, seq: int) -> None:
        """Note that an entry is executing."""
        if not self._alone and self._free:
            self._alone = self._slots[1] = seq
            return
        slot, count = self._taken.get(seq, (0, 0))
        if not slot and self._free:
            slot = self._free.pop()
            self._slots[slot] = seq
        if slot:
            self._taken[seq] = (slot, count + 1)

    def stop(self) -> None:
        """Mark nothing any more, and take back what is marked."""
        self._free.clear()
        self._taken.clear()
        self._alone = 0
        self.clear()

    def unmark(self, seq: int) -> None:
        """Note that an entry is not executing any more."""
        if seq == self._alone:
            self._alone = self._slots[1] = 0
            return
        slot, count = self._taken.pop(seq, (0, 0))
        if count > 1:
            self._taken[seq] = (slot, count - 1)
        elif slot:
            self._slots[slot] = 0
            self._free.append(slot)

    @property
    def committed(self) -> int:
        """The last `seq` that was committed."""
        return int(self._slots[0])

    @committed.setter
    def committed(self, seq: int) -> None:
        self._slots[0] = seq

    def close(self) -> None:
        """Let the file go."""
        self._slots.release()
        self._map.close()


def fill(path: Path, size: int) -> None:
    """Lengthen a file to a size in bytes by zeros that are on the disk, if it has many times as much room.

    To sync what overwrites them takes half the time: the file system has nothing of its own to write then.
    """
    with suppress(OSError), path.open("r+b") as file:
        there = file.seek(0, os.SEEK_END)
        if there < size and shutil.disk_usage(path.parent).free > PLENTY * size:
            file.write(bytes(size - there))
            file.flush()
            os.fdatasync(file.fileno())


class Reserve:
    """Space on the disk that is given up when the disk is full, so that what was running can be recorded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def is_there(self) -> bool:
        """Whether the space is still held."""
        return self._path.exists()

    def hold(self) -> bool:
        """Take the space; return whether there was enough, and as much again for others."""
        try:
            with self._path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, 2 * RESERVE)
                file.truncate(RESERVE)
        except OSError:
            self.give_up()
            return False
        return True

    def give_up(self) -> None:
        """Let others have the space."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
