"""The schema is held against the runtime: it takes what the runtime takes, and refuses typical mistakes like it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli
from jsonschema import Draft202012Validator
from test_config import EXAMPLE
from test_docs import FILE, PAGES, TUTORIALS, blocks

from runtime import config
from runtime.catalogue import list_kinds
from runtime.check import check
from runtime.describe import example
from runtime.schema import make_schema
from runtime.testing import VirtualClock

ROOT = Path(__file__).resolve().parent.parent

PAYMENT = """
from runtime import function, resource

@resource
def ledger(settings): ...

@function(on="order.placed")
def charge(data): ...

def resize(event, context): ...
"""
PROBE = """
import datetime, decimal, enum, uuid
from dataclasses import dataclass
from typing import Annotated, Any, Literal
import msgspec
from msgspec import Meta
from runtime import Source, hookimpl

class Colour(enum.Enum):
    RED = "red"

class Inner(msgspec.Struct, forbid_unknown_fields=True):
    size: int
    rules: "list[Inner]" = []

@dataclass
class Open:
    size: int = 0

class Probe(Source):
    class Options(msgspec.Struct):
        count: Annotated[int, Meta(ge=2)] = 2
        ratio: float | None = None
        loud: bool = False
        name: Annotated[str, Meta(pattern="^a")] = "a"
        level: Literal[1, 2] = 1
        numbers: list[int] = []
        pair: tuple[int, str] = (1, "a")
        at: datetime.datetime | None = None
        price: decimal.Decimal = decimal.Decimal("1.5")
        colour: Colour = Colour.RED
        inner: Inner | None = None
        inners: dict[str, Inner] = {}
        opened: Open = msgspec.field(default_factory=Open)
        any: Any = None
        of: str = msgspec.field(default="", name="from")

    async def run(self, inlet): ...

@hookimpl
def register_sources():
    return {"probe": Probe, "my probe": Probe, "my_probe": Probe}
