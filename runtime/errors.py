"""Every error a user can meet, with its values as fields; each says when it is raised."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

import msgspec

EXIT_OK = 0  # the work is done
EXIT_FAILED = 1  # the work failed: new dead letters, a failed invocation, a journal that cannot be opened
EXIT_USAGE = 2  # wrong usage, configuration or function files
EXIT_NOT_RUNNING = 3  # no runtime answers

LONGEST_PAUSE = 86_400.0  # seconds that an error may ask for before the next attempt


class Fault(msgspec.Struct, frozen=True):
    """One thing wrong in a file of the user: `where` it stands and a `message` that says what to do."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return ` (did you mean "…"?)` for the allowed word most like `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(allowed), n=1)
    return f' (did you mean "{close[0]}"?)' if close else ""


class Error(Exception):
    """Base of every error of function-runtime."""


class Faulty(Error):
    """Base of the errors that report several faults at once."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = list(faults)


class ConfigError(Faulty):
    """Raised when `runtime.toml` or the options in it are wrong; carries every fault."""


class LoadError(Faulty):
    """Raised when the functions folder does not make a generation; carries every fault."""


class PluginError(Faulty):
    """Raised when a plugin cannot be imported, clashes with another or offers something wrong."""


class MalformedEvent(Error):
    """Raised when bytes or headers do not make a CloudEvent; `unsupported` tells a wrong media type."""

    def __init__(self, message: str, *, unsupported: bool = False) -> None:
        super().__init__(message)
        self.unsupported = unsupported


class DataError(Error):
    """Raised when data does not fit the type a function declares; never retried."""


class HopLimit(Error):
    """Raised when an event was emitted by more than `max_hops` functions in a row; never retried."""


class StepTimeout(Error):
    """Raised when an attempt took longer than the `timeout` of its function or sink."""


class WorkerDied(Error):
    """Raised when the worker process of an isolated function ends in the middle of a call, or cannot be started."""


class ResourceError(Error):
    """Raised when a resource that a function takes cannot be opened; the attempt is tried again like any other."""


class CommandError(Error):
    """Raised when a function that is a command says that it failed, dies, or answers what cannot be read; tried again like any other."""


class JournalError(Error):
    """Raised when the journal cannot be opened, read or written."""


class Full(Error):
    """Raised when the backlog has reached `max_backlog`; try again after `retry_after` seconds."""

    def __init__(self, waiting: int, limit: int, retry_after: float = 1.0) -> None:
        super().__init__(f"{waiting} events are waiting and max_backlog is {limit}; try again in {retry_after:g} s")
        self.retry_after = retry_after


class NotRouted(Error):
    """Raised when a result is asked for and no function handles the type; `removed`: one did before."""

    def __init__(self, type: str, *, removed: bool = False) -> None:
        why = "the functions that handled it were removed" if removed else "no function handles it"
        super().__init__(f'no result for "{type}": {why}')
        self.type = type
        self.removed = removed


class RunFailed(Error):
    """Raised when the run a caller waits for has failed.

    `step` names what failed, `error` and `reason` the type and text of its exception; `status` is the
    one a `Reject` carries (500 otherwise) and `rejected` says whether it was one.
    """

    def __init__(self, id: str, step: str, error: str, reason: str, *, status: int = 500, rejected: bool = False) -> None:
        super().__init__(f'event {id}: "{step}" failed: {error}: {reason}')
        self.id = id
        self.step = step
        self.error = error
        self.reason = reason
        self.status = status
        self.rejected = rejected


class ResultTimeout(Error):
    """Raised when a run gave no result within the caller's time; the run goes on."""

    def __init__(self, id: str, timeout: float) -> None:
        super().__init__(f"event {id}: no result after {timeout:g} s; it goes on")
        self.id = id


class Stopping(Error):
    """Raised when the runtime stops before the result that a caller waits for is there."""

    def __init__(self, id: str) -> None:
        super().__init__(f"event {id}: the runtime is stopping; send it again with the same id for its result")
        self.id = id


class Skip(Exception):
    """Raise in a function to skip it and all after it; the run still succeeds."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Reject(Exception):
    """Raise in a function to fail at once, without retries; `status` answers an HTTP caller."""

    def __init__(self, reason: str = "", status: int = 422) -> None:
        if not isinstance(status, int) or not 400 <= status <= 599:
            raise ValueError(f"Reject: `status` is a whole number from 400 to 599, found {status!r}")
        super().__init__(reason)
        self.reason = reason
        self.status = status


class Unavailable(Exception):
    """Raise in a function or sink to be tried again, not before `retry_after` seconds have passed (a day at most)."""

    def __init__(self, reason: str = "", retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = min(max(0.0, retry_after), LONGEST_PAUSE)


class PartialFailure(Exception):
    """Raise in a sink or a batch function to fail only the events named: `{event.id: "why"}`.

    Instead of a text there may be an error, which then counts for this event as if it alone had been written.
    """

    def __init__(self, failures: Mapping[str, str | Exception]) -> None:
        super().__init__(", ".join(f"{id}: {why}" for id, why in failures.items()))
        self.failures = dict(failures)
