"""`@resource`: what is refused at load, what a reload keeps, and the whole of it in a process of its own."""

from __future__ import annotations

import asyncio
import functools
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from faults.ledger import drained, event, post, project, until
from running import Running
from support import faults_of, graph_of

from runtime import LoadError, config, function, resource
from runtime.app import App
from runtime.event import Event
from runtime.function import collecting

# --- the decorator ------------------------------------------------------------------------------------


def test_the_decorator_leaves_the_callable_as_it_is() -> None:
    def db() -> int:
        return 7

    with collecting() as found:
        assert resource(db) is db
        assert resource(timeout=5)(db) is db
    assert [(one.call, one.options, one.is_resource) for one in found] == [(db, {}, True), (db, {"timeout": 5}, True)]


def test_options_without_their_names_are_refused_with_the_line_to_write() -> None:
    with pytest.raises(TypeError, match=r"^@resource takes its options by name, as in @resource\(timeout=5\); found 5 without one$"):
        resource(5)  # type: ignore[call-overload]


def test_a_function_takes_resources_beside_its_other_parameters() -> None:
    def declare() -> None:
        @resource
        async def db() -> None: ...

        @function(on="go")
        async def use(order: dict[str, Any], context: Any, db: Any, state: Any) -> None: ...

        @function(after="use")
        async def other(use: None, data: dict[str, Any]) -> None: ...

    graph = graph_of(declare)
    assert [[one.name for one in each.resources] for each in graph.functions] == [["db"], []]
    assert graph.resources["db"].where == "functions/test.py:10"
    assert graph.resources["db"].timeout == 60


# --- what is refused ----------------------------------------------------------------------------------


def with_parameters(call: Any, **options: Any) -> list[str]:
    """Return the faults of a resource beside another one."""

    def declare() -> None:
        resource(**options)(call)

        @resource
        def database() -> None: ...

    return faults_of(declare)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"timout": 5}, 'unknown option `timout` (did you mean "timeout"?); allowed: timeout'),
        ({"timeout": 0}, "`timeout` is a number of seconds above 0, found 0"),
        ({"timeout": "5"}, "`timeout` is a number of seconds above 0, found '5'"),
        ({"timeout": True}, "`timeout` is a number of seconds above 0, found True"),
        ({"timeout": float("inf")}, "`timeout` is a number of seconds above 0, found inf"),
        ({"timeout": float("nan")}, "`timeout` is a number of seconds above 0, found nan"),
    ],
)
def test_a_wrong_option_is_told_with_file_and_line_and_what_is_allowed(options: dict[str, Any], fault: str) -> None:
    def db() -> None: ...

    assert with_parameters(db, **options) == [f'functions/test.py:10: @resource "db": {fault}']


def test_an_unknown_parameter_is_told_with_what_may_stand_there() -> None:
    def db(databse: Any, settings: Any, other: int = 3) -> None: ...

    def rest(*others: Any, **more: Any) -> None: ...

    assert with_parameters(db) == [
        (
            'functions/test.py:10: @resource "db" has an unknown parameter `databse` (did you mean "database"?);'
            " it may take other resources (database) and `settings`, the table [resources.db]"
        )
    ]
    assert with_parameters(rest) == [
        f'functions/test.py:10: @resource "rest" takes `{stars}`, which nothing can fill by its name; name the resources it needs'
        for stars in ("*others: 'Any'", "**more: 'Any'")
    ]


@pytest.mark.parametrize("name", ["event", "data", "context", "state", "settings"])
def test_a_name_that_means_something_else_is_refused(name: str) -> None:
    def db() -> None: ...

    db.__name__ = name
    assert with_parameters(db) == [
        (
            f'functions/test.py:10: @resource "{name}": a parameter `{name}` means something else;'
            " rename it: all but event, data, context, state, settings are free"
        )
    ]


def test_what_has_no_name_cannot_be_taken() -> None:
    message = "its name is not one of a parameter, by which functions take it; write it as a `def`"
    assert with_parameters(lambda: None) == [f'functions/test.py:10: @resource "<lambda>": {message}']
    assert with_parameters(functools.partial(int, 3)) == [f'functions/test.py:10: @resource "": {message}']


