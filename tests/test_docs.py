"""The docs are held to the code: every option, key, command, route and name is told, and what they show works."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import msgspec
import pytest
import tomli
from runtime_plugins import _amqp, _kafka, _nats, _tls, grpc, http, webhook
from starlette.routing import Route
from test_house import FLOORS

import runtime
from runtime import errors, hookspecs, settings, testing
from runtime.admin.api import make_api
from runtime.check import check
from runtime.cli import FAMILIES, main
from runtime.executors.remote import LARGEST
from runtime.flow.backlog import CHUNK, QUARANTINE
from runtime.flow.dispatch import WINDOW
from runtime.flow.executing import SUSPECT
from runtime.flow.intake import DEATH
from runtime.function import LONGEST_DELAY, Options
from runtime.journal.memory import KEPT
from runtime.journal.sqlite.files import RESERVE
from runtime.journal.sqlite.journal import SMALL, SqliteJournal
from runtime.offers import NOTICES, ROLES
from runtime.plugins import GROUP
from runtime.records import ENDED, STATUSES
from runtime.testing import VirtualClock

ROOT = Path(__file__).resolve().parent.parent
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ((?:functions|plugins|tests)/\w+\.py)\n")

NOUNS = {
    *("event", "source", "sink", "function", "graph", "plan", "run", "step", "attempt"),
    *("generation", "journal", "dispatch", "executor", "dead letter"),
}
SECTIONS: dict[str, type[msgspec.Struct]] = {
    "[runtime]": settings.RuntimeSettings,
    "[log]": settings.LogSettings,
    "[journal]": settings.JournalSettings,
    "[dispatch]": settings.DispatchSettings,
    "[sources.NAME]": settings.SourceSettings,
    "[sinks.NAME]": settings.SinkSettings,
    "[functions.NAME]": settings.FunctionSettings,
    "A service over HTTP": settings.ServiceSettings,
    "A service over gRPC": settings.GrpcSettings,
    "[resources.NAME]": settings.ResourceSettings,
    "[admin]": settings.AdminSettings,
    "An isolated function": settings.ProcessSettings,
    "A command": settings.CommandSettings,
    "Route of http": http.Route,
    "Auth of http": http.Auth,
    "Signature of http": http.Signature,
    "Tls of http": http.Tls,
    "Auth of webhook": webhook.Auth,
    "Signature of webhook": webhook.Signature,
    "Access of kafka": _kafka.Access,
    "Access of nats": _nats.Access,
    "Access of amqp": _amqp.Access,
    "Tls of the source grpc": grpc.ServerTls,
    "Tls": _tls.Tls,
}
GATHERED = {"options", "overrides", "target", "process"}  # fields for the keys that stand in the table itself


def sections(page: str) -> dict[str, str]:
    """Return what stands below each heading of a page, up to the next heading of any level."""
    parts = re.split(r"^#+ (.+)$", BLOCK.sub("", PAGES[page]), flags=re.MULTILINE)
    return dict(zip([title.replace("`", "") for title in parts[1::2]], parts[2::2], strict=True))


def defaults(section: str) -> dict[str, Any]:
    """Return the default by key of a table whose rows are `key`, default, meaning."""
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", section, re.MULTILINE)
    return {key: shown if shown in ("none", "required") else tomli.loads(f"it = {shown.strip('`')}")["it"] for key, shown in rows}


def fields(model: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the default by field of a record, as a table shows it."""
    found = {}
    for field in msgspec.structs.fields(model):
        default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
        default = list(default) if isinstance(default, tuple) else default
        found[field.encode_name] = "required" if default is msgspec.NODEFAULT else "none" if default in (None, [], {}) else default
    return {name: default for name, default in found.items() if name not in GATHERED}


def shipped() -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """Yield the section and the options of each source and sink of the installed plugins."""
    for entry in entry_points(group=GROUP):
        module = entry.load()
        for role in ("source", "sink"):
            offered: Mapping[str, Any] = getattr(module, f"register_{role}s", dict)()
            yield from ((f"{role.capitalize()} {kind}", part.Options) for kind, part in offered.items())


# --- what there is, is told ---------------------------------------------------------------------------


def test_every_option_of_a_function_is_told_with_its_default() -> None:
    section = sections("docs/functions.md")["Options"]
    assert defaults(section) == fields(Options)


