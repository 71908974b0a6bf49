"""A save of the configuration or of a plugin takes effect while the runtime runs, and touches only what it changes."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import sys
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from runtime import Event, changes, config, sources
from runtime.app import App
from runtime.contracts import Query
from runtime.folder import PACKAGE
from runtime.records import Entry
from runtime.settings import Settings

FUNCTION = """
from runtime import Context, function

@function(on="go")
async def answer(data: int, context: Context) -> int:
    return data + context.settings.get("more", 1)
"""

PLUGIN = '''
import asyncio
import json

import msgspec

from runtime import Event, Sink, Source, hookimpl


class Steady(Source):
    """Puts an event at each start, and then waits."""

    class Options(msgspec.Struct, forbid_unknown_fields=True):
        text: str = "x"

    async def run(self, inlet):
        number = (inlet.cursor or 0) + 1
        await inlet.put(Event(type="began", source=self.name, data=f"{self.options.text} {number} VERSION"), cursor=number)
        await asyncio.Event().wait()


class Lines(Sink):
    """Appends a line for each call, and holds writes up while there is a file `hold`."""

    class Options(msgspec.Struct, forbid_unknown_fields=True):
        path: str

    def note(self, *words):
        with (self.folder / self.options.path).open("a") as file:
            print(*words, file=file)

    async def open(self):
        self.note("open", "VERSION")

    async def write(self, events):
        while (self.folder / "hold").exists():
            await asyncio.sleep(0.005)
        self.note("write", *(event.data for event in events))

    async def close(self):
        self.note("close")


@hookimpl
def register_sources():
    return {"steady": Steady}


@hookimpl
def register_sinks():
    return {"lines": Lines}
'''

OTHER = PLUGIN.replace('"steady"', '"calm"').replace('"lines"', '"rows"')

STEADY = '[sources.pulse]\nplugin = "steady"\n'
SINK = '[sinks.out]\nplugin = "lines"\npath = "out"\non = "note"\nconcurrency = 1\n'
WEB = '[sources.web]\nplugin = "http"\nlisten = "127.0.0.1:0"\n'


def whole(journal: str, toml: str) -> str:
    """Return a configuration without the source there is by default."""
    return journal + toml + ("" if "[sources" in toml else "[sources]\n")


class Project:
    """A project in a folder, whose runtime runs in this process."""

    def __init__(self, folder: Path, app: App, journal: str) -> None:
        self.folder = folder
        self.app = app
        self.journal = journal

    def save(self, toml: str) -> None:
        (self.folder / "runtime.toml").write_text(whole(self.journal, toml))

    def plugin(self, name: str, text: str) -> None:
        (self.folder / "plugins" / f"{name}.py").write_text(text)

    def function(self, text: str, name: str = "some") -> None:
        (self.folder / "functions" / f"{name}.py").write_text(text)

    async def until(self, is_so: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not is_so():
                await asyncio.sleep(0.005)

    def lines(self, path: str = "out") -> list[str]:
        file = self.folder / path
        return file.read_text().splitlines() if file.exists() else []

    def ends_with(self, line: str) -> bool:
        return self.lines()[-1:] == [line]

    def faults(self) -> list[str]:
        return [str(fault) for fault in self.app.faults()]

    async def put(self, *data: object, type: str = "note", key: str | None = None) -> None:
        await self.app.inlet("test").put([Event(type=type, source="t", data=one, key=key) for one in data])

    async def ask(self) -> object:
        return await self.app.inlet("test").call(Event(type="go", source="t", data=1), timeout=5)

    async def began(self) -> list[str]:
        """Return what the sources have told at their starts."""
        return [entry.event.data for entry in await self.entries("began")]

    async def entries(self, type: str) -> list[Entry]:
        return (await self.app.journal.query(Query(type=type)))[::-1]

    def state(self, name: str) -> str:
        return next((one["state"] for one in self.app.sources() if one["name"] == name), "")


MEMORY = '[journal]\nurl = "memory:"\n'
SQLITE = '[journal]\nurl = "sqlite:journal.db"\n'


@asynccontextmanager
async def running(folder: Path, toml: str, journal: str = MEMORY, **plugins: str) -> AsyncIterator[Project]:
    for name in ("functions", "plugins"):
        (folder / name).mkdir()
    (folder / "functions" / "some.py").write_text(FUNCTION)
    for name, text in {"parts": PLUGIN, **plugins}.items():
        (folder / "plugins" / f"{name}.py").write_text(text)
    (folder / "runtime.toml").write_text(whole(journal, toml))
    app = App(config.load(folder / "runtime.toml"))
    await app.start()
    try:
        yield Project(folder, app, journal)
    finally:
        await app.stop(0.0)


# --- the configuration --------------------------------------------------------------------------------


async def test_a_source_comes_goes_and_is_replaced_and_the_others_do_not_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    second = '[sources.other]\nplugin = "steady"\ntext = "o"\n'
    async with running(tmp_path, STEADY) as project:
        await project.until(lambda: project.state("pulse") == "running")
        project.save(STEADY + second)
        await project.until(lambda: project.state("other") == "running")
        project.save(STEADY + second.replace('"o"', '"p"'))
        await project.until(lambda: "changed source other" in caplog.text)
        project.save(STEADY)
        await project.until(lambda: project.state("other") == "")
        assert await project.began() == ["x 1 VERSION", "o 1 VERSION", "p 2 VERSION"]
        assert project.faults() == []
    told = [record.getMessage() for record in caplog.records if record.name == "runtime.reconfigure"]
    assert told == [
        "runtime.toml: added source other",
        "runtime.toml: changed source other",
        "runtime.toml: removed source other",
    ]


async def test_a_mistake_keeps_the_old_as_a_whole_until_it_is_mended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = STEADY + SINK
    async with running(tmp_path, good) as project:
        await project.until(lambda: project.lines() == ["open VERSION"])
        wrong = good.replace('"out"\non', '"other"\non') + '[sources.more]\nplugin = "steady"\ntxet = "y"\n[functions.answr]\n'
        project.save(wrong)
        await project.until(project.faults)
        assert project.faults() == ['runtime.toml [sources.more] txet: unknown key (did you mean "text"?); allowed: text']
        project.save(wrong + "[")
        await project.until(lambda: "expected TOML" in str(project.faults()))
        project.save(wrong.replace("txet", "text"))
        await project.until(lambda: "answr" in str(project.faults()))
        message = (
            'runtime.toml [functions.answr]: no file declares a function "answr" (did you mean "answer"?); rename the table or remove it'
        )
        assert project.faults() == [message]
        await project.put(1)
        await project.until(lambda: len(project.lines()) == 2)
        assert project.lines() == ["open VERSION", "write 1"]
        assert caplog.text.count(message) == 1
        project.save(wrong.replace("txet", "text").replace("answr", "answer"))
        await project.until(lambda: project.state("more") == "running")
        await project.until(lambda: project.lines("other") == ["open VERSION"])
        assert project.faults() == []
        assert project.lines()[-1] == "close"


async def test_a_file_that_is_saved_in_two_steps_or_gone_for_good_stops_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, STEADY + SINK) as project:
        await project.until(lambda: project.lines() == ["open VERSION"])
        (tmp_path / "runtime.toml").write_text("")
        await asyncio.sleep(0.1)
        project.save(STEADY + SINK + '[sources.other]\nplugin = "steady"\n')
        await project.until(lambda: project.state("other") == "running")
        (tmp_path / "runtime.toml").unlink()
        await project.until(project.faults)
        assert project.faults() == ["runtime.toml: expected the file that was there, found none; put it back, or restart the runtime"]
        project.save(STEADY + SINK)
        await project.until(lambda: not project.state("other") and not project.faults())
        assert project.lines() == ["open VERSION"]
        assert await project.began() == ["x 1 VERSION", "x 1 VERSION"]


async def test_what_a_configuration_lacks_may_come_with_the_functions(tmp_path: Path) -> None:
    async with running(tmp_path, STEADY) as project:
        project.save(STEADY + "[functions.later]\nretries = 0\n")
        await project.until(project.faults)
        project.function('from runtime import function\n\n@function(on="later")\nasync def later() -> None: ...\n', "later")
        await project.until(lambda: not project.faults())
        assert project.app.generation.graph.by_name["later"].retries == 0
        (tmp_path / "functions" / "later.py").unlink()
        await project.until(project.faults)
        project.save(STEADY)
        await project.until(lambda: not project.faults() and "later" not in project.app.generation.graph.by_name)


async def test_overrides_of_a_function_take_effect_without_a_save_of_its_file(tmp_path: Path) -> None:
    async with running(tmp_path, STEADY) as project:
        call = project.app.generation.graph.by_name["answer"].call
        assert await project.ask() == 2
        project.save(STEADY + "[functions.answer]\nconcurrency = 3\nsettings = { more = 10 }\n")
        await project.until(lambda: project.app.generation.number == 2)
        assert await project.ask() == 11
        assert project.app.generation.graph.by_name["answer"].concurrency == 3
        assert project.app.generation.graph.by_name["answer"].call is call
        project.function("oh no")
        await project.until(project.faults)
        project.save(STEADY + "[functions.answer]\nsettings = { more = 20 }\n")
        await project.until(lambda: project.app.generation.number == 3)
        assert await project.ask() == 21
        assert "SyntaxError" in str(project.faults())


async def test_priority_key_and_rate_of_a_source_take_effect_while_it_runs(tmp_path: Path) -> None:
    async with running(tmp_path, WEB) as project:
        ((_, url),) = project.app.addresses()
        async with httpx.AsyncClient(base_url=url) as client:
            await client.post("/events/note", json={"id": "a"})
            project.save(WEB + 'priority = 7\nkey = "id"\n')
            await project.until(lambda: project.app.settings.sources["web"].priority == 7)
            await client.post("/events/note", json={"id": "b"})
        found = [entry.event for entry in await project.entries("note")]
        assert [(event.data["id"], event.key, event.priority) for event in found] == [("a", None, None), ("b", "b", 7)]


async def test_limits_take_effect_and_others_are_said_to_wait_until_they_are_set_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tables = "[runtime]\ngrace = 7\nload_timeout = 4\n[dispatch]\nin_flight = 5\nmax_hops = 3\n"
    async with running(tmp_path, tables + STEADY) as project:
        engine = project.app.engine
        project.save(tables.replace("5", "6").replace("3", "2").replace("7", "8") + 'order = "priority"\n' + STEADY)
        await project.until(project.faults)
        where = "runtime.toml [dispatch] order"
        assert project.faults() == [f"{where}: a new value takes effect at the next start; restart the runtime, or set it back"]
        assert (engine.dispatch.in_flight, engine.pool.max_hops, project.app.settings.runtime.grace) == (6, 2, 8)
        assert project.app.settings.dispatch.order == "fifo"
        project.save(tables + STEADY)
        await project.until(lambda: not project.faults())
        assert engine.dispatch.in_flight == 5
    assert caplog.text.count("takes effect at the next start") == 1


async def put_twice(project: Project) -> int:
    """Return how many times an event was known again that was put twice, with a moment between."""
    before = (await project.app.stats())["duplicates"]
    for _ in range(2):
        await project.app.inlet("test").put(Event(type="go", source="t", id="same", data=1))
        await project.app.engine.outcomes.settled()
        await asyncio.sleep(0.01)
    return int((await project.app.stats())["duplicates"] - before)


@pytest.mark.parametrize("journal", [MEMORY, SQLITE])
async def test_limits_of_the_journal_take_effect(journal: str, tmp_path: Path) -> None:
    async with running(tmp_path, "", journal) as project:
        assert await put_twice(project) == 1
        project.save("dedupe = 0.001\nmax_backlog = 9\n")
        await project.until(lambda: project.app.engine.intake.max_backlog == 9)
        assert await put_twice(project) == 0
        assert project.faults() == []


JOURNAL = """
from runtime import hookimpl
from runtime.journal.memory import MemoryJournal

