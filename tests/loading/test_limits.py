"""Loads that hold the interpreter or never end."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from runtime import config
from runtime.loading.limits import SLICE, abandon, yielding


def test_a_load_gives_way_often_and_leaves_the_interval_as_it_was() -> None:
    usual = sys.getswitchinterval()
    seen = []

    def nested() -> None:
        seen.append(sys.getswitchinterval())
        yielding(lambda: None)
        seen.append(sys.getswitchinterval())

    yielding(nested)
    assert seen == [SLICE, SLICE]
    assert sys.getswitchinterval() == usual


def test_an_endless_loop_of_a_file_is_ended_and_told_with_its_line(tmp_path: Path) -> None:
    settings = config.load(tmp_path / "runtime.toml")
    file = tmp_path / "functions" / "a.py"
    started = threading.Event()
    code = compile("started.set()\nwhile True:\n    pass\n", str(file), "exec")
    ended: list[BaseException] = []

    def load() -> None:
        try:
            exec(code, {"started": started})
        except BaseException as error:  # noqa: BLE001 - the one that ends it
            ended.append(error)

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    assert started.wait(5)
    while True:
        fault = abandon(thread, settings)
        if fault.where != "functions":  # it has begun
            break
    thread.join(5)
    assert not thread.is_alive()
    assert [type(error).__name__ for error in ended] == ["Abandoned"]
    assert fault.where in ("functions/a.py:1", "functions/a.py:2", "functions/a.py:3")


def test_a_thread_that_is_outside_the_folder_is_left_alone(tmp_path: Path) -> None:
    settings = config.load(tmp_path / "runtime.toml")
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait, daemon=True)
    thread.start()
    assert abandon(thread, settings).where == "functions"
    gate.set()
    thread.join(5)
    assert not thread.is_alive()
