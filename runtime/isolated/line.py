"""The way from a worker process to the runtime: answers, gathered, and what is logged."""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from runtime.codec import to_builtins
from runtime.executors.frames import Answer, Logged, Mark, encode, list_of
from runtime.flow.failure import clean

LATE = 0.002  # seconds after which answers are sent although more calls wait
TOGETHER = 16  # answers that are sent together, so that the runtime works on some while others are made
USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Line:
    """The way to the runtime: gathers answers, and sends them in one go; any thread may."""

    def __init__(self, connection: socket.socket, mark: Mark) -> None:
        self._connection = connection
        self._mark = mark
        self._count = 0
        self._lock = threading.RLock()
        self._busy = threading.Event()
        self._flusher: threading.Thread | None = None

    def add(self, answer: Answer) -> None:
        """Send an answer with others, of which there are not many."""
        encoded = encode(answer)
        with self._lock:
            if not self._mark.keep(encoded):
                self.send()
                if not self._mark.keep(encoded):
                    self._connection.sendall(list_of(1, encoded))
            self._count += 1
            if self._count >= TOGETHER:
                self.send()

    def send(self, *answers: Answer) -> None:
        """Send answers, and those before them, now."""
        with self._lock:
            for answer in answers:
                self.add(answer)
            kept = self._mark.kept
            if kept:
                self._connection.sendall(kept)
                self._mark.forget()
            self._count = 0

    def begin(self) -> None:
        """Send what is added after `LATE` seconds at the latest, until `end`."""
        if self._flusher is None:
            self._flusher = threading.Thread(target=self._flush, name="answers", daemon=True)
            self._flusher.start()
        self._busy.set()

    def end(self) -> None:
        """Send what was added."""
        self._busy.clear()
        self.send()

    def _flush(self) -> None:
        while self._busy.wait():
            time.sleep(LATE)
            with suppress(OSError):  # the runtime is gone, and this process ends
                self.send()


class Sender(logging.Handler):
    """Hands what is logged to the runtime, which logs it."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record as it would be written."""
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + logging.Formatter().formatException(record.exc_info)
        extra = {name: _told(value) for name, value in vars(record).items() if name not in USUAL}
        with suppress(OSError):
            self._line.send(Logged(record.name, record.levelno, clean(message), record.created, extra))


def _told(value: Any) -> Any:
    try:
        return to_builtins(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return clean(str(value))
