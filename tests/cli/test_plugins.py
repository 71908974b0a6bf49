"""`plugins` and `schema`, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomli
from jsonschema import Draft202012Validator
from running import run
from test_catalogue import install

TICKS = '''
import msgspec
from runtime import Sink, Source, hookimpl
from typing import Annotated

print("imported")

class Step(msgspec.Struct, forbid_unknown_fields=True):
    """One of them."""

    size: int = 1

class Ticks(Source):
    """Brings ticks. It is a clock.

    Indeed.
    """

    class Options(msgspec.Struct, forbid_unknown_fields=True):
        """How it ticks."""

        type: str
        every: Annotated[float, msgspec.Meta(gt=0, description="seconds between two ticks")] = 1.0
        steps: dict[str, Step] = {}

    async def run(self, inlet): ...

class Bell(Sink):
    """Rings."""

    async def write(self, events): ...

@hookimpl
def register_sources():
    return {"ticks": Ticks}

@hookimpl
def register_sinks():
    return {"ticks": Bell}
'''
SOURCE = """source ticks, from plugins/ticks.py

Brings ticks. It is a clock.

Indeed.

Options: How it ticks.
  type             required  a string
  every            1.0       a number of more than 0  seconds between two ticks
  steps            none      tables by name           One of them.
  steps.NAME.size  1         a whole number

Every source has:
  plugin    required  a string that is not empty
  priority  none      a whole number of 0 … 9
  key       none      a string
  rate      none      a number of more than 0

Example:

