"""The suite every executor passes.

Inherit from it, say in `opened` what makes the executor and ends it, and in `function` how a function of its kind is
made for each behaviour. What kinds cannot do is said in the class; tests of it are skipped, never passed.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from runtime.contracts import Call, Executor
from runtime.errors import DataError, Reject, Skip
from runtime.event import Event
from runtime.flow.failure import error_of, is_permanent
from runtime.function import Context, Emission
from runtime.resources import Lease
from runtime.specs import FunctionSpec

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -(2**53),
    2.5,
    "",
    'ü\u2028"\\\n\r\t🜁',
    [],
    {},
    [1, [None, {"": ["deep"]}]],
    {"id": "7", "total": 12.5, "lines": [{"n": 1}, {"n": 2}]},
)
"""Data that is hard to carry."""

LARGE = 3_000_000  # characters


class SuiteCall:
    """One attempt, as an executor sees it: the event is of type `go`, with `data`; `results` are those of other functions."""

    def __init__(
        self,
        function: FunctionSpec,
        data: Any = None,
        *,
        results: Mapping[str, Any] | None = None,
        state: Mapping[str, Any] | None = None,
        resources: Mapping[str, Any] | None = None,
        attempt: int = 1,
    ) -> None:
        self.function = function
        self.expired = False
        self.event = Event(type="go", source="suite", id="suite-1", data=data, key="ada")
        self.results = dict(results or {})
        self.state = dict(state or {})
        self.resources = Lease(dict(resources), lambda: None) if resources else None
        self.context = Context(
            self.event,
            function.name,
            attempt=attempt,
            deadline=4e9,
            settings=function.settings,
            idempotency_key=f"suite-1/{function.name}",
            max_emits=function.max_emits,
        )


class ExecutorSuite:
    """What every executor must do; `opened` and `function` say what it is.

    A test has an instance of its own, on which a fixture of yours may put what they need. The behaviours, each that
    of a function on `go` (or after `first`) whose name is that of the behaviour, unless something else is said:

    * `echo`: returns its data.
    * `after`: comes after the function `first`, and returns its result.
    * `fail`: raises (or answers with) an error whose text holds `no luck`, out of something named `deeper`.
    * `skip`: skips with `not needed`; `reject`: rejects with `not you` and status 409.
    * `emit`: emits `noted` with `{"n": n}` for each n in its data, of key `k`, priority 7 and a delay of 5 s.
    * `large`: returns a text of as many x as its data says.
    * `hang`: never returns, and lets itself be cancelled.
    * `wait`: returns `old` as soon as a file exists at the path that is its data; `replaced`: what became of `wait` by
      a reload: its name is `wait`, and it returns `new`.
    * `die`: ends what it runs in, in the middle and without a word.
    * `misfit`: declares that its data is a whole number.
    * `generate`: yields n for each n in its data, `emits` is `noted`.
    * `context`: returns an object of `attempt`, `key` (its idempotency key) and `settings`; those are `{"currency": "EUR"}`.
    * `state`: adds its data to `state["n"]`, from 0, and returns the sum.
    * `resource`: takes the resource `shelf`, and returns what that gives.

    What a kind cannot do:

    * `tracebacks`: an error carries where it was raised.
    * `isolated`: what dies takes nothing with it (`die`).
    * `typed`: data is decoded to what a function declares (`misfit`).
    * `generators`, `contexts`, `states`, `resources`: a function may be or take one.
    * `patience`: how many seconds (of real time) anything may take.
    """

    tracebacks: ClassVar[bool] = True
    isolated: ClassVar[bool] = True
    typed: ClassVar[bool] = True
    generators: ClassVar[bool] = True
    contexts: ClassVar[bool] = True
    states: ClassVar[bool] = True
    resources: ClassVar[bool] = True
    patience: ClassVar[float] = 20.0

    @abstractmethod
    def opened(self) -> AbstractAsyncContextManager[Executor]:
        """Make an executor, and end it with all that it has started."""

    @abstractmethod
    def function(self, behaviour: str) -> FunctionSpec:
        """Return a function that behaves so."""

    # --- how ------------------------------------------------------------------------------------------

    def make(self, behaviour: str, data: Any = None, **more: Any) -> SuiteCall:
        """Return an attempt of a function that behaves so; `more` is as for `SuiteCall`."""
        return SuiteCall(self.function(behaviour), data, **more)

    async def run(self, executor: Executor, call: Call) -> Any:
        """Return what a call returns."""
        return await asyncio.wait_for(_awaited(executor, call), self.patience)

    async def failure(self, executor: Executor, call: Call) -> Exception:
        """Return what a call raises."""
        with pytest.raises(Exception) as caught:  # noqa: PT011 - the test looks at it
            await self.run(executor, call)
        assert not isinstance(caught.value, TimeoutError), "it neither returned nor raised"
        return caught.value

    async def check_works(self, executor: Executor) -> None:
        """See to it that the executor still does its work."""
        assert await self.run(executor, self.make("echo", "still here")) == "still here"

    # --- the contract ---------------------------------------------------------------------------------

    async def test_data_and_results_of_all_kinds_arrive_as_they_were(self) -> None:
        async with self.opened() as executor:
            for value in VALUES:
                assert await self.run(executor, self.make("echo", value)) == value

    async def test_what_is_large_arrives_as_it_was(self) -> None:
        async with self.opened() as executor:
            assert await self.run(executor, self.make("echo", "y" * LARGE)) == "y" * LARGE
            assert await self.run(executor, self.make("large", LARGE)) == "x" * LARGE
            await self.check_works(executor)

    async def test_a_function_that_comes_after_another_is_given_its_result(self) -> None:
        async with self.opened() as executor:
            call = self.make("after", "the data", results={"first": {"of": "first"}})
            assert await self.run(executor, call) == {"of": "first"}

    async def test_calls_at_the_same_time_get_their_own_results(self) -> None:
        async with self.opened() as executor:
            calls = [self.make("echo", number) for number in range(30)]
            assert await asyncio.gather(*(self.run(executor, call) for call in calls)) == list(range(30))

    async def test_an_error_reaches_the_caller_with_its_text_and_may_be_tried_again(self) -> None:
        async with self.opened() as executor:
            error = await self.failure(executor, self.make("fail"))
            assert "no luck" in error_of(error).message
            assert not is_permanent(error)
            await self.check_works(executor)

    async def test_an_error_tells_where_it_was_raised(self) -> None:
        _needs(self.tracebacks, "errors carry no traceback")
        async with self.opened() as executor:
            error = await self.failure(executor, self.make("fail"))
            assert "deeper" in error_of(error).traceback

    async def test_a_skip_and_a_rejection_arrive_as_what_they_are(self) -> None:
        async with self.opened() as executor:
            skip = await self.failure(executor, self.make("skip"))
            assert isinstance(skip, Skip)
            assert skip.reason == "not needed"
            reject = await self.failure(executor, self.make("reject"))
            assert isinstance(reject, Reject)
            assert (reject.reason, reject.status) == ("not you", 409)

    async def test_what_is_emitted_is_in_the_context_of_the_call(self) -> None:
        async with self.opened() as executor:
            first, second = self.make("emit", [1, 2]), self.make("emit", [])
            assert await self.run(executor, first) is None
            assert await self.run(executor, second) is None
            assert list(first.context.emitted) == [Emission("noted", {"n": n}, "k", 7, 5.0) for n in (1, 2)]
            assert list(second.context.emitted) == []

    async def test_more_emissions_than_a_step_may_have_fail_it(self) -> None:
        async with self.opened() as executor:
            call = self.make("emit", [1, 2])
            call.context.max_emits = 1
            assert "max_emits = 1" in error_of(await self.failure(executor, call)).message
            await self.check_works(executor)

    async def test_a_call_that_is_cancelled_ends_soon_and_harms_no_other(self) -> None:
        async with self.opened() as executor:
            hanging = [asyncio.ensure_future(executor(self.make("hang"))) for _ in range(3)]
            await self.check_works(executor)
            for one in hanging:
                assert not one.done()
                one.cancel()
            ended = await asyncio.wait_for(asyncio.gather(*hanging, return_exceptions=True), self.patience)
            assert all(isinstance(one, asyncio.CancelledError) for one in ended)
            await self.check_works(executor)

    async def test_a_call_that_is_cancelled_before_it_begins_harms_no_other(self) -> None:
        async with self.opened() as executor:
            calling = asyncio.ensure_future(executor(self.make("hang")))
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)
            await self.check_works(executor)

    async def test_the_end_of_the_executor_does_not_wait_for_a_call_that_hangs(self) -> None:
        async with self.opened() as executor:
            hanging = asyncio.ensure_future(executor(self.make("hang")))
            await self.check_works(executor)
            leaving = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - leaving < self.patience
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)

    async def test_a_call_goes_on_as_it_began_when_its_function_is_replaced(self, tmp_path: Path) -> None:
        async with self.opened() as executor:
            before = asyncio.ensure_future(executor(self.make("wait", str(tmp_path / "go"))))
            await self.check_works(executor)
            assert await self.run(executor, self.make("replaced")) == "new"
            (tmp_path / "go").touch()
            assert await asyncio.wait_for(before, self.patience) == "old"
            assert await self.run(executor, self.make("replaced")) == "new"

    async def test_a_death_in_the_middle_fails_that_call_alone(self, tmp_path: Path) -> None:
        _needs(self.isolated, "what dies takes the process of the runtime with it")
        async with self.opened() as executor:
            other = asyncio.ensure_future(executor(self.make("wait", str(tmp_path / "go"))))
            for _ in range(2):
                error = await self.failure(executor, self.make("die"))
                assert not is_permanent(error)
                assert "die" in error_of(error).message, "it names the function"
            await self.check_works(executor)
            (tmp_path / "go").touch()
            assert await asyncio.wait_for(other, self.patience) == "old"

    async def test_data_that_does_not_fit_fails_for_good(self) -> None:
        _needs(self.typed, "functions declare no types")
        async with self.opened() as executor:
            assert isinstance(await self.failure(executor, self.make("misfit", "seven")), DataError)

    async def test_what_a_generator_yields_is_emitted(self) -> None:
        _needs(self.generators, "functions are no generators")
        async with self.opened() as executor:
            call = self.make("generate", [1, 2])
            assert await self.run(executor, call) is None
            assert [(one.type, one.data) for one in call.context.emitted] == [("noted", 1), ("noted", 2)]

    async def test_a_context_tells_of_the_call(self) -> None:
        _needs(self.contexts, "functions are given no context")
        async with self.opened() as executor:
            told = await self.run(executor, self.make("context", attempt=3))
            assert told == {"attempt": 3, "key": "suite-1/context", "settings": {"currency": "EUR"}}

    async def test_a_state_is_changed_for_the_caller(self) -> None:
        _needs(self.states, "functions take no state")
        async with self.opened() as executor:
            call = self.make("state", 3, state={"n": 4})
            assert await self.run(executor, call) == 7
            assert call.state == {"n": 7}

    async def test_a_resource_is_what_the_lease_holds(self) -> None:
        _needs(self.resources, "functions take no resources of this process")
        async with self.opened() as executor:
            assert await self.run(executor, self.make("resource", resources={"shelf": "A"})) == "A"


async def _awaited(executor: Executor, call: Call) -> Any:
    return await executor(call)


def _needs(feature: bool, why: str) -> None:  # noqa: FBT001 - a feature of the suite
    if not feature:
        pytest.skip(why)
