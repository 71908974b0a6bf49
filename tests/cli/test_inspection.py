"""`check`, `graph` and `invoke`, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from running import run

FUNCTIONS = """
import msgspec
from runtime import Reject, Skip, function

print("imported")

class Order(msgspec.Struct):
    id: str
    total: float

@function(on="order.placed")
def validate(order: Order) -> Order:
    print("validating")
    if order.total < 0:
        raise Reject("no negative totals")
    return order

@function(after="validate", emits="order.charged")
async def charge(validate: Order, context) -> dict:
    context.emit("mail", {"to": validate.id}, key="k")
    return {"amount": validate.total}

@function
def fail(data):
    raise ValueError("it is broken")
"""

CONFIG = """
[sources.web]
plugin = "http"
listen = "127.0.0.1:0"
[sources.web.routes."/orders"]
type = "order.placed"
[sinks.audit]
plugin = "jsonl"
path = "out/audit.jsonl"
on = "order.charged"
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write(folder, FUNCTIONS, CONFIG)
    return folder


def write(folder: Path, functions: str, config: str = "") -> None:
    (folder / "functions").mkdir()
    (folder / "functions" / "orders.py").write_text(functions)
    if config:
        (folder / "runtime.toml").write_text(config)


# --- check --------------------------------------------------------------------------------------------


def test_check_of_a_good_project_counts_what_there_is(shop: Path) -> None:
    done = run(shop, "check")
    assert (done.returncode, done.stdout) == (0, "ok: 3 functions in 1 file, 1 source, 1 sink\n")
    assert done.stderr == "imported\n"
    done = run(shop, "check", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"status": "ok", "faults": []})


def test_check_tells_every_fault_at_once_and_exits_2(tmp_path: Path) -> None:
    write(
        tmp_path, "from runtime import function\n\n@function(onn='x')\ndef f(data): ...\n", "[admin]\nlitsen = 1\n[dispatch]\norder = 5\n"
    )
    (tmp_path / "functions" / "broken.py").write_text("import nothing_like_this\n")
    done = run(tmp_path, "check")
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    places = [line.removeprefix("error: ").split(": ")[0] for line in lines]
    assert sorted(places) == [
        "functions/broken.py:1",
        "functions/orders.py:4",
        "runtime.toml [admin] litsen",
        "runtime.toml [dispatch] order",
    ]
    (tmp_path / "functions" / "broken.py").unlink()
    (tmp_path / "runtime.toml").unlink()
    done = run(tmp_path, "check", "--json")
    assert done.returncode == 2
    answer = json.loads(done.stdout)
    assert answer["status"] == "degraded"
    assert [fault["where"] for fault in answer["faults"]] == ["functions/orders.py:4"]
    assert answer["faults"][0]["message"].startswith('@function "f": unknown option `onn` (did you mean "on"?); allowed: ')


def test_a_configuration_that_is_no_toml_is_exit_2_for_every_command(tmp_path: Path) -> None:
    write(tmp_path, FUNCTIONS, "[admin]\nlisten = \n")
    for arguments in (("check",), ("graph",), ("invoke", "fail"), ("run",), ("events",)):
        done = run(tmp_path, *arguments)
        assert done.returncode == 2, arguments
        assert "error: runtime.toml:2: " in done.stderr
        assert "Traceback" not in done.stderr


def test_a_configuration_that_is_not_there_is_exit_2(tmp_path: Path) -> None:
    write(tmp_path, FUNCTIONS)
    done = run(tmp_path, "check", "-c", "other.toml")
    assert done.returncode == 2
    assert "error: other.toml: expected a configuration file, found nothing; " in done.stderr


def test_without_a_folder_of_functions_there_is_nothing_to_check(tmp_path: Path) -> None:
    done = run(tmp_path, "check")
    assert done.returncode == 2
    assert "no such folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_hangs_at_import_is_told_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, "import threading\n\nthreading.Event().wait(60)\n", "[runtime]\nload_timeout = 0.3\n")
    for arguments in (("check",), ("graph",), ("invoke", "x")):
        done = run(tmp_path, *arguments, timeout=20)
        assert done.returncode == 2, arguments
        assert "error: functions/orders.py:3: importing took longer than load_timeout = 0.3 s" in done.stderr


# --- graph --------------------------------------------------------------------------------------------


def test_graph_is_text_mermaid_dot_or_json(shop: Path) -> None:
    text = run(shop, "graph")
    assert text.returncode == 0
    assert text.stdout.splitlines() == [
        "validate  on order.placed                      functions/orders.py:12",
        "fail      only invoked by name                 functions/orders.py:24",
        "charge    after validate; emits order.charged  functions/orders.py:19",
        "audit     on order.charged                     sink jsonl",
    ]
    assert run(shop, "graph", "--format", "mermaid").stdout.startswith("flowchart LR\n")
    assert run(shop, "graph", "--format", "dot").stdout.startswith("digraph runtime {\n")
    graph = json.loads(run(shop, "graph", "--format", "json").stdout)
    assert graph["order"] == ["validate", "fail", "charge"]
    assert ["validate", "charge"] in graph["edges"]
    assert {"name": "web", "kind": "source"} in graph["nodes"]


