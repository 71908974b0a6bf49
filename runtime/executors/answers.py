"""What a function elsewhere answers: a result, or an object with exactly one of `emit`, `skip`, `reject` and `error`."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from runtime.contracts import Call
from runtime.errors import CommandError, Reject, Skip
from runtime.function import Emission

WORDS = ("emit", "skip", "reject", "error")


class Emitted(Emission, frozen=True, forbid_unknown_fields=True):
    """An event that is to be emitted, as `Context.emit` takes it."""


class Rejected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rejection with the status that answers an HTTP caller."""

    message: str
    status: int = 422


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An answer that is no result."""

    emit: list[Emitted] | UnsetType = UNSET
    skip: str | UnsetType = UNSET
    reject: str | Rejected | UnsetType = UNSET
    error: str | UnsetType = UNSET


def take_answer(call: Call, value: Any, who: str) -> Any:
    """Return the result that an answer is, or do what it says instead; `who` answered, for people.

    Raises:
        Skip, Reject: it says so.
        CommandError: it says that the call has failed, or cannot be understood.
    """
    if not isinstance(value, dict) or value.keys().isdisjoint(WORDS):
        return value
    if len(value) > 1:
        raise CommandError(
            f"{who}: expected a result, or an object with exactly one of {', '.join(WORDS)}, found an object with"
            f" {', '.join(sorted(value))}; a result that has such a key is to be put into another object"
        )
    try:
        answer = msgspec.convert(value, Answer)
        _do(call, answer)
    except (msgspec.ValidationError, ValueError) as error:
        raise CommandError(f"{who}: expected an answer that can be understood, found: {error}") from None
    if answer.error is not UNSET:
        raise CommandError(f"{who}: {answer.error}")
    return None


def _do(call: Call, answer: Answer) -> None:
    if answer.skip is not UNSET:
        raise Skip(answer.skip)
    if answer.reject is not UNSET:
        rejected = answer.reject if isinstance(answer.reject, Rejected) else Rejected(answer.reject)
        raise Reject(rejected.message, rejected.status)
    for one in () if answer.emit is UNSET else answer.emit:
        call.context.emit(one.type, one.data, key=one.key, priority=one.priority, delay=one.delay, id=one.id, subject=one.subject)
