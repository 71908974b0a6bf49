"""What a function has returned and emitted, as plain data: as it is recorded, and as it will be after the journal."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from runtime.codec import to_builtins
from runtime.errors import DataError
from runtime.function import Context, Emission
from runtime.specs import FunctionSpec

SCALARS = frozenset({type(None), bool})  # these are as they are; a number may be NaN, and text no Unicode


class Emitter(Protocol):
    """A call of a function; `made` is its context, if it has asked for one."""

    made: Context | None

    @property
    def function(self) -> FunctionSpec:
        """What is called."""

    @property
    def context(self) -> Context:
        """The context of the call."""


def plain_result(function: str, result: Any) -> Any:
    """Return a copy of what a function returned as plain data, as it is recorded.

    Raises:
        DataError: it cannot be encoded.
    """
    return result if type(result) in SCALARS else plain_data(result, f'the result of "{function}"')


def emissions_of(call: Emitter, result: Any) -> list[Emission]:
    """Return what a call emits, its (plain) result included, with data as plain as it will be after the journal.

    Raises:
        DataError: the data of an emission cannot be encoded.
        ValueError: there are more emissions than `max_emits`.
    """
    function = call.function
    if function.emits is not None and result is not None:
        call.context.emit(function.emits, result)
    if call.made is None:
        return []
    return [_plain_emission(function.name, emission) for emission in call.made.emitted]


def _plain_emission(function: str, emission: Emission) -> Emission:
    if type(emission.data) in SCALARS:
        return emission
    data = plain_data(emission.data, f'the data of "{emission.type}" that "{function}" emits')
    return msgspec.structs.replace(emission, data=data)


def plain_data(value: Any, what: str) -> Any:
    """Return a copy of a value as plain data.

    Raises:
        DataError: it is no data; `what` names it.
    """
    try:
        return to_builtins(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"{what} cannot be encoded: {error}") from None
