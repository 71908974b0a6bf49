"""The runtime under measurement: a folder as a user has it, run in this process or by `runtime run`.

What its `runtime.toml` says is the default but for the journal, addresses and what a row names; a test holds that.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from benchmarks.children import settle_garbage
from runtime import Event, config
from runtime.app import App

MEMORY = '[journal]\nurl = "memory:"\n'
SQLITE = '[journal]\nurl = "sqlite:.runtime/journal.db"\n'  # the default
PRIORITY = '[dispatch]\norder = "priority"\n'
WEB = '[sources.web]\nplugin = "http"\nlisten = "127.0.0.1:0"\n'
ADMIN = '[admin]\nlisten = "127.0.0.1:0"\n'

NOTHING = """
from runtime import function

@function(on="go")
async def nothing(data): ...
"""


@contextmanager
def project(text: str, functions: str | Mapping[str, str] = NOTHING, plugins: Mapping[str, str] | None = None) -> Iterator[Path]:
    """Give a folder with a `runtime.toml` of this text, and with these files by name."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        (folder / "runtime.toml").write_text(text)
        files = {"bench.py": functions} if isinstance(functions, str) else functions
        for place, texts in (("functions", files), ("plugins", plugins or {})):
            (folder / place).mkdir()
            for file, content in texts.items():
                (folder / place / file).write_text(content)
        yield folder


@asynccontextmanager
async def running(folder: Path, *, sources: bool = False) -> AsyncIterator[App]:
    """Give the app of a folder, started, with its sources or without."""
    app = App(config.load(folder / "runtime.toml"), starts=lambda source: sources)
    await app.start()
    settle_garbage()
    try:
        yield app
        assert not (await app.stats())["dead"]
    finally:
        await app.stop(0.0)


def events(count: int, type: str = "go", *, priorities: int = 0) -> list[Event]:
    """Return small events; with `priorities` of so many levels in turn."""
    return [
        Event(type=type, source="bench", data={"n": number}, priority=number % priorities if priorities else None)
        for number in range(count)
    ]


async def rate(app: App, batch: Sequence[Event], size: int) -> float:
    """Return events per second, put in lists of `size` (1: without a list), from the first put to the last recorded end."""
    inlet = app.inlet("bench")
    began = time.perf_counter()
    if size == 1:
        for event in batch:
            await inlet.put(event)
    else:
        for start in range(0, len(batch), size):
            await inlet.put(batch[start : start + size])
    await app.finished()
    return len(batch) / (time.perf_counter() - began)


class Served:
    """A runtime in a process of its own that is ready; `banner` is what it printed, by its first word; `ready` in seconds."""

    def __init__(self, folder: Path) -> None:
        began = time.perf_counter()
        command = [sys.executable, "-m", "runtime", "run"]
        self.process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.banner: dict[str, str] = {}
        assert self.process.stdout is not None
        for line in self.process.stdout:
            word, _, rest = line.strip().partition(" ")
            self.banner[word] = rest.strip()
            if word == "admin":
                break
        else:
            raise RuntimeError(f"runtime run ended with {self.process.wait()}")
        self.ready = time.perf_counter() - began

    def memory(self) -> float:
        """Return the resident memory in MB."""
        status = dict(line.split(":", 1) for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines())
        return int(status["VmRSS"].split()[0]) / 1024

    def cpu(self) -> float:
        """Return the seconds that its threads have computed."""
        times = [file.read_text().split()[0] for file in Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")]
        return sum(map(int, times)) / 1e9


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """Give a runtime that is ready; it is killed at the end."""
    served = Served(folder)
    try:
        yield served
    finally:
        served.process.kill()
        served.process.wait()
        assert served.process.stdout is not None
        served.process.stdout.close()
