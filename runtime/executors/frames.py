"""What goes between the runtime and its worker processes: frames of msgpack, each a list of messages behind its length.

The first frame of the runtime is a `Task`, all others are lists of `Job`; a worker answers with lists of the others.
Beside the socket the two share a `Mark`, which tells who may begin what without a word.
"""

from __future__ import annotations

import mmap
import signal
import struct
from typing import Any, Final

import msgspec

from runtime.event import Event
from runtime.function import Emission
from runtime.records import StepError
from runtime.specs import Isolation

HEAD: Final = struct.Struct("!I")  # the length of a frame
LIST: Final = struct.Struct("!IBH")  # the length of a frame that is a list, how msgpack marks one, and of how many
ARRAY_16: Final = 0xDC
UNLIMITED: Final = 2**63


class Task(msgspec.Struct, frozen=True):
    """What a worker serves: a function, and the level from which it logs."""

    isolation: Isolation
    level: int


class Member(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One attempt: what its `Context` and its parameters are made of."""

    event: Event
    attempt: int
    deadline: float
    idempotency_key: str
    max_emits: int
    results: dict[str, Any]
    state: dict[str, Any]


class Job(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One call, of one attempt or of a batch; `number` counts the calls of a worker from 1."""

    number: int
    members: list[Member]


class Effects(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a call did for one attempt beside its result."""

    emitted: list[Emission]
    state: dict[str, Any]


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """What a call raised: `kind` names the error of ours that it is, else it is `Exception`.

    `line` tells of it on one line; `retry_after` is that of an `Unavailable`, `failures` are those of a `PartialFailure`.
    """

    kind: str
    record: StepError
    line: str
    retry_after: float = 0.0
    failures: dict[str, Any] = {}


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The worker has made the function."""


class Reply(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """A call has ended; it took so many `seconds`. `effects` are those of each member, or none when there are none at all."""

    number: int
    seconds: float
    result: Any
    effects: list[Effects]
    failure: Failure | None = None


class Logged(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A line of the log, with a traceback in its `message`; `extra` is what `extra=` has added."""

    logger: str
    level: int
    message: str
    created: float
    extra: dict[str, Any]


class Dropped(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """All calls up to this number that had not begun were passed over, as the mark said."""

    number: int


class Broken(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The worker cannot make the function, and ends."""

    failure: Failure


Answer = Ready | Reply | Logged | Dropped | Broken

_ENCODER = msgspec.msgpack.Encoder()


def frame_of(message: Any) -> bytes:
    """Return a frame.

    Raises:
        TypeError: it holds something that is no data.
    """
    body = _ENCODER.encode(message)
    return HEAD.pack(len(body)) + body


encode = _ENCODER.encode


def list_of(count: int, messages: bytes) -> bytes:
    """Return a frame of so many messages that are encoded already, at most 65,535."""
    return LIST.pack(len(messages) + LIST.size - HEAD.size, ARRAY_16, count) + messages


class Frames:
    """Cuts what arrives into the bodies of frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the bodies that are whole now."""
        bodies: list[bytes] = []
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        while end - start >= HEAD.size:
            (length,) = HEAD.unpack_from(buffer, start)
            if end - start - HEAD.size < length:
                break
            start += HEAD.size + length
            bodies.append(bytes(buffer[start - length : start]))
        del buffer[:start]
        return bodies


class Mark:
    """Memory that a worker and the runtime share: three numbers, and the answers that the worker has not sent yet.

    `begun` is the call that the worker has begun last. `limit` is the last one that it may begin: a worker writes `begun`
    and then looks at `limit`, the runtime does the reverse and waits a moment, so that of two who meet one gives way.
    Answers stand here until they are sent, so that what was done before a death need not be done again; the third number
    is how many they are, and below that how many bytes.
    """

    SIZE: Final = 65_536
    _START: Final = 24
    _ONE: Final = 2**32
    _BYTES: Final = _ONE - 1

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, self.SIZE)
        self._numbers = memoryview(self._memory)[: self._START].cast("Q")

    def begin(self, number: int) -> bool:
        """Begin a call, for a worker; return whether it may."""
        numbers = self._numbers
        before = numbers[0]
        numbers[0] = number
        if number <= numbers[1]:
            return True
        numbers[0] = before
        return False

    @property
    def begun(self) -> int:
        """The call that was begun last; 0 before the first."""
        return self._numbers[0]

    def keep(self, answer: bytes) -> bool:
        """Keep an answer, encoded; return whether there was room."""
        numbers = self._numbers
        kept = numbers[2]
        start = self._START + (kept & self._BYTES)
        end = start + len(answer)
        if end > self.SIZE:
            return False
        self._memory[start:end] = answer
        numbers[2] = kept + self._ONE + len(answer)  # in one go: it may be killed before or after
        return True

    @property
    def kept(self) -> bytes:
        """The answers that are kept, as a frame; nothing when there are none."""
        count, length = divmod(self._numbers[2], self._ONE)
        return list_of(count, self._memory[self._START : self._START + length]) if count else b""

    def forget(self) -> None:
        """Let go of the answers that were kept."""
        self._numbers[2] = 0

    @property
    def limit(self) -> int:
        """The last call that may begin."""
        return self._numbers[1]

    @limit.setter
    def limit(self, number: int) -> None:
        self._numbers[1] = number


def ending_of(status: int) -> str:
    """Return how a process ended, by the code as `waitstatus_to_exitcode` gives it: negative for a signal."""
    if status >= 0:
        return f"ended with exit code {status}"
    try:
        name = f" ({signal.Signals(-status).name})"
    except ValueError:
        name = ""
    return f"was killed by signal {-status}{name}"
