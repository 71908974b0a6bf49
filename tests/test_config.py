"""Settings: defaults, placeholders, and the whole text of every fault."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runtime import config
from runtime.errors import ConfigError
from runtime.settings import (
    AdminSettings,
    DispatchSettings,
    FunctionSettings,
    JournalSettings,
    LogSettings,
    ResourceSettings,
    RuntimeSettings,
    Settings,
    SinkSettings,
    SourceSettings,
)

TABLES = "[runtime], [log], [journal], [dispatch], [sources], [sinks], [functions], [resources], [admin]"
URL = 'expected an address like "http://127.0.0.1:9000/price", found something else; correct it'
GRPC = 'expected HOST:PORT with a port of 1 … 65535, as in "127.0.0.1:50051" or "[::1]:50051", found something else; correct it'
LISTEN = 'expected HOST:PORT with a port of 0 … 65535, as in "127.0.0.1:8080" or "[::1]:8080"'

EXAMPLE = """
[runtime]
functions = "functions"
plugins   = "plugins"
grace     = 30
load_timeout = 10

[log]
level     = "info"
format    = "text"

[journal]
url       = "sqlite:.runtime/journal.db"
keep      = 86400
max_bytes = 10_000_000_000
dedupe    = 3600
max_backlog = 10_000_000

[dispatch]
order     = "fifo"
aging     = 30
in_flight = 1000
max_hops  = 64

[sources.web]
plugin    = "http"
listen    = "127.0.0.1:8080"
[sources.web.routes."/orders"]
type      = "order.placed"
reply     = "result"

[sources.nightly]
plugin    = "cron"
schedule  = "30 2 * * *"
timezone  = "Europe/Berlin"
type      = "nightly"
priority  = 0
key       = "customer.id"
rate      = 2

[sinks.audit]
plugin    = "jsonl"
path      = "out/audit.jsonl"
on        = "order.*"
retries = 5
backoff = 2
backoff_max = 20
timeout = 10
concurrency = 4
batch = 100
batch_wait = 0

[functions.charge]
concurrency = 4
settings  = { currency = "EUR" }

[resources.payments]
token     = "${ADMIN_TOKEN:-none}"
pool      = { size = 4 }

