from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.catalogue import Kind, list_kinds
from runtime.folder import PACKAGE
from runtime.settings import Settings, SourceSettings
from runtime.testing import VirtualClock

TICKS = '''
from runtime import Source, hookimpl

class Ticks(Source):
    """Ticks."""

    async def run(self, inlet): ...

@hookimpl
def register_sources():
    return {"ticks": Ticks}
'''
BOTH = (
    TICKS
    + """
from runtime import Sink

class Bell(Sink):
    async def write(self, events): ...

@hookimpl
def register_sinks():
    return {"ticks": Bell}
"""
)
SHIPPED = {("console", "sink"), ("http", "source"), ("jsonl", "sink"), ("jsonl", "source")}


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    before = dict(sys.modules)
    yield
    for name in sys.modules.keys() - before.keys():
        if name.startswith((PACKAGE, "fake_")):
            del sys.modules[name]


def install(site: Path, entries: dict[str, str], **modules: str) -> None:
    """Make a folder hold a distribution `fake 2.0`: modules, and entry points as a wheel would leave them."""
    (site / "fake-2.0.dist-info").mkdir(parents=True)
    (site / "fake-2.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: fake\nVersion: 2.0\n")
    lines = "\n".join(f"{kind} = {value}" for kind, value in entries.items())
    (site / "fake-2.0.dist-info" / "entry_points.txt").write_text(f"[runtime.plugins]\n{lines}\n")
    for module, text in modules.items():
        (site / f"{module}.py").write_text(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plugins").mkdir()
    return tmp_path / "plugins"


def listed(folder: Path, **more: Any) -> list[Kind]:
    return list_kinds(Settings(path=folder.parent / "runtime.toml", **more), VirtualClock())


def only(name: str, kinds: list[Kind]) -> Kind:
    (found,) = [kind for kind in kinds if kind.name == name]
    return found


def test_what_is_shipped_is_listed_though_nothing_uses_it(folder: Path) -> None:
    kinds = listed(folder)
    assert {(kind.name, kind.role) for kind in kinds} >= SHIPPED
    console = only("console", kinds)
    assert console.part is not None
    assert console.part.__name__ == "Console"
    assert console.origin.startswith("runtime_plugins.console of function-runtime ")
    assert (console.replaces, console.fault) == ("", "")
    assert [(kind.name, kind.role) for kind in kinds] == sorted((kind.name, kind.role) for kind in kinds)


def test_a_kind_that_is_a_source_and_a_sink_is_two(folder: Path) -> None:
    (folder / "ticks.py").write_text(BOTH)
    ticks = [kind for kind in listed(folder) if kind.name == "ticks"]
    assert [(kind.role, kind.origin) for kind in ticks] == [("sink", "plugins/ticks.py"), ("source", "plugins/ticks.py")]


def test_a_file_that_stands_in_for_an_installed_plugin_says_so(folder: Path) -> None:
    (folder / "ours.py").write_text(TICKS.replace('"ticks"', '"http"'))
    http = only("http", listed(folder))
    assert http.part is not None
    assert (http.part.__name__, http.origin) == ("Ticks", "plugins/ours.py")
    assert http.replaces.startswith("runtime_plugins.http of function-runtime ")


@pytest.mark.parametrize("is_used", [True, False])
def test_a_file_that_is_the_installed_plugin_stands_in_for_nothing(is_used: bool) -> None:
    folder = Path(__file__).resolve().parent.parent / "plugins"
    jsonl = [kind for kind in listed(folder, sources={"in": SourceSettings(plugin="jsonl")} if is_used else {}) if kind.name == "jsonl"]
    assert [(kind.role, kind.origin, kind.replaces) for kind in jsonl] == [
        ("sink", "plugins/jsonl.py", ""),
        ("source", "plugins/jsonl.py", ""),
    ]


def test_an_installed_plugin_is_listed_with_its_package(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", {"ticks": "fake_ticks"}, fake_ticks=TICKS)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    ticks = only("ticks", listed(folder))
    assert ticks.part is not None
    assert (ticks.role, ticks.origin, ticks.fault) == ("source", "fake_ticks of fake 2.0", "")


def test_a_missing_client_library_is_told_and_stops_nobody_else(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", {"ticks": "fake_ticks", "tocks": "fake_tocks"}, fake_ticks=TICKS, fake_tocks="import no_such_client\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    kinds = listed(folder)
    assert {(kind.name, kind.role) for kind in kinds if kind.part} >= {*SHIPPED, ("ticks", "source")}
    tocks = only("tocks", kinds)
    assert (tocks.role, tocks.part, tocks.origin) == ("", None, "fake_tocks of fake 2.0")
    assert "No module named 'no_such_client'; install it" in tocks.fault


def test_a_file_that_cannot_be_imported_is_listed_by_its_name(folder: Path) -> None:
    (folder / "broken.py").write_text("1 / 0\n")
    (folder / "ticks.py").write_text(TICKS)
    kinds = listed(folder)
    assert only("ticks", kinds).part is not None
    fault = "plugins/broken.py:1: ZeroDivisionError: division by zero"
    assert only("broken", kinds) == Kind("broken", "", None, "plugins/broken.py", "", fault)


def test_a_kind_whose_class_is_wrong_is_listed_with_its_role_and_fault(folder: Path) -> None:
    (folder / "ticks.py").write_text(BOTH.replace('"ticks": Bell', '"bell": int'))
    kinds = listed(folder)
    assert only("ticks", kinds).part is not None
    bell = only("bell", kinds)
    assert (bell.role, bell.part, bell.origin) == ("sink", None, "plugins/ticks.py")
    assert bell.fault == 'plugins/ticks.py:18: the sink "bell": expected a class that derives from Sink, found the class int'


def test_what_is_wrong_beside_a_kind_that_works_is_listed_too(folder: Path) -> None:
    (folder / "ticks.py").write_text(TICKS + "\n@hookimpl\ndef register_sings():\n    return {}\n")
    good, bad = sorted((kind for kind in listed(folder) if kind.name == "ticks"), key=lambda kind: kind.part is None)
    assert (good.role, good.fault) == ("source", "")
    assert (bad.role, bad.part) == ("", None)
    assert "unknown hook register_sings" in bad.fault


def test_journals_conventions_and_commands_are_listed_with_what_they_say_of_themselves(folder: Path) -> None:
    (folder / "more.py").write_text('''
import click
from runtime import hookimpl

def handlers(module):
    """Take handlers."""

@click.command()
def greet():
    """Greet."""

@hookimpl
def register_conventions():
    return {"handlers": handlers}

@hookimpl
def register_commands():
    return {"greet": greet}
''')
    told = {kind.name: (kind.role, kind.doc) for kind in listed(folder) if kind.origin == "plugins/more.py"}
    assert told == {"handlers": ("convention", "Take handlers."), "greet": ("command", "Greet.")}
