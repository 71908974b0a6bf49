"""The watchdog: names what blocks the loop, and is not fooled by a process that stands still."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from faults import broken
from faults.ledger import until
from running import COMMAND, Running

from runtime import watchdog
from runtime.watchdog import Watchdog

LIMIT = 0.05  # seconds
TOML = '[sources.web]\nplugin = "http"\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"\n'


@asynccontextmanager
async def watching() -> AsyncIterator[Watchdog]:
    dog = Watchdog(tick=0.01, limit=LIMIT)
    dog.start()
    await asyncio.sleep(0.05)
    yield dog
    dog.stop()


async def noticed(dog: Watchdog, count: int = 1) -> None:
    async with asyncio.timeout(10):
        while dog.count < count or dog._blocked is not None:
            await asyncio.sleep(0.01)


def wait() -> None:
    time.sleep(0.4)


def search() -> None:
    for _ in range(4):
        re.search("(a+)+$", "a" * 20 + "b")


async def blocking(wait: Callable[[], None]) -> None:
    wait()


@pytest.mark.parametrize(("how", "line"), [(wait, 1), (search, 2)])
async def test_what_blocks_the_loop_is_named_once_and_again_when_it_ends(
    how: Callable[[], None], line: int, caplog: pytest.LogCaptureFixture
) -> None:
    place = f"tests/test_watchdog.py:{how.__code__.co_firstlineno + line}"
    began = time.monotonic()
    async with watching() as dog:
        await blocking(how)
        await noticed(dog)
    took = time.monotonic() - began
    begun, ended = (record.getMessage() for record in caplog.records if record.name == "runtime.watchdog")
    assert re.sub(r"\d\.\d s", "N s", begun).startswith("the loop has been blocked for N s by ")
    assert f" ({place}): everything else waits; make it a plain `def`, which runs in a thread, or await what it waits for" in begun
    assert ended.startswith("the loop is free again: ")
    assert dog.count == 1
    assert LIMIT < dog.seconds < took


async def test_a_blockage_is_a_fault_for_a_while_after_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watching() as dog:
        assert dog.faults() == []
        await blocking(wait)
        await noticed(dog)
        (fault,) = dog.faults()
        assert fault.where.startswith("tests/test_watchdog.py:")
        assert "has blocked the loop for 0." in fault.message
        monkeypatch.setattr(watchdog, "TOLD", 0.0)
        assert dog.faults() == []


async def test_a_loop_that_waits_or_takes_turns_is_not_blocked(caplog: pytest.LogCaptureFixture) -> None:
    async with watching() as dog:
        await asyncio.sleep(0.2)
        for _ in range(20):
            await blocking(lambda: time.sleep(0.01))
            await asyncio.sleep(0)
        assert dog.count == 0
    assert caplog.record_tuples == []


async def test_a_loop_that_is_closed_ends_the_thread() -> None:
    def watch() -> Watchdog:
        dog = Watchdog(tick=0.01)

        async def start() -> None:
            dog.start()

        asyncio.run(start())
        return dog

    assert (await asyncio.to_thread(watch)).count == 0


FUNCTIONS = """
import pathlib
import time

from runtime import function


@function(on="go")
async def charge(data: float) -> None:
    rest(data)


def rest(seconds):
    time.sleep(seconds)


@function(on="step")
async def step(data: float) -> None:
    pathlib.Path("begun").touch()
    for _ in range(10):
        rest(0.025)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "payment.py").write_text(FUNCTIONS)
    (tmp_path / "runtime.toml").write_text(TOML)
    return tmp_path


def test_a_function_that_blocks_a_runtime_is_named_within_a_second(project: Path) -> None:
    with Running(project) as runtime:
        httpx.post(f"{runtime.web}/events/go", json=3.0)
        began = time.monotonic()
        until(lambda: "blocked" in runtime.log)
        assert time.monotonic() - began < 2.9  # while it still blocks
        assert 'by "charge" (functions/payment.py:14)' in runtime.log
        until(lambda: "free again" in runtime.log)
        health = runtime.api.get("/health").json()
        assert health["status"] == "degraded"
        assert [fault["where"] for fault in health["faults"]] == ["functions/payment.py:14"]
        assert runtime.api.get("/api/stats").json()["blocked"] == 1


def stand_still(project: Path, command: Sequence[str] = COMMAND) -> str:
    """Return the log of a runtime that was stopped for a while in the middle of something that is too short to block."""
    with Running(project, command) as runtime, ThreadPoolExecutor() as pool:
        call = pool.submit(httpx.post, f"{runtime.web}/events/step?wait=10", json=0, timeout=30)
        until((project / "begun").exists)
        time.sleep(0.2)
        os.kill(runtime.process.pid, signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(runtime.process.pid, signal.SIGCONT)
        assert call.result().status_code == 200
        time.sleep(0.3)
        (project / "begun").unlink()
        return runtime.log


def test_a_process_that_was_stopped_has_not_blocked(project: Path) -> None:
    assert "blocked" not in stand_still(project)


def test_the_check_would_see_it(project: Path) -> None:
    logs = (stand_still(project, broken.command("startled")) for _ in range(5))
    assert any("the loop has been blocked" in log for log in logs)