class Ours(MemoryJournal):
    @classmethod
    def from_settings(cls, settings, clock, *, folder, lost):
        return cls(clock)

    def reconfigure(self, settings):
        return False

@hookimpl
def register_journals():
    return {"ours": Ours}
"""


async def test_a_journal_that_takes_no_new_limits_and_one_whose_code_has_changed_go_on_as_they_are(tmp_path: Path) -> None:
    async with running(tmp_path, STEADY, '[journal]\nurl = "ours:"\n', ours=JOURNAL) as project:
        project.save("dedupe = 7\nmax_backlog = 9\n" + STEADY)
        await project.until(project.faults)
        told = "a new value takes effect at the next start; restart the runtime, or set it back"
        assert project.faults() == [f"runtime.toml [journal] dedupe: {told}"]
        assert (project.app.settings.journal.dedupe, project.app.engine.intake.max_backlog) == (3600, 9)
        project.save(STEADY)
        await project.until(lambda: not project.faults())
        project.plugin("ours", JOURNAL + "# other")
        await project.until(project.faults)
        told = "the plugin of the journal has changed, which takes effect at the next start; restart the runtime"
        assert project.faults() == [f"runtime.toml [journal] url: {told}"]


STUBBORN = """
import asyncio
from runtime import Source, hookimpl

