from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from runtime import Event
from runtime.app import App
from runtime.check import check
from runtime.contracts import Source
from runtime.errors import ConfigError
from runtime.folder import PACKAGE
from runtime.plugins import CONVENTIONS, GROUP, Plugins, load_plugins
from runtime.settings import JournalSettings, Settings, SinkSettings, SourceSettings
from runtime.testing import VirtualClock

TICKS = """
from runtime import Event, Inlet, Sink, Source, hookimpl
import msgspec

class Ticks(Source):
    class Options(msgspec.Struct, forbid_unknown_fields=True):
        type: str
        every: float = 1.0

    async def run(self, inlet: Inlet) -> None: ...

class Lines(Sink):
    async def write(self, events: list[Event]) -> None: ...

@hookimpl
def register_sources():
    return {"ticks": Ticks}
"""
SINK = """
@hookimpl
def register_sinks():
    return {"lines": Lines}
"""
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    before = dict(sys.modules)
    yield
    for name in sys.modules.keys() - before.keys():
        if name.startswith((PACKAGE, "fake_")):
            del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(**texts: str) -> Path:
        folder = tmp_path / "plugins"
        folder.mkdir(exist_ok=True)
        for name, text in texts.items():
            (folder / f"{name}.py").write_text(text)
        return folder

    return write


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Install a distribution: modules, and entry points as a wheel would leave them."""

    def install(name: str, entries: dict[str, str], **modules: str) -> Path:
        site = tmp_path / f"site_{name}"
        (site / f"{name}-2.0.dist-info").mkdir(parents=True)
        (site / f"{name}-2.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
        lines = "\n".join(f"{kind} = {value}" for kind, value in entries.items())
        (site / f"{name}-2.0.dist-info" / "entry_points.txt").write_text(f"[runtime.plugins]\n{lines}\n")
        for module, text in modules.items():
            (site / f"{module}.py").write_text(text)
        monkeypatch.syspath_prepend(str(site))
        return site

    return install


def settings(tmp_path: Path, sources: dict[str, str] | None = None, sinks: dict[str, str] | None = None) -> Settings:
    return Settings(
        path=tmp_path / "runtime.toml",
        sources={name: SourceSettings(plugin=kind) for name, kind in (sources or {}).items()},
        sinks={name: SinkSettings(plugin=kind) for name, kind in (sinks or {}).items()},
    )


def loaded(tmp_path: Path, *kinds: str) -> Plugins:
    return load_plugins(settings(tmp_path, {kind: kind for kind in kinds}), VirtualClock())


def faults(plugins: Plugins) -> list[str]:
    return [str(fault) for fault in plugins.faults]


def source(plugins: Plugins, kind: str, **options: Any) -> Source | None:
    return plugins.build_source("clock", SourceSettings(plugin=kind, options=options))


def refused(build: Callable[[], object]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build()
    return [str(fault) for fault in caught.value.faults]


# --- the folder ---------------------------------------------------------------------------------------


def test_a_file_of_the_folder_offers_sources_and_sinks(tmp_path: Path, write: Write) -> None:
    write(ticks=TICKS + SINK)
    plugins = loaded(tmp_path)
    made = source(plugins, "ticks", type="tick", every=2)
    assert made is not None
    assert (type(made).__name__, made.name, made.options.type, made.options.every) == ("Ticks", "clock", "tick", 2.0)
    sink = plugins.build_sink("out", SinkSettings(plugin="lines"))
    assert type(sink).__name__ == "Lines"
    assert plugins.faults == []


def test_no_folder_is_no_fault(tmp_path: Path) -> None:
    assert loaded(tmp_path).faults == []


def test_the_folder_is_not_on_the_path_and_its_classes_can_be_found(tmp_path: Path, write: Write) -> None:
    write(http="import http.client\nassert http.client.HTTPConnection\n" + TICKS)
    plugins = loaded(tmp_path)
    assert plugins.faults == []
    assert str(tmp_path / "plugins") not in sys.path
    kind = type(source(plugins, "ticks", type="tick"))
    assert pickle.loads(pickle.dumps(kind)) is kind


def test_files_import_helpers_beside_them_which_are_no_plugins(tmp_path: Path, write: Write) -> None:
    write(
        ticks="from ._kinds import KIND\n" + TICKS.replace('"ticks"', "KIND"),
        _kinds="from ._word import WORD as KIND\n",
        _word="WORD = 'tocks'\n",
    )
    plugins = loaded(tmp_path)
    assert plugins.faults == []
    assert source(plugins, "tocks", type="tick") is not None


def test_a_second_load_reads_what_was_saved_since(tmp_path: Path, write: Write) -> None:
    write(ticks="from ._kinds import KIND\n" + TICKS.replace('"ticks"', "KIND"), _kinds="KIND = 'aaa'\n")
    assert loaded(tmp_path).kinds() == {"aaa", *CONVENTIONS}
    write(_kinds="KIND = 'bbb'\n")
    assert loaded(tmp_path).kinds() == {"bbb", *CONVENTIONS}


def test_editors_own_files_are_left_alone(tmp_path: Path, write: Write) -> None:
    (write() / ".#ticks.py").write_text("1/0")
    (write() / "#ticks.py").write_text("1/0")
    assert loaded(tmp_path).faults == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("\n1/0\n", "plugins/bad.py:2: ZeroDivisionError: division by zero"),
        ("def f(:\n", "plugins/bad.py:1: SyntaxError: invalid syntax"),
        ("import no_such_client\n",
         "plugins/bad.py:1: ModuleNotFoundError: No module named 'no_such_client'; install it where the runtime is installed"),
        ("from ._nowhere import x\n",
         "plugins/bad.py:1: expected a file _nowhere.py beside it, found none; correct the import, or make the file"),
        ("from ._helper import x\n", "plugins/bad.py:1: KeyError: 'x' (in _helper.py:1)"),
        ("import sys\nsys.exit(3)\n", "plugins/bad.py:2: SystemExit: 3; a plugin must not end the process when it is imported"),
        ("raise ValueError\n", "plugins/bad.py:1: ValueError"),
        ("class E(Exception):\n    def __str__(self): return 1/0\nraise E\n", "plugins/bad.py:3: E"),
        ("from runtime import hookimpl\n@hookimpl\ndef register_source():\n    return {}\n",
         (
             'plugins/bad.py:2: unknown hook register_source (did you mean "register_sources"?); allowed: '
             'register_commands, register_conventions, register_journals, register_sinks, register_sources, '
             'event_accepted, generation_changed, run_finished, step_finished'
         )),
        ("from runtime import hookimpl\n@hookimpl\ndef event_accepted(evnt): ...\n",
         "plugins/bad.py: expected event_accepted(event), or fewer of these, found event_accepted(evnt)"),
        ("from runtime import hookimpl\n@hookimpl\ndef register_sources(settings):\n    return {}\n",
         "plugins/bad.py: expected register_sources(), found register_sources(settings)"),
        ("def register_sources():\n    return {}\n",
         "plugins/bad.py:1: expected @hookimpl above register_sources, found none; add it, as in `from runtime import hookimpl`"),
        ("from runtime import hookimpl\n@hookimpl\ndef register_sources():\n    return {'a': undefined}\n",
         "plugins/bad.py:4: NameError: name 'undefined' is not defined"),
        ("from runtime import hookimpl\n@hookimpl\ndef register_sinks():\n    return {1}\n",
         'plugins/bad.py:2: expected register_sinks to return a dict of sinks by name, as in {"name": …}, found a value of type set'),
        ("from runtime import hookimpl\n@hookimpl\ndef register_sinks():\n    pass\n",
         'plugins/bad.py:2: expected register_sinks to return a dict of sinks by name, as in {"name": …}, found None'),
    ],
)  # fmt: skip
def test_a_broken_plugin_is_named_and_stops_only_what_uses_it(tmp_path: Path, write: Write, text: str, fault: str) -> None:
    write(bad=text, _helper="{}['x']\n", ticks=TICKS)
    plugins = loaded(tmp_path)
    assert faults(plugins) == [fault]
    assert source(plugins, "ticks", type="tick") is not None
    assert source(plugins, "bad") is None
    where = fault.partition(": ")[0]
    assert faults(plugins)[1:] == [
        f'runtime.toml [sources.clock]: does not run: no plugin that works offers the source "bad"; mend {where}'
    ]


@pytest.mark.parametrize(
    ("offer", "why"),
    [
        ("{'bad': Half}", 'the source "bad": the class Half lacks run; every Source has it'),
        ("{'bad': 7}", 'the source "bad": expected a class that derives from Source, found a value of type int'),
        ("{'bad': Lines}", 'the source "bad": expected a class that derives from Source, found the class Lines'),
        ("{'bad': Ticks('x', None)}", 'the source "bad": expected a class that derives from Source, found a value of type Ticks'),
        (
            "{'bad': Loose}",
            'the source "bad": expected Loose.Options to be a class that derives from msgspec.Struct, found a value of type dict',
        ),
        ("{'bad': Odd}", "the source \"bad\": the types of Odd.Options cannot be told: NameError: name 'Nowhere' is not defined"),
        ("{'': Ticks}", 'the source "": expected a name that is not empty, found a value of type str'),
        ("{7: Ticks}", 'the source "7": expected a name that is not empty, found a value of type int'),
    ],
)
def test_a_wrong_offer_is_a_fault_and_the_others_of_the_plugin_count(tmp_path: Path, write: Write, offer: str, why: str) -> None:
    classes = (
        "class Half(Source): ...\nclass Loose(Ticks):\n    Options = {}\n"
        "class Odd(Ticks):\n    class Options(msgspec.Struct):\n        x: 'Nowhere'\n"
    )
    write(ticks=TICKS.replace('{"ticks": Ticks}', f'{offer} | {{"ticks": Ticks}}').replace("@hookimpl", classes + "@hookimpl"))
    plugins = loaded(tmp_path)
    assert [fault.message for fault in plugins.faults] == [why]
    where = plugins.faults[0].where
    assert where.startswith("plugins/ticks.py:")
    assert source(plugins, "ticks", type="tick") is not None
    assert source(plugins, "bad") is None
    assert plugins.faults[1].message == f'does not run: no plugin that works offers the source "bad"; mend {where}'


def test_two_files_that_offer_one_kind_clash_and_neither_runs(tmp_path: Path, write: Write) -> None:
    write(a=TICKS, b=TICKS, c=TICKS)
    plugins = loaded(tmp_path)
    assert faults(plugins) == [
        'plugins/b.py:15: offers the source "ticks", and so does plugins/a.py:15; rename one of them',
        'plugins/c.py:15: offers the source "ticks", and so does plugins/b.py:15; rename one of them',
    ]
    assert source(plugins, "ticks", type="tick") is None


def test_an_interrupt_stops_the_load(tmp_path: Path, write: Write) -> None:
    write(bad="raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        loaded(tmp_path)


# --- installed plugins --------------------------------------------------------------------------------


def test_an_installed_plugin_is_imported_only_when_the_settings_use_it(tmp_path: Path, install: Callable[..., Path]) -> None:
    install("clocks", {"ticks": "fake_ticks", "broken": "fake_broken"}, fake_ticks=TICKS, fake_broken="1/0")
    assert loaded(tmp_path).faults == []
    assert "fake_ticks" not in sys.modules
    plugins = loaded(tmp_path, "ticks")
    assert plugins.faults == []
    assert source(plugins, "ticks", type="tick") is not None
    assert "fake_broken" not in sys.modules


def test_the_shipped_plugins_come_by_the_same_door(tmp_path: Path) -> None:
    plugins = load_plugins(settings(tmp_path, {"in": "jsonl"}, {"out": "console"}), VirtualClock())
    assert plugins.faults == []
    assert plugins.build_source("in", SourceSettings(plugin="jsonl", options={"path": "-"})) is not None
    assert plugins.build_sink("out", SinkSettings(plugin="console")) is not None


def test_a_broken_installed_plugin_is_named_and_stops_what_uses_it(tmp_path: Path, install: Callable[..., Path]) -> None:
    site = install("clocks", {"ticks": "fake_ticks", "tocks": "fake_ticks", "gone": "fake_gone"}, fake_ticks="\nimport no_such_client\n")
    plugins = loaded(tmp_path, "ticks", "tocks", "gone")
    assert faults(plugins) == [
        "fake_gone of clocks 2.0: ModuleNotFoundError: No module named 'fake_gone'; install it where the runtime is installed",
        f"{site}/fake_ticks.py:2: ModuleNotFoundError: No module named 'no_such_client'; install it where the runtime is installed",
    ]
    assert source(plugins, "ticks", type="tick") is None
    assert str(plugins.faults[-1]) == (
        f'runtime.toml [sources.clock]: does not run: no plugin that works offers the source "ticks"; mend {site}/fake_ticks.py:2'
    )


def test_a_missing_client_library_is_named_with_the_extra_that_brings_it(tmp_path: Path, install: Callable[..., Path]) -> None:
    site = install("clocks", {"ticks": "fake_ticks"}, fake_ticks="import no_such_client\n")
    with (site / "clocks-2.0.dist-info" / "METADATA").open("a") as metadata:
        metadata.write("Provides-Extra: ticks\n")
    why = "ModuleNotFoundError: No module named 'no_such_client'; install it where the runtime is installed: pip install 'clocks[ticks]'"
    assert faults(loaded(tmp_path, "ticks")) == [f"{site}/fake_ticks.py:1: {why}"]
    (tmp_path / "plugins").symlink_to(site)
    (site / "fake_ticks.py").rename(site / "ticks.py")
    (site / "fake_ticks.py").symlink_to(site / "ticks.py")
    (site / "clocks-2.0.dist-info" / "entry_points.txt").write_text("[runtime.plugins]\nticks = fake_ticks\nfake_ticks = fake_ticks\n")
    assert faults(loaded(tmp_path, "ticks")) == [f"plugins/ticks.py:1: {why}"]
    assert faults(loaded(tmp_path)) == []  # the very file of an installed plugin is one that nobody uses


def test_an_installed_plugin_must_offer_the_kind_it_is_named_after(tmp_path: Path, install: Callable[..., Path]) -> None:
    install("clocks", {"tocks": "fake_ticks"}, fake_ticks=TICKS)
    plugins = loaded(tmp_path, "tocks")
    where, message = str(plugins.faults[0]).split(": ", 1)
    assert where == "fake_ticks of clocks 2.0"
    assert message == 'expected it to offer something called "tocks", as its entry point is, found nothing; rename one of them'
    assert source(plugins, "tocks", type="tick") is None


def test_one_module_may_stand_behind_two_entry_points(tmp_path: Path, install: Callable[..., Path]) -> None:
    both = TICKS.replace('{"ticks": Ticks}', '{"ticks": Ticks, "tocks": Ticks}')
    install("clocks", {"ticks": "fake_ticks", "tocks": "fake_ticks"}, fake_ticks=both)
    plugins = loaded(tmp_path, "ticks", "tocks")
    assert plugins.faults == []
    assert source(plugins, "ticks", type="tick") is not None
    assert source(plugins, "tocks", type="tick") is not None


def test_two_installed_plugins_of_one_kind_clash_and_neither_runs(tmp_path: Path, install: Callable[..., Path]) -> None:
    install("clocks", {"ticks": "fake_a"}, fake_a=TICKS)
    install("watches", {"ticks": "fake_b"}, fake_b=TICKS)
    plugins = loaded(tmp_path, "ticks")
    assert faults(plugins) == ['fake_b of watches 2.0: offers the kind "ticks", and so does fake_a of clocks 2.0; uninstall one of them']
    assert source(plugins, "ticks", type="tick") is None


def test_a_file_replaces_an_installed_plugin_and_the_log_names_both(
    tmp_path: Path, write: Write, install: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    install("clocks", {"ticks": "fake_ticks"}, fake_ticks="1/0")
    write(mine=TICKS)
    with caplog.at_level(logging.INFO, "runtime.plugins"):
        plugins = loaded(tmp_path, "ticks")
    assert plugins.faults == []
    assert caplog.messages == ['plugins/mine.py:15 replaces the installed plugin "ticks", fake_ticks of clocks 2.0']
    assert type(source(plugins, "ticks", type="tick")).__module__ == f"{PACKAGE}.mine"


def test_the_same_file_met_twice_is_one_plugin(
    tmp_path: Path, write: Write, install: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(ticks=TICKS)
    site = install("clocks", {"ticks": "fake_ticks"})
    (site / "fake_ticks.py").symlink_to(folder / "ticks.py")
    with caplog.at_level(logging.INFO, "runtime.plugins"):
        plugins = loaded(tmp_path, "ticks")
    assert (plugins.faults, caplog.messages) == ([], [])
    assert "fake_ticks" not in sys.modules
    assert source(plugins, "ticks", type="tick") is not None


def test_a_broken_file_that_is_called_like_an_installed_plugin_is_not_passed_over(
    tmp_path: Path, write: Write, install: Callable[..., Path]
) -> None:
    install("clocks", {"ticks": "fake_ticks"}, fake_ticks=TICKS)
    write(ticks="1/0")
    plugins = loaded(tmp_path, "ticks")
    assert source(plugins, "ticks", type="tick") is None
    assert faults(plugins) == [
        "plugins/ticks.py:1: ZeroDivisionError: division by zero",
        'runtime.toml [sources.clock]: does not run: no plugin that works offers the source "ticks"; mend plugins/ticks.py:1',
    ]


# --- what settings ask for ----------------------------------------------------------------------------


def test_an_unknown_kind_is_refused_with_the_nearest(tmp_path: Path, write: Write) -> None:
    write(ticks=TICKS + SINK)
    there = ", ".join(sorted({"ticks", *(entry.name for entry in entry_points(group=GROUP))}))
    assert refused(lambda: source(loaded(tmp_path), "tick")) == [
        (
            'runtime.toml [sources.clock] plugin: no plugin offers the source "tick" (did you mean "ticks"?); '
            f"there are: {there}; put a file that offers it into plugins/, or install a package that does"
        )
    ]


def test_a_kind_of_the_other_role_is_told(tmp_path: Path, write: Write) -> None:
    write(ticks=TICKS + SINK)
    plugins = loaded(tmp_path)
    assert refused(lambda: source(plugins, "lines")) == [
        'runtime.toml [sources.clock] plugin: the plugin "lines" offers a sink and no source; use it in a table [sinks.NAME]'
    ]
    assert refused(lambda: plugins.build_sink("out", SinkSettings(plugin="ticks"))) == [
        'runtime.toml [sinks.out] plugin: the plugin "ticks" offers a source and no sink; use it in a table [sources.NAME]'
    ]


def test_wrong_options_are_refused_all_at_once(tmp_path: Path, write: Write) -> None:
    write(ticks=TICKS)
    assert refused(lambda: source(loaded(tmp_path), "ticks", evry=1, every="secret")) == [
        'runtime.toml [sources.clock] evry: unknown key (did you mean "every"?); allowed: type, every',
        "runtime.toml [sources.clock] type: expected a value, found none; it has no default",
        "runtime.toml [sources.clock] every: expected a number, found a string",
    ]


@pytest.mark.parametrize(
    ("error", "told"), [("ValueError('expected `a` beside `b`')", "expected `a` beside `b`"), ("KeyError('x')", "KeyError: 'x'")]
)
def test_options_that_the_plugin_refuses_are_a_fault_of_their_table(tmp_path: Path, write: Write, error: str, told: str) -> None:
    init = f"    def __init__(self, name, options):\n        raise {error}\n    async def run"
    write(ticks=TICKS.replace("    async def run", init))
    assert refused(lambda: source(loaded(tmp_path), "ticks", type="tick")) == [f"runtime.toml [sources.clock]: {told}"]


# --- journals, conventions, commands, notices ---------------------------------------------------------


MORE = """
import click
from runtime import function, hookimpl
from runtime.journal.memory import MemoryJournal

