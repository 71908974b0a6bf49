from __future__ import annotations

import gc
import importlib
import linecache
import os
import pickle
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from runtime.errors import LoadError
from runtime.loading.importer import Modules, load, publish

FUNCTION = "from runtime.function import function\n"
Write = Callable[..., Path]


def ours() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name == "functions" or name.startswith("functions.")}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    before = ours()
    for name in before:
        del sys.modules[name]
    yield
    for name in ours():
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "functions"
    made.mkdir()
    return made


@pytest.fixture
def write(folder: Path) -> Write:
    def write(**texts: str) -> Path:
        for name, text in texts.items():
            path = folder / (name.replace("__in__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return folder

    return write


def put(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def again(folder: Path, previous: Modules) -> Modules:
    modules = load(folder, previous)
    publish(modules, previous)
    return modules


def faults(folder: Path, previous: Modules | None = None) -> list[str]:
    with pytest.raises(LoadError) as caught:
        load(folder, previous)
    return [str(fault) for fault in caught.value.faults]


def test_declared_functions_come_with_the_file_and_the_line_of_their_def(write: Write) -> None:
    text = "@function\ndef b(): ...\n\n@function(\n    on='x',\n)\n@function\nasync def a(): ...\n"
    modules = load(write(z=FUNCTION + text, a=FUNCTION + "@function\ndef c(): ...\n"))
    assert [(loaded.file, loaded.line) for loaded in modules.declared] == [
        ("functions/a.py", 3),
        ("functions/z.py", 3),
        ("functions/z.py", 9),
        ("functions/z.py", 9),
    ]


def test_the_file_begins_with_the_folders_own_name_and_the_package_is_functions(tmp_path: Path) -> None:
    put(tmp_path, "jobs/_m.py", "X = 1\n")
    put(tmp_path, "jobs/a.py", FUNCTION + "from functions._m import X\n@function\ndef a(): ...\n")
    modules = load(tmp_path / "jobs")
    assert modules.declared[0].file == "jobs/a.py"
    assert set(modules.table) == {"functions", "functions._m", "functions.a"}
    assert set(modules.files) == {"_m.py", "a.py"}


def test_two_saves_of_the_same_size_in_one_second_run_the_new_code(write: Write, folder: Path) -> None:
    modules = load(write(a="X = 100\n"))
    for number in range(101, 201):
        write(a=f"X = {number}\n")
        os.utime(folder / "a.py", (1_000_000_000, 1_000_000_000))
        modules = again(folder, modules)
        assert number == modules.table["functions.a"].X
    assert not list(folder.rglob("*.pyc"))


def test_what_imports_a_changed_module_is_made_anew_and_everything_else_is_kept(write: Write, folder: Path) -> None:
    first = load(write(_a="X = 1\n", b="from ._a import X\n", c="import functions.b\n", d=FUNCTION + "@function\ndef d(): ...\n"))
    write(_a="X = 2\n")
    second = again(folder, first)
    assert second.remade == {"functions._a", "functions.b", "functions.c"}
    assert second.table["functions.b"].X == 2
    assert second.table["functions.d"] is first.table["functions.d"]
    assert second.declared == first.declared
    assert second.imports["functions.c"] == {"functions", "functions.b"}


def test_a_file_that_appears_or_vanishes_reaches_those_whose_import_meant_it(write: Write, folder: Path) -> None:
    optional = "try:\n    from . import extra\nexcept ImportError:\n    extra = None\n"
    first = load(write(a=optional))
    publish(first)
    assert first.table["functions.a"].extra is None
    write(extra="X = 1\n")
    second = again(folder, first)
    assert second.table["functions.a"].extra.X == 1
    (folder / "extra.py").unlink()
    third = again(folder, second)
    assert third.table["functions.a"].extra is None
    assert "functions.extra" not in sys.modules
    assert not hasattr(sys.modules["functions"], "extra")


def test_every_fault_is_reported_at_its_place_and_sys_modules_is_left_as_it_was(write: Write, folder: Path) -> None:
    good = load(write(good="X = 1\n"))
    publish(good)
    before = ours()
    write(
        good="X = 2\n",
        bad="x = 1\ndef f(:\n",
        user="from . import bad\n",
        calls="from ._h import fail\n\nfail()\n",
        _h="def fail():\n    raise ValueError('no')\n",
        leaves="raise SystemExit(3)\n",
        stops="raise KeyboardInterrupt\n",
        needs="import nothing_like_this\n",
        typo="from functions._hh import fail\n",
    )
    found = faults(folder, good)
    assert found[0].startswith("functions/bad.py:2: SyntaxError: ")
    assert 'in "def f(:"' in found[0]
    assert found[1:] == [
        "functions/_h.py:2: ValueError: no",
        "functions/leaves.py:1: SystemExit: 3; a file must not end the process when it is imported",
        "functions/needs.py:1: ModuleNotFoundError: No module named 'nothing_like_this'; install it where the runtime is installed",
        "functions/stops.py:1: KeyboardInterrupt; a file must not end the process when it is imported",
        "functions/typo.py:1: ModuleNotFoundError: No module named 'functions._hh' (did you mean \"functions._h\"?)",
    ]
    assert ours() == before
    assert sys.modules["functions.good"].X == 1


def test_helpers_declare_no_functions(write: Write, folder: Path) -> None:
    write(_h=FUNCTION + "@function\ndef h(): ...\n")
    assert faults(folder) == [
        "functions/_h.py:3: files whose name begins with _ are helpers and declare no functions: rename it",
    ]


def test_a_missing_folder_a_dot_in_a_name_and_a_module_met_twice_are_faults(tmp_path: Path, folder: Path) -> None:
    assert "no such folder" in faults(tmp_path / "none")[0]
    put(folder, "a.py", "")
    put(folder, "a/b.py", "")
    put(folder, "x.bak.py", "")
    assert [fault.split(": ")[0] for fault in faults(folder)] == ["functions/a.py:1", "functions/x.bak.py:1"]


def test_hidden_temporary_and_cached_files_are_left_out_and_links_followed(folder: Path, tmp_path: Path) -> None:
    for name in (".x.py", ".#a.py", "__pycache__/a.py", ".git/a.py", "a.py~", "flycheck_a.py"):
        put(folder, name, "raise ValueError\n")
    put(tmp_path, "shared/s.py", "X = 1\n")
    (folder / "linked").symlink_to(tmp_path / "shared")
    (folder / "circle").symlink_to(folder)
    assert set(load(folder).table) == {"functions", "functions.linked", "functions.linked.s"}


def test_folders_are_packages_with_or_without_init_and_relative_imports_work(folder: Path) -> None:
    put(folder, "__init__.py", "ROOT = 1\n")
    put(folder, "p/a.py", "from .. import ROOT\nfrom ..q import Y\nfrom ..q.deep import Z\nfrom . import b\n")
    put(folder, "p/b.py", "import functions.q.deep as d\nZ = d.Z\n")
    put(folder, "q/__init__.py", "from .deep import Z as Y\n")
    put(folder, "q/deep.py", "Z = 3\n")
    a = load(folder).table["functions.p.a"]
    assert (a.ROOT, a.Y, a.Z, a.b.Z) == (1, 3, 3, 3)
    assert a.__package__ == "functions.p"
    assert a.__file__ == str(folder / "p" / "a.py")
    assert a.__spec__ is not None
    assert a.__spec__.origin == a.__file__


def test_old_code_importing_inside_a_function_gets_the_modules_of_its_own_generation(folder: Path) -> None:
    lazy = "def f():\n    from functions._m import X\n    from . import _m\n    import functions._m\n    return X, _m.X, functions._m.X\n"
    put(folder, "__init__.py", "STATE = []\n")
    put(folder, "a.py", lazy)
    put(folder, "_m.py", "X = 1\n")
    first = load(folder)
    publish(first)
    put(folder, "_m.py", "X = 2\n")
    second = again(folder, first)
    assert first.table["functions.a"].f() == (1, 1, 1)
    assert second.table["functions.a"].f() == (2, 2, 2)
    assert second.table["functions"] is first.table["functions"]
    assert importlib.import_module("functions._m").X == 2


def test_dataclasses_typing_pickle_and_import_module_find_their_module(folder: Path) -> None:
    put(folder, "_x.py", "X = 1\n")
    put(
        folder,
        "a.py",
        "from __future__ import annotations\nimport dataclasses, importlib, typing\n"
        "@dataclasses.dataclass\nclass A:\n    x: typing.ClassVar[int]\n    y: int = 0\n"
        "HINTS = typing.get_type_hints(A)\nX = importlib.import_module('functions._x').X\nimport _thread\n",
    )
    modules = load(folder)
    assert ours() == {}
    publish(modules)
    a = modules.table["functions.a"]
    assert a.X == 1
    assert pickle.loads(pickle.dumps(a.A(5))) == a.A(5)
    assert ours() == modules.table


def test_circular_imports_behave_as_in_python(write: Write, folder: Path) -> None:
    write(a="import functions.b\nX = 1\n", b="from . import a\ndef f():\n    return a.X\n")
    assert load(folder).table["functions.b"].f() == 1
    write(b="from .a import X\n")
    assert "partially initialized module 'functions.a'" in faults(folder)[0]


def test_imports_for_type_checkers_do_not_count(write: Write, folder: Path) -> None:
    first = load(write(a="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .b import X\n", b="X = 1\n"))
    write(b="X = 2\n")
    assert load(folder, first).remade == {"functions.b"}


def test_an_installed_package_of_the_same_name_does_not_interfere(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "site/functions/__init__.py", "OTHER = 1\n")
    put(tmp_path, "site/functions/a.py", "X = 'other'\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    other = importlib.import_module("functions.a")
    modules = load(write(a="X = 1\n", b="from functions.a import X\nimport functions\nSEEN = hasattr(functions, 'OTHER')\n"))
    assert (modules.table["functions.b"].X, modules.table["functions.b"].SEEN) == (1, False)
    assert sys.modules["functions.a"] is other


def test_an_abandoned_load_that_ends_later_changes_nothing(write: Write, folder: Path) -> None:
    gate, reached, ended = threading.Event(), threading.Event(), threading.Event()
    sys.modules["gate_for_test"] = module = ModuleType("gate_for_test")
    vars(module).update(gate=gate, reached=reached)
    write(a="import gate_for_test\ngate_for_test.reached.set()\ngate_for_test.gate.wait(10)\nfrom . import b\nX = 1\n", b="X = 1\n")

    def hang() -> None:
        load(folder)
        ended.set()

    threading.Thread(target=hang, daemon=True).start()
    assert reached.wait(5)
    write(a="X = 2\n")
    modules = load(folder)
    publish(modules)
    gate.set()
    assert ended.wait(5)
    del sys.modules["gate_for_test"]
    assert ours() == modules.table
    assert not [finder for finder in sys.meta_path if type(finder).__module__ == "runtime.loading.importer"]


def test_tracebacks_show_the_text_that_runs_and_a_failed_load_leaves_it(write: Write, folder: Path) -> None:
    modules = load(write(a="def f():\n    raise ValueError('old')\n"))
    publish(modules)
    write(a="\n\n\nraise TypeError\n")
    faults(folder, modules)
    with pytest.raises(ValueError) as caught:
        modules.table["functions.a"].f()
    assert "raise ValueError('old')" in "".join(traceback.format_exception(caught.value))
    assert linecache.getline(str(folder / "a.py"), 1) == "def f():\n"


def test_old_modules_are_let_go_after_a_reload(write: Write, folder: Path) -> None:
    first = load(write(a="class A: ...\n", b="X = 1\n", c="import functions.b\n"))
    publish(first)
    old = weakref.ref(first.table["functions.a"].A)
    write(a="class A: pass\n")
    second = again(folder, first)
    del first
    gc.collect()
    assert old() is None
    assert second.table["functions.c"] is sys.modules["functions.c"]


def test_a_load_that_fails_or_is_not_published_leaves_the_packages_that_are_kept(write: Write, folder: Path) -> None:
    first = load(write(__init__="", _m="X = 1\n", p__in____init__="", p__in__m="X = 1\n"))
    publish(first)
    write(_m="X = 2\n", p__in__m="X = 2\n", new="X = 2\n")
    load(folder, first)
    write(bad="raise ValueError\n")
    faults(folder, first)
    package = sys.modules["functions"]
    assert package is first.table["functions"]
    assert package._m is first.table["functions._m"]
    assert package.p.m is first.table["functions.p.m"]
    assert not hasattr(package, "new")


def test_sources_may_come_from_elsewhere_and_still_stand_at_their_place(folder: Path) -> None:
    put(folder, "a.py", "broken(\n")
    text = b"def f():\n    raise ValueError('kept')\n"
    modules = load(folder, sources={"a.py": text, "p/b.py": b"from ..a import f\n"})
    publish(modules)
    assert modules.sources() == {"a.py": text, "p/b.py": b"from ..a import f\n"}
    with pytest.raises(ValueError) as caught:
        modules.table["functions.p.b"].f()
    shown = "".join(traceback.format_exception(caught.value))
    assert f'File "{folder / "a.py"}", line 2' in shown
    assert "raise ValueError('kept')" in shown
    put(folder, "a.py", text.decode())
    put(folder, "p/b.py", "from ..a import f\n")
    again = load(folder, modules)
    assert again.remade == frozenset(), "the folder is what it was"


def test_enums_the_text_of_a_function_and_pickling_inside_of_one_work(folder: Path) -> None:
    put(
        folder,
        "a.py",
        "import enum, inspect, pickle\n"
        "class Colour(enum.Enum):\n    RED = 1\n"
        "def f():\n    return pickle.loads(pickle.dumps(Colour.RED)) is Colour.RED, inspect.getsource(f)\n",
    )
    modules = load(folder)
    publish(modules)
    put(folder, "a.py", "# elsewhere\n" * 20)
    text = "def f():\n    return pickle.loads(pickle.dumps(Colour.RED)) is Colour.RED, inspect.getsource(f)\n"
    assert modules.table["functions.a"].f() == (True, text)
    assert not [path for path in sys.path if str(folder.parent) in path]