def test_names_are_unique_over_functions_and_resources() -> None:
    def declare() -> None:
        @resource
        def db() -> None: ...

        resource(db)

    assert faults_of(declare) == [
        'functions/test.py:20: the name "db" is taken by functions/test.py:10; names are unique over the folder: rename one'
    ]

    def mixed() -> None:
        @resource
        def db() -> None: ...

        function(name="db")(lambda data: None)

    assert faults_of(mixed) == ['functions/test.py:10: the name "db" is that of a function too (functions/test.py:20); rename one of them']


def test_a_cycle_is_spelled_out_with_file_and_line_of_each_member() -> None:
    def declare() -> None:
        @resource
        def one(two: Any) -> None: ...

        @resource
        def two(three: Any) -> None: ...

        @resource
        def three(one: Any) -> None: ...

        @resource
        def itself(itself: Any) -> None: ...

        @function(on="go")
        def use(data: Any, one: Any) -> None: ...

    assert faults_of(declare) == [
        (
            'functions/test.py:10: resources take each other in a cycle: "one" (functions/test.py:10) takes "two" (functions/test.py:20)'
            ' takes "three" (functions/test.py:30) takes "one" (functions/test.py:10); remove one parameter'
        ),
        (
            'functions/test.py:40: resources take each other in a cycle: "itself" (functions/test.py:40)'
            ' takes "itself" (functions/test.py:40); remove one parameter'
        ),
    ]


def test_a_mistyped_resource_of_a_function_is_told_with_the_nearest_name() -> None:
    def declare() -> None:
        @resource
        def payments() -> None: ...

        @function(on="go")
        def root(data: Any, payment: Any, order: Any) -> None: ...

        @function(after="root")
        def later(root: Any, paymens: Any) -> None: ...

    assert faults_of(declare) == [
        (
            'functions/test.py:20: "root" has two parameters for the event\'s data, `payment` and `order`; a root has one, beside'
            ' event, data, context, state and resources (did you mean "payments"?)'
        ),
        (
            'functions/test.py:30: "later" comes after root and has an unknown parameter `paymens` (did you mean "payments"?);'
            " write `root` for that function's result or `data` for the event's data"
        ),
    ]


# --- a folder that changes ----------------------------------------------------------------------------

CLIENT = """
class Client:
    number = 0

    def __init__(self, log):
        Client.number += 1
        self.log = log
        self.is_open = True
        log.append("open")

    def close(self):
        self.is_open = False
        self.log.append("close")
"""
DB = """
from runtime import resource
from ._client import Client

@resource
async def db(settings):
    client = Client(LOG)
    client.size = settings.get("size")
    yield client
    client.close()
"""
USE = """
from runtime import function

@function(on="go")
async def use(data, db):
    USED.append(db)
    return db.size
"""


