"""However a command fails: a message on stderr, an exit code, and no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from running import environment, run

from runtime import ConfigError, Fault, JournalError
from runtime.cli.failures import Failure, Guarded, NotRunning, usage

NOBODY = (
    "error: no runtime answers at http://127.0.0.1:1 (Connection refused); start it with `runtime run`, or name another with --url or -c\n"
)


def outcome(failure: Exception | None) -> Result:
    """Return how a command ends that raises."""

    @click.group(cls=Guarded)
    def main() -> None: ...

    @main.command()
    def work() -> None:
        if failure is not None:
            raise failure

    return CliRunner().invoke(main, ["work"])


@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [
        (None, 0, ""),
        (Failure("it did not work"), 1, "error: it did not work\n"),
        (usage("give an ID"), 2, "error: give an ID\n"),
        (NotRunning("http://127.0.0.1:1", "Connection refused"), 3, NOBODY),
        (
            ConfigError([Fault("runtime.toml:1", "this"), Fault("functions/a.py:2", "that")]),
            2,
            "error: runtime.toml:1: this\nerror: functions/a.py:2: that\n",
        ),
        (JournalError("the journal is locked"), 1, "error: the journal is locked\n"),
        (KeyError("a"), 1, "error: KeyError: 'a'; RUNTIME_DEBUG=1 shows where\n"),
        (ValueError("two\nlines"), 1, "error: ValueError: two lines; RUNTIME_DEBUG=1 shows where\n"),
        (ValueError(), 1, "error: ValueError\n"),
        (click.UsageError("no"), 2, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_failure_is_told_on_stderr_with_its_exit_code(failure: Exception | None, code: int, text: str | None) -> None:
    result = outcome(failure)
    assert (result.exit_code, result.stdout) == (code, "")
    if text is not None:
        assert result.stderr == text


def test_a_traceback_is_shown_to_who_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DEBUG", "1")
    assert isinstance(outcome(KeyError("a")).exception, KeyError)


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("run", "--frob"),
        ("emit",),
        ("emit", "t", "--priority", "10"),
        ("graph", "--format", "gif"),
        ("show",),
        ("invoke",),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_exit_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "rror: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_gone_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    declared = "\n".join(f"@function(on='x', name='f{number}')\ndef f(data): ..." for number in range(3000))
    (tmp_path / "functions" / "a.py").write_text(f"from runtime import function\n{declared}\n")
    command = [sys.executable, "-m", "runtime", "graph"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait(30)) == ("", 1)
