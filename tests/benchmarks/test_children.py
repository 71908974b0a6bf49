from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import children
from benchmarks.children import ChildError
from runtime.cli import run

CONTESTANTS = """
import asyncio
import gc
import os

def double(number): return [os.getpid(), 2 * number]
async def loop(): return type(asyncio.get_running_loop()).__module__
def threshold(): return gc.get_threshold()
def missing(): import a_package_that_is_not_there
def broken(): raise ValueError("it broke")
"""


@pytest.fixture
def contestants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "contestants.py").write_text(CONTESTANTS)
    root = Path(__file__).parents[2]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{root}")
    return import_module("contestants")


def test_a_measurement_runs_in_a_process_of_its_own_on_the_loop_of_the_runtime(contestants: ModuleType) -> None:
    import os

    pid, number = children.run(contestants.double, 21)
    assert pid != os.getpid()
    assert number == 42
    assert children.run(contestants.loop) == "uvloop"


def test_the_collector_is_set_as_the_runtime_sets_it(contestants: ModuleType) -> None:
    said = re.findall(r"gc\.set_threshold\(.*?\)", inspect.getsource(run))
    assert said == re.findall(r"gc\.set_threshold\(.*?\)", inspect.getsource(children))
    assert children.run(contestants.threshold) == [50_000, 20, 100]


def test_what_is_not_installed_is_told_from_what_fails(contestants: ModuleType) -> None:
    with pytest.raises(ChildError, match=r"^not installed$"):
        children.run(contestants.missing)
    with pytest.raises(ChildError, match=r"^failed: ValueError: it broke$"):
        children.run(contestants.broken)
