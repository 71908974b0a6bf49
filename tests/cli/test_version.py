"""The command names its version, and starts light."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from running import run

from runtime.cli import version as module
from runtime.cli.version import installed_version


def test_the_version_is_that_of_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed_version() == version("function-runtime")

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "version", missing)
    assert installed_version() == "unknown"


def test_the_command_tells_its_version_and_its_commands(tmp_path: Path) -> None:
    assert run(tmp_path, "--version").stdout == f"function-runtime {installed_version()}\n"
    helped = run(tmp_path, "-h")
    assert helped.returncode == 0
    for name in ("new", "run", "check", "graph", "invoke", "emit", "events", "show", "retry", "discard"):
        assert f"\n  {name} " in helped.stdout


def test_a_command_that_only_talks_does_not_load_what_runs() -> None:
    heavy = "('uvicorn', 'starlette', 'watchdog', 'runtime.app', 'runtime.journal.memory')"
    code = f"import sys, runtime.cli.client; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
