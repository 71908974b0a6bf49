"""Commands in the real process: in C, JavaScript and shell; what they may do wrong, and that none outlives the runtime."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from faults import broken
from faults.ledger import drained, event, listing, project, until
from running import COMMAND, Running, run

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc"),
]


def needs(program: str) -> pytest.MarkDecorator:
    """Skip without a program, but not where it is promised."""
    return pytest.mark.skipif(shutil.which(program) is None and os.environ.get("CI") != "true", reason=f"{program} is not installed")


DOUBLE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, stdin) > 0) {
        char *found = strstr(line, "\"data\":");
        if (found == NULL)
            puts("{\"reject\": {\"message\": \"no data\", \"status\": 409}}");
        else
            printf("%ld\n", 2 * strtol(found + 7, NULL, 10));
        fflush(stdout);
    }
    return 0;
}
"""

LABEL = """
const lines = require("readline").createInterface({ input: process.stdin });
lines.on("line", (line) => {
  const event = JSON.parse(line);
  console.error(`label of ${event.id}`);
  const type = "label.made";
  console.log(JSON.stringify(event.data > 100 ? { skip: "too large" } : { emit: [{ type, data: { text: `n° ${event.data}` } }] }));
});
"""

NOTE = r"""#!/bin/sh
while read -r line; do
    printf '%s\n' "$line" >> notes
    echo '"noted"'
done
"""


def write(folder: Path, tables: str) -> Path:
    """Write a project without functions in Python."""
    return project(folder, "", tables)


def post(running: Running, type: str, data: Any, *, id: str = "", wait: float = 20) -> httpx.Response:
    """Send an event and wait for its result."""
    headers = {"ce-id": id} if id else {}
    return httpx.post(f"{running.web}/events/{type}?wait={wait}", json=data, headers=headers, timeout=30)


def alive(pids: Sequence[str]) -> list[str]:
    """Return which processes are running; those that only wait to be reaped by init are not."""
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            found.append(pid)
    return found


def noted(path: Path, count: int = 1) -> list[str]:
    """Return the ids of processes that a command has noted, when there are so many."""
    until(lambda: path.exists() and len(path.read_text().split()) >= count)
    return path.read_text().split()


# --- what they are for --------------------------------------------------------------------------------------------


@needs("cc")
@needs("node")
def test_functions_in_c_javascript_and_shell_work_together(tmp_path: Path) -> None:
    tables = """
    [functions.double]
    command = ["./double"]
    on = "number.given"
    [functions.label]
    command = ["node", "label.js"]
    after = "double"
    [functions.note]
    command = ["./note.sh"]
    on = "label.made"
    """
    folder = write(tmp_path / "project", tables)
    (folder / "double.c").write_text(DOUBLE)
    subprocess.run(["cc", "-o", "double", "double.c"], cwd=folder, check=True)
    (folder / "label.js").write_text(LABEL)
    (folder / "note.sh").write_text(NOTE)
    (folder / "note.sh").chmod(0o755)
    with Running(folder) as running:
        assert post(running, "number.given", 21).json() is None
        assert post(running, "number.given", 99).json() is None
        assert post(running, "number.given", None).status_code == 409
        drained(running)
        assert '"data":{"text":"n° 42"}' in (folder / "notes").read_text()
        (made,) = listing(running, type="label.made")
        (result,) = event(running, made["id"])["steps"]
        assert (result["status"], result["result"]) == ("done", "noted")
        skipped = [step["status"] for one in listing(running, type="number.given") for step in event(running, one["id"])["steps"]]
        assert sorted(skipped) == ["done", "done", "done", "failed", "skipped", "skipped"]
        assert "label of" in running.log
        shown = {one["name"]: one["executor"] for one in running.api.get("/api/functions").json()["functions"]}
        assert shown == {"double": "command", "label": "command", "note": "command"}
        assert running.stop() == 0


def test_a_command_is_invoked_by_name_and_what_it_emits_is_shown(tmp_path: Path) -> None:
    tables = """
    [functions.count]
    command = ["sh", "-c", "read -r line; echo counting >&2; echo '{\\"emit\\": [{\\"type\\": \\"counted\\", \\"data\\": 3}]}'"]
    on = "a"
    [functions.broken]
    command = ["no-such-program"]
    """
    folder = write(tmp_path / "project", tables)
    done = run(folder, "invoke", "count", "-d", "1")
    assert (done.returncode, done.stdout.strip()) == (0, "null")
    assert '"type":"counted"' in done.stderr
    failed = run(folder, "invoke", "broken", "-d", "1")
    assert failed.returncode == 1
    assert "expected a program that can be executed, found no no-such-program" in failed.stderr


