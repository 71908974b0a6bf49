"""Async functions are called in place, and what a generator yields is emitted."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from support import attempt_of

from runtime import Context, DataError
from runtime.executors.loop import call_on_loop


async def test_an_async_function_is_awaited_with_its_parameters_bound() -> None:
    async def call(data: int, context: Context) -> tuple[int, str]:
        return data, context.function

    assert await call_on_loop(attempt_of(call)) == (7, "call")


async def test_what_an_async_generator_yields_is_emitted_and_none_is_not() -> None:
    async def numbers(data: int) -> AsyncIterator[int | None]:
        yield data
        yield None
        yield data + 1

    attempt = attempt_of(numbers, emits="number")
    assert await call_on_loop(attempt) is None
    assert [(one.type, one.data) for one in attempt.context.emitted] == [("number", 7), ("number", 8)]


async def test_data_that_does_not_fit_is_refused_before_the_call() -> None:
    async def call(data: list[str]) -> None:
        raise AssertionError

    with pytest.raises(DataError, match='parameter "data" of "call" does not fit: Expected `array`, got `int`'):
        call_on_loop(attempt_of(call))
