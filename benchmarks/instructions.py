"""How many instructions of bytecode an event takes: a count that no other work on the machine changes.

Counted is what code of `runtime/` and `plugins/` executes on the loop, not what libraries, C and threads do. The counts to
hold are kept by version of Python; `python -m benchmarks.instructions` writes those of this one anew, and
`python -m benchmarks.instructions SCENARIO` tells where they are spent.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import msgspec

from benchmarks.client import connect
from benchmarks.load import BODY
from benchmarks.ours import MEMORY, NOTHING, PRIORITY, SQLITE, WEB, events, project, running
from benchmarks.subjects import chains, http, memory
from runtime.app import App

KEPT = Path(__file__).with_name("instructions.json")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
ROOT = Path(__file__).parents[1]
OURS = tuple(f"{ROOT / folder}/" for folder in ("runtime", "plugins"))
WARM, EVENTS = 100, 200

Work = Callable[[App, int], Awaitable[object]]


class Tracer:
    """Counts instructions by the function that executes them, while it is the tracer of this thread."""

    def __init__(self) -> None:
        self.counts: Counter[CodeType] = Counter()
        self._is_ours: dict[str, bool] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Count in the frames of our code alone."""
        file = frame.f_code.co_filename
        ours = self._is_ours.get(file)
        if ours is None:
            ours = self._is_ours[file] = file.startswith(OURS)
        if not ours:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._count

    def _count(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            self.counts[frame.f_code] += 1
        return self._count


@contextmanager
def counting() -> Iterator[Counter[CodeType]]:
    """Give the instructions that are executed in between, by function."""
    before, tracer = sys.gettrace(), Tracer()
    sys.settrace(tracer)
    try:
        yield tracer.counts
    finally:
        sys.settrace(before)


async def one_by_one(app: App, count: int) -> None:
    """Put events, each with a put of its own."""
    inlet = app.inlet("bench")
    for event in events(count, priorities=10):
        await inlet.put(event)
    await app.finished()


async def in_a_list(app: App, count: int) -> None:
    """Put events in one list."""
    await app.inlet("bench").put(events(count))
    await app.finished()


async def by_http(app: App, count: int) -> None:
    """Post events one after another, each when the last is answered."""
    client = await connect(dict(app.addresses())["web"])
    for _ in range(count):
        await client.ask("POST /", BODY.encode())
    client.close()
    await app.finished()


SCENARIOS: dict[str, tuple[str, str, Work]] = {
    "memory, one put an event": (MEMORY, NOTHING, one_by_one),
    "memory, one put of a list": (MEMORY, NOTHING, in_a_list),
    "memory, priority with aging": (MEMORY + PRIORITY, NOTHING, one_by_one),
    "memory, a function that suspends": (MEMORY, memory.SUSPENDS, one_by_one),
    "memory, chain of 10": (MEMORY, chains.functions("chain", 10), in_a_list),
    "SQLite, one put of a list": (SQLITE, NOTHING, in_a_list),
    "SQLite, one put an event": (SQLITE, NOTHING, one_by_one),
    'HTTP, reply = "result"': (MEMORY + WEB + http.ROUTE.format(reply="result"), http.ECHO, by_http),
}


async def count(text: str, functions: str, work: Work) -> Counter[str]:
    """Return the instructions that one event takes, by function."""
    with project(text, functions) as folder:
        async with running(folder, sources=WEB in text) as app:
            await work(app, WARM)
            with counting() as counts:
                await work(app, EVENTS)
    found: Counter[str] = Counter()
    for code, number in counts.items():
        found[f"{Path(code.co_filename).relative_to(ROOT)}: {code.co_qualname}"] += round(number / EVENTS)
    return found


def counted(scenario: str) -> Counter[str]:
    """Return the instructions of one event of a scenario, by function; their total is the count that is kept."""
    return asyncio.run(count(*SCENARIOS[scenario]))


def kept() -> dict[str, dict[str, int]]:
    """Return the counts to hold, by version of Python."""
    return msgspec.json.decode(KEPT.read_bytes(), type=dict[str, dict[str, int]]) if KEPT.exists() else {}


def main() -> None:
    """Be the command."""
    for scenario in sys.argv[1:]:
        for name, number in counted(scenario).most_common(40):
            print(f"{number:8,} {name}")
    if sys.argv[1:]:
        return
    old, new = kept(), {scenario: counted(scenario).total() for scenario in SCENARIOS}
    for name, value in new.items():
        print(f"{name:40} {value:8,} instructions  (kept: {old.get(PYTHON, {}).get(name, 'none')})")
    KEPT.write_bytes(msgspec.json.format(msgspec.json.encode(old | {PYTHON: new}), indent=1) + b"\n")


if __name__ == "__main__":
    main()
