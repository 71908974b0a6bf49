"""Moves the log into the database beside the writer, so that no commit has to wait for it.

SQLite moves what is in the log and begins it anew only when all of it has been moved; while events come, there is always
more. So this thread moves nearly all, with the disk's time and none of the writer's, and the writer moves the little that
has come meanwhile, between two commits.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Final

import apsw

PASSES: Final = 4  # moves in a row, each of what came during the one before
LITTLE: Final = 200  # pages that the writer moves by itself


class Mover:
    """A thread that moves the log when it is asked to, on a connection of its own.

    `is_done` tells that all but little has been moved, `error` what of the disk has failed.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._bell = threading.Lock()
        self._bell.acquire()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="journal-log", daemon=True)
        self.is_done = False
        self.error: apsw.Error | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def move(self) -> None:
        """Begin to move what is in the log; harmless while it is being moved."""
        with suppress(RuntimeError):
            self._bell.release()

    def close(self) -> None:
        """End the thread when it has done what it is doing."""
        self._closing = True
        self.move()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while True:
            self._bell.acquire()
            if self._closing:
                return
            try:
                for _ in range(PASSES):
                    size, moved = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                    if size - moved < LITTLE:
                        break
            except (apsw.BusyError, apsw.FullError):
                continue  # the writer moves it itself, or there is no room for it in the database
            except apsw.Error as error:
                self.error = error
                return
            self.is_done = True
