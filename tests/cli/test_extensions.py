"""Commands that plugins add, as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import run

GREET = """
import click
from runtime import hookimpl

print("imported")

@click.command()
@click.argument("name")
def greet(name):
    "Greet NAME."
    click.echo(f"hello {name}")

@click.command()
def check(): ...

@hookimpl
def register_commands():
    return {"greet": greet, "check": check}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "greet.py").write_text(GREET)
    (tmp_path / "functions").mkdir()
    return tmp_path


def test_a_command_of_a_file_works_and_is_in_the_help(project: Path) -> None:
    greeted = run(project, "greet", "ann")
    assert (greeted.returncode, greeted.stdout) == (0, "hello ann\n"), "what a plugin prints at import is no output of the command"
    assert "greet    Greet NAME." in run(project, "--help").stdout


def test_the_commands_of_the_runtime_go_before_those_of_plugins(project: Path) -> None:
    assert "0 functions" in run(project, "check").stdout + run(project, "check").stderr


def test_a_command_nobody_offers_is_exit_2_and_broken_plugins_are_named(project: Path) -> None:
    (project / "plugins" / "broken.py").write_text("1/0\n")
    unknown = run(project, "great")
    assert unknown.returncode == 2
    assert "No such command 'great'" in unknown.stderr
    assert "warning: plugins/broken.py:1: ZeroDivisionError: division by zero" in unknown.stderr
