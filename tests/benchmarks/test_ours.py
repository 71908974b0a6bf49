"""What is measured is what a user has: no setting is turned for a benchmark, but the journal and what a row names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import pytest

from benchmarks import ours
from benchmarks.subjects import backlog, http, reload
from runtime import config
from runtime.loading.loader import load_graph
from runtime.settings import DispatchSettings, FunctionSettings, JournalSettings, LogSettings, RuntimeSettings

ROOT = Path(__file__).parents[2]
TURNED = {  # files that may say something of their own, and what
    "ours.py": {"[journal]", "[dispatch]"},  # the journal, and the order that a row names
    "curves.py": {"[dispatch]", "concurrency="},  # attempts in flight are what the curve is over; a function that others wait beside
    "steady.py": {"[journal]", "keep =", "dedupe ="},  # what is pruned has to come within a minute
    "backlog.py": {"concurrency="},  # so that the backlog stays
    "crowd.py": {"concurrency="},
}
WORDS = (
    *("[runtime]", "[journal]", "[dispatch]", "[functions.", "keep =", "dedupe =", "max_bytes", "max_backlog =", "max_hops"),
    *("concurrency=", "retries=", "timeout=10", "batch="),
)
TEXTS = {
    "memory": ours.MEMORY,
    "SQLite": ours.SQLITE,
    "HTTP, memory": ours.MEMORY + ours.WEB + http.ROUTE.format(reply="result") + ours.ADMIN,
    "HTTP, SQLite": ours.SQLITE + ours.WEB + http.ROUTE.format(reply="accepted") + ours.ADMIN,
    "reload": reload.CONFIG,
    "priority": ours.MEMORY + ours.PRIORITY,
    "backlog": backlog.CONFIG,
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_configuration_is_the_default_but_for_the_journal_and_the_order(name: str) -> None:
    with ours.project(TEXTS[name]) as folder:
        settings = config.load(folder / "runtime.toml")
    order: Literal["fifo", "priority"] = "priority" if name in ("priority", "backlog") else "fifo"
    assert settings.dispatch == DispatchSettings(order=order)
    assert msgspec.structs.replace(settings.journal, url=JournalSettings().url) == JournalSettings()
    assert settings.journal.scheme == ("sqlite" if name in ("SQLite", "HTTP, SQLite", "reload", "backlog") else "memory")
    assert (settings.runtime, settings.log) == (RuntimeSettings(), LogSettings())
    assert (settings.functions, settings.sinks, settings.resources) == ({}, {}, {})


def test_functions_have_the_default_options() -> None:
    with ours.project(ours.MEMORY) as folder:
        (function,) = load_graph(config.load(folder / "runtime.toml")).functions
    assert FunctionSettings().overrides == {}
    assert (function.executor, function.retries, function.timeout, function.concurrency, function.batch) == ("loop", 3, 60.0, 64, 1)


def test_no_other_benchmark_says_a_setting() -> None:
    for path in (ROOT / "benchmarks").rglob("*.py"):
        said = {word for word in WORDS if word in path.read_text()}
        assert said <= TURNED.get(path.name, set()), path


async def test_events_are_run_and_counted_by_the_whole_app() -> None:
    with ours.project(ours.MEMORY) as folder:
        async with ours.running(folder) as app:
            assert await ours.rate(app, ours.events(20), 1) > 0
            assert await ours.rate(app, ours.events(20, priorities=10), 7) > 0
            assert (await app.stats())["done"] == 40
