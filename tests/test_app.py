"""The app wires everything: it starts, reloads, degrades, drains and stops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runtime import ConfigError, Event, LoadError, Stopping, config
from runtime.app import App

FUNCTION = """
import asyncio
from runtime import function

@function(on="go")
async def answer(data: int) -> int:
    return data + 1

@function(on="slow")
async def slow(data: int) -> int:
    await asyncio.sleep(3600)
    return data
"""

WEB = '[sources.web]\nplugin = "http"\nlisten = "127.0.0.1:0"\n'


def project(folder: Path, toml: str = WEB, functions: str = FUNCTION) -> Path:
    (folder / "functions").mkdir()
    (folder / "functions" / "some.py").write_text(functions)
    (folder / "runtime.toml").write_text(toml)
    return folder / "runtime.toml"


@asynccontextmanager
async def started(path: Path) -> AsyncIterator[App]:
    app = App(config.load(path))
    await app.start()
    try:
        yield app
    finally:
        await app.stop(0.0)


async def ask(app: App, type: str = "go") -> object:
    return await app.inlet("test").call(Event(type=type, source="t", data=1), timeout=5)


async def test_it_runs_and_tells_how_everything_stands(tmp_path: Path) -> None:
    sink = '[sinks.out]\nplugin = "jsonl"\npath = "out.jsonl"\non = "go"\n'
    async with started(project(tmp_path, WEB + sink.replace("out.jsonl", str(tmp_path / "out.jsonl")))) as app:
        assert await ask(app) == 2
        while not app.sinks()[0]["events"]:
            await asyncio.sleep(0.005)
        await app.engine.outcomes.settled()
        stats = await app.stats()
        assert {name: stats[name] for name in ("accepted", "done", "queued", "running", "retrying", "dead")} == {
            "accepted": 1,
            "done": 1,
            "queued": 0,
            "running": 0,
            "retrying": 0,
            "dead": 0,
        }
        ((name, address),) = app.addresses()
        assert (name, address.startswith("http://127.0.0.1:")) == ("web", True)
        assert [(one["name"], one["state"]) for one in app.sources()] == [("web", "running")]
        assert app.faults() == []


async def test_a_save_is_live_on_the_next_event(tmp_path: Path) -> None:
    path = project(tmp_path)
    async with started(path) as app:
        assert await ask(app) == 2
        (tmp_path / "functions" / "some.py").write_text(FUNCTION.replace("data + 1", "data + 10"))
        async with asyncio.timeout(10):
            while app.generation.number == 1:
                await asyncio.sleep(0.01)
        assert await ask(app) == 11
        (tmp_path / "functions" / "some.py").write_text("oh no")
        async with asyncio.timeout(10):
            while not app.faults():
                await asyncio.sleep(0.01)
        assert [str(fault) for fault in app.faults()] == ['functions/some.py:1: SyntaxError: invalid syntax in "oh no"']
        assert await ask(app) == 11


async def test_a_run_under_way_finishes_on_the_code_it_began_with(tmp_path: Path) -> None:
    text = """
import asyncio
from pathlib import Path
from runtime import function

@function(on="go")
async def first(data: int) -> int:
    Path(FOLDER, "started").touch()
    while not Path(FOLDER, "open").exists():
        await asyncio.sleep(0.01)
    return 1

@function(after="first")
async def second(first: int) -> int:
    return first + 1
""".replace("FOLDER", repr(str(tmp_path)))
    async with started(project(tmp_path, functions=text)) as app:
        asked = asyncio.create_task(ask(app))
        async with asyncio.timeout(10):
            while not (tmp_path / "started").exists():
                await asyncio.sleep(0.01)
            (tmp_path / "functions" / "some.py").write_text(text.replace("first + 1", "first + 100"))
            while app.generation.number == 1:
                await asyncio.sleep(0.01)
        (tmp_path / "open").touch()
        assert await asked == 2
        assert await ask(app) == 101


async def test_stopping_gives_what_runs_its_time_and_tells_callers_who_wait(tmp_path: Path) -> None:
    app = App(config.load(project(tmp_path)))
    await app.start()
    asked = asyncio.create_task(ask(app, "slow"))
    while not app.engine.dispatch.runs:
        await asyncio.sleep(0)
    await app.stop(0.05)
    with pytest.raises(Stopping, match="the runtime is stopping; send it again with the same id"):
        await asked


async def test_an_address_in_use_is_told_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        app = App(config.load(project(tmp_path, WEB.replace(":0", f":{port}"))))
        with pytest.raises(OSError, match=f"127.0.0.1:{port}: Address already in use"):
            await app.start()
        await app.stop(0.0)


async def test_wrong_options_refuse_to_start_and_all_are_told(tmp_path: Path) -> None:
    path = project(tmp_path, WEB.replace("listen", "litsen") + '[sinks.out]\nplugin = "jsnol"\n')
    with pytest.raises(ConfigError) as failure:
        App(config.load(path))
    assert [fault.where for fault in failure.value.faults] == ["runtime.toml [sinks.out] plugin", "runtime.toml [sources.web] litsen"]


async def test_a_broken_plugin_stops_only_what_uses_it(tmp_path: Path) -> None:
    path = project(tmp_path, WEB + '[sources.ticks]\nplugin = "ticks"\n')
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "ticks.py").write_text("import no_such_library\n")
    async with started(path) as app:
        assert await ask(app) == 2
        assert [fault.where for fault in app.faults()] == ["plugins/ticks.py:1", "runtime.toml [sources.ticks]"]


async def test_functions_that_make_no_generation_refuse_to_start(tmp_path: Path) -> None:
    app = App(config.load(project(tmp_path, functions="import no_such_library\n")))
    with pytest.raises(LoadError, match=r"functions/some.py:1: ModuleNotFoundError: No module named 'no_such_library'"):
        await app.start()
    await app.stop(0.0)


async def test_it_is_finished_when_finite_sources_have_ended_and_nothing_waits(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("1\n2\n3\n")
    toml = f'[sources.lines]\nplugin = "jsonl"\ntype = "go"\npath = "{tmp_path}/in.jsonl"\n'
    async with started(project(tmp_path, toml)) as app, asyncio.timeout(10):
        await app.finished()
        assert (await app.stats())["done"] == 3


async def test_paths_of_plugins_are_relative_to_the_configuration_and_what_memory_loses_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = App(
        config.load(project(tmp_path, '[journal]\nurl = "memory:"\n' + WEB + '[sinks.out]\nplugin = "jsonl"\npath = "out/all.jsonl"\n'))
    )
    await app.start()
    asked = asyncio.create_task(ask(app, "slow"))
    while not (tmp_path / "out" / "all.jsonl").exists() or not app.engine.dispatch.runs:
        await asyncio.sleep(0.005)
    await app.stop(0.0)
    assert "1 waiting events are gone: the journal is in memory" in caplog.text
    with pytest.raises(Stopping):
        await asked