class Mine(MemoryJournal):
    @classmethod
    def from_settings(cls, settings, clock, *, folder, lost):
        if settings.url != "mine:here":
            raise ValueError('expected "mine:here"')
        return cls(clock)

def handlers(module):
    handler = getattr(module, "handle", None)
    if handler is not None:
        function(on="handled", name=module.__name__.rpartition(".")[2])(handler)

@click.command()
def greet():
    click.echo("hello")

@hookimpl
def register_journals():
    return {"mine": Mine}

@hookimpl
def register_conventions():
    return {"handlers": handlers}

@hookimpl
def register_commands():
    return {"greet": greet}

@hookimpl
def step_finished(step):
    HEARD.append(step)

@hookimpl
def generation_changed(number, added):
    HEARD.append((number, added))

HEARD = []
"""


def test_a_file_may_offer_all_there_is(tmp_path: Path, write: Write) -> None:
    write(more=MORE)
    plugins = loaded(tmp_path)
    assert plugins.faults == []
    assert plugins.journal("mine").__name__ == "Mine"
    assert [getattr(one, "__name__", "") for one in plugins.conventions()] == ["", "", "handlers"]  # the shipped ones are objects
    assert list(plugins.commands()) == ["greet"]
    plugins.notices.tell("step_finished", event="an event", step="a step")
    assert sys.modules[f"{PACKAGE}.more"].HEARD == ["a step"]
    assert not plugins.notices.has("run_finished")


def test_a_journal_nobody_offers_is_refused_with_the_nearest(tmp_path: Path, write: Write) -> None:
    write(more=MORE)
    plugins = loaded(tmp_path)
    assert refused(lambda: plugins.journal("mind")) == [
        'runtime.toml [journal] url: no plugin offers the journal "mind:" (did you mean "mine"?); there are: sqlite, memory, mine'
    ]


def test_a_journal_of_a_broken_plugin_is_named_with_what_to_mend(tmp_path: Path, write: Write) -> None:
    write(more="1/0\n" + MORE)
    plugins = loaded(tmp_path)
    assert refused(lambda: plugins.journal("mine")) == [
        'runtime.toml [journal] url: no plugin that works offers the journal "mine:"; mend plugins/more.py:1'
    ]


@pytest.mark.parametrize(
    ("hook", "offer", "why"),
    [
        ("register_journals", "{'bad': int}", 'the journal "bad": expected a class that derives from Journal, found the class int'),
        ("register_conventions", "{'bad': 7}",
         ('the convention "bad": expected a function that takes a module, or an object of a class that derives from Handlers, '
          "found a value of type int")),
        ("register_conventions", "{'bad': __import__('runtime').Handlers}",
         'the convention "bad": expected an object, found the class Handlers; write Handlers()'),
        ("register_commands", "{'bad': print}",
         'the command "bad": expected a function under @click.command(), found a value of type builtin_function_or_method'),
    ],
)  # fmt: skip
def test_what_is_no_journal_convention_or_command_is_a_fault(tmp_path: Path, write: Write, hook: str, offer: str, why: str) -> None:
    write(bad=f"from runtime import hookimpl\n@hookimpl\ndef {hook}():\n    return {offer}\n")
    assert faults(loaded(tmp_path)) == [f"plugins/bad.py:2: {why}"]


async def test_the_app_uses_them_all(tmp_path: Path, write: Write) -> None:
    write(more=MORE)
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "theirs.py").write_text("def handle(data: int) -> int:\n    return data + 1\n")
    app = App(Settings(path=tmp_path / "runtime.toml", journal=JournalSettings(url="mine:here")))
    await app.start()
    try:
        assert type(app.journal).__name__ == "Mine"
        (theirs,) = app.generation.graph.functions
        assert (theirs.name, theirs.on, theirs.where) == ("theirs", ("handled",), "functions/theirs.py:1")
        assert await app.inlet("test").call(Event(type="handled", source="test", data=1)) == 2
        await app.engine.outcomes.settled()
        generation, step = sys.modules[f"{PACKAGE}.more"].HEARD
        assert generation == (1, ("theirs",))
        assert (step.function, step.status, step.result) == ("theirs", "done", 2)
    finally:
        await app.stop(0.0)


def test_a_url_that_a_journal_refuses_is_told_at_its_place(tmp_path: Path, write: Write) -> None:
    write(more=MORE)
    mine = Settings(path=tmp_path / "runtime.toml", journal=JournalSettings(url="mine:there"))
    assert refused(lambda: App(mine)) == ['runtime.toml [journal] url: expected "mine:here"']


def test_a_convention_that_raises_is_a_fault_of_the_file_it_was_shown(tmp_path: Path, write: Write) -> None:
    write(more=MORE.replace("if handler is not None:", "if 1 / 0:"))
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "theirs.py").write_text("def handle(data: int) -> int:\n    return data + 1\n")
    _, graph, found = check(tmp_path / "runtime.toml")
    assert graph is None
    assert [str(fault) for fault in found] == ["functions/theirs.py:1: ZeroDivisionError: division by zero"]
