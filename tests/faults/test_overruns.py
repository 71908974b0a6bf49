"""Functions in threads that never return, in a real runtime: told, counted, bounded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from faults import broken
from faults.ledger import until
from running import COMMAND, Running, run

TOML = '[sources.web]\nplugin = "http"\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"\n'

FUNCTIONS = """
import pathlib
import threading
import time

from runtime import function, resource


@resource
def shelf():
    return "shelf"


@function(on="hang", timeout=0.2, retries=0, concurrency=500)
def hang(data: int, shelf: str) -> None:
    while not pathlib.Path("enough").exists():
        time.sleep(0.3)


@function(on="fine")
async def fine(data: int) -> int:
    return data


@function(on="sleep", timeout=1.5, retries=0)
def sleep(data: float) -> str:
    time.sleep(data)
    return threading.current_thread().name
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "slow.py").write_text(FUNCTIONS)
    (tmp_path / "runtime.toml").write_text(TOML)
    return tmp_path


def function_of(runtime: Running, name: str) -> dict[str, Any]:
    return next(one for one in runtime.api.get("/api/functions").json()["functions"] if one["name"] == name)


def dead(runtime: Running) -> int:
    count: int = runtime.api.get("/api/stats").json()["dead"]
    return count


def hang(runtime: Running, count: int) -> None:
    """Let so many calls hang in threads, or wait for one in vain."""
    before = dead(runtime)
    events = [{"specversion": "1.0", "id": str(n), "source": "t", "type": "hang", "data": n} for n in range(before, before + count)]
    headers = {"content-type": "application/cloudevents-batch+json"}
    assert httpx.post(f"{runtime.web}/events", json=events, headers=headers).status_code == 202
    until(lambda: dead(runtime) == before + count)


def test_a_thread_that_hangs_is_told_with_its_line(project: Path) -> None:
    with Running(project) as runtime:
        hang(runtime, 1)
        (event,) = runtime.api.get("/api/events").json()["events"]
        shown = run(project, "show", event["id"], "--url", runtime.banner["admin"]).stdout
        assert 'StepTimeout: "hang" took longer than 0.2 s; its thread goes on, at functions/slow.py:1' in shown
        assert "that makes 1 of this function that hang" in shown
        assert runtime.api.get("/health").json()["status"] == "ok"


def pile_up(project: Path, command: Sequence[str] = COMMAND) -> None:
    """Let more calls hang than there may be threads, and look whether all else goes on, and how it is told."""
    with Running(project, command) as runtime, httpx.Client(base_url=runtime.web, timeout=30) as web:
        hang(runtime, 360)
        hung = function_of(runtime, "hang")
        assert (len(hung["hanging"]), hung["executor"], hung["escalated"]) == (320, "thread", False)
        assert set(hung["hanging"]) <= {"functions/slow.py:16", "functions/slow.py:17"}
        (fault,) = runtime.api.get("/health").json()["faults"]
        assert fault["where"] == "functions/slow.py:15"
        assert "320 hang altogether, no more are replaced" in fault["message"]
        assert web.post("/events/fine?wait=10", json=7).json() == 7
        (project / "enough").touch()
        until(lambda: runtime.api.get("/health").json()["status"] == "ok")
        until(lambda: function_of(runtime, "hang")["hanging"] == [])
        assert web.post("/events/sleep?wait=10", json=0).json().startswith("function-")


def test_threads_that_hang_are_bounded_and_others_go_on(project: Path) -> None:
    pile_up(project)


def test_the_check_would_see_that_they_are_not_bounded(project: Path) -> None:
    with pytest.raises(AssertionError, match=r"\(360, 'thread', False\)"):
        pile_up(project, broken.command("unbounded"))


def overrun(project: Path, command: Sequence[str] = COMMAND) -> None:
    """Let a function overrun its timeout twice, and be saved."""
    with Running(project, command) as runtime, httpx.Client(base_url=runtime.web, timeout=30) as web:
        assert web.post("/events/sleep?wait=10", json=0).json().startswith("function-")
        web.post("/events/sleep", json=60)
        until(lambda: dead(runtime) == 1)
        (event,) = runtime.api.get("/api/events", params={"status": "dead"}).json()["events"]
        assert "that makes 1 of this function that hang; it runs isolated from now on, until it is saved" in event["error"]["message"]
        assert '"sleep" (functions/slow.py:26) runs isolated from now on, until it is saved' in runtime.log
        assert (function_of(runtime, "sleep")["executor"], function_of(runtime, "sleep")["escalated"]) == ("process", True)

        web.post("/events/sleep", json=60)
        until(lambda: dead(runtime) == 2)
        assert len(function_of(runtime, "sleep")["hanging"]) == 1  # the second was killed
        assert web.post("/events/sleep?wait=10", json=0).json() == "MainThread"

        (project / "functions" / "other.py").write_text("")
        until(lambda: function_of(runtime, "sleep")["escalated"] and len(runtime.api.get("/api/generations").json()["generations"]) == 2)
        assert web.post("/events/sleep?wait=10", json=0).json() == "MainThread"

        (project / "functions" / "slow.py").write_text(FUNCTIONS + "# mended\n")
        until(lambda: not function_of(runtime, "sleep")["escalated"])
        assert web.post("/events/sleep?wait=10", json=0).json().startswith("function-")


def test_a_function_that_hangs_in_a_thread_is_isolated_until_it_is_saved(project: Path) -> None:
    overrun(project)


def test_the_check_would_see_that_it_stays_in_threads(project: Path) -> None:
    with pytest.raises(AssertionError, match="runs isolated from now on"):
        overrun(project, broken.command("lenient"))