class Stubborn(Source):
    async def run(self, inlet):
        while not (self.folder / "released").exists():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                pass

@hookimpl
def register_sources():
    return {"stubborn": Stubborn}
"""


async def test_a_source_that_swallows_its_end_is_left_behind_when_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sources, "PATIENCE", 0.05)
    async with running(tmp_path, '[sources.one]\nplugin = "stubborn"\n', stubborn=STUBBORN) as project:
        await project.until(lambda: project.state("one") == "running")
        project.save('[sources.one]\nplugin = "steady"\n')
        await project.until(lambda: [one["plugin"] for one in project.app.sources()] == ["steady"])
        assert 'source "one" did not stop within 0.05 s; it is left behind' in caplog.text
        (tmp_path / "released").touch()


# --- routes of http -----------------------------------------------------------------------------------


async def test_routes_change_without_dropping_a_connection_and_a_request_under_way_ends_on_the_old(tmp_path: Path) -> None:
    old = WEB + 'max_body = 100\n[sources.web.routes."/a"]\ntype = "go"\nreply = "result"\n'
    async with running(tmp_path, old) as project:
        ((_, url),) = project.app.addresses()
        port = int(url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def answer() -> tuple[int, bytes]:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = re.search(r"content-length: (\d+)", head)
            assert length is not None
            return int(head.split()[1]), await reader.readexactly(int(length[1]))

        head = b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1\r\n\r\n"
        writer.write(head % b"/a" + b"4")
        assert await answer() == (200, b"5")
        writer.write((head % b"/a").replace(b"\r\nhost", b"\r\nexpect: 100-continue\r\nhost"))  # its body comes after the reload
        assert b"100 Continue" in await reader.readuntil(b"\r\n\r\n")
        project.save(WEB + 'events = false\n[sources.web.routes."/b"]\ntype = "go"\nreply = "result"\n')
        await project.until(lambda: "/b" in project.app.settings.sources["web"].options["routes"])
        writer.write(b"5")
        assert await answer() == (200, b"6")
        for path, status in ((b"/a", 404), (b"/b", 200), (b"/events/go", 404)):
            writer.write(head % path + b"6")
            assert (await answer())[0] == status
        project.save(WEB.replace(":0", f":{port}") + '[sources.web.routes."/c"]\ntype = "go"\n')
        await project.until(lambda: project.app.addresses() and "/c" in project.app.settings.sources["web"].options["routes"])
        assert await reader.read() == b""  # it listens elsewhere, as far as anybody can tell
        writer.close()


# --- sinks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("journal", [MEMORY, SQLITE])
async def test_a_sink_that_is_replaced_takes_over_its_queue_when_its_writes_have_ended(journal: str, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    async with running(tmp_path, SINK, journal) as project:
        await project.put(*range(5))
        await project.until(lambda: project.app.sinks()[0]["waiting"] == 5)
        project.save(SINK.replace('"out"\non', '"new"\non').replace("concurrency = 1", "concurrency = 2\nbatch = 2"))
        await project.until(lambda: "new" in str(project.app.settings.sinks))
        await project.put(*range(5, 9))
        assert project.lines() == ["open VERSION"]
        (tmp_path / "hold").unlink()
        await project.until(lambda: project.lines("new")[-1:] == ["write 7 8"])
        assert project.lines() == ["open VERSION", "write 0", "close"]
        assert project.lines("new") == ["open VERSION", "write 1 2", "write 3 4", "write 5 6", "write 7 8"]
        await project.app.engine.outcomes.settled()
        assert (await project.app.stats())["done"] == 9


async def test_limits_of_a_sink_take_effect_without_another_being_opened(tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    async with running(tmp_path, SINK) as project:
        await project.put(1, 2, 3)
        await project.until(lambda: list(project.app.engine.live().values()).count("running") == 1)
        project.save(SINK.replace("concurrency = 1", "concurrency = 2"))
        await project.until(lambda: list(project.app.engine.live().values()).count("running") == 2)
        (tmp_path / "hold").unlink()
        await project.until(lambda: len(project.lines()) == 4)
        assert [line for line in project.lines() if "write" not in line] == ["open VERSION"]


@pytest.mark.parametrize("journal", [MEMORY, SQLITE])
async def test_what_waits_for_a_sink_that_is_removed_is_skipped_and_it_may_come_back(journal: str, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    async with running(tmp_path, SINK, journal) as project:
        await project.put(1, 2, 3)
        await project.until(lambda: project.app.sinks()[0]["waiting"] == 3 and project.app.engine.live())
        project.save("")
        await project.until(lambda: not project.app.sinks())
        assert (await project.app.stats())["running"] == 1
        (tmp_path / "hold").unlink()
        async with asyncio.timeout(20):
            while (await project.app.stats())["done"] < 3:
                await asyncio.sleep(0.005)
        steps = [(entry.steps["out"].status, entry.steps["out"].reason) for entry in await project.entries("note")]
        assert steps == [("done", "")] + 2 * [("skipped", "the sink was removed from the configuration")]
        project.save(SINK)
        await project.until(project.app.sinks)
        await project.put(4)
        await project.until(lambda: project.lines() == ["open VERSION", "write 1", "close", "open VERSION", "write 4"])


async def test_a_sink_that_cannot_open_is_replaced_by_one_that_can(tmp_path: Path) -> None:
    async with running(tmp_path, SINK.replace('"out"\non', '"missing/out"\non')) as project:
        await project.put(1)
        await project.until(lambda: project.app.sinks()[0]["state"] == "failing")
        project.save(SINK)
        await project.until(lambda: project.lines() == ["open VERSION", "write 1"])
        assert project.faults() == []


# --- plugins ------------------------------------------------------------------------------------------


async def test_a_plugin_that_is_saved_restarts_only_what_it_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    toml = STEADY + '[sources.calm]\nplugin = "calm"\ntext = "c"\n' + SINK
    async with running(tmp_path, toml, other=OTHER) as project:
        await project.until(lambda: project.state("calm") == "running" and project.lines() == ["open VERSION"])
        project.plugin("parts", PLUGIN.replace("VERSION", "2.0"))
        await project.until(lambda: project.lines()[-1] == "open 2.0")
        await project.until(lambda: project.state("pulse") == "running")
        assert project.lines() == ["open VERSION", "close", "open 2.0"]
        assert sorted(await project.began()) == ["c 1 VERSION", "x 1 VERSION", "x 2 2.0"]
    assert "runtime.toml: changed source pulse, sink out, plugins/parts.py" in caplog.text


async def test_a_helper_that_is_saved_restarts_what_imports_it_directly_or_not(tmp_path: Path) -> None:
    helped = "from ._middle import VERSION\n" + PLUGIN.replace('VERSION"', '{VERSION}"').replace('"open", "{VERSION}"', '"open", VERSION')
    other = {"_middle": "from . import _text\nVERSION = _text.VERSION\n", "_text": 'VERSION = "one"\n', "other": OTHER}
    async with running(tmp_path, SINK + '[sinks.rows]\nplugin = "rows"\npath = "rows"\n', parts=helped, **other) as project:
        await project.until(lambda: project.lines() == ["open one"] and project.lines("rows"))
        project.plugin("_text", 'VERSION = "two"\n')
        await project.until(lambda: project.lines() == ["open one", "close", "open two"])
        assert project.lines("rows") == ["open VERSION"]


async def test_a_broken_plugin_goes_on_as_it_was_and_is_named_until_it_is_mended(tmp_path: Path) -> None:
    async with running(tmp_path, SINK) as project:
        await project.until(lambda: project.lines() == ["open VERSION"])
        project.plugin("parts", PLUGIN + "import no_such_library\n")
        await project.until(project.faults)
        (fault,) = project.faults()
        assert re.match(r"plugins/parts.py:\d+: ModuleNotFoundError: No module named 'no_such_library'", fault)
        project.save(SINK + STEADY)  # by the class there is
        await project.until(lambda: project.state("pulse") == "running")
        assert project.faults() == [fault]
        await project.put(1)
        await project.until(lambda: project.lines() == ["open VERSION", "write 1"])
        project.plugin("parts", PLUGIN.replace("VERSION", "3.0"))
        await project.until(lambda: project.lines()[-1] == "open 3.0")
        assert project.faults() == []


@pytest.mark.parametrize("journal", [MEMORY, SQLITE])
async def test_a_plugin_that_was_broken_at_the_start_runs_when_it_is_mended_with_all_that_waited(journal: str, tmp_path: Path) -> None:
    async with running(tmp_path, SINK, journal, parts="import no_such_library\n") as project:
        assert len(project.faults()) == 2
        await project.put(1, 2)
        project.plugin("parts", PLUGIN)
        await project.until(lambda: project.lines() == ["open VERSION", "write 1", "write 2"])
        assert project.faults() == []


async def test_a_plugin_that_hangs_at_import_is_left_behind_and_the_next_save_works(tmp_path: Path) -> None:
    toml = "[runtime]\nload_timeout = 0.2\n" + SINK
    async with running(tmp_path, toml) as project:
        await project.until(lambda: project.lines() == ["open VERSION"])
        project.plugin("parts", "import threading\nthreading.Event().wait()\n")
        await project.until(project.faults)
        message = "plugins: importing took longer than load_timeout = 0.2 s and was left behind; look for a call that hangs at import"
        assert project.faults() == [message]
        project.plugin("parts", PLUGIN.replace("VERSION", "2.0"))
        await project.until(lambda: project.lines() == ["open VERSION", "close", "open 2.0"])
        assert project.faults() == []


LISTENER = """
from pathlib import Path
from runtime import function, hookimpl

