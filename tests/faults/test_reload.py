"""Saves of every kind, in the real process: the new code runs, or the old one goes on and the fault is told."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from faults.broken import command
from faults.ledger import project, until
from running import COMMAND, Running, run

ANSWER = """
from runtime import function


@function(on="ask")
async def answer(data: int) -> int:
    return {}
"""

HELPER = "VALUE = {}\nTABLE = list(range(10_000))\n"
USER = """
from functions._helper import VALUE
from runtime import function


@function(on="use{number}")
async def use{number}(data: int) -> int:
    return VALUE
"""

NAMESPACES = shutil.which("unshare") and subprocess.run(["unshare", "-Ur", "true"], check=False, capture_output=True).returncode == 0
UNNOTIFIED = ("unshare", "-Ur", "sh", "-c", 'echo 0 > /proc/sys/user/max_inotify_instances; exec "$0" "$@"', *COMMAND)


def write(folder: Path, text: str, name: str = "load.py") -> None:
    (folder / "functions" / name).write_text(text)


def ask(running: Running, type: str = "ask") -> Any:
    answer = httpx.post(f"{running.web}/events/{type}?wait=10", content="1")
    return answer.json() if answer.status_code == 200 else answer.status_code


def until_answer(running: Running, number: int) -> None:
    """Return when the code of the save of that number runs."""
    until(lambda: ask(running) == number)


def until_generation(running: Running, number: int) -> None:
    until(lambda: health(running)["generation"] == number)


def health(running: Running) -> dict[str, Any]:
    found: dict[str, Any] = running.api.get("/health").json()
    return found


def faults(running: Running) -> list[str]:
    return [f"{fault['where']}: {fault['message']}" for fault in health(running)["faults"]]


def test_saves_of_the_same_size_one_after_another_all_run_the_new_code(tmp_path: Path) -> None:
    folder = project(tmp_path, ANSWER.format(100), "")
    with Running(folder) as running:
        for number in range(101, 121):
            write(folder, ANSWER.format(number))
            until_answer(running, number)
        assert health(running) == {"status": "ok", "generation": 21, "faults": []}
    assert not list((folder / "functions").rglob("*.pyc"))


def test_a_build_that_looks_at_sizes_runs_the_old_code(tmp_path: Path) -> None:
    folder = project(tmp_path, ANSWER.format(1), "")
    with Running(folder, command("stale")) as running:
        write(folder, ANSWER.format(2))
        with pytest.raises(AssertionError, match="it never came to be"):
            until(lambda: ask(running) == 2, seconds=1)


def restarted(folder: Path, build: Sequence[str] = COMMAND) -> Running:
    """Return a runtime whose folder was broken while it ran, after a kill."""
    with Running(folder, build) as running:
        write(folder, ANSWER.format(2))
        until_answer(running, 2)
        write(folder, "def broken(:\n")
        until(lambda: health(running)["status"] == "degraded")
        assert ask(running) == 2
        running.stop(signal.SIGKILL)
    return Running(folder, build)


@pytest.mark.parametrize("journal", ["", '[journal]\nurl = "memory:"\n'])
def test_a_restart_on_a_broken_folder_runs_the_last_good_sources_until_it_is_mended(tmp_path: Path, journal: str) -> None:
    folder = project(tmp_path, ANSWER.format(1), journal)
    with restarted(folder) as running:
        assert ask(running) == 2
        told = 'functions/load.py:1: SyntaxError: invalid syntax in "def broken(:"'
        assert faults(running) == [told]
        assert running.log.count(f"the folder is broken, and the last good sources are run instead until it is mended: {told}") == 1
        checked = run(folder, "check")
        assert (checked.returncode, told in checked.stderr) == (2, True)
        write(folder, ANSWER.format(3))
        until_answer(running, 3)
        assert health(running) == {"status": "ok", "generation": 2, "faults": []}
        assert running.stop() == 0


def test_without_kept_sources_or_with_damaged_ones_a_broken_folder_ends_the_start(tmp_path: Path) -> None:
    folder = project(tmp_path, ANSWER.format(1), "")
    with restarted(folder) as running:
        running.stop()
    for text in (folder / ".runtime" / "kept" / "functions").iterdir():
        text.write_bytes(b"")
    ended = run(folder, "run")
    assert ended.returncode == 2
    assert 'error: functions/load.py:1: SyntaxError: invalid syntax in "def broken(:"' in ended.stderr


def test_a_build_that_keeps_no_sources_does_not_start_again(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the runtime ended with 2"):
        restarted(project(tmp_path, ANSWER.format(1), ""), command("unkept"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import threading\nthreading.Event().wait(60)\n", "functions/bad.py:2: importing took longer than load_timeout = 0.5 s"),
        ("while True:\n    pass\n", "importing took longer than load_timeout = 0.5 s"),
        ("import sys\nsys.exit(3)\n", "functions/bad.py:2: SystemExit: 3; a file must not end the process when it is imported"),
        ("import nothing_like_it\n", "functions/bad.py:1: ModuleNotFoundError: No module named 'nothing_like_it'"),
    ],
)
def test_a_file_that_hangs_or_exits_at_import_is_told_and_the_next_save_is_live(tmp_path: Path, text: str, told: str) -> None:
    folder = project(tmp_path, ANSWER.format(1), "[runtime]\nload_timeout = 0.5\n")
    with Running(folder) as running:
        write(folder, text, "bad.py")
        until(lambda: any(told in fault for fault in faults(running)))
        assert ask(running) == 1
        (folder / "functions" / "bad.py").unlink()
        write(folder, ANSWER.format(2))
        until_answer(running, 2)
        until(lambda: faults(running) == [])
        assert running.stop() == 0


def test_a_build_that_waits_for_a_hanging_file_takes_no_further_save(tmp_path: Path) -> None:
    folder = project(tmp_path, ANSWER.format(1), "[runtime]\nload_timeout = 0.5\n")
    with Running(folder, command("patient")) as running:
        write(folder, "import threading\nthreading.Event().wait(60)\n", "bad.py")
        with pytest.raises(AssertionError, match="it never came to be"):
            until(lambda: faults(running) != [], seconds=1)
        (folder / "functions" / "bad.py").unlink()
        write(folder, ANSWER.format(2))
        with pytest.raises(AssertionError, match="it never came to be"):
            until(lambda: ask(running) == 2, seconds=1)


@pytest.mark.skipif(not NAMESPACES, reason="user namespaces are not allowed here")
def test_without_any_notification_a_save_is_found(tmp_path: Path) -> None:
    folder = project(tmp_path, ANSWER.format(1), "")
    with Running(folder, UNNOTIFIED) as running:
        write(folder, ANSWER.format(2))
        until_answer(running, 2)
        assert running.log.count("there are no file notifications for functions") == 1, running.log


def test_a_checkout_of_500_files_settles_into_few_generations(tmp_path: Path) -> None:
    folder = project(tmp_path, ANSWER.format(1), "")
    with Running(folder) as running:
        for number in range(500):
            write(folder, ANSWER.replace("answer", f"answer{number}").replace('"ask"', f'"ask{number}"').format(number), f"f{number}.py")
        until(lambda: ask(running, "ask499") == 499)
        until(lambda: len(running.api.get("/api/functions").json()["functions"]) == 501)
        assert health(running)["status"] == "ok"
        assert health(running)["generation"] <= 4


def test_each_reload_is_one_line_of_the_log_and_one_row_of_the_history(tmp_path: Path) -> None:
    folder = project(tmp_path, ANSWER.format(1), "")
    with Running(folder) as running:
        write(folder, ANSWER.format(2))
        until_generation(running, 2)
        write(folder, ANSWER.format(3).replace("answer", "other"))
        until_generation(running, 3)
        rows = running.api.get("/api/generations").json()["generations"]
        told = [(row["number"], row["added"], row["changed"], row["removed"]) for row in sorted(rows, key=lambda row: int(row["number"]))]
        assert told == [(1, ["answer"], [], []), (2, [], ["answer"], []), (3, ["other"], [], ["answer"])]
        lines = [line.partition("generation ")[2] for line in running.log.splitlines() if "generation " in line]
    assert [line.partition(" ms: ")[2] for line in lines] == ["changed answer", "added other; removed answer"]


def grown(folder: Path, reloads: int, build: Sequence[str] = COMMAND) -> float:
    """Return by how many megabytes the process grows in reloads of a helper that all files import."""
    project(folder, ANSWER.format(1), '[log]\nlevel = "error"\n')
    write(folder, HELPER.format(0), "_helper.py")
    for number in range(19):
        write(folder, USER.format(number=number), f"use{number}.py")
    with Running(folder, build) as running:
        status = Path(f"/proc/{running.process.pid}/status")

        def resident() -> float:
            return int(dict(line.split(":", 1) for line in status.read_text().splitlines())["VmRSS"].split()[0]) / 1000

        first = 0.0
        for number in range(1, reloads + 30):
            write(folder, HELPER.format(number), "_helper.py")
            until_generation(running, number + 1)
            if number == 29:
                first = resident()  # what is used once is there by now
        return resident() - first


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_hundred_reloads_do_not_grow_the_process(tmp_path: Path) -> None:
    assert grown(tmp_path, 100) < 5


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thousand_reloads_do_not_grow_the_process(tmp_path: Path) -> None:
    assert grown(tmp_path, 1000) < 5


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_build_that_holds_old_modules_grows(tmp_path: Path) -> None:
    assert grown(tmp_path, 30, command("leaking")) > 5
