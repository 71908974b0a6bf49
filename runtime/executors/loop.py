"""Calls async functions on the loop, in place."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import aclosing
from typing import Any

from runtime.contracts import Call


def call_on_loop(call: Call) -> Awaitable[Any]:
    """Return the awaitable of one call; see `runtime.contracts.Executor`."""
    function = call.function
    args, kwargs = function.parameters.bind(call)
    if function.kind == "async":
        return function.call(*args, **kwargs)  # type: ignore[no-any-return]
    return _drain(call, args, kwargs)


async def _drain(call: Call, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Emit each value an async generator yields."""
    function = call.function
    assert function.emits is not None
    async with aclosing(function.call(*args, **kwargs)) as values:
        async for value in values:
            if value is not None:
                call.context.emit(function.emits, value)