@hookimpl
def event_accepted(event):
    with open(PATH, "a") as file:
        print("WORD", event.type, file=file)

def convention(module):
    async def made(data: int) -> int:
        return NUMBER
    function(on="made", name="made")(made)

@hookimpl
def register_conventions():
    return {"ours": convention}
"""


async def test_notices_and_conventions_come_change_and_go_with_their_file(tmp_path: Path) -> None:
    text = LISTENER.replace("PATH", repr(str(tmp_path / "heard")))

    async def made() -> object:
        return await project.app.inlet("test").call(Event(type="made", source="t", data=1), timeout=5)

    async with running(tmp_path, "") as project:
        await project.put(1)
        project.plugin("hooks", text.replace("WORD", "old").replace("NUMBER", "7"))
        await project.until(lambda: project.app.generation.number == 2)
        assert await made() == 7
        project.plugin("hooks", text.replace("WORD", "new").replace("NUMBER", "8"))
        await project.until(lambda: project.app.generation.number == 3)
        assert await made() == 8
        (tmp_path / "plugins" / "hooks.py").unlink()
        await project.until(lambda: project.app.generation.number == 4)
        await project.put(1)
        assert project.lines("heard") == ["old made", "new made"]
        assert "made" not in project.app.generation.graph.by_name


async def test_code_that_was_replaced_is_let_go(tmp_path: Path) -> None:
    async with running(tmp_path, STEADY + SINK) as project:
        first = weakref.ref(sys.modules[f"{PACKAGE}.parts"].Steady)
        for number in range(3):
            await project.until(partial(project.ends_with, f"open {number or 'VERSION'}"))
            project.plugin("parts", PLUGIN.replace("VERSION", f"{number + 1}"))
        await project.until(lambda: project.lines()[-1] == "open 3")
        gc.collect()
        assert first() is None


# --- what takes effect when ---------------------------------------------------------------------------


def test_every_key_says_in_the_docs_when_a_new_value_takes_effect() -> None:
    page = (Path(__file__).parent.parent / "docs" / "settings.md").read_text()
    fields = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    for table in changes.TABLES:
        section = re.split(r"^## ", page.partition(f"## `[{table}]`")[2], maxsplit=1, flags=re.MULTILINE)[0]
        told = dict(re.findall(r"^\| `(\w+)` \|.*\| (at once|next start) \|$", section, re.MULTILINE))
        later = changes.LATER.get(table, ())
        assert told == {key: "next start" if key in later else "at once" for key in fields[table].__struct_fields__}, table


def test_what_waits_for_the_next_start_is_as_it_was_until_then() -> None:
    before, saved = Settings(path=Path("runtime.toml")), Settings(path=Path("runtime.toml"))
    for table, keys in changes.LATER.items():
        new = msgspec.structs.replace(getattr(saved, table), **dict.fromkeys(keys, "other"))
        saved = msgspec.structs.replace(saved, **{table: new})
    assert changes.in_force(saved, before) == before
    told = [fault.where for fault in changes.waiting(saved, before)]
    assert told == [f"runtime.toml [{table}] {key}" for table in changes.TABLES for key in changes.LATER.get(table, ())]