class Folder:
    """An app on a folder, whose files share the lists `log` and `used` with the test."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, toml: str = "") -> None:
        self.log: list[str] = []
        self.used: list[Any] = []
        monkeypatch.setattr("builtins.LOG", self.log, raising=False)
        monkeypatch.setattr("builtins.USED", self.used, raising=False)
        (folder / "functions").mkdir()
        self.folder = folder / "functions"
        (folder / "runtime.toml").write_text(f'[sources]\n[journal]\nurl = "memory:"\n{toml}')
        for name, text in {"_client.py": CLIENT, "db.py": DB, "use.py": USE}.items():
            self.write(name, text)
        self.app = App(config.load(folder / "runtime.toml"), watch=False)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    async def save(self, name: str, text: str) -> None:
        self.write(name, text)
        await self.app.loader.load()

    async def go(self) -> Any:
        return await self.app.inlet("test").call(Event(type="go", source="test"), timeout=10)


async def test_a_resource_is_kept_while_its_file_and_what_it_imports_are_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Folder(tmp_path, monkeypatch, "[resources.db]\nsize = 3\n")
    await project.app.start()
    assert await project.go() == 3
    await project.save("use.py", USE.replace("db.size", "db.size + 1"))
    assert await project.go() == 4
    assert project.log == ["open"]
    assert project.used[0] is project.used[1]
    await project.save("_client.py", CLIENT + "\n# another helper\n")
    await _until(lambda: project.log == ["open", "close"])
    assert await project.go() == 4
    assert project.log == ["open", "close", "open"]
    assert type(project.used[2]) is not type(project.used[0])
    refs = [weakref.ref(project.used[0]), weakref.ref(type(project.used[0]))]
    project.used.clear()
    await project.go()
    await _until(lambda: gc.collect() >= 0 and [ref() for ref in refs] == [None, None])  # with its module
    await project.app.stop()
    assert project.log == ["open", "close", "open", "close"]


async def test_another_table_opens_the_resource_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Folder(tmp_path, monkeypatch, "[resources.db]\nsize = 3\n")
    await project.app.start()
    assert await project.go() == 3
    text = (tmp_path / "runtime.toml").read_text()
    for changed, size, log in (("[log]\n", 3, ["open"]), ("size = 4", 4, ["open", "close", "open"])):
        (tmp_path / "runtime.toml").write_text(text.replace("size = 3", changed) if "size" in changed else text + changed)
        conventions = project.app.plugins.conventions()
        await project.app.loader.reconfigure(config.load(tmp_path / "runtime.toml"), conventions, lambda: None)
        await _until(lambda log=log: len(project.log) >= len(log) - 1)
        assert await project.go() == size
        assert project.log == log
    await project.app.stop()


async def test_a_removed_resource_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Folder(tmp_path, monkeypatch)
    await project.app.start()
    await project.go()
    project.write("use.py", "from runtime import function\n@function(on='go')\ndef use(data): ...\n")
    (project.folder / "db.py").unlink()
    await project.app.loader.load()
    await _until(lambda: project.log == ["open", "close"])
    await project.app.stop()


async def test_a_broken_save_leaves_resources_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Folder(tmp_path, monkeypatch)
    await project.app.start()
    await project.go()
    with pytest.raises(LoadError) as failure:
        await project.save("db.py", DB.replace("def db(settings)", "def db(setings)"))
    assert str(failure.value) == (
        'functions/db.py:6: @resource "db" has an unknown parameter `setings` (did you mean "settings"?);'
        " it may take other resources (there are none) and `settings`, the table [resources.db]"
    )
    with pytest.raises(LoadError) as failure:
        await project.save("db.py", "def db(:\n")
    assert [fault.where for fault in failure.value.faults] == ["functions/db.py:1"], "nothing is said of those who take it"
    await project.go()
    assert project.log == ["open"]
    await project.app.stop()


async def test_a_table_for_a_resource_that_no_file_declares_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Folder(tmp_path, monkeypatch, "[resources.dbs]\nsize = 1\n")
    with pytest.raises(LoadError) as failure:
        await project.app.start()
    assert str(failure.value) == (
        'runtime.toml [resources.dbs]: no file declares a resource "dbs" (did you mean "db"?); rename the table or remove it'
    )


async def test_helpers_declare_no_resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Folder(tmp_path, monkeypatch)
    project.write("_more.py", "from runtime import resource\n@resource\ndef more(): ...\n")
    with pytest.raises(LoadError) as failure:
        await project.app.start()
    assert [fault.where for fault in failure.value.faults] == ["functions/_more.py:3"]


async def _until(is_so: Any) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.005)


# --- a process ----------------------------------------------------------------------------------------

WHOLE = """
import os, pathlib, time
from runtime import function, resource

def note(word):
    with open("trace", "a") as trace:
        trace.write(f"{word} {VERSION}\\n")

VERSION = 1

@resource
def slow():
    time.sleep(0.3)
    yield "slow"
    note("close slow")

@resource
async def db(slow):
    note("open")
    yield VERSION
    note("close")

@function(on="go")
async def use(data, db):
    import asyncio
    while not os.path.exists("gate"):
        await asyncio.sleep(0.01)
    return db
"""


def test_a_save_closes_the_old_one_after_its_last_run_and_sigterm_closes_the_rest(tmp_path: Path) -> None:
    folder = project(tmp_path / "shop", WHOLE, "")
    trace = folder / "trace"

    def traced() -> list[str]:
        return trace.read_text().splitlines() if trace.exists() else []

    with Running(folder) as running:
        post(running, ("first", "go"))
        until(lambda: traced() == ["open 1"])
        file = folder / "functions" / "load.py"
        file.write_text(WHOLE.replace("VERSION = 1", "VERSION = 2"))
        until(lambda: running.api.get("/health").json()["generation"] == 2)
        post(running, ("second", "go"))
        until(lambda: traced() == ["open 1", "open 2"])
        (folder / "gate").touch()
        drained(running)
        until(lambda: len(traced()) == 4)
        assert traced()[2:] == ["close 1", "close slow 1"]
        assert [event(running, id)["steps"][0]["result"] for id in ("first", "second")] == [1, 2]
        assert running.stop() == 0
    assert traced()[4:] == ["close 2", "close slow 2"]
