"""All executors, by the word for each: what an engine or an invocation calls functions with."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from pathlib import Path
from typing import Any

from runtime.contracts import Call, Clock, Executor
from runtime.executors.command import Commands
from runtime.executors.escalation import Escalation
from runtime.executors.loop import call_on_loop
from runtime.executors.process import Processes
from runtime.executors.service import Services
from runtime.executors.thread import Threads
from runtime.specs import FunctionSpec


class Executors:
    """One set of executors; `folder` is that of the configuration file, which relative paths are relative to."""

    def __init__(self, clock: Clock, folder: Path) -> None:
        self.escalation = Escalation()
        self.threads = Threads(overran=self.escalation.add)
        self.processes = Processes(clock, folder)
        self.commands = Commands(clock, folder)
        self.services = Services(clock, folder)

    def by_name(self) -> dict[str, Executor]:
        """Return them by the `executor` of a function."""
        return {
            "loop": call_on_loop,
            "thread": self._call_in_thread,
            "process": self.processes.call,
            "command": self.commands.call,
            "service": self.services.call,
        }

    def _call_in_thread(self, call: Call) -> Awaitable[Any]:
        return self.processes.call(call) if call.function in self.escalation else self.threads.call(call)

    def adopt(self, functions: Iterable[FunctionSpec]) -> None:
        """Make ready for the functions of a generation, and let go of what only earlier ones needed."""
        present = list(functions)
        self.commands.adopt(present)
        self.processes.adopt(self.escalation.adopt(present))

    async def close(self) -> None:
        """End what they have started; what hangs is killed or left behind."""
        await self.processes.close()
        await self.commands.close()
        await self.services.close()
        self.threads.close()
