"""What one call costs, by the executor: the smallest of functions, one call after the other and four at once."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.children import child
from benchmarks.sheet import Sheet
from runtime import function
from runtime.clock import SystemClock
from runtime.contracts import Executor
from runtime.executors.kinds import Executors
from runtime.function import collecting
from runtime.settings import CommandSettings, FunctionSettings
from runtime.specs import FunctionSpec, make_external, make_function
from runtime.testing import SuiteCall

SECONDS = 0.5  # that each is measured
TOGETHER = 4

C = r"""
#include <stdio.h>
#include <stdlib.h>

int main(void) {
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, stdin) > 0) {
        puts("7");
        fflush(stdout);
    }
    return 0;
}
"""

NODE = 'require("readline").createInterface({ input: process.stdin }).on("line", (line) => console.log(JSON.parse(line).data))'


def functions(folder: Path) -> dict[str, FunctionSpec]:
    """Return functions to call, by what they are."""
    with collecting() as declared:

        @function
        async def on_loop(data: int) -> int:
            return data

        @function
        def in_thread(data: int) -> int:
            return data

    made = [make_function(one, "functions/bench.py", 1, 1, {}) for one in declared]
    found = {one.executor: one for one in made if isinstance(one, FunctionSpec)}
    if shutil.which("cc"):
        (folder / "seven.c").write_text(C)
        subprocess.run(["cc", "-O2", "-o", "seven", "seven.c"], cwd=folder, check=True)
        found |= {"command in C": command("./seven"), "command in C, once": command("./seven", "once")}
    if shutil.which("node"):
        (folder / "seven.js").write_text(NODE)
        found |= {"command in Node.js": command("node seven.js"), "command in Node.js, once": command("node seven.js", "once")}
    return found


def command(words: str, mode: str = "persistent") -> FunctionSpec:
    """Return a function that is a command."""
    target = CommandSettings(command=tuple(words.split()), mode=mode)  # type: ignore[arg-type]
    return make_external(f"{words} {mode}", FunctionSettings(target=target), "bench", 1)


async def rate(executor: Executor, spec: FunctionSpec, together: int) -> float:
    """Return calls per second, so many at once."""
    end, count = time.perf_counter() + SECONDS, 0

    async def call() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await executor(SuiteCall(spec, 7))
            count += 1

    await executor(SuiteCall(spec, 7))
    began = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(together)))
    return count / (time.perf_counter() - began)


async def ours(what: str, together: int) -> float:
    """Return calls per second of one of the functions, so many at once."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        executors = Executors(SystemClock(), Path(folder))
        spec = functions(Path(folder))[what]
        found = await rate(executors.by_name()[spec.executor], spec, together)
        await executors.close()
        return found


def measure(sheet: Sheet) -> None:
    """See above."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        names = list(functions(Path(folder)))
    sheet.compare("calls/s", {f"{what}, {together} at once": child(ours, what, together) for what in names for together in (1, TOGETHER)})
    for what in names:
        sheet.add(f"{what}: one call", [1e6 / one for one in sheet.values(f"{what}, 1 at once")], "µs")
