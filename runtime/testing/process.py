"""A real runtime in a process of its own, with the source of a suite, a journal on the disk and a function that takes notes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from runtime.contracts import Source
from runtime.toml import quoted, written

Moment = Literal["", "received", "accepted"]

PLUGIN = '''
import os
import signal
from importlib import import_module

from runtime import hookimpl

MOMENT = os.environ["SUITE_MOMENT"]


class Deadly:
    """An inlet that kills the process at the given moment."""

    def __init__(self, inlet):
        self._inlet = inlet

    def __getattr__(self, name):
        return getattr(self._inlet, name)

    async def put(self, events, **more):
        if MOMENT == "received" and events:
            os.kill(os.getpid(), signal.SIGKILL)
        ids = await self._inlet.put(events, **more)
        if MOMENT == "accepted" and events:
            os.kill(os.getpid(), signal.SIGKILL)
        return ids


class Suite(getattr(import_module(@MODULE@), @CLASS@)):
    async def run(self, inlet):
        await super().run(Deadly(inlet) if MOMENT else inlet)


@hookimpl
def register_sources():
    return {"suite": Suite}
'''

FUNCTION = """
import asyncio
import json
import os

from runtime import function

NOTES = os.open("notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@function(on=">")
async def note(event):
    while os.path.exists("hold"):
        await asyncio.sleep(0.01)
    text = json.dumps([event.source, event.id, event.data], default=repr)
    os.write(NOTES, (text if len(text) < 4000 else json.dumps([event.source, event.id, None])).encode() + b"\\n")
"""

CONFIG = """
[admin]
listen = "127.0.0.1:0"

[journal]
max_backlog = 1

[dispatch]
in_flight = 1

[sources.suite]
plugin = "suite"
"""


class Project:
    """The folder of a runtime whose one source is of the given class; one event runs and one waits, the others have to stay outside.

    While `hold` is set, the function holds on to its event.
    """

    def __init__(self, folder: Path, kind: type[Source], options: Mapping[str, Any]) -> None:
        self.folder = folder
        for name in ("functions", "plugins"):
            (folder / name).mkdir()
        text = PLUGIN.replace("@MODULE@", repr(kind.__module__)).replace("@CLASS@", repr(kind.__qualname__))
        (folder / "plugins" / "suite.py").write_text(text)
        (folder / "functions" / "notes.py").write_text(FUNCTION)
        lines = [f"{quoted(name)} = {written(value)}\n" for name, value in options.items() if value is not None]
        (folder / "runtime.toml").write_text(CONFIG + "".join(lines))

    def hold(self, *, held: bool) -> None:
        """Let the function hold on to its event, or let it go on."""
        if held:
            (self.folder / "hold").touch()
        else:
            (self.folder / "hold").unlink()

    def notes(self) -> list[tuple[str, str, Any]]:
        """Return source, id and data of the events that the function has seen, each once, in order; without data that is large."""
        path = self.folder / "notes"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return list({(source, id): (source, id, data) for source, id, data in map(json.loads, lines)}.values())

    def running(self, moment: Moment = "", patience: float = 10.0) -> Running:
        """Return the runtime; it kills itself at a moment: when events were `received`, or when the journal has `accepted` them."""
        return Running(self.folder, moment, patience)


class Running:
    """A runtime from its start to its end."""

    def __init__(self, folder: Path, moment: Moment, patience: float) -> None:
        self._folder = folder
        self._moment = moment
        self._patience = patience
        self._admin = ""

    async def __aenter__(self) -> Self:
        own = [path for path in sys.path if path and not path.startswith((sys.prefix, sys.base_prefix))]
        environment = os.environ | {"SUITE_MOMENT": self._moment, "PYTHONPATH": os.pathsep.join(own), "PYTHONUNBUFFERED": "1"}
        with (self._folder / "out").open("wb") as out, (self._folder / "log").open("ab") as log:
            command = (sys.executable, "-m", "runtime", "run")
            self._process = await asyncio.create_subprocess_exec(*command, cwd=self._folder, env=environment, stdout=out, stderr=log)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    @property
    def log(self) -> str:
        """What it has said on stderr."""
        return (self._folder / "log").read_text()

    async def ended(self) -> int:
        """Return the exit code, negative the signal that killed it, when it has ended."""
        try:
            return await asyncio.wait_for(self._process.wait(), self._patience)
        except TimeoutError:
            raise AssertionError(f"after {self._patience:g} s it has not ended; its log is:\n{self.log}") from None

    async def stop(self) -> int:
        """Ask it to stop, and return its exit code."""
        await self.until(self._is_up, "any address of it")
        self._process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Return when a condition holds; `what` says which."""
        end = time.monotonic() + self._patience
        while not holds():
            assert self._process.returncode is None, f"it ended before there were {what}; its log is:\n{self.log}"
            assert time.monotonic() < end, f"after {self._patience:g} s there are still not {what}; its log is:\n{self.log}"
            await asyncio.sleep(0.01)

    async def state(self) -> str:
        """Return how its source stands."""
        return (await asyncio.to_thread(self._ask, "/api/sources"))["sources"][0]["state"]  # type: ignore[no-any-return]

    async def taken(self) -> int:
        """Return how many events its source has brought in."""
        return (await asyncio.to_thread(self._ask, "/api/sources"))["sources"][0]["events"]  # type: ignore[no-any-return]

    async def until_state(self, state: str) -> None:
        """Return when its source stands so."""
        await self.until(self._is_up, "any address of it")
        end = time.monotonic() + self._patience
        while (found := await self.state()) != state:
            assert time.monotonic() < end, f"after {self._patience:g} s the source is {found}, not {state}; the log is:\n{self.log}"
            await asyncio.sleep(0.01)

    def _is_up(self) -> bool:
        lines = map(str.split, (self._folder / "out").read_text().splitlines())
        self._admin = next((words[1] for words in lines if words[:1] == ["admin"] and len(words) == 2), "")
        return bool(self._admin)

    def _ask(self, path: str) -> Any:
        with urllib.request.urlopen(self._admin + path, timeout=self._patience) as answer:  # noqa: S310 - the address of our own process
            return json.load(answer)

    def memory(self) -> int:
        """Return the bytes of memory that it holds."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
