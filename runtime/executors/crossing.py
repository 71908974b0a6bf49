"""How a call goes to a worker process and what comes of it returns: attempts, effects, errors, lines of the log."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from runtime.codec import to_builtins
from runtime.contracts import Call
from runtime.errors import DataError, PartialFailure, Reject, Skip, Unavailable
from runtime.executors.frames import Failure, Logged, Member, Reply
from runtime.specs import FunctionSpec


def members_of(call: Call) -> list[Member]:
    """Return the attempts of a call, of which a batch has several, as they are sent."""
    calls: Sequence[Call] | None = getattr(call, "calls", None)
    after = call.function.after
    return [_member(one, after) for one in calls] if calls else [_member(call, after)]


def _member(call: Call, after: Sequence[str]) -> Member:
    context = call.context
    results = {name: to_builtins(call.results[name]) for name in after} if after else {}
    return Member(call.event, context.attempt, context.deadline, context.idempotency_key, context.max_emits, results, call.state)


def taken(call: Call, reply: Reply) -> Any:
    """Return the result of a call, when what it did beside has been done to its context and state."""
    if reply.effects:
        for one, effects in zip(getattr(call, "calls", None) or (call,), reply.effects, strict=True):
            one.state = effects.state
            for emission in effects.emitted:
                more = {name: getattr(emission, name) for name in ("key", "priority", "delay", "id", "subject")}
                one.context.emit(emission.type, emission.data, **more)
    return reply.result


def error_from(failure: Failure, function: FunctionSpec) -> Exception:
    """Return an error as it was raised in a worker, with its record."""
    record, kind = failure.record, failure.kind
    error: Exception
    if kind == "Skip":
        error = Skip(record.message)
    elif kind == "Reject":
        error = Reject(record.message, record.status)
    elif kind == "Unavailable":
        error = Unavailable(record.message, failure.retry_after)
    elif kind == "PartialFailure":
        error = PartialFailure({id: _failure(why, function) for id, why in failure.failures.items()})
    elif kind == "MemoryError" and function.memory:
        text = f'"{function.name}" needs more than its memory limit of {function.memory:,} bytes'
        text += f": {record.message}" if record.message else ""
        record = msgspec.structs.replace(record, message=text)
        return _recorded(MemoryError(text), msgspec.structs.replace(failure, record=record, line=f"MemoryError: {text}"))
    else:
        error = DataError(record.message) if kind == "DataError" else _kind(record.type)(record.message)
    return _recorded(error, failure)


def _failure(why: Any, function: FunctionSpec) -> str | Exception:
    return why if isinstance(why, str) else error_from(msgspec.convert(why, Failure), function)


def _recorded(error: Exception, failure: Failure) -> Exception:
    """Return an error that is recorded as it was where it was raised."""
    error.record, error.line = failure.record, failure.line  # type: ignore[attr-defined]
    return error


@lru_cache(256)
def _kind(name: str) -> type[Exception]:
    """Return a class of the name that an error had in a worker."""
    return type(name, (Exception,), {})


def log_again(line: Logged) -> None:
    """Log here what was logged in a worker."""
    logger = logging.getLogger(line.logger)
    if logger.isEnabledFor(line.level):
        record = logging.LogRecord(line.logger, line.level, "", 0, line.message, None, None)
        record.created = line.created
        vars(record).update(line.extra)
        logger.handle(record)