def test_a_command_is_replaced_when_the_configuration_or_its_program_is_saved(tmp_path: Path) -> None:
    table = '[functions.tell]\ncommand = ["sh", "tell.sh"]\non = "ask"\nenv = { WHAT = "%s" }\n'
    text = 'while read -r line; do echo "\\"$WHAT %s\\""; done'
    folder = write(tmp_path / "project", table % "one")
    (folder / "tell.sh").write_text(text % "first")
    with Running(folder) as running:
        assert post(running, "ask", None).json() == "one first"
        (folder / "tell.sh").write_text(text % "second")
        assert post(running, "ask", None).json() == "one second"
        config = (folder / "runtime.toml").read_text()
        (folder / "runtime.toml").write_text(config.replace('"one"', '"two"'))
        until(lambda: post(running, "ask", None).json() == "two second")


# --- what they may do wrong ---------------------------------------------------------------------------------------

WRONG = """
[functions.fine]
command = ["sh", "-c", "while read -r line; do echo 1; done"]
on = "fine"
[functions.hang]
command = ["sh", "-c", "read -r line; sleep 600 & echo $$ $! >> pids; wait"]
on = "hang"
timeout = 0.5
retries = 0
[functions.die]
command = ["sh", "-c", "read -r line; echo dying >&2; kill -9 $$"]
on = "die"
retries = 1
backoff = 0.01
"""


def test_a_command_that_hangs_or_dies_hurts_its_own_event_alone(tmp_path: Path) -> None:
    with Running(write(tmp_path / "project", WRONG)) as running:
        for number in range(3):
            httpx.post(f"{running.web}/events/hang", json=number)
            httpx.post(f"{running.web}/events/die", json=number)
            assert post(running, "fine", number).json() == 1
        drained(running)
        dead = listing(running, status="dead")
        assert sorted(one["type"] for one in dead) == ["die"] * 3 + ["hang"] * 3
        (hung,) = event(running, next(one["id"] for one in dead if one["type"] == "hang"))["steps"]
        assert hung["error"]["type"] == "StepTimeout"
        (died,) = event(running, next(one["id"] for one in dead if one["type"] == "die"))["steps"]
        assert died["attempts"] == 2
        assert died["error"]["type"] == "CommandError"
        assert died["error"]["message"].endswith('found that it was killed by SIGKILL; its last words: "dying"')
        pids = noted(running.folder / "pids", 6)
        until(lambda: not alive(pids))
        assert running.stop() == 0


# --- and that none outlives the runtime ---------------------------------------------------------------------------

LEFT = """
[functions.idle]
command = ["sh", "-c", "trap '' TERM; while true; do read -r line && echo $$ >> pids && echo 1; sleep 0.01; done"]
on = "idle"
[functions.busy]
command = ["sh", "-c", "trap '' TERM; read -r line; sleep 600 & echo $$ $! >> pids; wait"]
on = "busy"
"""


def left_by(folder: Path, number: int, command: Sequence[str] = COMMAND, patience: float = 5) -> list[str]:
    """Return the processes of an idle and of a busy command that are left when the runtime has been ended by a signal."""
    with Running(write(folder, "[runtime]\ngrace = 0.1\n" + LEFT), command) as running:
        assert post(running, "idle", 1).json() == 1
        httpx.post(f"{running.web}/events/busy", json=1)
        pids = noted(running.folder / "pids", 3)
        assert alive(pids) == pids
        os.kill(running.process.pid, number)
        running.process.wait(20)
        with suppress(AssertionError):
            until(lambda: not alive(pids), patience)
        return alive(pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_command_outlives_the_runtime(tmp_path: Path, number: int) -> None:
    assert left_by(tmp_path / "project", number) == []


def test_without_a_warden_commands_outlive_a_runtime_that_is_killed(tmp_path: Path) -> None:
    left = left_by(tmp_path / "project", signal.SIGKILL, broken.command("unguarded"), patience=1)
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)
    assert left
