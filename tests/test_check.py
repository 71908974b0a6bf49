"""`check` finds every fault of a project at once, and makes the graph as far as it can."""

from __future__ import annotations

from pathlib import Path

from runtime.check import check

FUNCTION = "from runtime import function\n@function(on='go')\ndef one(data: int) -> int:\n    return 1\n"


def test_a_project_without_faults_gives_its_graph(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "a.py").write_text(FUNCTION)
    settings, graph, faults = check(tmp_path / "runtime.toml")
    assert faults == []
    assert graph is not None
    assert list(graph.by_name) == ["one"]
    assert list(settings.sources) == ["web"]


def test_faults_of_config_plugins_and_functions_come_together(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "a.py").write_text(FUNCTION.replace("on=", "onn="))
    (tmp_path / "functions" / "b.py").write_text("import nothing_of_the_kind\n")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "broken.py").write_text("1 / 0\n")
    (tmp_path / "runtime.toml").write_text(
        '[dispatch]\nin_flght = 3\n[sources.a]\nplugin = "http"\nlitsen = "127.0.0.1:1"\n[sinks.out]\nplugin = "jsonl"\n'
    )
    _, graph, faults = check(tmp_path / "runtime.toml")
    assert graph is None
    places = [fault.where for fault in faults]
    assert places[0] == "runtime.toml [dispatch] in_flght"
    assert "runtime.toml [sources.a] litsen" in places
    assert "runtime.toml [sinks.out] path" in places
    assert "plugins/broken.py:1" in places
    assert "functions/b.py:1" in places