[sources.ticks]
plugin = "ticks"
type = "order.placed"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in {"plugins/ticks.py": TICKS, "plugins/broken.py": "import no_such_client\n", "functions/empty.py": ""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


# --- plugins ------------------------------------------------------------------------------------------


def test_plugins_lists_every_kind_and_a_broken_one_stops_nobody(project: Path) -> None:
    done = run(project, "plugins")
    assert (done.returncode, done.stderr) == (0, "imported\n")
    rows = {tuple(line.split()[:2]): " ".join(line.split()[2:]) for line in done.stdout.splitlines()}
    assert rows["ticks", "source"] == "plugins/ticks.py Brings ticks."
    assert rows["ticks", "sink"] == "plugins/ticks.py Rings."
    assert rows["broken", "broken"].startswith(
        "plugins/broken.py plugins/broken.py:1: ModuleNotFoundError: No module named 'no_such_client'; "
    )
    assert rows["http", "source"].startswith("runtime_plugins.http of function-runtime ")
    assert rows["http", "source"].endswith(" Takes events from HTTP callers, and answers with their id or with the result of their run.")


def test_plugins_as_json_says_the_same(project: Path) -> None:
    (project / "plugins" / "ours.py").write_text(TICKS.replace('{"ticks": Bell}', '{"console": Bell}').replace('{"ticks": Ticks}', "{}"))
    done = run(project, "plugins", "--json")
    assert (done.returncode, done.stderr) == (0, "imported\nimported\n")
    listed = {(one["name"], one["role"]): one for one in json.loads(done.stdout)["plugins"]}
    assert listed["ticks", "source"] == {
        "name": "ticks",
        "role": "source",
        "from": "plugins/ticks.py",
        "replaces": None,
        "doc": "Brings ticks.",
        "fault": None,
    }
    console = listed["console", "sink"]
    assert (console["from"], console["doc"]) == ("plugins/ours.py", "Rings.")
    assert console["replaces"].startswith("runtime_plugins.console of function-runtime ")
    assert listed["broken", None]["fault"].startswith("plugins/broken.py:1: ModuleNotFoundError")
    assert "plugins/ours.py, instead of runtime_plugins.console of" in run(project, "plugins").stdout


def test_plugins_lists_what_others_have_installed(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", {"tocks": "fake_tocks"}, fake_tocks=TICKS.replace('{"ticks"', '{"tocks"'))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    rows = [line.split()[:6] for line in run(project, "plugins").stdout.splitlines() if line.startswith("tocks")]
    assert rows == [["tocks", role, "fake_tocks", "of", "fake", "2.0"] for role in ("sink", "source")]


def test_plugins_with_a_name_tells_all_of_it_as_a_source_and_as_a_sink(project: Path) -> None:
    done = run(project, "plugins", "ticks")
    assert (done.returncode, done.stderr) == (0, "imported\n")
    sink, source = done.stdout.split("\n\nsource ")
    assert f"source {source}" == SOURCE
    assert sink.startswith("sink ticks, from plugins/ticks.py\n\nRings.\n\nIt has no options of its own.\n\nEvery sink has:\n")
    assert '  on           [">"]     a string or a list of strings\n' in sink
    assert sink.endswith('[sinks.ticks]\nplugin = "ticks"')


def test_the_examples_are_a_configuration_that_check_accepts(project: Path) -> None:
    (project / "plugins" / "broken.py").unlink()
    pages = run(project, "plugins", "ticks", "--json")
    kinds = json.loads(pages.stdout)["plugins"]
    text = "\n".join(kind["example"] for kind in kinds)
    assert set(tomli.loads(text)) == {"sources", "sinks"}
    (project / "runtime.toml").write_text(text)
    assert run(project, "check").returncode == 0


def test_plugins_with_a_name_as_json_has_options_settings_and_an_example(project: Path) -> None:
    sink, source = json.loads(run(project, "plugins", "ticks", "--json").stdout)["plugins"]
    assert source["doc"] == "Brings ticks. It is a clock.\n\nIndeed."
    assert source["options"][1] == {
        "name": "every",
        "type": "a number of more than 0",
        "required": False,
        "default": 1.0,
        "doc": "seconds between two ticks",
        "options": [],
    }
    assert [one["name"] for one in source["options"][2]["options"]] == ["size"]
    assert [one["name"] for one in source["settings"]] == ["plugin", "priority", "key", "rate"]
    assert source["example"] == '[sources.ticks]\nplugin = "ticks"\ntype = "order.placed"'
    assert (sink["options"], sink["example"]) == ([], '[sinks.ticks]\nplugin = "ticks"')


def test_a_name_that_nobody_offers_is_exit_2_with_the_nearest(project: Path) -> None:
    done = run(project, "plugins", "tick")
    assert (done.returncode, done.stdout) == (2, "")
    assert 'error: no plugin offers "tick" (did you mean "ticks"?); there are: amqp, aws_lambda, broken, console, ' in done.stderr


def test_a_plugin_that_is_broken_is_exit_2_with_its_fault(project: Path) -> None:
    done = run(project, "plugins", "broken")
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: plugins/broken.py:1: ModuleNotFoundError: No module named 'no_such_client'; install it" in done.stderr
    done = run(project, "plugins", "broken", "--json")
    assert done.returncode == 2
    assert [one["fault"][:19] for one in json.loads(done.stdout)["plugins"]] == ["plugins/broken.py:1"]


def test_with_faults_of_the_configuration_both_print_what_there_is_and_exit_2(project: Path) -> None:
    (project / "runtime.toml").write_text('[runtime]\ngrase = 1\nplugins = "none"\n')
    done = run(project, "plugins")
    assert done.returncode == 2
    assert "http" in done.stdout
    assert "ticks" not in done.stdout
    assert "error: runtime.toml [runtime] grase: unknown key" in done.stderr
    done = run(project, "schema")
    assert done.returncode == 2
    assert json.loads(done.stdout)["title"] == "runtime.toml"
    assert "error: runtime.toml [runtime] grase: unknown key" in done.stderr


def test_another_configuration_has_its_own_folder_of_plugins(project: Path) -> None:
    (project / "other.toml").write_text('[runtime]\nplugins = "none"\n')
    done = run(project, "plugins", "-c", "other.toml", "--json")
    assert done.returncode == 0
    assert "ticks" not in done.stdout
    assert run(project, "plugins", "-c", "missing.toml").returncode == 2


# --- schema -------------------------------------------------------------------------------------------


def test_schema_prints_json_that_judges_configurations(project: Path) -> None:
    done = run(project, "schema")
    assert (done.returncode, done.stderr) == (0, "imported\n")
    assert done.stdout.startswith('{\n  "$schema": "https://json-schema.org/draft/2020-12/schema",\n')
    validator = Draft202012Validator(json.loads(done.stdout))
    assert validator.is_valid({"sources": {"a": {"plugin": "ticks", "type": "t", "steps": {"x": {"size": 2}}}}})
    assert not validator.is_valid({"sources": {"a": {"plugin": "ticks", "type": "t", "evry": 2}}})
    assert not validator.is_valid({"sources": {"a": {"plugin": "ticks", "type": "t", "steps": {"x": {"sise": 2}}}}})
    assert run(project, "schema", "--json").stdout == done.stdout
