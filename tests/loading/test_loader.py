"""The loader: each save makes one generation, a broken one changes nothing, and a load is bounded."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from runtime import LoadError, config
from runtime.function import Declaration
from runtime.loading import importer
from runtime.loading.generation import Generation, make_graph
from runtime.loading.kept import Kept
from runtime.loading.loader import Loader
from runtime.specs import make_function
from runtime.testing import VirtualClock

ONE = "from runtime import function\n@function(on='go')\ndef one(data: int) -> int:\n    return 1\n"
TWO = ONE.replace("one", "two")


class Bench:
    def __init__(self, folder: Path, toml: str = "", kept: Kept | None = None) -> None:
        self.folder = folder / "functions"
        self.folder.mkdir(exist_ok=True)
        (folder / "runtime.toml").write_text(toml)
        self.adopted: list[Generation] = []
        self.loader = Loader(config.load(folder / "runtime.toml"), VirtualClock(), self.adopted.append, kept=kept)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    async def saved(self) -> None:
        self.loader.on_saved()
        assert self.loader._reloading is not None
        await self.loader._reloading


async def test_a_generation_tells_what_it_added_changed_and_removed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write("a.py", ONE)
    await bench.loader.load()
    bench.write("a.py", ONE.replace("return 1", "return 2"))
    bench.write("b.py", TWO)
    await bench.saved()
    (bench.folder / "b.py").unlink()
    await bench.saved()
    told = [(change.number, change.added, change.changed, change.removed) for change in bench.loader.history]
    assert told == [(1, ("one",), (), ()), (2, ("two",), ("one",), ()), (3, (), (), ("two",))]
    assert [generation.number for generation in bench.adopted] == [1, 2, 3]
    assert set(bench.loader.history[1].files) == {"a.py", "b.py"}


async def test_a_function_keeps_the_number_of_the_generation_it_came_with(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write("a.py", ONE)
    await bench.loader.load()
    bench.write("b.py", TWO)
    await bench.saved()
    assert {name: function.generation for name, function in bench.loader.present.graph.by_name.items()} == {"one": 1, "two": 2}


async def test_a_broken_save_keeps_the_last_good_generation_and_is_mended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(tmp_path)
    bench.write("a.py", ONE)
    await bench.loader.load()
    bench.write("a.py", "def one(:\n")
    with caplog.at_level(logging.INFO):
        await bench.saved()
        await bench.saved()
    assert [str(fault) for fault in bench.loader.faults] == ['functions/a.py:1: SyntaxError: invalid syntax in "def one(:"']
    assert caplog.text.count("generation 1 goes on; the folder is broken: functions/a.py:1") == 1, "told once"
    assert bench.loader.present.number == 1
    bench.write("a.py", ONE)
    await bench.saved()
    assert bench.loader.faults == []
    assert bench.loader.present.number == 1, "the folder is what it was"


async def test_a_save_that_changes_no_content_makes_no_generation(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write("a.py", ONE)
    await bench.loader.load()
    bench.write("a.py", ONE)
    await bench.saved()
    assert len(bench.adopted) == 1


async def test_a_folder_that_is_missing_cannot_be_loaded_at_start(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.folder.rmdir()
    with pytest.raises(LoadError, match="no such folder: make it, or name another with `functions` under \\[runtime\\]"):
        await bench.loader.load()


async def test_a_module_that_hangs_at_import_is_left_behind(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "[runtime]\nload_timeout = 0.2\n")
    bench.write("a.py", ONE)
    await bench.loader.load()
    bench.write("b.py", "import threading\nthreading.Event().wait(3)\n")
    async with asyncio.timeout(2):
        await bench.saved()
    (fault,) = bench.loader.faults
    assert str(fault) == (
        "functions/b.py:2: importing took longer than load_timeout = 0.2 s and was left behind; look for a call that hangs at import"
    )
    (bench.folder / "b.py").unlink()
    bench.write("c.py", TWO)
    await bench.saved()
    assert bench.loader.faults == []
    assert bench.loader.present.change.added == ("two",)


async def test_a_table_for_a_function_that_no_file_declares_is_a_fault(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "[functions.onne]\nretries = 1\n")
    bench.write("a.py", ONE)
    with pytest.raises(LoadError) as failure:
        await bench.loader.load()
    assert str(failure.value) == (
        'runtime.toml [functions.onne]: no file declares a function "onne" (did you mean "one"?); rename the table or remove it'
    )


async def test_history_is_bounded_and_holds_no_modules(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write("a.py", ONE)
    await bench.loader.load()
    for number in range(2, 105):
        bench.write("a.py", ONE.replace("return 1", f"return {number}"))
        await bench.loader.load()
    assert [bench.loader.history[0].number, bench.loader.history[-1].number] == [5, 104]


async def test_a_mistyped_dependency_is_told_before_the_parameters_that_follow_from_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write("a.py", ONE + "@function(after='onne')\ndef two(one: int) -> int:\n    return one\n")
    with pytest.raises(LoadError) as failure:
        await bench.loader.load()
    assert str(failure.value) == (
        'functions/a.py:6: "two" comes after "onne", which does not exist (did you mean "one"?); functions here: one, two'
    )


async def test_names_in_annotations_of_payload_classes_are_found(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(
        "a.py",
        "from __future__ import annotations\nimport datetime\nfrom dataclasses import dataclass\nimport msgspec\n"
        "from runtime import function\n"
        "class Item(msgspec.Struct):\n    name: str\n"
        "class Order(msgspec.Struct):\n    items: list[Item]\n"
        "@dataclass\nclass When:\n    at: datetime.datetime\n"
        "@function(on='go')\ndef one(order: Order) -> int:\n    return 1\n"
        "@function(on='when')\ndef two(when: When) -> int:\n    return 1\n",
    )
    await bench.loader.load()
    assert set(bench.loader.present.graph.by_name) == {"one", "two"}


async def test_a_file_that_is_emptied_for_a_moment_is_read_when_it_is_filled(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write("a.py", ONE)
    await bench.loader.load()
    bench.write("a.py", "")
    saving = asyncio.create_task(bench.saved())
    await asyncio.sleep(0.05)
    bench.write("a.py", ONE.replace("return 1", "return 2"))
    await saving
    assert bench.loader.present.change.changed == ("one",)


async def test_a_mistake_of_the_loader_itself_is_a_fault_and_not_the_end_of_reloading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path)
    bench.write("a.py", ONE)
    await bench.loader.load()
    monkeypatch.setattr("runtime.loading.loader.make_generation", lambda *_, **__: 1 / 0)
    bench.write("a.py", ONE.replace("return 1", "return 2"))
    await bench.saved()
    assert [str(fault) for fault in bench.loader.faults] == ["functions: loading failed: ZeroDivisionError: division by zero"]
    monkeypatch.undo()
    bench.write("a.py", ONE.replace("return 1", "return 3"))
    await bench.saved()
    assert bench.loader.faults == []


def test_checking_many_functions_takes_time_in_their_number_and_no_more(tmp_path: Path) -> None:
    settings = config.load(tmp_path / "runtime.toml")
    folder = tmp_path / "functions"
    folder.mkdir()
    seconds = {}
    for count in (500, 8000):
        lines = [f"@function(after='f{n - 1}')\nasync def f{n}(f{n - 1}: int) -> int: return 1\n" for n in range(1, count)]
        (folder / "many.py").write_text(
            "from runtime import function\n@function(on='go')\nasync def f0(data: int) -> int: return 1\n" + "".join(lines)
        )
        modules = importer.load(folder)
        began = time.process_time()
        make_graph(modules, settings, 1)
        seconds[count] = time.process_time() - began
    assert seconds[8000] / seconds[500] < 4 * 16, "sixteen times as many, and far from their square"


async def test_a_start_on_a_broken_folder_runs_the_last_good_sources_until_it_is_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept(tmp_path / ".runtime", "functions")
    before = Bench(tmp_path, kept=kept)
    before.write("a.py", ONE)
    await before.loader.load()
    await before.loader.stop()
    before.write("a.py", "def one(:\n")

    bench = Bench(tmp_path, kept=Kept(tmp_path / ".runtime", "functions"))
    with caplog.at_level(logging.INFO):
        await bench.loader.load()
        await bench.saved()
    fault = 'functions/a.py:1: SyntaxError: invalid syntax in "def one(:"'
    assert [str(fault) for fault in bench.loader.faults] == [fault]
    assert [record.getMessage() for record in caplog.records] == [
        f"the folder is broken, and the last good sources are run instead until it is mended: {fault}"
    ]
    assert [function.where for function in bench.loader.present.graph.functions] == ["functions/a.py:3"]
    bench.write("a.py", ONE)
    await bench.saved()
    assert bench.loader.faults == []
    assert bench.loader.present.number == 1, "the folder is what was kept"
    bench.write("a.py", TWO)
    await bench.saved()
    assert (bench.loader.present.change.added, bench.loader.present.change.removed) == (("two",), ("one",))
    await bench.loader.stop()
    assert Kept(tmp_path / ".runtime", "functions").restore() == {"a.py": TWO.encode()}


async def test_a_broken_folder_is_not_kept_and_a_start_without_good_sources_fails(tmp_path: Path) -> None:
    kept = Kept(tmp_path / ".runtime", "functions")
    bench = Bench(tmp_path, kept=kept)
    bench.write("a.py", "def one(:\n")
    with pytest.raises(LoadError, match=r"functions/a\.py:1: SyntaxError"):
        await bench.loader.load()
    assert kept.restore() is None
    kept.save({"a.py": b"raise ValueError('kept')\n"})
    with pytest.raises(LoadError, match=r"functions/a\.py:1: SyntaxError"):
        await bench.loader.load()


async def test_sources_that_cannot_be_kept_are_a_warning_and_nothing_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".runtime").write_text("in the way")
    bench = Bench(tmp_path, kept=Kept(tmp_path / ".runtime", "functions"))
    bench.write("a.py", ONE)
    await bench.loader.load()
    await bench.loader.stop()
    assert "the last good sources cannot be kept, so that a restart needs a folder that loads; free or permit" in caplog.text
    assert "Not a directory" in caplog.text


async def test_an_endless_loop_at_import_is_ended_and_the_next_save_is_live(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "[runtime]\nload_timeout = 0.2\n")
    bench.write("a.py", ONE)
    await bench.loader.load()
    bench.write("b.py", "try:\n    while True:\n        pass\nexcept Exception:\n    pass\n")
    await bench.saved()
    assert bench.loader.faults[0].where in ("functions/b.py:2", "functions/b.py:3")
    bench.write("b.py", TWO)
    await bench.saved()
    assert bench.loader.present.change.added == ("two",)
    for thread in threading.enumerate():
        if thread.name == "load":
            thread.join(5)
            assert not thread.is_alive()


async def test_functions_of_files_that_did_not_change_are_not_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    bench.write("a.py", ONE)
    bench.write("b.py", TWO + "@function(after='one')\ndef three(one: int) -> int:\n    return one\n")
    await bench.loader.load()
    checked = []

    def make(declaration: Declaration, *arguments: Any) -> object:
        checked.append(declaration.name)
        return make_function(declaration, *arguments)

    monkeypatch.setattr("runtime.loading.generation.make_function", make)
    bench.write("a.py", ONE.replace("return 1", "return 2"))
    await bench.saved()
    assert checked == ["one"]
    bench.write("a.py", TWO)
    await bench.saved()
    assert [str(fault) for fault in bench.loader.faults] == [
        'functions/b.py:6: "three" comes after "one", which does not exist; functions here: three, two'
    ]


async def test_a_file_that_takes_the_name_of_another_is_a_fault_also_when_only_one_of_them_is_new(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write("a.py", ONE)
    await bench.loader.load()
    bench.write("b.py", ONE)
    await bench.saved()
    (fault,) = bench.loader.faults
    assert fault.where == "functions/b.py:3"
    assert 'the name "one" is taken by functions/a.py:3' in fault.message