@pytest.mark.parametrize(("title", "model"), [*SECTIONS.items(), *shipped()], ids=lambda value: value if isinstance(value, str) else "")
def test_every_setting_is_told_with_its_default(title: str, model: type[msgspec.Struct]) -> None:
    told = sections("docs/settings.md") | sections("docs/connectors.md")
    assert defaults(told[title]) == fields(model)


def test_every_table_of_the_configuration_has_a_section() -> None:
    tables = {name for name in settings.Settings.__struct_fields__ if name != "path"}
    assert {title.strip("[]").partition(".")[0] for title in SECTIONS if title.startswith("[")} == tables


def command(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    return found


COMMANDS = sorted(name for family in FAMILIES.values() for name in family)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_told_with_its_options(name: str) -> None:
    section = sections("docs/cli.md")[f"runtime {name}"]
    parameters = [one for one in command(name).params if isinstance(one, click.Option)]
    missing = [word for one in parameters for word in (*one.opts, *one.secondary_opts) if f"`{word}`" not in section]
    assert not missing


def test_no_option_is_told_that_no_command_has() -> None:
    page = sections("docs/cli.md")
    for name in COMMANDS:
        rows = "".join(re.findall(r"^\| (`-.+?) \|", page[f"runtime {name}"], re.MULTILINE))
        assert set(re.findall(r"`(-+[\w-]+)`", rows)) <= {word for one in command(name).params for word in one.opts}, name


def test_every_route_of_the_admin_api_is_told() -> None:
    app = SimpleNamespace(inlet=lambda _: None)
    section = sections("docs/cli.md")["Admin API"]
    for route in make_api(cast("Any", app)).routes:
        assert isinstance(route, Route)
        method = "POST" if "POST" in (route.methods or ()) else "GET"
        assert f"`{method} {route.path.replace(':path', '')}`" in section


def test_every_public_name_and_every_error_is_told() -> None:
    told = set(re.findall(r"`(\w+)", " ".join(PAGES[page] for page in PAGES if page.startswith("docs/"))))
    kinds = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}
    assert set(runtime.__all__) - told == set()
    assert kinds - told == set()


def test_every_hook_is_told_with_its_signature_in_one_sentence() -> None:
    told = dict(re.findall(r"^\| `(.+?)` \| (.+?) \|$", PAGES["docs/hooks.md"], re.MULTILINE))
    hooks = [hook for name, hook in vars(hookspecs).items() if hasattr(hook, f"{hookspecs.PROJECT}_spec")]
    assert {hook.__name__ for hook in hooks} == {*ROLES, *NOTICES}
    assert told == {f"{hook.__name__}{inspect.signature(hook)}".replace("'", ""): hook.__doc__ for hook in hooks}
    assert all(sentence.count(". ") == 0 for sentence in told.values())


def test_every_name_of_the_testing_package_is_told() -> None:
    told = set(re.findall(r"`(\w+)`", sections("docs/testing.md")["What runtime.testing gives"]))
    assert told >= set(testing.__all__)
    public = {name for name in vars(testing.Harness) if not name.startswith("_")}
    assert public - set(re.findall(r"`(\w+)\(", sections("docs/testing.md")["The harness"])) == set()


def test_every_noun_has_its_meaning_and_its_file() -> None:
    rows = dict(re.findall(r"^\| \*\*(.+?)\*\* \| .+ \| (.+?) \|$", PAGES["docs/concepts.md"], re.MULTILINE))
    assert rows.keys() >= NOUNS
    for noun, files in rows.items():
        paths = re.findall(r"`(.+?)`", files)
        assert paths, noun
        assert [path for path in paths if not (ROOT / path).is_file()] == [], noun


def test_every_status_is_told_and_how_events_end() -> None:
    standing = re.findall(r"^\| `(\w+)` \|", sections("docs/concepts.md")["How an event stands"], re.MULTILINE)
    ends = re.findall(r"^\| `(\w+)` \|", sections("docs/delivery.md")["The promise"], re.MULTILINE)
    assert standing == list(STATUSES)
    assert set(ends) == ENDED


def test_what_each_setting_of_the_journal_costs_is_told() -> None:
    rows = re.findall(r"^\| (`.+?) \| .+ \| .+ \|$", sections("docs/delivery.md")["What the settings cost"], re.MULTILINE)
    told = {re.split(r" =|$", name)[0] for row in rows for name in re.findall(r"`(.+?)`", row)}
    assert set(fields(settings.JournalSettings)) <= told