"""


def schema_of(path: Path) -> dict[str, Any]:
    """Return the schema as an editor reads it."""
    schema: dict[str, Any] = json.loads(json.dumps(make_schema(list_kinds(config.read(path)[0], VirtualClock()))))
    Draft202012Validator.check_schema(schema)
    return schema


def refused(schema: dict[str, Any], text: str) -> list[str]:
    """Return what a schema has against a configuration."""
    given = json.loads(json.dumps(tomli.loads(text), default=str))  # a date is text to an editor
    return [error.message for error in Draft202012Validator(schema).iter_errors(given)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name, text in {"functions/payment.py": PAYMENT, "plugins/probe.py": PROBE, "plugins/broken.py": "1 / 0\n"}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def schema(project: Path) -> dict[str, Any]:
    return schema_of(project / "runtime.toml")


def faults(project: Path, text: str) -> list[str]:
    """Return what the runtime has against a configuration, but for the plugin that is broken in any case."""
    path = project / "runtime.toml"
    path.write_text(text)
    return [str(fault) for fault in check(path)[2] if not fault.where.startswith("plugins/broken.py")]


# --- what the runtime takes ---------------------------------------------------------------------------


def test_the_schema_takes_the_configuration_of_the_sample_system_and_the_whole_contract(schema: dict[str, Any]) -> None:
    assert refused(schema_of(ROOT / "runtime.toml"), (ROOT / "runtime.toml").read_text()) == []
    assert refused(schema, EXAMPLE.replace('"cron"', '"probe"').replace("schedule ", "from ").partition("timezone")[0]) == []


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "toml") and page not in TUTORIALS])
def test_the_schema_takes_every_configuration_of_the_docs(page: str, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    for text in blocks(page, "python"):
        file = FILE.match(text)
        if file and file[1].startswith("plugins/"):
            (tmp_path / file[1]).write_text(text)
    schema = schema_of(tmp_path / "runtime.toml")
    for text in blocks(page, "toml"):
        assert refused(schema, text) == []


SOURCE = '[sources.a]\nplugin = "probe"\n'
HTTP = '[sources.a]\nplugin = "http"\nlisten = "127.0.0.1:0"\n'
SINK = '[sinks.a]\nplugin = "jsonl"\npath = "a"\n'
FUNCTION = "[functions.charge]\n"
REMOTE = "[functions.price]\n"
TAKEN = [
    "",
    "[sources]",
    "[sinks]\n[functions]",
    "[runtime]\ngrace = 1\nload_timeout = 0.5",
    '[runtime]\ngrace = "${UNSET:-1}"\nfunctions = "${UNSET:-functions}"',
    '[log]\nlevel = "${UNSET:-debug}"\nformat = "json"',
    '[journal]\nurl = "memory:"\nkeep = 0\nmax_bytes = 1',
    '[journal]\nurl = "${UNSET:-memory:}"\nmax_backlog = "1${UNSET:-0}"',
    '[dispatch]\norder = "priority"\naging = 0\nin_flight = "${UNSET:-5}"',
    '[admin]\nlisten = ":8090"\ntoken = "x"',
    '[admin]\ntoken = "${UNSET:-}"',
    '[sources.a]\nplugin = "${UNSET:-probe}"\ncount = 3',
    SOURCE + 'priority = 9\nkey = "a.b"\nrate = 0.5',
    SOURCE + 'priority = "${UNSET:-9}"\nrate = "${UNSET:-2}"',
    SOURCE + 'count = 2\nratio = 1\nloud = true\nname = "abc"\nlevel = 2\nnumbers = [1, 2]\npair = [1, "b"]',
    SOURCE + 'count = "7"\nratio = "-2.5e3"\nloud = "TRUE"\nlevel = "2"\nnumbers = ["1", 2]\npair = ["1", "b"]\ninner = "Null"',
    SOURCE + 'count = "${UNSET:-7}"\nloud = "${UNSET:-false}"\nname = "${UNSET:-abc}"\nnumbers = ["${UNSET:-1}"]',
    SOURCE + 'loud = 1\nat = 2026-01-01T00:00:00Z\nprice = 1.5\ncolour = "red"\nany = [1, { a = "b" }]\nfrom = "x"',
    SOURCE + 'at = "2026-01-01T00:00:00Z"\nprice = "${UNSET:-2}"\ncolour = "${UNSET:-red}"\nany = "${UNSET:-}"',
    SOURCE + 'inner = { size = 1, rules = [{ size = "2" }] }\ninners.x.size = "${UNSET:-3}"\nopened = { size = 1, other = 2 }',
    '[sources.a]\nplugin = "my probe"\n[sources.b]\nplugin = "my_probe"',
    HTTP,
    HTTP + 'events = false\nmax_body = 10\n[sources.a.routes."/a"]\ntype = "a"\nreply = "result"\nmethods = ["GET", "POST"]',
    HTTP + '[sources.a.routes."/a/{id}"]\ntype = "a"\ncors = true\nauth = { bearer = "${UNSET:-x}" }\npriority = 0\nkey = "a"',
    HTTP + '[sources.a.routes."/a"]\ntype = "a"\ncors = ["https://example.org"]\ntimeout = "${UNSET:-5}"\nretries = "3"',
    '[sources.a]\nplugin = "jsonl"\npath = "-"\nfollow = false\ntype = "a"\nevery = 1',
    '[sinks.a]\nplugin = "console"',
    '[sinks.a]\nplugin = "console"\non = "order.*"',
    '[sinks.a]\nplugin = "console"\non = ["order.*", "user.>"]\nretries = 0\nbackoff = 0\nbackoff_max = 1\ntimeout = 1',
    '[sinks.a]\nplugin = "console"\non = "${UNSET:-a}"\nconcurrency = "${UNSET:-1}"\nbatch = 5\nbatch_wait = 0',
    SINK,
    '[sinks."a b"]\nplugin = "jsonl"\npath = "${UNSET:-a}"',
    FUNCTION + 'settings = { currency = "EUR", when = 2026-01-01, deep = [{ a = 1 }] }',
    FUNCTION + 'on = "a"\nretries = 0\nbackoff = 0\nbackoff_max = 0\ntimeout = 0.1\nconcurrency = 1\nrate = 0.1\nmax_emits = 1',
    FUNCTION + 'on = ["a", "b.*"]\nemits = "c"\nretries = "${UNSET:-1}"\nrate = "${UNSET:-1}"\nafter = []',
    '[functions.thumb]\ncommand = ["node", "thumb.js"]\non = "a"',
    '[functions.thumb]\ncommand = ["${UNSET:-node}"]\nmode = "once"\nenv = { A = "${UNSET:-b}" }\nsandbox = ["nice"]',
    '[functions.thumb]\ncommand = ["node"]\nmode = "persistent"\ncwd = "a"\nmax_calls = 5',
    '[functions.resize]\nhandler = "payment.resize"\non = "a"',
    FUNCTION + "isolate = false\nbatch = 1\nbatch_wait = 0.05",
    FUNCTION + 'isolate = true\nmemory = "512MB"\ncwd = "."\nenv = { A = "b" }\nsandbox = ["nice"]\nmax_calls = 5',
    FUNCTION + 'batch = "${UNSET:-10}"\nbatch_wait = 0',
    REMOTE + 'url = "http://127.0.0.1:1/a"\non = "a"\nheaders = { authorization = "${UNSET:-x}" }\ntimeout = 3',
    REMOTE + 'grpc = "${UNSET:-[::1]:1}"\non = "a"\nmetadata = { token = "x" }',
    '[resources]\n[resources.ledger]\nsize = "${UNSET:-3}"\nhosts = ["a", 2]\ndeep = { any = [{ key = true }] }',
]


@pytest.mark.parametrize("text", TAKEN)
def test_what_the_runtime_takes_the_schema_takes(project: Path, schema: dict[str, Any], text: str) -> None:
    assert faults(project, text) == []
    assert refused(schema, text) == []


def test_the_examples_of_all_kinds_are_taken(project: Path, schema: dict[str, Any]) -> None:
    kinds = [kind for kind in list_kinds(config.read(project / "runtime.toml")[0], VirtualClock()) if kind.role in ("source", "sink")]
    assert {"console", "http", "jsonl", "probe"} <= {kind.name for kind in kinds}
    for kind in kinds:
        assert kind.part is not None
        text = example(kind.role, kind.name, kind.part.Options)
        assert faults(project, text) == [], text
        assert refused(schema, text) == [], text


# --- what it refuses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "grace = 3",
        "[sorces.a]",
        "runtime = 3",
        "resources.ledger = 3",
        "[runtime]\ngrase = 3",
        '[runtime]\ngrace = "30"',
        "[runtime]\ngrace = -1",
        "[runtime]\nload_timeout = 0",
        '[runtime]\nfunctions = ""',
        '[log]\nlevel = "loud"',
        "[journal]\nmax_bytes = 1.5",
        "[dispatch]\nin_flight = true",
        "[admin]\ntoken = 5",
        "[sources]\na = 1",
        "[sources.a]",
        '[sources.a]\nplugin = "htp"',
        '[sources.a]\nplugin = "console"',
        "[sources.a]\nplugin = 1",
        SOURCE + "priority = 10",
        SOURCE + "rate = 0",
        SOURCE + "cuont = 3",
        SOURCE + "count = 1",
        SOURCE + 'count = "many"',
        SOURCE + 'loud = "yes"',
        SOURCE + "loud = 2",
        SOURCE + "level = 3",
        SOURCE + 'colour = "green"',
        SOURCE + "numbers = 1",
        SOURCE + "inner = { sise = 1 }",
        SOURCE + "inners.x = {}",
        SOURCE + 'inner = { size = 1, rules = [{ size = "a" }] }',
        HTTP + 'path = "a"',
        HTTP + '[sources.a.routes."/a"]\nreply = "result"',
        HTTP + '[sources.a.routes."/a"]\ntype = "a"\nretires = 1',
        HTTP + '[sources.a.routes."/a"]\ntype = "a"\nreply = "later"',
        '[sinks.a]\nplugin = "jsonl"',
        SINK + "on = 1",
        SINK + "batch = 0",
        SINK + "follow = true",
        FUNCTION + "retires = 3",
        FUNCTION + "retries = -1",
        FUNCTION + "timeout = 0",
        FUNCTION + "rate = 0",
        FUNCTION + "batch = 0",
        FUNCTION + "batch_wait = -1",
        FUNCTION + 'name = "other"',
        FUNCTION + "settings = 1",
        '[functions.resize]\nhandler = ""',
        "[functions.resize]\nhandler = 5",
        REMOTE + "url = 5",
        REMOTE + 'url = "http://a"\nheaders = { a = 1 }',
        REMOTE + 'grpc = ""',
        FUNCTION + "isolate = 1",
        FUNCTION + "isolate = true\nmax_calls = 0",
        FUNCTION + "memory = 512",
        '[functions.thumb]\ncommand = "node"',
        "[functions.thumb]\ncommand = []",
        '[functions.thumb]\ncommand = ["node"]\nmode = "often"',
        '[functions.thumb]\ncommand = ["node"]\nenv = { A = 1 }',
        '[functions.thumb]\ncommand = ["node"]\nmax_calls = 0',
    ],
)
def test_a_mistake_is_refused_by_both(project: Path, schema: dict[str, Any], text: str) -> None:
    assert faults(project, text) != []
    assert refused(schema, text) != []


def test_a_plugin_that_is_broken_may_be_named_with_any_options(schema: dict[str, Any]) -> None:
    assert refused(schema, '[sources.a]\nplugin = "broken"\nwhatever = 1\n[sinks.a]\nplugin = "broken"') == []


# --- what editors complete from -----------------------------------------------------------------------


def test_every_key_has_its_default_and_what_is_said_of_it(schema: dict[str, Any]) -> None:
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    log = schema["properties"]["log"]
    assert log["description"] == "`[log]`: what is logged on stderr, and how."
    assert log["properties"]["format"]["default"] == "text"
    assert log["properties"]["format"]["anyOf"][0] == {"enum": ["json", "text"]}
    console = schema["$defs"]["sink_console"]
    assert console["properties"]["plugin"] == {"const": "console"}
    assert console["properties"]["retries"]["default"] == 3
    assert console["description"].startswith("Writes events on standard output")
    assert {"$ref": "#/$defs/sink_console"} in schema["properties"]["sinks"]["additionalProperties"]["anyOf"]


def test_what_is_refused_is_told_of_the_key_that_is_wrong(schema: dict[str, Any]) -> None:
    assert refused(schema, SINK + "folow = true") == ["Additional properties are not allowed ('folow' was unexpected)"]
    assert refused(schema, '[sinks.a]\nplugin = "jsonl"') == ["'path' is a required property"]
