"""What is sent to a worker process: the texts a function is made of, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime import config
from runtime.errors import LoadError
from runtime.graph import Graph
from runtime.loading.loader import load_graph

FILES = {
    "_money.py": "from ._round import up",
    "_round.py": "up = 1",
    "other.py": "unused = 1",
    "shelf.py": "from runtime import resource\n\n@resource\ndef shelf(settings): return settings",
    "shop/__init__.py": "",
    "shop/orders.py": (
        "from functions._money import up\nfrom runtime import function\n\n"
        "@function(isolate=True)\ndef charge(data, shelf): ...\n\n@function\ndef plain(data): ..."
    ),
}


def loaded(folder: Path, tables: str = "") -> Graph:
    for name, text in FILES.items():
        path = folder / "functions" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "runtime.toml").write_text(tables)
    return load_graph(config.load(folder / "runtime.toml"))


def test_a_function_is_made_of_its_file_its_imports_and_its_resources(tmp_path: Path) -> None:
    tables = "[functions.charge]\nmax_calls = 5\nretries = 1\nsettings = { a = 1 }\n[resources.shelf]\nsize = 3"
    function = loaded(tmp_path, tables).by_name["charge"]
    isolation = function.isolation
    assert isolation is not None
    assert (function.executor, function.resources) == ("process", ())
    assert sorted(isolation.texts) == ["_money.py", "_round.py", "shelf.py", "shop/__init__.py", "shop/orders.py"]
    assert isolation.texts["_round.py"] == b"up = 1"
    assert (isolation.overrides, isolation.settings, isolation.resources) == ({"retries": 1}, {"a": 1}, {"shelf": {"size": 3}})
    assert isolation.process.max_calls == 5


def test_only_a_change_of_what_it_is_made_of_makes_another_of_it(tmp_path: Path) -> None:
    before = loaded(tmp_path).by_name["charge"].isolation
    (tmp_path / "functions" / "more.py").write_text("more = 1")
    assert loaded(tmp_path).by_name["charge"].isolation == before
    assert loaded(tmp_path, "[resources.shelf]\nsize = 3").by_name["charge"].isolation != before


def test_what_only_processes_have_needs_one(tmp_path: Path) -> None:
    with pytest.raises(LoadError) as caught:
        loaded(tmp_path, '[functions.plain]\ncwd = "there"')
    assert str(caught.value) == (
        "runtime.toml [functions.plain] cwd: only functions with a worker process of their own have it;"
        " add isolate = true, or remove the key"
    )