async def test_every_file_beside_the_journal_is_told(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db", VirtualClock())
    await journal.open()
    files = {path.name for path in tmp_path.iterdir()}
    await journal.close()
    rows = "".join(re.findall(r"^\| (`.+?) \|", sections("docs/delivery.md")["The files of the journal"], re.MULTILINE))
    assert set(re.findall(r"`(.+?)`", rows)) == files


def test_the_numbers_of_the_promise_are_those_of_the_code() -> None:
    page = sections("docs/delivery.md")
    assert WINDOW == CHUNK
    assert f"about {WINDOW:,} events are in memory" in page["Order"]
    assert (SUSPECT, QUARANTINE) == (2, 3)
    assert "**two**" in page["Crashes"]
    assert "**three**" in page["Crashes"]
    assert f"`{DEATH}`" in page["Dead letters"]
    assert f"{RESERVE // 2**20} MiB" in page["The files of the journal"]
    assert f"beyond {SMALL // 2**20} MiB" in page["The files of the journal"]
    assert f"The last {KEPT:,} ended" in page["The journal in memory"]
    assert f"{LARGEST // 2**20} MiB" in sections("docs/functions.md")["Services"]
    assert f"{LONGEST_DELAY:,} seconds" in sections("docs/functions.md")["Context"]


def test_the_house_is_told_floor_by_floor() -> None:
    lines = re.findall(r"^\d+\. (.+)$", PAGES["docs/architecture.md"], re.MULTILINE)
    assert [re.findall(r"`(\w+)`", line) for line in lines] == FLOORS


# --- what is shown, works -----------------------------------------------------------------------------


def blocks(page: str, language: str) -> list[str]:
    return [text for tag, text in BLOCK.findall(PAGES[page]) if tag == language]


TUTORIALS = {"docs/first-function.md", "docs/first-plugin.md"}  # change their files on the way: tests/test_tutorials.py follows them
WITH_CODE = [page for page in PAGES if page not in TUTORIALS and (blocks(page, "python") or blocks(page, "toml"))]


def write_files(page: str, folder: Path) -> None:
    for name in ("functions", "plugins", "tests"):
        (folder / name).mkdir()
    for text in blocks(page, "python"):
        file = FILE.match(text)
        if file:
            assert not (folder / file[1]).exists(), f"{page} shows {file[1]} twice"
            (folder / file[1]).write_text(text)


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_files_of_a_page_make_a_project_without_faults(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check each configuration a page shows, and the empty one when it shows none, with all its files."""
    write_files(page, tmp_path)
    for text in blocks(page, "toml") or [""]:
        for name in re.findall(r"\$\{(\w+)\}", text):
            monkeypatch.setenv(name, "secret")
        (tmp_path / "runtime.toml").write_text(text)
        _, graph, faults = check(tmp_path / "runtime.toml")
        assert faults == []
        assert graph is not None


@pytest.mark.parametrize(
    "text", [pytest.param(text, id=page) for page in WITH_CODE for text in blocks(page, "python") if not FILE.match(text)]
)
def test_code_that_is_no_file_runs(text: str) -> None:
    exec(compile(text, "<docs>", "exec"), {"__name__": "docs"})


@pytest.mark.parametrize("page", [page for page in WITH_CODE if "# tests/" in PAGES[page]])
def test_the_tests_of_a_page_pass(page: str, tmp_path: Path) -> None:
    write_files(page, tmp_path)
    (tmp_path / "runtime.toml").write_text(blocks(page, "toml")[0])
    (tmp_path / "pytest.ini").write_text(blocks(page, "ini")[0])
    done = subprocess.run([sys.executable, "-m", "pytest"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", PAGES[page])):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.is_file(), target
        if anchor:
            titles = sections(file.resolve().relative_to(ROOT).as_posix())
            assert anchor in {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}, target


def test_paths_in_the_docs_exist() -> None:
    for page, text in PAGES.items():
        for path in re.findall(r"`((?:runtime|tests|benchmarks|docs)/[\w/.]+)`", text):
            assert (ROOT / path).exists(), f"{page}: {path}"


def test_the_commands_of_the_readme_are_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    commands = re.findall(r"^make (\w+)", "".join(blocks("README.md", "sh")), re.MULTILINE)
    assert commands == ["run", "test"]
    assert all(re.search(rf"^{command}:", makefile, re.MULTILINE) for command in commands)
