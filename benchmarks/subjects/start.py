"""How soon it is there, and what it takes when it has nothing to do."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.ours import ADMIN, SQLITE, WEB, project, serving
from benchmarks.sheet import Sheet

FILES = 100
FUNCTION = """
from runtime import function

@function(on="type{number}")
async def function{number}(data): ...
"""


def python(text: str) -> float:
    """Return the milliseconds that a process takes which runs this."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", text], check=True)
    return 1000 * (time.perf_counter() - began)


def measure(sheet: Sheet) -> None:
    """See above."""
    sheet.compare("ms", {"python -c 'import runtime'": lambda: python("import runtime"), "python -c pass": lambda: python("pass")}, 15)
    whole, bare = sheet.values("python -c 'import runtime'"), sheet.values("python -c pass")
    sheet.add("import runtime", [one - other for one, other in zip(whole, bare, strict=True)], "ms", "< 50")
    with project(SQLITE + WEB + ADMIN, {f"file{number}.py": FUNCTION.format(number=number) for number in range(FILES)}) as folder:
        ready = []
        for _ in range(sheet.rounds):
            with serving(folder) as served:
                ready.append(served.ready)
        sheet.add(f"runtime run with {FILES} files: ready", ready, "s", "< 0.6")
        with serving(folder) as served:
            time.sleep(2)  # what belongs to the start
            cpu = []
            for _ in range(sheet.rounds):
                before = served.cpu()
                time.sleep(4)
                cpu.append(100 * (served.cpu() - before) / 4)
            sheet.add("idle: processor", cpu, "%", "< 0.5")
            sheet.add("idle: memory", [served.memory()], "MB", "< 70")
