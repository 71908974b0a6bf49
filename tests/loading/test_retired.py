"""Old modules go; when one does not, the log tells who holds it."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest

from runtime import config
from runtime.loading import importer
from runtime.loading.generation import Generation
from runtime.loading.loader import Loader
from runtime.loading.modules import space_of
from runtime.loading.retired import WAIT
from runtime.testing import VirtualClock

HELPER = "VALUE = {}\nBIG = bytes(200_000)\n"
USER = "from ._helper import VALUE\nfrom runtime import function\n@function(on='go')\ndef f{number}(data: int) -> int:\n    return VALUE\n"


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "functions"
        self.folder.mkdir()
        self.clock = VirtualClock()
        self.present: list[Generation] = []
        self.loader = Loader(config.load(folder / "runtime.toml"), self.clock, self._adopt)
        self.old: list[weakref.ref[object]] = []

    def _adopt(self, generation: Generation) -> None:
        self.present[:] = [generation]

    async def save(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        if self.present:
            table = self.present[0].modules.table
            self.old += [weakref.ref(space_of(module)) for module in table.values()]
        await self.loader.load()
        for thread in threading.enumerate():
            if thread.name == "load":
                thread.join()  # until it has ended it holds what it was given

    def alive(self) -> int:
        """Return how many spaces of modules are left that are not of the present generation."""
        present = {id(space_of(module)) for module in self.present[0].modules.table.values()}
        return len({id(one) for reference in self.old if (one := reference()) is not None} - present)

    async def look(self) -> None:
        """Look at what was replaced, as happens a while after a reload."""
        await self.loader._retired.look()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await made.loader.stop()
    for name in [name for name in sys.modules if name == "functions" or name.startswith("functions.")]:
        del sys.modules[name]


async def test_a_hundred_reloads_of_a_helper_that_many_import_leave_nothing_behind(bench: Bench) -> None:
    for number in range(19):
        (bench.folder / f"f{number}.py").write_text(USER.format(number=number))
    for number in range(100):
        await bench.save("_helper.py", HELPER.format(number))
    await bench.look()
    assert bench.alive() == 0
    assert len(bench.old) > 1900


async def test_a_while_after_a_reload_it_is_looked_by_itself(bench: Bench) -> None:
    await bench.save("a.py", "def f(): ...\n")
    await bench.save("a.py", "def f(): pass\n")
    await bench.clock.settle()
    assert bench.alive() == 1
    await bench.clock.advance(WAIT)
    await bench.clock.settle()
    assert bench.alive() == 0


async def test_classes_that_typing_remembers_are_let_go(bench: Bench) -> None:
    for number in range(60):
        text = f"import typing\nclass Order:\n    number = {number}\nMAYBE = typing.Optional[Order]\nMANY = typing.List[Order]\n"
        await bench.save("a.py", text)
    await bench.look()
    assert bench.alive() == 0


async def test_what_is_frozen_at_the_start_is_collected_too(bench: Bench) -> None:
    await bench.save("a.py", "def f(): ...\n")
    gc.freeze()
    try:
        await bench.save("a.py", "def f(): pass\n")
        gc.collect()
        assert bench.alive() == 1
        await bench.look()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
    assert bench.alive() == 0


async def named(bench: Bench, caplog: pytest.LogCaptureFixture, text: str) -> str:
    """Return what is logged of a file that was saved with `text` and once more without it."""
    with caplog.at_level(logging.WARNING, "runtime.loading"):
        await bench.save("a.py", text)
        await bench.save("a.py", "X = 1\n")
        await bench.look()
        await bench.look()
        await bench.save("a.py", "X = 2\n")
        await bench.look()
    (record,) = caplog.records
    return record.getMessage()


async def test_a_thread_that_still_runs_old_code_is_named_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    sys.modules["gate_for_test"] = gate = ModuleType("gate_for_test")
    vars(gate)["stop"] = threading.Event()
    start = "import threading\nfrom gate_for_test import stop\ndef work():\n    stop.wait()\n"
    start += "threading.Thread(target=work, name='poller').start()\n"
    try:
        told = await named(bench, caplog, start)
    finally:
        vars(gate)["stop"].set()
        del sys.modules["gate_for_test"]
    expected = 'functions/a.py: its code before the last save should be gone from memory, but the thread "poller" still runs it at line 4; '
    assert told == expected + "stop or remove that before the file is saved, or make it inside a function"


async def test_a_module_that_holds_a_listener_is_named(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    sys.modules["listeners_for_test"] = module = ModuleType("listeners_for_test")
    vars(module)["LISTENERS"] = []
    try:
        told = await named(bench, caplog, "from listeners_for_test import LISTENERS\ndef on_event(): ...\nLISTENERS.append(on_event)\n")
    finally:
        del sys.modules["listeners_for_test"]
    assert "but the module listeners_for_test holds functions.a.on_event; stop or remove that" in told


async def test_a_run_on_old_code_is_no_leak(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    await bench.save("a.py", USER.format(number=1).replace("from ._helper import VALUE\n", ""))
    plan = bench.present[0].graph.plan("go")
    with caplog.at_level(logging.WARNING, "runtime.loading"):
        await bench.save("a.py", "X = 1\n")
        await bench.look()
        assert bench.alive() == 1
        assert plan.functions[0].name == "f1"
        del plan
        await bench.look()
        await bench.look()
    assert bench.alive() == 0
    assert not caplog.records


def test_the_space_of_a_module_lives_as_long_as_its_functions(tmp_path: Path) -> None:
    folder = tmp_path / "functions"
    folder.mkdir()
    (folder / "a.py").write_text("def f(): ...\n")
    modules = importer.load(folder)
    function = modules.table["functions.a"].f
    space = weakref.ref(space_of(modules.table["functions.a"]))
    del modules
    gc.collect()
    assert space() is not None
    del function
    gc.collect()
    assert space() is None
