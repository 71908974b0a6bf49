"""The executors of this process pass the suite, and the suite finds one that breaks its contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from executors.behaviours import BEHAVIOURS, REPLACED, SETTINGS, SHARED, asynchronous, behaving

from runtime.contracts import Call, Executor
from runtime.executors.loop import call_on_loop
from runtime.executors.thread import Threads
from runtime.specs import FunctionSpec
from runtime.testing import ExecutorSuite


class InProcess(ExecutorSuite):
    """What the loop and threads have in common: functions are those of this process."""

    isolated: ClassVar[bool] = False
    asynchronous: ClassVar[bool] = False

    @pytest.fixture(autouse=True)
    def _load(self, tmp_path: Path) -> None:
        written = asynchronous if self.asynchronous else str
        self.graph = behaving(tmp_path / "old", written(BEHAVIOURS + SHARED), SETTINGS)
        self.replaced = behaving(tmp_path / "new", written(REPLACED))

    def function(self, behaviour: str) -> FunctionSpec:
        return self.replaced.by_name["wait"] if behaviour == "replaced" else self.graph.by_name[behaviour]


class TestLoop(InProcess):
    asynchronous: ClassVar[bool] = True

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Executor]:
        yield call_on_loop


class TestThread(InProcess):
    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Executor]:
        threads = Threads()
        yield threads.call
        threads.close()


async def vague(call: Call) -> Any:
    """Break the contract: no error is what it was."""
    try:
        return await call_on_loop(call)
    except Exception as error:  # noqa: BLE001 - that is what it breaks
        raise RuntimeError(str(error)) from None


async def forgetful(call: Call) -> Any:
    """Break the contract: nothing is emitted."""
    result = await call_on_loop(call)
    call.context._emissions.clear()
    return result


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (vague, "test_a_skip_and_a_rejection_arrive_as_what_they_are"),
        (vague, "test_data_that_does_not_fit_fails_for_good"),
        (forgetful, "test_what_is_emitted_is_in_the_context_of_the_call"),
        (forgetful, "test_what_a_generator_yields_is_emitted"),
    ],
)
async def test_the_suite_finds_an_executor_that_breaks_its_contract(broken: Executor, test: str, tmp_path: Path) -> None:
    class Suite(TestLoop):
        __test__ = False

        @asynccontextmanager
        async def opened(self) -> AsyncIterator[Executor]:
            yield broken

    suite = Suite()
    suite.graph = behaving(tmp_path, asynchronous(BEHAVIOURS), SETTINGS)
    with pytest.raises(AssertionError):
        await getattr(suite, test)()