[admin]
listen    = "127.0.0.1:8090"
token     = "${ADMIN_TOKEN:-}"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The place of a configuration file that is not there yet."""
    return tmp_path / "runtime.toml"


def settings_of(project: Path, text: str) -> Settings:
    project.write_text(text, "utf-8")
    return config.load(project)


def faults_of(project: Path, text: str) -> list[str]:
    project.write_text(text, "utf-8")
    return [str(fault) for fault in config.read(project)[1]]


def test_a_missing_or_empty_file_means_all_defaults_and_the_http_source(project: Path) -> None:
    missing, empty = config.load(project), settings_of(project, "")
    assert missing == empty == Settings(path=project, sources={"web": SourceSettings(plugin="http")})
    assert missing.functions_dir == project.parent / "functions"
    assert missing.plugins_dir == project.parent / "plugins"


def test_every_key_of_the_contract_is_accepted_and_the_written_defaults_are_the_defaults(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ADMIN_TOKEN", raising=False)
    settings = settings_of(project, EXAMPLE)
    defaults = Settings(path=project)
    for name in ("runtime", "log", "journal", "dispatch", "admin"):
        assert getattr(settings, name) == getattr(defaults, name)
    assert settings.sources["web"].options == {
        "listen": "127.0.0.1:8080",
        "routes": {"/orders": {"type": "order.placed", "reply": "result"}},
    }
    assert settings.sources["nightly"].priority == 0
    assert settings.sources["nightly"].key == "customer.id"
    assert settings.sources["nightly"].rate == 2.0
    assert settings.sinks["audit"].on == ("order.*",)
    assert settings.sinks["audit"].options == {"path": "out/audit.jsonl"}
    assert settings.sinks["audit"].batch_wait == 0.0
    assert settings.functions == {"charge": FunctionSettings(overrides={"concurrency": 4}, settings={"currency": "EUR"})}
    assert settings.resources == {"payments": ResourceSettings(options={"token": "none", "pool": {"size": 4}})}


def test_a_sources_table_without_entries_means_no_source(project: Path) -> None:
    assert settings_of(project, "[sources]").sources == {}


def test_a_sink_takes_a_list_of_patterns_or_every_event(project: Path) -> None:
    text = '[sinks.all]\nplugin = "console"\n[sinks.two]\nplugin = "console"\non = ["order.*", "user.>"]'
    sinks = settings_of(project, text).sinks
    assert sinks["all"].on == (">",)
    assert sinks["two"].on == ("order.*", "user.>")


def test_folders_are_relative_to_the_file_unless_they_are_absolute(project: Path) -> None:
    settings = settings_of(project, f'[runtime]\nfunctions = "app/steps"\nplugins = "{project.parent.parent}"')
    assert settings.functions_dir == project.parent / "app" / "steps"
    assert settings.plugins_dir == project.parent.parent


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        # what is not known
        ("[sorces.web]", f'runtime.toml [sorces]: unknown table (did you mean "sources"?); allowed: {TABLES}'),
        ("grace = 3", f"runtime.toml grace: expected the key in a table, found it in none; allowed: {TABLES}"),
        (
            "[runtime]\ngrase = 3",
            'runtime.toml [runtime] grase: unknown key (did you mean "grace"?); allowed: functions, plugins, grace, load_timeout',
        ),
        # what is no table
        ("runtime = 3", "runtime.toml runtime: expected a table [runtime], found a whole number"),
        ("sources = true", "runtime.toml sources: expected tables [sources.NAME], found a boolean"),
        ('[sources]\nplugin = "http"', "runtime.toml [sources] plugin: expected a table [sources.plugin], found a string"),
        ('[[sinks."a b"]]', 'runtime.toml [sinks] "a b": expected a table [sinks."a b"], found a list'),
        # wrong types
        ('[runtime]\ngrace = "30"', 'runtime.toml [runtime] grace: expected a number of 0 or more, found "30"'),
        ("[runtime]\ngrace = true", "runtime.toml [runtime] grace: expected a number of 0 or more, found true"),
        ("[runtime]\ngrace = 12:30:00", "runtime.toml [runtime] grace: expected a number of 0 or more, found 12:30:00"),
        ("[runtime]\ngrace = {a = 1}", "runtime.toml [runtime] grace: expected a number of 0 or more, found a table"),
        ("[runtime]\nplugins = 2020-01-01", "runtime.toml [runtime] plugins: expected a string that is not empty, found a date or time"),
        ('[runtime]\nplugins = ""', "runtime.toml [runtime] plugins: expected a string that is not empty, found a string"),
        ("[dispatch]\nin_flight = [1]", "runtime.toml [dispatch] in_flight: expected a whole number of 1 or more, found [1]"),
        ("[admin]\ntoken = 123456", "runtime.toml [admin] token: expected a string, found a whole number"),
        # out of range
        ("[runtime]\ngrace = -1", "runtime.toml [runtime] grace: expected a number of 0 or more, found -1"),
        ("[runtime]\ngrace = nan", "runtime.toml [runtime] grace: expected a number of 0 or more, found nan"),
        ("[journal]\nkeep = inf", "runtime.toml [journal] keep: expected a number of 0 or more, found inf"),
        ("[runtime]\nload_timeout = 0", "runtime.toml [runtime] load_timeout: expected a number of more than 0, found 0"),
        ("[dispatch]\nin_flight = 0", "runtime.toml [dispatch] in_flight: expected a whole number of 1 or more, found 0"),
        (
            '[sources.a]\nplugin = "b"\npriority = 10',
            "runtime.toml [sources.a] priority: expected a whole number of 0 … 9, found 10",
        ),
        # choices
        (
            '[dispatch]\norder = "prority"',
            'runtime.toml [dispatch] order: expected "fifo" or "priority", found "prority" (did you mean "priority"?)',
        ),
        ('[log]\nformat = "JSON"', 'runtime.toml [log] format: expected "text" or "json", found "JSON" (did you mean "json"?)'),
        ("[log]\nformat = 1", 'runtime.toml [log] format: expected "text" or "json", found 1'),
        # the journal
        (
            '[journal]\nurl = "nats://user:hidden@host"',
            (
                'runtime.toml [journal] url: expected "sqlite:PATH" or "memory:", found a journal of "nats:", which is not supported yet; '
                "leave `url` out for sqlite:.runtime/journal.db"
            ),
        ),
        (
            '[journal]\nurl = "sqlite://user:hidden@host"',
            (
                'runtime.toml [journal] url: expected "sqlite:PATH" or "memory:", found "sqlite:…";'
                " leave `url` out for sqlite:.runtime/journal.db"
            ),
        ),
        (
            '[journal]\nurl = "memory"',
            (
                'runtime.toml [journal] url: expected "sqlite:PATH" or "memory:", found "memory";'
                " leave `url` out for sqlite:.runtime/journal.db"
            ),
        ),
        # sources and sinks
        (
            '[sources.a]\nplugn = "http"',
            'runtime.toml [sources.a] plugin: expected the name of a plugin, as in plugin = "http", found `plugn`',
        ),
        ("[sinks.a]", 'runtime.toml [sinks.a] plugin: expected the name of a plugin, as in plugin = "http", found nothing'),
        (
            '[sources.a]\nplugin = "b"\nkey = "a["',
            'runtime.toml [sources.a] key: expected a JMESPath expression into the data, as in "customer.id", found "a["',
        ),
        (
            '[sinks.a]\nplugin = "b"\non = ["ok", "a..b"]',
            (
                'runtime.toml [sinks.a] on: expected patterns of event types, as in "order.*", found ["ok", "a..b"]: '
                "no token of a pattern is empty"
            ),
        ),
        (
            '[sinks.a]\nplugin = "b"\non = []',
            (
                "runtime.toml [sinks.a] on: expected a pattern of event types or a list of them, found none; "
                "leave `on` out to take every event"
            ),
        ),
        ('[sinks.a]\nplugin = "b"\non = [1]', "runtime.toml [sinks.a] on: expected a string or a list of strings, found a list"),
        # functions
        (
            "[functions.a]\nretrys = 1",
            (
                'runtime.toml [functions.a] retrys: unknown option `retrys` (did you mean "retries"?); allowed: '
                "after, backoff, backoff_max, batch, batch_wait, concurrency, emits, isolate, max_emits, memory, name, on, rate, retries,"
                " timeout"
            ),
        ),
        ("[functions.a]\nretries = -1", "runtime.toml [functions.a] retries: `retries` is 0 or more, found -1"),
        (
            '[functions.a]\ncommand = ["node"]\nbatch = 2',
            "runtime.toml [functions.a] batch: expected no `batch` beside `command`, which is given one event at a time; remove the key",
        ),
        (
            '[functions.a]\ncommand = ["node"]\nisolate = true',
            "runtime.toml [functions.a] isolate: expected no `isolate` beside `command`, which has no worker process; remove the key",
        ),
        ("[functions.a]\ntimeout = nan", "runtime.toml [functions.a] timeout: expected a number, found nan"),
        (
            "[functions.a]\nisolate = 1",
            "runtime.toml [functions.a] isolate: `isolate`: expected `bool`, got `int`, found 1",
        ),
        (
            '[functions.a]\nname = "b"',
            "runtime.toml [functions.a] name: expected no `name`: only the file gives it, as in @function(name=…); remove the key",
        ),
        ('[functions.a]\nsettings = "b"', "runtime.toml [functions.a] settings: expected a table, found a string"),
        ('[functions.a]\ncommand = "node a.js"', "runtime.toml [functions.a] command: expected a list of strings, found a string"),
        ("[functions.a]\ncommand = []", "runtime.toml [functions.a] command: expected a list of strings, found an empty list"),
        (
            '[functions.a]\ncommand = ["node"]\nmode = "onec"',
            'runtime.toml [functions.a] mode: expected "persistent" or "once", found "onec" (did you mean "once"?)',
        ),
        (
            '[functions.a]\ncommand = ["node", "\\u0000"]',
            ("runtime.toml [functions.a] command: expected texts that a process can be given, found a NUL character in one; remove it"),
        ),
        (
            '[functions.a]\ncommand = ["node"]\nenv = { "A=B" = "secret" }',
            'runtime.toml [functions.a] env: expected names of variables, found "A=B"; an "=" separates it from its value',
        ),
        ('[functions.a]\nurl = "ftp://secret"', f"runtime.toml [functions.a] url: {URL}"),
        ('[functions.a]\nurl = "http://:80"', f"runtime.toml [functions.a] url: {URL}"),
        ('[functions.a]\nurl = "http://a:99999"', f"runtime.toml [functions.a] url: {URL}"),
        ('[functions.a]\nurl = "http://a/b c"', f"runtime.toml [functions.a] url: {URL}"),
        ('[functions.a]\nurl = ""', "runtime.toml [functions.a] url: expected a string that is not empty, found a string"),
        (
            '[functions.a]\nurl = "http://ada:secret@a"',
            (
                "runtime.toml [functions.a] url: expected no user and no password in it, found some; "
                'write them as headers = { authorization = "…" }'
            ),
        ),
        (
            '[functions.a]\nurl = "http://a"\nheaders = { ce-id = "secret" }',
            'runtime.toml [functions.a] headers: "ce-id" is no name of a header, or of one that the runtime sets itself; remove it',
        ),
        (
            '[functions.a]\nurl = "http://a"\nheaders = { authorization = "secret\\n" }',
            (
                'runtime.toml [functions.a] headers: "authorization": '
                "expected printable ASCII, found something else, perhaps a line break; correct it"
            ),
        ),
        (
            '[functions.a]\nurl = "http://a"\nheaders = { a = "secret", b = 5 }',
            "runtime.toml [functions.a] headers: expected a table of strings, found a value in it that is none; quote it",
        ),
        (
            '[functions.a]\nurl = "http://a"\ngrpc = "a:1"',
            "runtime.toml [functions.a] grpc: expected one of command, url, grpc, found `url` beside it; remove one of them",
        ),
        (
            '[functions.a]\nurl = "http://a"\nbatch = 5',
            "runtime.toml [functions.a] batch: expected no `batch` beside `url`, which is given one event at a time; remove the key",
        ),
        ('[functions.a]\ngrpc = "http://a:1"', f"runtime.toml [functions.a] grpc: {GRPC}"),
        ('[functions.a]\ngrpc = "a:0"', f"runtime.toml [functions.a] grpc: {GRPC}"),
        (
            '[functions.a]\ngrpc = "a:1"\nmetadata = { Token = "secret" }',
            (
                'runtime.toml [functions.a] metadata: "Token" is no lower-case name of metadata in text, '
                "or of one that the runtime sets itself; remove it"
            ),
        ),
        (
            '[functions.a]\nhandler = "a"',
            'runtime.toml [functions.a] handler: expected FILE.FUNCTION, as in "orders.lambda_handler" for functions/orders.py, found "a"',
        ),
        (
            '[functions.a]\nhandler = "a.b"\nurl = "http://a"',
            "runtime.toml [functions.a] handler: expected no handler beside `url`; remove one of them",
        ),
        # the admin API
        ('[admin]\nlisten = "8090"', f'runtime.toml [admin] listen: {LISTEN}, found "8090"'),
        (
            '[admin]\nlisten = "0.0.0.0:8090"',
            (
                "runtime.toml [admin] token: expected a token, because `listen` is not on loopback, found none; "
                'set token = "${ADMIN_TOKEN}", or listen on 127.0.0.1'
            ),
        ),
    ],
)
def test_a_fault_says_where_what_was_expected_and_what_was_found(project: Path, text: str, fault: str) -> None:
    assert faults_of(project, text) == [fault]


def test_all_faults_are_reported_together_and_the_rest_can_be_used(project: Path) -> None:
    text = """
    colour = "blue"
    [runtime]
    grace = -1
    load_timeout = 5
    [sources.good]
    plugin = "cron"
    priority = 12
    every = 5
    [sources.bad]
    [sinks.secret]
    plugin = "jsonl"
    path = "${NOWHERE_AT_ALL}"
    [functions.a]
    retries = -1
    timeout = 5
    settings = { good = 1, bad = "${NOWHERE_AT_ALL}" }
    [functions.b]
    command = "ls"
    """
    project.write_text(text, "utf-8")
    settings, faults = config.read(project)
    assert [fault.where for fault in faults] == [
        "runtime.toml colour",
        "runtime.toml [runtime] grace",
        "runtime.toml [sources.good] priority",
        "runtime.toml [sources.bad] plugin",
        "runtime.toml [sinks.secret] path",
        "runtime.toml [functions.a.settings] bad",
        "runtime.toml [functions.a] retries",
        "runtime.toml [functions.b] command",
    ]
    assert settings.runtime.grace == 30.0
    assert settings.runtime.load_timeout == 5.0
    assert settings.sources == {"good": SourceSettings(plugin="cron", options={"every": 5})}
    assert settings.sinks == {}
    assert settings.functions == {"a": FunctionSettings(overrides={"timeout": 5}, settings={"good": 1})}
    with pytest.raises(ConfigError) as raised:
        config.load(project)
    assert raised.value.faults == faults


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"[log]\nlevel == 1", "runtime.toml:2: expected TOML, found at column 8: Invalid value"),
        (b"[log]\nlevel = 'a'\nlevel = 'b'", "runtime.toml:3: expected TOML, found at column 12: Cannot overwrite a value"),
        (b"a = '\xff'", "runtime.toml: expected text in UTF-8, found another byte at offset 5; save the file as UTF-8"),
        (
            b"a = " + b"[" * 1000 + b"]" * 1000,
            "runtime.toml: expected TOML within reason, found: TOML inline arrays/tables are nested more than the allowed 400 levels",
        ),
    ],
)
def test_a_file_that_is_no_toml_is_one_fault_with_its_line(project: Path, content: bytes, fault: str) -> None:
    project.write_bytes(content)
    settings, faults = config.read(project)
    assert [str(fault) for fault in faults] == [fault]
    assert settings.sources == {"web": SourceSettings(plugin="http")}


def test_a_byte_order_mark_is_no_fault(project: Path) -> None:
    project.write_bytes(b"\xef\xbb\xbf[runtime]\ngrace = 1")
    assert config.load(project).runtime.grace == 1.0


@pytest.mark.parametrize("name", ["runtim.toml", "nowhere/runtime.toml"])
def test_only_a_runtime_toml_in_a_folder_that_exists_may_be_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config.load(tmp_path / name)
    assert str(raised.value) == f"{tmp_path / name}: expected a configuration file, found nothing; correct the path, or make the file"


def test_a_link_to_nowhere_is_not_an_empty_file(project: Path) -> None:
    project.symlink_to("gone.toml")
    assert [fault.where for fault in config.read(project)[1]] == [str(project)]


def test_a_folder_is_no_configuration_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        config.load(str(tmp_path))
    assert str(raised.value) == f"{tmp_path}: expected a configuration file that can be read, found: Is a directory"


def test_placeholders_are_filled_into_every_string_value(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPIC", "orders")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("NESTED", "${TOPIC}")
    monkeypatch.delenv("UNSET", raising=False)
    (project.parent / "secrets").mkdir()
    (project.parent / "secrets" / "password").write_text("s3cret\n", "utf-8")
    text = """
    [sources.a]
    plugin = "${PLUGIN:-mqtt}"
    topics = ["${TOPIC}", "x-${TOPIC}-${UNSET:-y}"]
    login = { password = "${file:secrets/password}", "${TOPIC}" = "key" }
    escaped = "$${TOPIC} $$ $x $$${TOPIC}"
    empty = "${EMPTY}"
    default = "${EMPTY:-some default: $x}"
    once = "${NESTED}"
    number = 5
    """
    source = settings_of(project, text).sources["a"]
    assert source.plugin == "mqtt"
    assert source.options == {
        "topics": ["orders", "x-orders-y"],
        "login": {"password": "s3cret", "${TOPIC}": "key"},
        "escaped": "${TOPIC} $$ $x $${TOPIC}",
        "empty": "",
        "default": "some default: $x",
        "once": "${TOPIC}",
        "number": 5,
    }


def test_a_placeholder_may_stand_for_a_number(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRACE", "1.5")
    text = """
    [runtime]
    grace = "${GRACE}"
    [dispatch]
    in_flight = "${UNSET_IN_FLIGHT:-50}"
    [sources.a]
    plugin = "b"
    priority = "${UNSET_PRIORITY:-9}"
    every = "${GRACE}"
    [functions.f]
    concurrency = "${UNSET_CONCURRENCY:-2}"
    rate = "${GRACE}"
    on = "${UNSET_ON:-a.b}"
    """
    settings = settings_of(project, text)
    assert settings.runtime.grace == 1.5
    assert settings.dispatch.in_flight == 50
    assert settings.sources["a"].priority == 9
    assert settings.sources["a"].options == {"every": "1.5"}
    assert settings.functions["f"].overrides == {"concurrency": 2, "rate": 1.5, "on": "a.b"}


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (
            '"${NOWHERE_AT_ALL}"',
            (
                "runtime.toml [sinks.a] x: environment variable NOWHERE_AT_ALL is not set; set it, or give a default as in "
                "${NOWHERE_AT_ALL:-…}"
            ),
        ),
        (
            '{ b = ["", "${NOWHERE_AT_ALL}"] }',
            (
                "runtime.toml [sinks.a.x] b[1]: environment variable NOWHERE_AT_ALL is not set; set it, or give a default as in "
                "${NOWHERE_AT_ALL:-…}"
            ),
        ),
        (
            '"${file:gone}"',
            (
                "runtime.toml [sinks.a] x: expected the file FOLDER/gone, found: No such file or directory; make it, or correct the path, "
                "which is relative to the configuration file"
            ),
        ),
        (
            '"${file:binary}"',
            (
                "runtime.toml [sinks.a] x: expected the file FOLDER/binary, found: no text in UTF-8; make it, or correct the path, "
                "which is relative to the configuration file"
            ),
        ),
        *(
            (
                f'"{text}"',
                (
                    f'runtime.toml [sinks.a] x: expected ${{VAR}}, ${{VAR:-default}} or ${{file:PATH}}, found "{found}"; '
                    "write $${ for a ${ that is meant as it is"
                ),
            )
            for text, found in [
                ("a${}", "${}"),
                ("${1A}", "${1A}"),
                ("${A-b}", "${A-b}"),
                ("${file:}", "${file:}"),
                ("a ${OPEN", "${OPEN"),
                ("${A:-${B}}", "${A:-${B}"),
            ]
        ),
    ],
)
def test_a_placeholder_that_cannot_be_filled_in_is_a_fault(project: Path, value: str, fault: str) -> None:
    (project.parent / "binary").write_bytes(b"\xff")
    text = f'[sinks.a]\nplugin = "b"\nx = {value}'
    assert faults_of(project, text) == [fault.replace("FOLDER", str(project.parent))]
    assert config.read(project)[0].sinks == {}


@pytest.mark.parametrize(
    ("table", "key", "found"),
    [
        ("runtime", "grace", 'expected a number of 0 or more, found the value of "${SECRET}"'),
        ("log", "level", 'expected "debug" or "info" or "warning" or "error" or "critical", found the value of "${SECRET}"'),
        (
            "journal",
            "url",
            'expected "sqlite:PATH" or "memory:", found the value of "${SECRET}"; leave `url` out for sqlite:.runtime/journal.db',
        ),
        ("sources.a", "key", 'expected a JMESPath expression into the data, as in "customer.id", found the value of "${SECRET}"'),
        (
            "sinks.a",
            "on",
            'expected patterns of event types, as in "order.*", found the value of "${SECRET}": a pattern has no white space',
        ),
        ("functions.a", "retries", 'expected a whole number, found the value of "${SECRET}"'),
        ("functions.a", "on", '`on` does not take the value of "${SECRET}"'),
        ("admin", "listen", f'{LISTEN}, found the value of "${{SECRET}}"'),
    ],
)
def test_what_a_placeholder_stands_for_is_in_no_message(
    project: Path, monkeypatch: pytest.MonkeyPatch, table: str, key: str, found: str
) -> None:
    monkeypatch.setenv("SECRET", "hunter://hunter2 hunter2")
    plugin = 'plugin = "b"' if table.startswith("s") else ""
    assert faults_of(project, f'[{table}]\n{plugin}\n{key} = "${{SECRET}}"') == [f"runtime.toml [{table}] {key}: {found}"]


def test_no_fault_holds_a_secret_whatever_key_it_stands_at(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2 [")
    fields: dict[str, Any] = {
        "runtime": RuntimeSettings,
        "log": LogSettings,
        "journal": JournalSettings,
        "dispatch": DispatchSettings,
        "sources.a": SourceSettings,
        "sinks.a": SinkSettings,
        "admin": AdminSettings,
    }
    names = {table: model.__struct_fields__ for table, model in fields.items()}
    names["functions.a"] = ("on", "after", "emits", "retries", "timeout", "concurrency", "rate", "settings", "nonsense", "batch")
    for form in ('"${SECRET}"', '["a", "${SECRET}"]', '{ a = "${SECRET}" }'):
        text = "\n".join(f"[{table}]\n" + "\n".join(f"{key} = {form}" for key in keys) for table, keys in names.items())
        faults = faults_of(project, text)
        assert len(faults) > 20
        assert "hunter2" not in "\n".join(faults)


@pytest.mark.parametrize("token", ['"${UNSET_TOKEN:-}"', '" "', '""'])
def test_an_empty_token_is_none(project: Path, token: str) -> None:
    assert settings_of(project, f"[admin]\ntoken = {token}").admin.token is None
    faults = faults_of(project, f'[admin]\nlisten = ":8090"\ntoken = {token}')
    assert [fault.partition(":")[0] for fault in faults] == ["runtime.toml [admin] token"]


def test_a_token_that_cannot_be_filled_in_is_one_fault_off_loopback(project: Path) -> None:
    faults = faults_of(project, '[admin]\nlisten = "0.0.0.0:8090"\ntoken = "${UNSET_TOKEN}"')
    assert len(faults) == 1
    assert "UNSET_TOKEN is not set" in faults[0]


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.9.9.9:8090", "[::1]:8090", "localhost:8090"])
def test_on_loopback_no_token_is_needed(project: Path, listen: str) -> None:
    assert settings_of(project, f'[admin]\nlisten = "{listen}"').admin.listen == listen


@pytest.mark.parametrize("listen", ["0.0.0.0:8090", "[::]:8090", ":8090", "192.168.1.2:8090", "example.org:80", "localhost.org:80"])
def test_off_loopback_a_token_is_needed(project: Path, listen: str) -> None:
    assert len(faults_of(project, f'[admin]\nlisten = "{listen}"')) == 1
    assert settings_of(project, f'[admin]\nlisten = "{listen}"\ntoken = "t"').admin.token == "t"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("localhost:0", "localhost", 0),
        ("[::1]:80", "::1", 80),
        ("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535),
        (":8080", "0.0.0.0", 8080),
    ],
)
def test_a_place_to_listen_is_read(text: str, host: str, port: int) -> None:
    assert config.parse_listen(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    ["", "8080", "localhost", "localhost:", "localhost:http", "::1:80", "[::1]", "[host]:80", "http://a:80", "a:65536", "a b:80", "a:80\n"],
)
def test_what_is_no_place_to_listen_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as raised:
        config.parse_listen(text)
    assert str(raised.value) == f'{LISTEN}, found "{text}"'


def test_a_long_value_is_cut_in_the_message(project: Path) -> None:
    (fault,) = faults_of(project, f"[dispatch]\naging = {'9' * 400}")
    assert fault == f"runtime.toml [dispatch] aging: expected a number of 0 or more, found {'9' * 79}…"


def test_settings_are_frozen(project: Path) -> None:
    with pytest.raises(AttributeError):
        config.load(project).runtime.grace = 1.0  # type: ignore[misc]
    assert all(issubclass(model, msgspec.Struct) for model in (Settings, SourceSettings, FunctionSettings))


def test_reading_settings_imports_no_web_server_and_no_watcher(project: Path) -> None:
    project.write_text(EXAMPLE, "utf-8")
    heavy = "{'uvicorn', 'starlette', 'watchdog'}"
    code = f"import sys; from runtime import config; config.load(sys.argv[1]); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, str(project)], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "[]\n"
