"""What a failure means: its record, whether it is for good, and how long to wait before the next attempt."""

from __future__ import annotations

import random
import traceback
from pathlib import Path
from types import TracebackType

from runtime.errors import DataError, Error, HopLimit, Reject, Unavailable
from runtime.records import StepError
from runtime.specs import StepSpec

STUBBORN = 1.0  # seconds that what was cancelled has to end before it is left behind

LATE = 0.5  # seconds by which a timer that is late tells that the process stood still; what it was to end is given as many

LONGEST = 10_000  # characters of a message that are kept

RUNTIME = str(Path(__file__).parent.parent)


def backoff(spec: StepSpec, attempt: int, error: BaseException) -> float:
    """Return the seconds to wait after a failed `attempt` (from 1): exponential, half fixed and half random.

    An `Unavailable` may ask for more; those it sends away together come back spread over half of `backoff`.
    """
    pause = jittered(min(spec.backoff * 2 ** min(attempt - 1, 60), spec.backoff_max))
    if isinstance(error, Unavailable) and error.retry_after:
        return max(pause, error.retry_after + jittered(spec.backoff))
    return pause


def jittered(delay: float) -> float:
    """Return a delay of which half is random, so that what failed together does not come back together."""
    return delay / 2 + random.random() * delay / 2  # noqa: S311 - no secret


def is_permanent(error: BaseException) -> bool:
    """Return whether another attempt is pointless."""
    return isinstance(error, Reject | DataError | HopLimit)


def error_of(error: BaseException) -> StepError:
    """Return the record of an exception, with its traceback as text so that no frame is kept; overlong text is cut.

    An exception that was raised in another process has its `record`, and its `line` for people, from there.
    """
    if isinstance(there := getattr(error, "record", None), StepError):
        return there
    status = error.status if isinstance(error, Reject) else 500
    trace = clean("".join(traceback.format_exception(type(error), error, _of_user(error))))
    return StepError(type(error).__name__, _cut(_text_of(error), LONGEST), _cut(trace, 10 * LONGEST), status)


def told(error: BaseException) -> str:
    """Return an exception as a line for people: type, text and where it was raised."""
    if isinstance(getattr(error, "record", None), StepError):
        return str(getattr(error, "line", ""))
    frames = traceback.extract_tb(_of_user(error))
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = _cut(" ".join(_text_of(error).split()), 1000)
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


def clean(text: str) -> str:
    """Return text that can be written: half a surrogate pair, as names of files may have, becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}… ({len(text)} characters)"


def _text_of(error: BaseException) -> str:
    try:
        return clean(str(error))
    except Exception:  # noqa: BLE001 - a __str__ of the user
        return "its text cannot be told: __str__ raised"


def _of_user(error: BaseException) -> TracebackType | None:
    """Return the traceback from the first frame outside the runtime; all of it when there is none and we meant no error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(RUNTIME):
        trace = trace.tb_next
    return trace if trace or isinstance(error, Error | Reject | Unavailable) else error.__traceback__