def test_faults_are_exit_2_and_the_graph_is_shown_as_far_as_there_is_one(tmp_path: Path) -> None:
    write(tmp_path, FUNCTIONS, "[admin]\nlitsen = 1\n")
    done = run(tmp_path, "graph", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["order"] == ["validate", "fail", "charge"]
    assert "error: runtime.toml [admin] litsen: " in done.stderr
    (tmp_path / "functions" / "orders.py").write_text("from runtime import function\n@function(after='gone')\ndef f(gone): ...\n")
    done = run(tmp_path, "graph")
    assert (done.returncode, done.stdout) == (2, "")
    assert 'error: functions/orders.py:3: "f" comes after "gone", which does not exist' in done.stderr


# --- invoke -------------------------------------------------------------------------------------------


def invoke(folder: Path, *arguments: str, **more: Any) -> tuple[int, Any, list[str]]:
    """Return exit code, the value on stdout, and the lines on stderr but those that the functions print."""
    done = run(folder, "invoke", *arguments, **more)
    lines = [line for line in done.stderr.splitlines() if line not in ("imported", "validating")]
    return done.returncode, json.loads(done.stdout) if done.stdout else None, lines


@pytest.mark.parametrize("way", ["json", "file", "stdin"])
def test_invoke_calls_one_function_and_prints_its_result_alone(shop: Path, way: str) -> None:
    text = '{"id": "7", "total": 2}'
    (shop / "order.json").write_text(text)
    given = {"json": text, "file": "@order.json", "stdin": "-"}[way]
    done = run(shop, "invoke", "validate", "--data", given, input=text)
    assert (done.returncode, done.stdout) == (0, '{"id":"7","total":2.0}\n')
    assert done.stderr == "imported\nvalidating\n"


def test_invoke_with_a_type_runs_the_whole_plan_and_shows_what_it_would_have_emitted(shop: Path) -> None:
    code, result, lines = invoke(shop, "--type", "order.placed", "-d", '{"id": "7", "total": 2}')
    assert (code, result) == (0, {"amount": 2.0})
    mail, charged = map(json.loads, lines)
    assert (mail["type"], mail["source"], mail["data"], mail["partitionkey"]) == ("mail", "function/charge", {"to": "7"}, "k")
    assert (charged["type"], charged["data"], charged["specversion"]) == ("order.charged", {"amount": 2.0}, "1.0")
    assert not (shop / "out").exists()


def test_invoke_gives_a_function_that_comes_after_one_other_its_result(shop: Path) -> None:
    code, result, _ = invoke(shop, "charge", "--data", '{"id": "7", "total": 3}')
    assert (code, result) == (0, {"amount": 3.0})


def test_an_invocation_that_fails_is_exit_1_with_the_reason(shop: Path) -> None:
    assert invoke(shop, "fail") == (1, None, ['error: "fail" failed: ValueError: it is broken'])
    code, _, lines = invoke(shop, "--type", "order.placed", "-d", '{"id": "7", "total": -1}')
    assert (code, lines) == (1, ['error: "validate" failed: Reject: no negative totals'])
    code, _, lines = invoke(shop, "validate", "-d", '{"id": 7}')
    assert (code, lines) == (
        1,
        ['error: "validate" failed: DataError: parameter "order" of "validate" does not fit: Expected `str`, got `int` - at `$.id`'],
    )


def test_what_cannot_be_invoked_is_exit_2(shop: Path) -> None:
    assert invoke(shop, "chrge") == (2, None, ['error: invoke: there is no function "chrge" (did you mean "charge"?)'])
    assert invoke(shop, "--type", "nothing") == (2, None, ['error: invoke: no function handles events of type "nothing"'])
    assert invoke(shop) == (2, None, ["error: give the NAME of a function, or --type TYPE for all that an event of the type triggers"])
    code, _, (line,) = invoke(shop, "fail", "--data", "{broken")
    assert code == 2
    assert line.startswith("error: --data: `{broken` is not JSON: ")


def test_the_traceback_of_a_failed_function_is_shown_to_who_asks_for_it(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DEBUG", "1")
    code, _, lines = invoke(shop, "fail")
    assert code == 1
    assert any(line.endswith('orders.py", line 25, in fail') for line in lines)
    assert lines[-1] == 'error: "fail" failed: ValueError: it is broken'
