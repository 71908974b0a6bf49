"""The fixture `harness`: which project it runs, and what the marker gives it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from running import environment

from runtime.testing import Harness
from runtime.testing.fixtures import project_of

PROJECT = {
    "functions/hello.py": """
from runtime import function

@function(on="person.arrived", emits="greeting")
def greet(data: dict) -> str:
    return f"Hello, {data['name']}!"
""",
    "runtime.toml": '[sinks.audit]\nplugin = "jsonl"\npath = "out.jsonl"\n',
    "other.toml": '[sinks.other]\nplugin = "jsonl"\npath = "other.jsonl"\n',
    "tests/deep/test_hello.py": """
import pytest

pytestmark = pytest.mark.harness(sinks=["audit"])

def test_a_plain_test(harness):
    harness.emit("person.arrived", {"name": "Ada"})
    [greeting] = harness.events("greeting")
    assert greeting.data == "Hello, Ada!"

@pytest.mark.harness(config="other.toml", sinks=[])
def test_the_nearest_marker_counts(harness):
    harness.emit("person.arrived", {"name": "Ada"})
    assert [event.type for event in harness.delivered("other")] == ["person.arrived", "greeting"]
""",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in PROJECT.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_it_runs_in_a_project_without_any_other_plugin(project: Path) -> None:
    command = (sys.executable, "-W", "error", "-m", "pytest", "-p", "no:asyncio", "--strict-markers", "-q", "--rootdir", ".", "tests")
    done = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert (project / "out.jsonl").read_text().count("\n") == 2
    assert not (project / ".runtime").exists()


def test_the_nearest_project_upwards_is_taken_and_no_further_than_the_root(project: Path) -> None:
    deep = project / "tests" / "deep"
    assert project_of(deep, project, "runtime.toml") == project
    assert project_of(deep, project / "tests", "runtime.toml") == project / "tests"
    (deep / "runtime.toml").touch()
    assert project_of(deep, project, "runtime.toml") == deep


def test_pytest_does_not_import_the_runtime_for_tests_that_do_not_ask_for_it() -> None:
    heavy = "[name for name in ('runtime.app', 'apsw', 'watchdog', 'starlette', 'uvicorn', 'jmespath') if name in sys.modules]"
    code = f"import sys, runtime.testing.fixtures; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert done.stdout.strip() == "[]"


def test_the_sample_system_is_tested_with_it(harness: Harness) -> None:
    harness.emit("order.placed", {"id": "7", "item": "tea", "quantity": 2})
    assert harness.dead() == []
    assert harness.events("order.completed")
